"""A run in a file, as users carry it: the one that this repository ships, onto a log of their own."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import archive
from infra.kafka import KafkaLog
from infra.transfer import PLACED
from schemas.avro import encode
from schemas.events import Event
from schemas.topics import KINDS
from tests.commands import SMALL, Iccm, survivors

SHIPPED = Path(__file__).parents[2] / "infra" / "lab" / "runs" / "finished.iccm"


@pytest.fixture(scope="module")
def iccm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iccm]:
    """A home onto whose log the shipped run was imported, and on which another run was then played to its end."""
    iccm = Iccm(tmp_path_factory.mktemp("home"))
    iccm.run("up")
    try:
        done = iccm.run("import", str(SHIPPED), "--json")
        assert json.loads(done.stdout)["there"] == 0
        iccm.run("run", "start", *SMALL, "--set", "rounds=1")
        yield iccm
    finally:
        iccm.run("down")
        assert survivors(iccm.home) == []


def on_the_log(iccm: Iccm, run_id: str) -> Iterator[Event]:
    """Every record of a run that stands on the log, repetitions included."""
    status = json.loads(iccm.run("status", "--json").stdout)
    log = KafkaLog(status["services"]["kafka"]["address"], "iccm", 4, iccm.home)
    try:
        facts = (record.event for record in log.replay(KINDS) if record.event is not None)
        yield from (fact for fact in facts if fact.run_id == run_id)
    finally:
        log.close()


@pytest.mark.timeout(600)
def test_all_workers_together_add_nothing_to_a_run_that_was_imported(iccm: Iccm) -> None:
    run_id = archive.check(SHIPPED).run_id
    in_file = (fact for fact in archive.read(SHIPPED) if fact.run_id == run_id and not isinstance(fact, PLACED))
    there = Counter(encode(archive.placeless(fact)) for fact in on_the_log(iccm, run_id))
    assert there == Counter(map(encode, in_file))


@pytest.mark.timeout(600)
def test_a_run_that_was_played_here_is_exported_and_importing_it_here_changes_nothing(
    iccm: Iccm, tmp_path: Path
) -> None:
    file = tmp_path / "run.iccm"
    told = json.loads(iccm.run("export", "latest", str(file), "--json").stdout)
    assert told["digest"] == archive.check(file).digest != archive.check(SHIPPED).digest
    assert "nothing changed" in iccm.run("import", str(file)).stdout
    assert "--force" in iccm.run("export", "latest", str(file), code=2).stderr


@pytest.mark.timeout(600)
def test_an_update_that_was_imported_is_explained_down_to_its_prompts(iccm: Iccm) -> None:
    run_id = archive.check(SHIPPED).run_id
    told = iccm.run("why", "1", "--run", run_id).stdout
    for said in (
        "update of train round 1",
        "advantage",
        "tests of lab/",
        "code by lab/",
        "requirements, draft",
        "source",
    ):
        assert said in told
    plain = json.loads(iccm.run("why", "1", "--run", run_id, "--all", "--json").stdout)
    assert sum(each["kind"] == "RewardScored" for each in plain["came_from"]) == 96


def test_a_damaged_file_is_refused_before_anything_starts_and_the_place_is_named(tmp_path: Path) -> None:
    iccm, file, content = Iccm(tmp_path / "home"), tmp_path / "run.iccm", bytearray(SHIPPED.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for command in (("import", str(file)), ("replay", "--file", str(file))):
        done = iccm.run(*command, code=8)
        assert "is damaged in block" in done.stderr
        assert survivors(iccm.home) == []


@pytest.mark.timeout(600)
def test_the_shipped_run_is_verified_from_its_file_alone(tmp_path: Path) -> None:
    """Its first updates here, bit for bit; `iccm replay --file` without more goes through all of them."""
    iccm = Iccm(tmp_path / "home")
    done = iccm.run("replay", "--file", str(SHIPPED), "--until", "3")
    assert "equal: " in done.stdout
    assert "no model was asked, no sandbox was started" in done.stdout
    assert not iccm.home.exists(), "it needs no log and leaves nothing"


@pytest.mark.timeout(300)
def test_the_shipped_run_is_verified_without_a_log_and_one_changed_byte_is_found(tmp_path: Path) -> None:
    """Its rewards and all that follows from them; its weights repeat on the processor that played it."""
    iccm = Iccm(tmp_path)
    said = iccm.run("replay", "--file", str(SHIPPED), "--rewards-only", "--json").stdout
    assert json.loads(said)["equal"] is True
    changed = bytearray(SHIPPED.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.iccm").write_bytes(changed)
    refused = iccm.run("replay", "--file", str(tmp_path / "changed.iccm"), code=8)
    assert "block" in refused.stderr
    assert survivors(iccm.home) == []
