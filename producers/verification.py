"""An application is fit to judge others once its own source passes its suite, every time, in the sandbox."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from infra.sandbox.suite import Judgement, Sandbox, Suite
from schemas.events import ApplicationRegistered, ApplicationRejected, ApplicationVerified, Outcome, Verdict
from schemas.identity import event_id


def verify(
    applications: Sequence[ApplicationRegistered], *, sandbox: Sandbox, runs: int, clock: Callable[[], datetime]
) -> Iterator[ApplicationVerified | ApplicationRejected]:
    """One answer per application: verified when all `runs` runs pass, else rejected with what a bad one said."""
    judgements = sandbox.run([gold_suite(each) for each in applications for _ in range(runs)])
    for index, application in enumerate(applications):
        bad = [j for j in judgements[index * runs : (index + 1) * runs] if j.verdict is not Verdict.PASSED]
        if bad:
            yield _rejected(application, bad[0], len(bad), runs, clock())
        else:
            yield _verified(application, sandbox, runs, clock())


def gold_suite(application: ApplicationRegistered) -> Suite:
    """The application's own source under its own tests."""
    return Suite(
        files=application.source,
        tests=application.tests,
        kind=application.suite,
        expected_test_ids=application.expected_test_ids,
    )


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


def _rejected(
    application: ApplicationRegistered, bad: Judgement, count: int, runs: int, now: datetime
) -> ApplicationRejected:
    failing = [each.test_id for each in bad.results if each.outcome is not Outcome.PASSED][:5]
    said = bad.cause or ", ".join(failing)
    return ApplicationRejected(
        event_id=event_id(None, application.event_id, "reject"),
        recorded_at=now,
        caused_by=(application.event_id,),
        application_id=application.application_id,
        name=application.name,
        reason=f"its own source did not pass its suite in {count} of {runs} runs: {bad.verdict}: {said}",
    )
