"""Each worker's step bound to the doors it needs: what it reads, writes, owes, and says when it fails.

Answers are counted here, from the facts: how many were paid for, how many the log had already.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

from consumers import implement, requirements, run_tests
from consumers.answered import Answered
from infra import metrics
from infra.log import Answers, Job, References, Step
from infra.models import Model
from infra.sandbox.suite import Sandbox
from schemas.events import Event, ImplementationWritten, SuiteRan

Clock = Callable[[], datetime]

# A lab model answers 32 rows at once: 32 drafts fill the policy, 32 rebuilds each of the three rewarded implementers.
DRAFTS_PER_SLICE = 32
REBUILDS_PER_SLICE = 96
SUITES_PER_SLICE = 48


def requirements_job(*, policy: Model, application: References, clock: Clock) -> Job:
    """CET-D writes requirements."""
    return Job(
        role="requirements",
        step=partial(requirements.draft_requirements, policy=policy, application=application, clock=clock),
        reads=requirements.READS,
        writes=requirements.WRITES,
        owes=requirements.owes,
        fails=partial(requirements.fails, clock=clock),
        slice=DRAFTS_PER_SLICE,
    )


def implement_job(*, models: Mapping[str, Model], application: References, answers: Answers, clock: Clock) -> Job:
    """The orchestra rebuilds. `answers` are those of ImplementationWritten."""
    step = partial(implement.implement, models=models, application=application, answered=Answered(answers), clock=clock)
    return Job(
        role="implement",
        step=_counted("implement", step),
        reads=implement.READS,
        writes=implement.WRITES,
        owes=implement.owes,
        fails=partial(implement.fails, clock=clock),
        slice=REBUILDS_PER_SLICE,
    )


def run_tests_job(
    *, sandbox: Sandbox, environment: str, application: References, answers: Answers, clock: Clock
) -> Job:
    """The sandbox judges. `answers` are those of SuiteRan."""
    step = partial(
        run_tests.run_tests,
        sandbox=sandbox,
        environment=environment,
        application=application,
        answered=Answered(answers),
        clock=clock,
    )
    return Job(
        role="run_tests",
        step=_counted("run_tests", step),
        reads=run_tests.READS,
        writes=run_tests.WRITES,
        owes=run_tests.owes,
        fails=partial(run_tests.fails, clock=clock),
        batch=288,
        slice=SUITES_PER_SLICE,
    )


def _counted(role: str, step: Step) -> Step:
    """The same step, and how often an answer was paid for or found."""

    def counting(events: Sequence[Event]) -> Iterator[Event]:
        for fact in step(events):
            for answered_from in _answers(fact):
                metrics.answered(role, metrics.PAID if answered_from is None else metrics.LOG)
            yield fact

    return counting


def _answers(fact: Event) -> list[str | None]:
    """For each answer that a fact holds, the event it was taken from; None where it was paid for."""
    match fact:
        case ImplementationWritten() if fact.work_key:
            return [fact.answered_from]
        case SuiteRan():
            return [unit.answered_from for unit in fact.units]
    return []
