"""An application is fit to judge others once its own source passes its suite, every time, in the sandbox."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from infra.sandbox.suite import Judgement, Sandbox, Suite
from infra.sandbox.table import BadSuite
from infra.sandbox.units import merged, units
from schemas.events import ApplicationRegistered, ApplicationRejected, ApplicationVerified, Outcome, Verdict
from schemas.identity import event_id


def verify(
    applications: Sequence[ApplicationRegistered], *, sandbox: Sandbox, runs: int, clock: Callable[[], datetime]
) -> Iterator[ApplicationVerified | ApplicationRejected]:
    """One answer per application: verified when all `runs` runs pass, unit by unit as a rebuild's would, else rejected
    with what a bad one said."""
    plans = [_plan(each) for each in applications]
    suites = [suite for plan in plans if not isinstance(plan, BadSuite) for _ in range(runs) for suite in plan]
    judged = iter(sandbox.run(suites))
    for application, plan in zip(applications, plans, strict=True):
        if isinstance(plan, BadSuite):
            yield _rejected(application, f"its suite cannot be used: {plan}", clock())
            continue
        judgements = [merged([next(judged) for _ in plan], application.expected_test_ids) for _ in range(runs)]
        if bad := [each for each in judgements if each.verdict is not Verdict.PASSED]:
            yield _rejected(application, _why(bad, runs), clock())
        else:
            yield _verified(application, sandbox, runs, clock())


def _plan(application: ApplicationRegistered) -> list[Suite] | BadSuite:
    """The application's own source under each unit of its suite."""
    try:
        return [unit.suite(application.source) for unit in units(application)]
    except BadSuite as problem:
        return problem


def _verified(application: ApplicationRegistered, sandbox: Sandbox, runs: int, now: datetime) -> ApplicationVerified:
    return ApplicationVerified(
        event_id=event_id(None, application.event_id, "verify"),
        recorded_at=now,
        caused_by=(application.event_id,),
        application_id=application.application_id,
        runs=runs,
        sandbox=sandbox.name,
        assurance=sandbox.assurance,
    )


def _why(bad: Sequence[Judgement], runs: int) -> str:
    failing = [each.test_id for each in bad[0].results if each.outcome is not Outcome.PASSED][:5]
    said = bad[0].cause or ", ".join(failing)
    return f"its own source did not pass its suite in {len(bad)} of {runs} runs: {bad[0].verdict}: {said}"


def _rejected(application: ApplicationRegistered, reason: str, now: datetime) -> ApplicationRejected:
    return ApplicationRejected(
        event_id=event_id(None, application.event_id, "reject"),
        recorded_at=now,
        caused_by=(application.event_id,),
        application_id=application.application_id,
        name=application.name,
        reason=reason,
    )
