"""Servers that are not ours: started detached or for one block, ready when their log says so, ended within a bound."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.children import Process, detach, end, leashed
from infra.problems import ServiceUnavailable

START_SECONDS = 120.0
STOP_SECONDS = 30.0
LAST_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A server prepared to start: `address` is where it will answer once `ready` stands in its log."""

    name: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    ready: str
    address: str
    stopped_by: signal.Signals
    before: tuple[str, ...] = ()  # what becomes another user before the command runs


def start(daemon: Daemon, born: Callable[[Process], None]) -> None:
    """Start it, tell `born`, and return when it answers. It outlives us; the terminal's Ctrl-C does not reach it."""
    child = detach([*daemon.before, *daemon.command], daemon.folder, daemon.log)
    if child is None:
        raise died(daemon.name, daemon.log)
    born(child)
    await_ready(daemon.name, daemon.log, daemon.ready, child.alive)


def stop(child: Process, number: signal.Signals) -> None:
    """End it cleanly; SIGKILL when it has not ended after half a minute."""
    end(child, number, STOP_SECONDS)


@contextmanager
def running(daemon: Daemon) -> Iterator[str]:
    """Its address; it lives as long as this block, and never longer than the thread that entered it."""
    command = [*daemon.before, *leashed(daemon.command, daemon.stopped_by)]
    with (
        daemon.log.open("ab") as output,
        subprocess.Popen(
            command,
            cwd=daemon.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as child,
    ):
        try:
            await_ready(daemon.name, daemon.log, daemon.ready, lambda: child.poll() is None)
            yield daemon.address
        finally:
            _end(child, daemon.stopped_by)


def await_ready(name: str, log: Path, ready: str, alive: Callable[[], bool]) -> None:
    """Return when `ready` stands in the log. Raises ServiceUnavailable when the server ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while ready not in log.read_text(errors="replace"):
        if not alive():
            raise died(name, log)
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"{name} was not ready after {START_SECONDS:.0f} s", f"see {log}")
        time.sleep(0.02)


def fresh_log(home: Path, name: str) -> Path:
    """An empty log file; the one of the last start is kept beside it."""
    log = home / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    log.touch()
    return log


def died(name: str, log: Path, remedy: str = "") -> ServiceUnavailable:
    """The error for a server that ended too early, with the last lines it wrote."""
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    return ServiceUnavailable(f"{name} ended before it was ready; its last words:\n{last}", remedy or f"see {log}")


def _end(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    child.send_signal(number)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
