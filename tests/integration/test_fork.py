"""Forks on real Kafka: what is shared is the parent's, to the last bit; what is changed parts after the cut alone."""

import json
import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.commands import SMALL, Iccm, lines_until, pids_of, survivors

ROUNDS = 4


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iccm]:
    """A home whose services stay up, and a small finished run in it; forks of all tests come to stand beside it."""
    iccm = Iccm(tmp_path_factory.mktemp("parent"))
    iccm.run("up")
    try:
        iccm.run("run", "start", *SMALL, "--set", f"rounds={ROUNDS}")
        yield iccm
    finally:
        iccm.run("down")
    assert survivors(iccm.home) == []


def run_id(iccm: Iccm) -> str:
    return str(iccm.runs()[0]["run_id"])


@pytest.mark.timeout(600)
def test_without_a_checkpoint_and_with_its_trainer_killed_an_unchanged_fork_repeats_its_parent(parent: Iccm) -> None:
    mother = run_id(parent)
    shutil.rmtree(parent.home / "blobs")
    with parent.running("fork", mother, "--at", "2", "--into", "same") as process:
        lines_until(process, lambda line: "after update 2 of" in line)
        for pid in pids_of(parent.home, "trainer"):
            os.kill(pid, signal.SIGKILL)
        rest, _ = process.communicate(timeout=500)
    assert (process.returncode, "trainer is running again" in rest) == (0, True), rest
    said = (parent.home / "logs" / "trainer.log").read_text()
    assert f"learning rounds 1 to 2 of run {mother[:8]} again" in said
    assert parent.run("diff", mother, "same").stdout.startswith("equal: ")
    told = json.loads(parent.run("run", "show", "same", "--json").stdout)
    assert [point["round"] for point in told["curve"]] == [0, 2, 4]
    assert (told["label"], told["parent_run_id"], told["parent_step"]) == ("same", mother, 2)
    assert told["answers"]["implement"]["paid"] == told["answers"]["run_tests"]["paid"] == 0
    assert told["answers"]["implement"]["from_the_log"] > 0


@pytest.mark.timeout(600)
def test_a_change_parts_after_the_cut_and_the_same_command_goes_on_after_ctrl_c(parent: Iccm) -> None:
    fork = ["fork", run_id(parent), "--at", "3", "--set", "reward.variance=0", "--into", "plain"]
    with parent.running(*fork) as process:
        lines_until(process, lambda line: "after update 3 of" in line)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
    assert (process.returncode, "stopped; the same command goes on" in rest) == (130, True), rest
    assert "goes on after round 3" in parent.run(*fork).stderr
    differs = parent.run("diff", run_id(parent), "plain", code=5)
    assert "RunStarted: specification.reward.variance is 1.0 on the left, 0.0 on the right" in differs.stderr
    (listed,) = [run for run in parent.runs() if run["label"] == "plain"]
    assert (listed["state"], listed["rounds"], listed["parent_step"]) == ("finished", ROUNDS, 3)
    assert "is called plain already" in parent.run(*fork, code=2).stderr


@pytest.mark.timeout(600)
def test_a_fork_that_cannot_be_is_refused_before_anything_starts(parent: Iccm) -> None:
    before = parent.runs()
    for wrong, said in (
        (["--at", "9", "--into", "x"], "has made 4 updates of its weights"),
        (["--at", "2", "--into", "x", "--set", "learning.lora_rank=8"], "cannot change learning.lora_rank"),
    ):
        assert said in parent.run("fork", run_id(parent), *wrong, code=2).stderr
    assert parent.runs() == before
