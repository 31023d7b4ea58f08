"""The application's own tests judge each rebuild: every ImplementationWritten or Failed -> exactly one SuiteRan.

The same files under the same suite are run once; a later fact names the event whose verdict it repeats. Only verdicts
that say something about the code are used again: a timeout or a broken machine is tried afresh.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from consumers.carried import from_fact
from infra.log import References
from infra.sandbox.suite import Judgement, Sandbox, Suite
from schemas.events import (
    ApplicationRegistered,
    DraftEvent,
    Event,
    Evidence,
    Fault,
    ImplementationFailed,
    ImplementationWritten,
    Outcome,
    SuiteRan,
    TestResult,
    Verdict,
)
from schemas.identity import event_id, files_digest

READS = (ImplementationWritten, ImplementationFailed)
WRITES = (SuiteRan,)

REUSABLE = frozenset({Verdict.PASSED, Verdict.FAILED, Verdict.ERROR})


@dataclass(slots=True)
class Judged:
    """Judgements already on the log, by work key, with the event that says so."""

    by_key: dict[str, tuple[str, Judgement]] = field(default_factory=dict)

    def remember(self, fact: SuiteRan) -> None:
        """The first judgement with a key stays."""
        if fact.work_key and fact.verdict in REUSABLE:
            judgement = Judgement(verdict=fact.verdict, results=fact.results, cause=fact.cause, evidence=Evidence())
            self.by_key.setdefault(fact.work_key, (fact.answered_from or fact.event_id, judgement))


@dataclass(frozen=True, slots=True)
class _Run:
    """How a judgement came about; all empty when nothing ran."""

    suite_digest: str = ""
    sandbox: str = ""
    assurance: str = ""
    work_key: str = ""
    answered_from: str | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """One rebuild to be judged."""

    rebuild: ImplementationWritten
    application: ApplicationRegistered

    @property
    def suite_digest(self) -> str:
        return files_digest(self.application.tests)

    @property
    def suite(self) -> Suite:
        app = self.application
        return Suite(files=self.rebuild.files, tests=app.tests, kind=app.suite, expected_test_ids=app.expected_test_ids)


def work_key(rebuild: ImplementationWritten, application: ApplicationRegistered, environment: str) -> str:
    """Equal keys mean equal work: the rebuild's files, the tests, the environment they run in."""
    return f"{files_digest(rebuild.files, application.tests)}@{environment}"


def owes(event: Event) -> list[str]:
    """One verdict."""
    assert isinstance(event, DraftEvent)
    return [_id(event)]


def fails(event: Event, cause: str, *, clock: Callable[[], datetime]) -> list[Event]:
    """The verdict of a broken machine."""
    assert isinstance(event, ImplementationWritten | ImplementationFailed)
    broken = Judgement(verdict=Verdict.INVALID_INFRA, results=(), cause=cause, evidence=Evidence())
    return [_ran(event, broken, _Run(), clock())]


def run_tests(
    rebuilds: Sequence[Event],
    *,
    sandbox: Sandbox,
    environment: str,
    application: References,
    judged: Judged,
    clock: Callable[[], datetime],
) -> Iterator[Event]:
    """All rebuilds of a slice, each distinct one run once."""
    tasks: list[tuple[str, _Task]] = []
    for rebuild in rebuilds:
        match rebuild:
            case ImplementationFailed():
                yield _never_built(rebuild, application, clock())
            case ImplementationWritten():
                task = _Task(rebuild, _registered(rebuild, application))
                tasks.append((work_key(rebuild, task.application, environment), task))
    fresh = {key: task.suite for key, task in tasks if key not in judged.by_key}
    paid = dict(zip(fresh, sandbox.run(list(fresh.values())), strict=True))
    for key, task in tasks:
        known = judged.by_key.get(key)
        run = _Run(task.suite_digest, sandbox.name, sandbox.assurance, key, known[0] if known else None)
        fact = _ran(task.rebuild, known[1] if known else paid[key], run, clock())
        judged.remember(fact)
        yield fact


def _registered(fact: DraftEvent, application: References) -> ApplicationRegistered:
    registered = application(fact.application_id)
    assert isinstance(registered, ApplicationRegistered)
    return registered


def _never_built(missing: ImplementationFailed, application: References, now: datetime) -> SuiteRan:
    """No rebuild: all tests unrun and failed if the model is to blame, nothing said if the machine is."""
    if missing.fault is Fault.MACHINE:
        broken = Judgement(verdict=Verdict.INVALID_INFRA, results=(), cause=missing.cause, evidence=Evidence())
        return _ran(missing, broken, _Run(), now)
    registered = _registered(missing, application)
    results = tuple(TestResult(test_id=each, outcome=Outcome.NOT_RUN) for each in registered.expected_test_ids)
    judgement = Judgement(verdict=Verdict.FAILED, results=results, cause=missing.cause, evidence=Evidence())
    return _ran(missing, judgement, _Run(files_digest(registered.tests)), now)


def _ran(
    rebuild: ImplementationWritten | ImplementationFailed, judgement: Judgement, run: _Run, now: datetime
) -> SuiteRan:
    return SuiteRan(
        event_id=_id(rebuild),
        recorded_at=now,
        caused_by=(rebuild.event_id,),
        **from_fact(rebuild),
        requirements_id=rebuild.requirements_id,
        implementation_id=rebuild.event_id,
        model=rebuild.model,
        verdict=judgement.verdict,
        results=judgement.results,
        cause=judgement.cause,
        suite_digest=run.suite_digest,
        sandbox=run.sandbox,
        assurance=run.assurance,
        evidence=judgement.evidence,
        work_key=run.work_key,
        answered_from=run.answered_from,
    )


def _id(rebuild: DraftEvent) -> str:
    return event_id(rebuild.run_id, rebuild.event_id, "run_tests")
