"""What a supervisor promises, on real child processes and a clock of our own."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.supervisor import Change, Supervisor

PATIENCE_SECONDS = 30

SAYS_READY = "import os, signal, sys; open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SAYS_READY
HAS_A_CHILD = """
import os, signal, sys
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w").write(str(os.getpid()))
signal.pause()
"""


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A supervisor of one role that says through a pipe when it is ready."""

    def __init__(self, folder: Path, program: str) -> None:
        self.clock = Clock()
        self.pipe = folder / "ready"
        os.mkfifo(self.pipe)
        command = [sys.executable, "-c", program, str(self.pipe)]
        self.supervisor = Supervisor({"role": command}, folder / "logs", os.environ, self.clock)

    def ready(self) -> int:
        """The pid that the program wrote, once it has."""
        return int(self.pipe.read_text())

    def change(self) -> tuple[str, int | None]:
        [change] = self.supervisor.poll()
        return change.what, change.code


def has_died(pid: int) -> bool:
    """Whether a process ends in time; one that is gone already has."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE_SECONDS)[0])
    finally:
        os.close(handle)


def ends(folder: Path, code: int) -> Change:
    """What the supervisor says of a role that ends with this code."""
    supervisor = Supervisor({"role": [sys.executable, "-c", f"raise SystemExit({code})"]}, folder, os.environ, Clock())
    supervisor.poll()
    assert has_died(supervisor.pids["role"])
    [change] = supervisor.poll()
    return change


def test_a_killed_role_comes_back_after_its_pause(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SAYS_READY)
    assert stage.change() == ("started", None)
    first = stage.ready()
    os.kill(first, signal.SIGKILL)
    assert has_died(first)
    assert stage.change() == ("died", -signal.SIGKILL)
    assert stage.supervisor.poll() == []
    stage.clock.now += 0.2
    assert stage.change() == ("restarted", None)
    assert stage.ready() != first
    assert stage.supervisor.restarts == {"role": 1}
    stage.supervisor.stop()


def test_pauses_double_up_to_five_seconds_and_start_over_after_half_a_minute_of_health(tmp_path: Path) -> None:
    clock = Clock()
    supervisor = Supervisor({"role": [sys.executable, "-c", "raise SystemExit(1)"]}, tmp_path, os.environ, clock)
    for pause in (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        supervisor.poll()
        assert has_died(supervisor.pids["role"])
        supervisor.poll()
        clock.now += pause - 0.01
        assert supervisor.poll() == []
        clock.now += 0.02
    supervisor.poll()
    clock.now += 31
    assert has_died(supervisor.pids["role"])
    supervisor.poll()
    clock.now += 0.21
    assert [change.what for change in supervisor.poll()] == ["restarted"]
    supervisor.stop()


def test_a_role_that_ends_with_0_is_done(tmp_path: Path) -> None:
    assert ends(tmp_path, 0).what == "done"


@pytest.mark.parametrize("code", [2, 4])
def test_a_role_with_bad_input_or_fenced_is_given_up_and_named(tmp_path: Path, code: int) -> None:
    assert ends(tmp_path, code) == Change("role", "gave up", tmp_path / "role.log", code)


def test_what_a_role_writes_stands_in_its_log(tmp_path: Path) -> None:
    program = "import sys; print('to output'); sys.exit('to error')"
    supervisor = Supervisor({"role": [sys.executable, "-c", program]}, tmp_path, os.environ, Clock())
    supervisor.poll()
    assert has_died(supervisor.pids["role"])
    assert sorted((tmp_path / "role.log").read_text().splitlines()) == ["to error", "to output"]
    supervisor.stop()


@pytest.mark.parametrize("program", [SAYS_READY, IGNORES_SIGTERM, HAS_A_CHILD])
def test_stop_leaves_no_survivor(tmp_path: Path, program: str) -> None:
    stage = Stage(tmp_path, program)
    stage.supervisor.poll()
    ready, leader = stage.ready(), stage.supervisor.pids["role"]
    stage.supervisor.stop(within_seconds=1)
    assert has_died(ready)
    assert has_died(leader)
    assert stage.supervisor.pids == {}
    assert stage.supervisor.poll() == []


def test_the_children_of_a_dead_role_die_with_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, HAS_A_CHILD)
    stage.supervisor.poll()
    grandchild, leader = stage.ready(), stage.supervisor.pids["role"]
    os.kill(leader, signal.SIGKILL)
    assert has_died(leader)
    assert stage.change() == ("died", -signal.SIGKILL)
    assert has_died(grandchild)
    stage.supervisor.stop()


def test_roles_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "ready"
    os.mkfifo(pipe)
    program = (
        "import os, pathlib, signal, sys; from infra.supervisor import Supervisor; "
        "Supervisor({'role': sys.argv[2:]}, pathlib.Path(sys.argv[1]), os.environ).poll(); signal.pause()"
    )
    role = [sys.executable, "-c", SAYS_READY, str(pipe)]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), *role], cwd=Path(__file__).parents[3]
    ) as child:
        pid = int(pipe.read_text())
        child.kill()
    assert has_died(pid)
