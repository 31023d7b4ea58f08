"""Operating-system processes: told apart even when a pid is used again, ended within a bound, never left behind."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LEASH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
os.getppid() == int(sys.argv[1]) or sys.exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True, slots=True)
class Process:
    """One process for ever: a later process with the same pid has started at another moment."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Whether this very process runs. A zombie does not."""
        return _started(self.pid) == self.started


def process(pid: int) -> Process | None:
    """The process that has this pid now; None if none runs."""
    started = _started(pid)
    return Process(pid, started) if started else None


def leashed(command: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """The same command, signalled when the thread that starts it dies, however that happens (Linux)."""
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), str(int(number)), *command]


def detach(command: Sequence[str], folder: Path, log: Path) -> Process | None:
    """Start a command that outlives us, in a session of its own, its output appended to `log`.

    None when it ended before it could be seen; the log says why.
    """
    shell = ["sh", "-c", '"$@" </dev/null >>"$0" 2>&1 & echo $!', str(log), *command]
    answer = subprocess.run(shell, cwd=folder, start_new_session=True, check=True, stdout=subprocess.PIPE)
    return process(int(answer.stdout))


def end(child: Process, number: signal.Signals, within_seconds: float) -> bool:
    """Send the signal and wait; SIGKILL after the bound. True when the process ended by itself in time."""
    try:
        handle = os.pidfd_open(child.pid)
    except ProcessLookupError:
        return True
    try:
        if not child.alive():  # the pid was used again before the handle was opened
            return True
        signal.pidfd_send_signal(handle, number)
        if _ended(handle, within_seconds):
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return not _ended(handle, within_seconds)
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)
        _reap(child.pid)


def _ended(handle: int, within_seconds: float) -> bool:
    ready, _, _ = select.select([handle], [], [], within_seconds)
    return bool(ready)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # not our child: its own parent reaps it
        os.waitpid(pid, os.WNOHANG)


def _started(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else f"{_boot()}/{rest[18]}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
