"""Which run a command means: the newest open one with an equal specification goes on, any other open one is abandoned.

Pure: from the facts of topic `runs` to a decision. A run is open until its RunEnded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from infra.runs import Run
from schemas.events import RunEnded, RunOutcome, Specification
from schemas.identity import event_id


@dataclass(frozen=True, slots=True)
class Choice:
    """Go on with `resume`, or begin afresh when it is None; end the runs in `abandon` first."""

    resume: Run | None
    abandon: list[Run] = field(default_factory=list)


def choose(found: Iterable[Run], specification: Specification) -> Choice:
    """What a command with this specification does about the open runs. It goes on with no fork, and leaves re-scorings
    alone: they play no round."""
    opened = [run for run in found if run.ended is None and not run.rescores]
    equal = [run for run in opened if run.started.specification == specification and not run.started.parent_run_id]
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
