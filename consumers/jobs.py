"""Each worker's step bound to the doors it needs: what it reads, writes, owes, and says when it fails."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from consumers import implement, requirements, run_tests
from consumers.implement import Answered
from consumers.run_tests import Judged
from infra.log import Job, Log, References
from infra.models import Model
from infra.sandbox.suite import Sandbox
from schemas.events import ImplementationWritten, SuiteRan

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


def implement_job(*, models: Mapping[str, Model], application: References, answered: Answered, clock: Clock) -> Job:
    """The orchestra rebuilds."""
    step = partial(implement.implement, models=models, application=application, answered=answered, clock=clock)
    return Job(
        role="implement",
        step=step,
        reads=implement.READS,
        writes=implement.WRITES,
        owes=implement.owes,
        fails=partial(implement.fails, clock=clock),
        slice=REBUILDS_PER_SLICE,
    )


def run_tests_job(*, sandbox: Sandbox, environment: str, application: References, judged: Judged, clock: Clock) -> Job:
    """The sandbox judges."""
    step = partial(
        run_tests.run_tests,
        sandbox=sandbox,
        environment=environment,
        application=application,
        judged=judged,
        clock=clock,
    )
    return Job(
        role="run_tests",
        step=step,
        reads=run_tests.READS,
        writes=run_tests.WRITES,
        owes=run_tests.owes,
        fails=partial(run_tests.fails, clock=clock),
        batch=288,
        slice=SUITES_PER_SLICE,
    )


def answered_on(log: Log) -> Answered:
    """Every rebuild already on the log, to be used again."""
    answered = Answered()
    for record in log.replay((ImplementationWritten,)):
        if isinstance(record.event, ImplementationWritten):
            answered.remember(record.event)
    return answered


def judged_on(log: Log) -> Judged:
    """Every verdict already on the log, to be used again."""
    judged = Judged()
    for record in log.replay((SuiteRan,)):
        if isinstance(record.event, SuiteRan):
            judged.remember(record.event)
    return judged
