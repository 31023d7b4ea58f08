"""The whole loop as users run it: real Kafka, real PostgreSQL, a process per role, real models, a real sandbox."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.commands import SMALL, Iccm, lines_until, pids_of, survivors

ROUNDS = 6
RUN = ["run", "start", *SMALL, "--set", f"rounds={ROUNDS}"]
ROLES = ("requirements", "implement", "run_tests", "rewards", "trainer", "project")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iccm:
    """A small run that nobody touched."""
    iccm = Iccm(tmp_path_factory.mktemp("undisturbed"))
    done = iccm.run(*RUN, "--json", str(iccm.home / "out.json"))
    assert f"round 1/{ROUNDS}" in done.stderr
    return iccm


@pytest.mark.timeout(600)
def test_a_run_ends_finished_with_a_curve_and_leaves_no_process(undisturbed: Iccm) -> None:
    out = json.loads((undisturbed.home / "out.json").read_text())
    assert out["outcome"] == "finished"
    assert [point["round"] for point in out["curve"]] == [0, 2, 4, 6]
    assert out["facts"]["PolicyUpdated"] == ROUNDS
    assert out["facts"]["RewardScored"] == ROUNDS * 12 + 4 * 4
    assert survivors(undisturbed.home) == []


@pytest.mark.timeout(600)
def test_every_role_killed_by_kill_9_ends_in_an_equal_run(undisturbed: Iccm, tmp_path: Path) -> None:
    iccm = Iccm(tmp_path)
    with iccm.running(*RUN) as process:
        for role in ROLES:
            lines_until(process, lambda line: "validate" in line or "is running again" in line or "round" in line)
            for pid in pids_of(iccm.home, role):
                os.kill(pid, signal.SIGKILL)
        rest, _ = process.communicate(timeout=500)
    assert process.returncode == 0, rest
    done = iccm.run("diff", f"{undisturbed.home}:latest", f"{iccm.home}:latest")
    assert done.stdout.startswith("equal: ")
    assert survivors(iccm.home) == []


@pytest.mark.timeout(600)
def test_the_same_run_in_memory_ends_with_the_same_policy(undisturbed: Iccm, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    Iccm(tmp_path / "home").run(*RUN, "--in-memory", "--json", str(out))
    on_kafka = json.loads((undisturbed.home / "out.json").read_text())
    assert json.loads(out.read_text())["policy_digest"] == on_kafka["policy_digest"]


@pytest.mark.timeout(600)
def test_the_demo_ends_with_its_curve_its_picture_and_what_to_do_next(tmp_path: Path) -> None:
    iccm = Iccm(tmp_path)
    done = iccm.run("demo", "--rounds", "2", "--seed", "5", "--json", "-")
    assert [point["round"] for point in json.loads(done.stdout)["curve"]] == [0, 2]
    for said in ("held-out pass rate", "where a round's time goes", "before", "facts on the log", "next: iccm"):
        assert said in done.stderr
    (picture,) = (tmp_path / "runs").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert survivors(tmp_path) == []


@pytest.mark.timeout(600)
def test_the_tables_are_the_log_refolded(undisturbed: Iccm) -> None:
    undisturbed.run("up")
    try:
        undisturbed.run("rebuild")
        assert undisturbed.runs()[0]["state"] == "finished"
    finally:
        undisturbed.run("down")


@pytest.mark.timeout(600)
def test_another_seed_is_another_run_and_the_difference_is_named(undisturbed: Iccm, tmp_path: Path) -> None:
    iccm = Iccm(tmp_path)
    iccm.run(*RUN, "--set", "seed=2", "--set", "rounds=1")
    done = iccm.run("diff", f"{undisturbed.home}:latest", "latest", code=5)
    assert "specification.seed" in done.stderr


@pytest.mark.timeout(600)
def test_ctrl_c_stops_cleanly_the_same_command_resumes_and_another_seed_abandons(tmp_path: Path) -> None:
    iccm = Iccm(tmp_path)
    with iccm.running(*RUN) as process:
        lines_until(process, lambda line: line.startswith("round 1/"))
        busy = iccm.run(*RUN, code=7)
        assert "another iccm command is driving a run" in busy.stderr
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
    assert (process.returncode, "stopped; the same command goes on" in rest) == (130, True)
    assert survivors(iccm.home) == []
    assert "goes on after round" in iccm.run(*RUN).stderr
    with iccm.running(*RUN, "--set", "seed=2") as process:
        lines_until(process, lambda line: line.startswith("round 1/"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    iccm.run(*RUN, "--set", "seed=3", "--set", "rounds=1")
    states = [(run["seed"], run["state"]) for run in iccm.runs()]
    assert states == [(1, "finished"), (2, "abandoned"), (3, "finished")]
