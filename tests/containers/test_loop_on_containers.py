"""The whole loop on a Kafka and a PostgreSQL that are none of ours: only two settings say so."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumers import project
from infra.kafka import KafkaLog
from infra.postgres import Database
from infra.runs import facts_of, named, runs_on
from schemas.equality import first_difference
from schemas.events import Event
from tests.commands import SMALL, Iccm, lines_until, survivors
from tests.containers.servers import Server

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

ROUNDS = 2
RUN = ["run", "start", *SMALL, "--set", f"rounds={ROUNDS}"]


@dataclass(frozen=True, slots=True)
class OnContainers(Iccm):
    """The command line with settings that name both servers; nothing is embedded."""

    namespace: str
    kafka: str
    postgres: str

    def environment(self) -> dict[str, str]:
        named = {"ICCM_KAFKA": self.kafka, "ICCM_POSTGRES": self.postgres, "ICCM_NAMESPACE": self.namespace}
        return {**Iccm.environment(self), **named}

    @contextmanager
    def log(self) -> Iterator[KafkaLog]:
        opened = KafkaLog(self.kafka, self.namespace, 4, self.home)
        try:
            yield opened
        finally:
            opened.close()

    def facts(self) -> list[Event]:
        """Those of the latest run."""
        with self.log() as log:
            return list(facts_of(log, named(runs_on(log), "latest")))

    def fingerprint(self) -> dict[str, str]:
        """Of the tables, once they have caught up."""
        tables = Database(self.postgres, schema=self.namespace)
        with self.log() as log:
            project.catch_up(log, tables)
        return project.fingerprint(tables)


@pytest.fixture(scope="module")
def undisturbed(
    broker_container: Server, database_container: Server, tmp_path_factory: pytest.TempPathFactory
) -> OnContainers:
    """A small run that nobody touched."""
    home = tmp_path_factory.mktemp("undisturbed")
    iccm = OnContainers(home, "undisturbed", broker_container.address, database_container.address)
    iccm.run(*RUN, "--json", str(home / "out.json"))
    return iccm


def test_servers_are_reached_through_the_loopback_alone(broker_container: Server, database_container: Server) -> None:
    for server in (broker_container, database_container):
        container = server.container.get_wrapped_container()
        container.reload()
        published = container.attrs["NetworkSettings"]["Ports"].values()
        assert {binding["HostIp"] for bindings in published if bindings for binding in bindings} == {"127.0.0.1"}


def test_a_run_ends_finished_and_starts_no_server_of_its_own(undisturbed: OnContainers) -> None:
    out = json.loads((undisturbed.home / "out.json").read_text())
    assert out["outcome"] == "finished"
    assert out["facts"]["PolicyUpdated"] == ROUNDS
    assert out["facts"]["RewardScored"] == ROUNDS * 12 + 2 * 4
    assert not {"kafka", "postgres", "services.json"} & {each.name for each in undisturbed.home.iterdir()}
    assert survivors(undisturbed.home) == []


def test_it_ends_with_the_policy_of_the_same_run_in_memory(undisturbed: OnContainers, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    Iccm(tmp_path / "home").run(*RUN, "--in-memory", "--json", str(out))
    on_containers = json.loads((undisturbed.home / "out.json").read_text())
    assert json.loads(out.read_text())["policy_digest"] == on_containers["policy_digest"]


def test_the_tables_are_the_log_refolded_there_too(undisturbed: OnContainers) -> None:
    live = undisturbed.fingerprint()
    undisturbed.run("rebuild")
    assert undisturbed.fingerprint() == live


def test_servers_killed_and_started_again_in_the_middle_of_a_run_leave_it_equal(
    undisturbed: OnContainers, broker_container: Server, database_container: Server, tmp_path: Path
) -> None:
    """The broker's address stays, its files stay; so do the database's. Nobody is told."""
    iccm = OnContainers(tmp_path, "disturbed", undisturbed.kafka, undisturbed.postgres)
    with iccm.running(*RUN) as process:
        lines_until(process, lambda line: line.startswith("round 1/"))
        for server in (broker_container, database_container):
            server.kill()
            server.start()
        assert process.poll() is None
        rest, _ = process.communicate(timeout=500)
    assert process.returncode == 0, rest
    assert first_difference(undisturbed.facts(), iccm.facts()) is None
    live = iccm.fingerprint()
    iccm.run("rebuild")
    assert iccm.fingerprint() == live
