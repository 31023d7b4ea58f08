"""`iccm rescore` as its users run it, over a run that is on a real broker: no model and no sandbox is even loaded."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.kafka import KafkaLog
from infra.runs import facts_of, named, runs_on
from schemas.events import RewardScored, RunEnded
from tests.histories import RUN
from tests.unit.streams.playing import played, suites

ROOT = Path(__file__).parents[2]
PARTITIONS = 3

# The command, and the proof that nothing was there to ask: what it loaded must not include these.
COMMAND = """
import sys
from infra.__main__ import main
code = main(sys.argv[1:])
able = ("torch", "transformers", "consumers", "producers", "trainer", "infra.sandbox", "infra.lab", "infra.models")
loaded = [name for name in sys.modules if name.startswith(able)]
sys.exit(f"it loaded {loaded}" if loaded else code)
"""

REWARD = """
def reward(suites):
    \"\"\"What the best of the rewarded models made of it; a number of tests costs a little.\"\"\"
    passed = [sum(result.outcome == "passed" for result in suite.results) / 4 for suite in suites]
    return {"best": max(passed), "length": -0.01 * len(suites[0].results)}
"""


@dataclass(frozen=True, slots=True)
class Home:
    """A folder to stand in, and a namespace of its own on the broker."""

    folder: Path
    kafka: str
    namespace: str

    def rescore(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        own = {"HOME": str(self.folder / "home"), "KAFKA": self.kafka, "NAMESPACE": self.namespace}
        own |= {"PARTITIONS": str(PARTITIONS), "POSTGRES": "postgresql://127.0.0.1:1/none"}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "rescore", *arguments],
            capture_output=True, text=True, cwd=self.folder, timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT), **{f"ICCM_{key}": value for key, value in own.items()}},
        )  # fmt: skip
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def log(self) -> KafkaLog:
        return KafkaLog(self.kafka, self.namespace, PARTITIONS, self.folder / "home")


@pytest.fixture(scope="module")
def home(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run of two rounds, played and scored."""
    made = Home(tmp_path_factory.mktemp("rescore"), kafka, f"t{uuid.uuid4().hex[:10]}")
    log = made.log()
    log.publish(played(suites()))
    log.close()
    return made


def rewards(home: Home, name: str) -> list[RewardScored]:
    log = home.log()
    try:
        facts = list(facts_of(log, named(runs_on(log), name)))
    finally:
        log.close()
    assert [type(fact) for fact in facts].count(RunEnded) == 1
    return [fact for fact in facts if isinstance(fact, RewardScored)]


def test_another_weight_gives_another_run_a_table_and_a_picture(home: Home) -> None:
    said = home.rescore("latest", "--set", "reward.variance=0.5", "--into", "softer").stdout
    assert f"run {RUN} scored again as softer" in said
    assert "12 drafts, 14 facts written; no model was asked, no test was run" in said
    assert "rank correlation (Spearman) over 11 drafts" in said
    assert len({reward.event_id for reward in rewards(home, "softer")}) == len(rewards(home, "softer")) == 12
    (picture,) = (home.folder / "home" / "runs").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_function_of_ones_own_from_the_current_folder_and_the_second_time_nothing_is_written(home: Home) -> None:
    (home.folder / "mine.py").write_text(REWARD)
    command = (RUN, "--reward", "mine:reward", "--into", "best", "--json", "--plot", str(home.folder / "best.svg"))
    first, second = (json.loads(home.rescore(*command).stdout) for _ in range(2))
    assert (first.pop("written"), second.pop("written")) == (14, 0)
    assert first == second
    assert first["scored_by"].startswith("mine:reward@")
    assert "reward by mine:reward" in (home.folder / "best.svg").read_text()
    scored = rewards(home, "best")
    assert {reward.function for reward in scored} == {first["scored_by"]}
    assert {len(reward.terms) for reward in scored} == {0, 2}
    (home.folder / "mine.py").write_text(REWARD.replace("0.01", "0.02"))
    refused = home.rescore(*command, code=2).stderr
    assert "best was scored by mine:reward@" in refused


def test_what_is_no_reward_is_refused_and_nothing_is_written(home: Home) -> None:
    refused = home.rescore("latest", "--set", "learning.clip_norm=2", "--into", "x", code=2).stderr
    assert "scoring again changes the reward alone" in refused
    assert "iccm fork" in refused
    (home.folder / "wrong.py").write_text("def reward(suites):\n    return 1 / (2 - suites[0].draft)\n")
    refused = home.rescore("latest", "--reward", "wrong:reward", "--into", "x", code=2).stderr
    assert "wrong:reward raised ZeroDivisionError" in refused
    assert "round 1 application" in refused
    log = home.log()
    assert [run for run in runs_on(log) if run.started.label == "x"] == []
    log.close()
