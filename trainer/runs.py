"""Which run a command means: the newest open one with an equal specification goes on, any other open one is abandoned.

Pure: from the facts of topic `runs` to a decision. A run is open until its RunEnded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from infra.problems import BadInput
from schemas.events import Event, PolicyUpdated, RunEnded, RunOutcome, RunStarted, Specification
from schemas.identity import event_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as far as topic `runs` tells."""

    started: RunStarted
    ended: RunEnded | None = None
    rounds: int = 0  # train rounds closed so far
    policy_digest: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Go on with `resume`, or begin afresh when it is None; end the runs in `abandon` first."""

    resume: Run | None
    abandon: list[Run] = field(default_factory=list)


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


def choose(found: Iterable[Run], specification: Specification) -> Choice:
    """What a command with this specification does about the open runs."""
    opened = [run for run in found if run.ended is None]
    equal = [run for run in opened if run.started.specification == specification]
    resume = equal[-1] if equal else None
    return Choice(resume, [run for run in opened if run is not resume])


def abandoned(run: Run, now: datetime) -> RunEnded:
    """The fact that ends an open run which nobody will finish."""
    run_id = run.started.run_id
    return RunEnded(
        event_id=event_id(run_id, "run", "end"),
        recorded_at=now,
        run_id=run_id,
        caused_by=(run.started.event_id,),
        outcome=RunOutcome.ABANDONED,
        cause="a run with another specification was started",
        rounds=run.rounds,
        policy_digest=run.policy_digest,
    )


def named(found: list[Run], name: str) -> Run:
    """The run called `name`: an id, the unambiguous beginning of one, or `latest`."""
    if not found:
        raise BadInput("there is no run on this log", "start one with `iccm demo`")
    if name == "latest":
        return found[-1]
    matching = [run for run in found if (run.started.run_id or "").startswith(name)]
    if len(matching) != 1:
        many = "no run" if not matching else f"{len(matching)} runs"
        raise BadInput(f"{many} on this log begin with {name!r}", "`iccm run list` names them")
    return matching[0]
