"""The application's own tests judge each rebuild: every ImplementationWritten or Failed -> exactly one SuiteRan.

A suite is judged by units, one per test file, and the same rebuild under the same unit is run once, in whichever run.
A later fact names for each unit the event whose answer it repeats, and names it for the whole suite where all units
repeat one and the same event. Only verdicts that say something about the code are used again: a timeout or a broken
machine is tried afresh, except within one slice of equal rebuilds.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from consumers.answered import Answered
from infra.carried import from_fact
from infra.log import References
from infra.sandbox.judge import nobody
from infra.sandbox.suite import Judgement, Sandbox
from infra.sandbox.table import BadSuite
from infra.sandbox.units import Unit, merged, units
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
    SuiteUnit,
    TestResult,
    Verdict,
)
from schemas.identity import event_id, files_digest

READS = (ImplementationWritten, ImplementationFailed)
WRITES = (SuiteRan,)


@dataclass(frozen=True, slots=True)
class _Task:
    """One rebuild to be judged, and the key of each unit of its suite."""

    rebuild: ImplementationWritten
    application: ApplicationRegistered
    units: dict[str, Unit]


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was found out about one unit, and the fact that says so: that of the judgement itself, or the first of the
    slice with this key."""

    judgement: Judgement
    said_by: str | None = None
    sandbox: str = ""
    assurance: str = ""


def owes(event: Event) -> list[str]:
    """One verdict."""
    assert isinstance(event, DraftEvent)
    return [_id(event)]


def fails(event: Event, cause: str, *, clock: Callable[[], datetime]) -> list[Event]:
    """The verdict of a broken machine."""
    assert isinstance(event, ImplementationWritten | ImplementationFailed)
    return [_ran(event, nobody(cause), clock())]


def run_tests(
    rebuilds: Sequence[Event],
    *,
    sandbox: Sandbox,
    environment: str,
    application: References,
    answered: Answered,
    clock: Callable[[], datetime],
) -> Iterator[Event]:
    """All rebuilds of a slice, each distinct unit run once."""
    tasks: list[_Task] = []
    for rebuild in rebuilds:
        match rebuild:
            case ImplementationFailed():
                yield _never_built(rebuild, application, clock())
            case ImplementationWritten():
                registered = _registered(rebuild, application)
                try:
                    tasks.append(_task(rebuild, registered, f"{environment} {sandbox.name}"))
                except BadSuite as problem:
                    yield _unusable(rebuild, registered, problem, clock())
    judged = _known(tasks, answered)
    fresh = {key: (task, unit) for task in tasks for key, unit in task.units.items() if key not in judged}
    paid = sandbox.run([unit.suite(task.rebuild.files) for task, unit in fresh.values()])
    judged |= {key: _Judged(each) for key, each in zip(fresh, paid, strict=True)}
    for task in tasks:
        fact = _verdict(task, judged, sandbox, clock())
        judged |= {key: _said(judged[key], fact) for key in task.units}
        answered.remember(fact)
        yield fact


def _task(rebuild: ImplementationWritten, application: ApplicationRegistered, environment: str) -> _Task:
    found = {unit.work_key(rebuild.files, environment): unit for unit in units(application)}
    return _Task(rebuild, application, found)


def _known(tasks: Sequence[_Task], answered: Answered) -> dict[str, _Judged]:
    """Units that were paid for earlier. What does not speak of the very same tests is paid for again."""
    asked = {key: unit for task in tasks for key, unit in task.units.items()}
    judged: dict[str, _Judged] = {}
    for key, fact in answered(asked).items():
        if isinstance(fact, SuiteRan) and (judgement := _repeated(fact, key, asked[key])) is not None:
            judged[key] = _Judged(judgement, fact.event_id, fact.sandbox, fact.assurance)
    return judged


def _repeated(fact: SuiteRan, key: str, asked: Unit) -> Judgement | None:
    """What an earlier fact says about a unit. What it cost stays with the earlier fact."""
    unit = next(each for each in fact.units if each.work_key == key)
    by_id = {result.test_id: result for result in fact.results}
    silent = unit.verdict is Verdict.ERROR
    if not silent and not by_id.keys() >= set(asked.test_ids):
        return None
    results = () if silent else tuple(by_id[test_id] for test_id in asked.test_ids)
    return Judgement(verdict=unit.verdict, results=results, cause=unit.cause, evidence=Evidence())


def _said(judged: _Judged, fact: SuiteRan) -> _Judged:
    """From now on this unit is answered from `fact`, which bore its cost, unless it was answered already."""
    if judged.said_by:
        return judged
    return _Judged(replace(judged.judgement, evidence=Evidence()), fact.event_id)


def _verdict(task: _Task, judged: Mapping[str, _Judged], sandbox: Sandbox, now: datetime) -> SuiteRan:
    parts = [judged[key] for key in task.units]
    sources = {part.said_by for part in parts}
    repeated = sources.pop() if len(sources) == 1 else None
    return replace(
        _ran(task.rebuild, merged([part.judgement for part in parts], task.application.expected_test_ids), now),
        suite_digest=files_digest(task.application.tests),
        sandbox=(repeated and parts[0].sandbox) or sandbox.name,
        assurance=(repeated and parts[0].assurance) or sandbox.assurance,
        work_key=hashlib.sha256(" ".join(task.units).encode()).hexdigest(),
        answered_from=repeated,
        units=tuple(_unit(key, unit, judged[key]) for key, unit in task.units.items()),
    )


def _unit(key: str, unit: Unit, judged: _Judged) -> SuiteUnit:
    return SuiteUnit(
        work_key=key,
        path=unit.path,
        test_ids=unit.test_ids,
        verdict=judged.judgement.verdict,
        cause=judged.judgement.cause,
        answered_from=judged.said_by,
    )


def _registered(fact: DraftEvent, application: References) -> ApplicationRegistered:
    registered = application(fact.application_id)
    assert isinstance(registered, ApplicationRegistered)
    return registered


def _never_built(missing: ImplementationFailed, application: References, now: datetime) -> SuiteRan:
    """No rebuild: all tests unrun and failed if the model is to blame, nothing said if the machine is."""
    if missing.fault is Fault.MACHINE:
        return _ran(missing, nobody(missing.cause), now)
    registered = _registered(missing, application)
    results = tuple(TestResult(test_id=each, outcome=Outcome.NOT_RUN) for each in registered.expected_test_ids)
    judgement = Judgement(verdict=Verdict.FAILED, results=results, cause=missing.cause, evidence=Evidence())
    return _ran(missing, judgement, now, files_digest(registered.tests))


def _unusable(
    rebuild: ImplementationWritten, application: ApplicationRegistered, problem: BadSuite, now: datetime
) -> SuiteRan:
    """The suite itself is to blame, as the sandbox says it of those it is given."""
    return _ran(rebuild, nobody(f"the suite cannot be used: {problem}"), now, files_digest(application.tests))


def _ran(
    rebuild: ImplementationWritten | ImplementationFailed, judgement: Judgement, now: datetime, suite_digest: str = ""
) -> SuiteRan:
    """A verdict that nobody paid for, until more is said."""
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
        suite_digest=suite_digest,
        evidence=judgement.evidence,
    )


def _id(rebuild: DraftEvent) -> str:
    return event_id(rebuild.run_id, rebuild.event_id, "run_tests")
