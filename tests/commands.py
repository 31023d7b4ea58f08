"""The product as its users run it: `iccm` as a process, with a home of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SMALL = [
    "--set", "applications_per_round=3", "--set", "drafts_per_application=4", "--set", "validate_every=2",
    "--apps", *(f"lab/train/{i:04d}" for i in range(6)), *(f"lab/validate/{i:04d}" for i in range(4)),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Iccm:
    """The command line, under one home."""

    home: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "ICCM_HOME": str(self.home)}

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """One command to its end; its exit code must be `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "infra", *arguments], capture_output=True, text=True, env=self.environment()
        )
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """One command in a session of its own, interrupted if the test did not end it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "infra", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.environment(), start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)

    def runs(self) -> list[dict[str, object]]:
        return list(json.loads(self.run("run", "list", "--json").stdout))


def lines_until(process: subprocess.Popen[str], said: Callable[[str], bool]) -> list[str]:
    """What a command says up to the first line of which `said` is true; fails if it ends before."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if said(line):
            return lines
    raise AssertionError("it ended without saying so:\n" + "".join(lines))


def pids_of(home: Path, role: str) -> list[int]:
    """The processes of one role of a home, found as an operator would: by their command line and environment."""
    marks = {"trainer": b"trainer\0train", "rewards": b"\0streams"}
    mark, own = marks.get(role, b"consumers\0" + role.encode()), f"ICCM_HOME={home}".encode()
    return [pid for pid in _all_pids() if mark in _read(pid, "cmdline") and own in _read(pid, "environ").split(b"\0")]


def survivors(home: Path) -> list[int]:
    """Every process that was started for this home and still runs."""
    own = f"ICCM_HOME={home}".encode()
    return [pid for pid in _all_pids() if pid != os.getpid() and own in _read(pid, "environ").split(b"\0")]


def _all_pids() -> list[int]:
    return [int(each) for each in os.listdir("/proc") if each.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
