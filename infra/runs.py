"""Runs as the log tells them: which there are, which one a person means, and the facts of one.

Pure but for the two functions that read a log.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from infra.log import Log
from infra.problems import BadInput
from schemas.events import Event, PolicyUpdated, RunEnded, RunStarted
from schemas.topics import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as far as topic `runs` tells."""

    started: RunStarted
    ended: RunEnded | None = None
    rounds: int = 0  # train rounds closed so far
    policy_digest: str = ""

    @property
    def run_id(self) -> str:
        """The id of its facts."""
        return self.started.run_id or ""


def runs(facts: Iterable[Event]) -> list[Run]:
    """Every run on the log, in the order they started; the first fact with an id wins."""
    found: dict[str, Run] = {}
    for fact in facts:
        run_id = fact.run_id or ""
        match fact:
            case RunStarted():
                found.setdefault(run_id, Run(started=fact))
            case RunEnded() if run_id in found and found[run_id].ended is None:
                found[run_id] = replace(found[run_id], ended=fact)
            case PolicyUpdated() if run_id in found and fact.round > found[run_id].rounds:
                found[run_id] = replace(found[run_id], rounds=fact.round, policy_digest=fact.policy_digest)
    return sorted(found.values(), key=lambda run: (run.started.recorded_at, run.started.event_id))


def named(found: list[Run], name: str) -> Run:
    """The run called `name`: its label, its id, the unambiguous beginning of an id, or `latest`."""
    if not found:
        raise BadInput("there is no run on this log", "start one with `iccm demo`")
    if name == "latest":
        return found[-1]
    matching = [run for run in found if name and run.started.label == name]
    matching = matching or [run for run in found if run.run_id.startswith(name)]
    if len(matching) != 1:
        many = "no run" if not matching else f"{len(matching)} runs"
        raise BadInput(f"{many} on this log begin with {name!r}", "`iccm run list` names them")
    return matching[0]


def runs_on(log: Log) -> list[Run]:
    """Every run on the log, in the order they started."""
    records = log.replay((RunStarted, PolicyUpdated, RunEnded))
    return runs(record.event for record in records if record.event is not None)


def facts_of(log: Log, run: Run, kinds: Collection[type[Event]] = KINDS) -> Iterator[Event]:
    """The facts of one run, of these kinds; those it shares with a parent are the parent's."""
    for record in log.replay(kinds, start=run.started.offsets):
        if record.event is not None and record.event.run_id == run.run_id:
            yield record.event
