"""Keeps roles alive: each a child process with a log of its own, started again when it dies, never left behind.

A role that ends with 0 is done. One that ends with 2 (bad input) or 4 (fenced) would end so again: it is given up.
Any other end is a death; the role comes back after a pause that doubles from 0.2 s to 5 s and starts over once the
role has lived 30 s. Children die with the thread that polls, even when it is killed (Linux).
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.children import leashed

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
HEALTHY_SECONDS = 30.0
STOP_SECONDS = 10.0
DONE = 0
HOPELESS = frozenset({2, 4})

What = Literal["started", "died", "restarted", "done", "gave up"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to a role. `code` is its exit code, negative for the signal that killed it."""

    role: str
    what: What
    log: Path
    code: int | None = None


@dataclass(slots=True)
class _Role:
    """One role as it stands. Without a child it waits for `due`; with neither it is over."""

    name: str
    command: Sequence[str]
    log: Path
    due: float | None
    child: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    starts: int = 0


class Supervisor:
    """Drives the roles from a loop of yours: call `poll` often, from one thread that outlives them, then `stop`."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        logs: Path,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._environment = dict(environment)
        self._roles = [
            _Role(name, command, (logs / f"{name}.log").absolute(), due=clock()) for name, command in commands.items()
        ]

    @property
    def restarts(self) -> dict[str, int]:
        """How often each role was started again."""
        return {role.name: max(0, role.starts - 1) for role in self._roles}

    @property
    def pids(self) -> dict[str, int]:
        """The roles that have a process now."""
        return {role.name: role.child.pid for role in self._roles if role.child is not None}

    def poll(self) -> list[Change]:
        """Start what is due, notice what ended; returns at once with what changed since the last call."""
        changes: list[Change] = []
        for role in self._roles:
            if role.child is not None and _has_ended(role.child):
                changes.append(self._bury(role, role.child))
            elif role.due is not None and role.due <= self._clock():
                changes.append(self._start(role))
        return changes

    def stop(self, within_seconds: float = STOP_SECONDS) -> None:
        """SIGTERM to every role, SIGKILL after the bound; when this returns no process of any role is left."""
        children = [role.child for role in self._roles if role.child is not None]
        for child in children:
            os.kill(child.pid, signal.SIGTERM)  # not yet reaped, so the pid is still its own
        deadline = time.monotonic() + within_seconds
        for child in children:
            _await_end(child, deadline - time.monotonic())
            _clear(child)
        for role in self._roles:
            role.child, role.due = None, None

    def _start(self, role: _Role) -> Change:
        with role.log.open("ab") as output:
            role.child = subprocess.Popen(
                leashed(role.command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        role.since, role.due = self._clock(), None
        role.starts += 1
        return Change(role.name, "started" if role.starts == 1 else "restarted", role.log)

    def _bury(self, role: _Role, child: subprocess.Popen[bytes]) -> Change:
        code = _clear(child)
        role.child = None
        if code == DONE:
            return Change(role.name, "done", role.log, code)
        if code in HOPELESS:
            return Change(role.name, "gave up", role.log, code)
        now = self._clock()
        if now - role.since >= HEALTHY_SECONDS:
            role.pause = FIRST_PAUSE_SECONDS
        role.due = now + role.pause
        role.pause = min(2 * role.pause, LONGEST_PAUSE_SECONDS)
        return Change(role.name, "died", role.log, code)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether it ended, leaving it unreaped: until then nobody else can get its process group's number."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _await_end(child: subprocess.Popen[bytes], within_seconds: float) -> None:
    handle = os.pidfd_open(child.pid)
    try:
        select.select([handle], [], [], max(0.0, within_seconds))
    finally:
        os.close(handle)


def _clear(child: subprocess.Popen[bytes]) -> int:
    """Kill what is left of its process group, reap it, and return its exit code."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()
