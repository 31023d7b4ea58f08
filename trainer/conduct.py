"""A run from the keyboard: pick the run, start a process per role, watch the log, stop cleanly.

The conductor decides nothing about learning. It may be killed at any moment: roles die with it, the next one goes on.
"""

import fcntl
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from infra.failpoints import reached
from infra.log import Log
from infra.problems import Busy, ServiceUnavailable
from infra.runs import Run, lineage, rounds_behind, runs_on
from infra.specification import as_text
from infra.supervisor import Change, Supervisor
from schemas.events import (
    Event,
    Offset,
    PolicyUpdated,
    RunEnded,
    Specification,
    ValidationCompleted,
)
from schemas.topics import KINDS
from trainer.forks import Origin, choose_fork
from trainer.runs import abandoned, choose

PATIENCE = 12  # deaths of one role without progress before the conductor gives up
PYTHON: tuple[str, ...] = (sys.executable, "-m")  # what runs a role's module

Show = Callable[[Event], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The run this command drives, and where on the log it begins."""

    run_id: str
    start: tuple[Offset, ...]


@contextmanager
def sole_conductor(home: Path) -> Iterator[None]:
    """One conductor per home. A second one is refused at once; the lock falls with the process, however it dies."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "conductor.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise Busy(
                f"another iccm command is driving a run in {home}",
                "wait for it, stop it with Ctrl-C, or set ICCM_HOME to another folder",
            ) from held
        yield


def choose_run(log: Log, specification: Specification, now: datetime, say: Say) -> Chosen:
    """Resume the newest open run with an equal specification; end every other open one as abandoned."""
    choice = choose(runs_on(log), specification)
    log.publish([abandoned(run, now) for run in choice.abandon])
    for run in choice.abandon:
        say(f"run {_short(run.started.run_id)} had another specification and is ended as abandoned")
    reached("conductor", "chosen", choice)
    return _resumed(choice.resume, choice.resume.rounds, say) if choice.resume else _new(log)


def choose_fork_on(log: Log, found: list[Run], of: Origin, specification: Specification, say: Say) -> Chosen:
    """Resume the open fork that the same command began; every other run stays as it is."""
    resume = choose_fork(found, of, specification)
    reached("conductor", "chosen", resume)
    return _resumed(resume, rounds_behind(lineage(found, resume)), say) if resume else _new(log)


def _resumed(run: Run, rounds: int, say: Say) -> Chosen:
    say(f"run {_short(run.run_id)} goes on after round {rounds}")
    return Chosen(run.run_id, run.started.offsets)


def _new(log: Log) -> Chosen:
    return Chosen(str(uuid.uuid4()), log.end_offsets())


def role_commands(
    home: Path, run_id: str, specification: Specification, origin: Origin | None = None
) -> dict[str, list[str]]:
    """One process per role, in the order they start. A fork's trainer is told where the run begins."""
    file = home / "runs" / f"{run_id}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_text(specification))
    python = [*PYTHON]
    return {
        "trainer": [*python, "trainer", "train", run_id, "--specification", str(file), *_begun_at(origin)],
        "requirements": [*python, "consumers", "requirements"],
        "implement": [*python, "consumers", "implement"],
        "run_tests": [*python, "consumers", "run_tests"],
        "rewards": [*python, "streams"],
        "project": [*python, "consumers", "project"],
    }


def _begun_at(origin: Origin | None) -> list[str]:
    return ["--parent", origin.run_id, "--at", str(origin.step), "--label", origin.label] if origin else []


def conduct(
    log: Log,
    chosen: Chosen,
    commands: Mapping[str, Sequence[str]],
    *,
    home: Path,
    environment: Mapping[str, str],
    stop: Callable[[], bool],
    show: Show,
    say: Say,
) -> RunEnded | None:
    """Keep every role alive until the run has ended, or `stop()`: then None. No process outlives this call."""
    supervisor = Supervisor(commands, home / "logs", environment)
    try:
        return _watch(log, chosen, supervisor, stop, show, say)
    finally:
        supervisor.stop()


def _watch(
    log: Log, chosen: Chosen, supervisor: Supervisor, stop: Callable[[], bool], show: Show, say: Say
) -> RunEnded | None:
    deaths: Counter[str] = Counter()  # since the run last moved
    for batch in log.follow(KINDS, start=chosen.start, stop=stop):
        for change in supervisor.poll():
            _report(change, deaths, say)
        for event in (record.event for record in batch):
            if event is not None and event.run_id == chosen.run_id:
                show(event)
                if isinstance(event, RunEnded):
                    reached("conductor", "end_seen", event)
                    return event
                if isinstance(event, PolicyUpdated | ValidationCompleted):
                    reached("conductor", "update_seen", event)
                    deaths.clear()
    return None


def _report(change: Change, deaths: Counter[str], say: Say) -> None:
    match change.what:
        case "died":
            deaths[change.role] += 1
            say(f"{change.role} died with {change.code}: {_last_words(change.log)}")
            if deaths[change.role] >= PATIENCE:
                raise ServiceUnavailable(f"{change.role} died {PATIENCE} times without progress", f"see {change.log}")
        case "restarted":
            say(f"{change.role} is running again")
        case "gave up":
            said = f"{change.role} ended with {change.code} and cannot go on: {_last_words(change.log)}"
            raise ServiceUnavailable(said, f"see {change.log}")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:500]


def _short(run_id: str | None) -> str:
    return (run_id or "")[:8]
