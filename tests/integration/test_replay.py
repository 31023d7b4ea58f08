"""Real runs replayed: three seeds, a second working copy, other orders of arrival, and from their checkpoints."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from infra import archive
from infra.archive import placeless
from infra.blobs import Blobs
from infra.log import Record
from infra.memory import MemoryLog
from infra.opening import running_log
from infra.runs import named, runs_on
from infra.settings import Settings
from schemas.events import Event, PolicyUpdated
from schemas.topics import KINDS
from tests.commands import SMALL, Iccm
from trainer.verify.__main__ import Asked, Report, verified

ROOT = Path(__file__).parents[2]
ROUNDS = {1: 6, 2: 1, 3: 1}
WHOLE = {"RoundOpened": 10, "RewardScored": 6 * 12 + 4 * 4, "ValidationCompleted": 4, "PolicyUpdated": 6, "RunEnded": 1}


@dataclass(frozen=True, slots=True)
class Home:
    """A home with one finished run per seed, the first the longest, and all that its log holds."""

    iccm: Iccm
    records: tuple[Record, ...]
    run_ids: dict[int, str]

    @property
    def facts(self) -> list[Event]:
        return [record.event for record in self.records if record.event is not None]

    @property
    def blobs(self) -> Blobs:
        return Blobs(str(self.iccm.home / "blobs"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    iccm = Iccm(tmp_path_factory.mktemp("replays"))
    iccm.run("up")
    try:
        for seed, rounds in ROUNDS.items():
            iccm.run("run", "start", *SMALL, "--set", f"rounds={rounds}", "--set", f"seed={seed}")
        with running_log(Settings(home=iccm.home)) as log:
            ids = {run.started.specification.seed: run.run_id for run in runs_on(log)}
            yield Home(iccm, tuple(log.replay(KINDS)), ids)
    finally:
        iccm.run("down")


def again(home: Home, seed: int, asked: Asked, *, arrival: int = 0) -> Report:
    """A run verified in this process, its facts arriving in another order."""
    facts = [placeless(fact) for fact in home.facts]
    random.Random(arrival).shuffle(facts)
    log = MemoryLog(seed=arrival)
    log.publish(facts)
    return verified(log, home.blobs, named(runs_on(log), home.run_ids[seed]), asked)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", ROUNDS)
def test_a_run_of_any_seed_comes_out_again_in_whatever_order_its_facts_arrive(home: Home, seed: int) -> None:
    report = again(home, seed, Asked(), arrival=seed)
    assert report.verification.equal["PolicyUpdated"] == ROUNDS[seed]
    assert report.verification.owed == {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", random.Random(7).sample(range(1, 7), 5))
def test_from_a_checkpoint_the_rest_comes_out_again(home: Home, step: int) -> None:
    report = again(home, 1, Asked(from_checkpoint=step), arrival=step)
    assert {kind: report.verification.equal[kind] for kind in WHOLE} == WHOLE


@pytest.mark.timeout(300)
def test_a_second_working_copy_gives_the_run_again(home: Home, tmp_path: Path) -> None:
    for room in ("schemas", "infra", "streams", "trainer"):  # a replay needs no other
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "trainer.verify", home.run_ids[1], "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=home.iccm.environment(),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["equal"]
    assert {kind: report["compared"][kind] for kind in WHOLE} == WHOLE
    assert report["code"] == str(tmp_path)


@pytest.mark.timeout(300)
def test_a_run_in_a_file_is_verified_without_kafka_and_what_was_changed_in_it_is_named(
    home: Home, tmp_path: Path
) -> None:
    run_id, alone = home.run_ids[2], Iccm(tmp_path / "home")
    whole, changed = tmp_path / "whole.iccm", tmp_path / "changed.iccm"
    home.iccm.run("export", run_id, str(whole))
    said = alone.run("replay", "--file", str(whole)).stdout
    assert "  1 PolicyUpdated\n" in said
    assert "no model was asked, no sandbox was started: neither can be imported here\nequal: " in said
    records = (record for block in archive.blocks(whole) for record in block)
    archive.write(changed, [run_id], map(_with_another_advantage, records))
    done = alone.run("replay", "--file", str(changed), "--rewards-only", "--json", code=5)
    assert "PolicyUpdated round 1: advantages[0] is 0.75 on the left" in done.stderr
    assert json.loads(done.stdout)["difference"]["field"] == "advantages[0]"
    assert not (alone.home / "kafka").exists()


def _with_another_advantage(record: Record) -> Record:
    if not isinstance(record.event, PolicyUpdated):
        return record
    return replace(record, event=replace(record.event, advantages=(0.75, *record.event.advantages[1:])))


@pytest.mark.timeout(300)
def test_a_rescoring_is_verified_by_its_parents_verdicts(home: Home) -> None:
    home.iccm.run("rescore", home.run_ids[1], "--set", "reward.variance=0.25", "--into", "softer")
    report = json.loads(home.iccm.run("replay", "softer", "--json").stdout)
    assert report["compared"] == {"RewardScored": WHOLE["RewardScored"]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--until", "50"], "has steps 1 to 6"),
        (["--from-checkpoint", "0"], "has steps 1 to 6"),
        (["--rewards-only", "--from-checkpoint", "2"], "leave --from-checkpoint out"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_a_remedy(home: Home, arguments: list[str], told: str) -> None:
    assert told in home.iccm.run("replay", home.run_ids[1], *arguments, code=2).stderr
