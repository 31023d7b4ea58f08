"""The judge's step: exactly one verdict per rebuild, each distinct rebuild run once, faults told apart."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from consumers.answered import Answered
from consumers.implement import fails as rebuild_fails
from consumers.run_tests import fails, owes, run_tests
from infra.memory import MemoryLog
from infra.sandbox.forked import ForkedSandbox
from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Judgement, Suite
from schemas.equality import canonical
from schemas.events import (
    ApplicationRegistered,
    Event,
    Evidence,
    Fault,
    File,
    ImplementationFailed,
    ImplementationWritten,
    Outcome,
    SuiteKind,
    SuiteRan,
    Verdict,
)
from schemas.identity import files_digest
from tests.histories import DAWN, application, drafted, drawn

APP = application()
DRAFTS = [drafted(drawn(APP, drafts=4), draft) for draft in range(4)]
SOURCES = ("def f(xs):\n    return xs\n", "def f(xs):\n    return []\n", "def f(xs):\n    return xs\n", "def f(:\n")


class Counted:
    """The real sandbox, and how many suites it ran."""

    def __init__(self, box: ForkedSandbox) -> None:
        self.box, self.ran = box, 0
        self.name, self.assurance, self.environment = box.name, box.assurance, box.environment

    def run(self, suites: Sequence[Suite]) -> list[Judgement]:
        self.ran += len(suites)
        return self.box.run(suites)

    def close(self) -> None:
        self.box.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Counted]:
    counted = Counted(open_sandbox())
    yield counted
    counted.close()


def lookup(key: str) -> ApplicationRegistered:
    return {APP.application_id: APP}[key]


def rebuilt(draft: int) -> ImplementationWritten:
    (failed, *_) = rebuild_fails(DRAFTS[draft], "", clock=lambda: DAWN)
    assert isinstance(failed, ImplementationFailed)
    shared = {name: getattr(failed, name) for name in ImplementationFailed.__dataclass_fields__}
    del shared["fault"], shared["cause"]
    return ImplementationWritten(
        **shared,
        model_digest="d",
        prompt_version="lab/1",
        files=(File(path="app.py", content=SOURCES[draft].encode()),),
        answer=SOURCES[draft],
        seed=0,
        finish_reason="stop",
    )


REBUILDS = [rebuilt(draft) for draft in range(4)]


def step(rebuilds: Sequence[Event], sandbox: Counted, answered: Answered | None = None) -> list[SuiteRan]:
    facts = run_tests(
        rebuilds,
        sandbox=sandbox,
        environment=sandbox.environment,
        application=lookup,
        answered=answered or Answered(MemoryLog().answers(SuiteRan)),
        clock=lambda: DAWN,
    )
    return [fact for fact in facts if isinstance(fact, SuiteRan)]


def on_a_log(facts: Sequence[Event]) -> Answered:
    """What a worker knows that starts where these facts stand."""
    log = MemoryLog()
    log.publish(facts)
    return Answered(log.answers(SuiteRan))


def decided(facts: Sequence[SuiteRan]) -> list[bytes]:
    """What equality sees of them."""
    return [canonical(fact, {}) for fact in facts]


def test_every_rebuild_gets_the_verdict_it_is_owed(sandbox: Counted) -> None:
    facts = step(REBUILDS, sandbox)
    assert {fact.event_id for fact in facts} == {each for rebuild in REBUILDS for each in owes(rebuild)}
    verdicts = {fact.draft: fact.verdict for fact in facts}
    assert verdicts == {0: Verdict.PASSED, 1: Verdict.FAILED, 2: Verdict.PASSED, 3: Verdict.ERROR}


def test_how_rebuilds_are_batched_changes_nothing_that_is_decided(sandbox: Counted) -> None:
    assert decided(step(REBUILDS, sandbox)) == decided([fact for each in REBUILDS for fact in step([each], sandbox)])


def test_equal_rebuilds_are_run_once_and_say_so(sandbox: Counted) -> None:
    before = sandbox.ran
    facts = step(REBUILDS, sandbox)
    assert sandbox.ran - before == 3
    assert facts[2].answered_from == facts[2].units[0].answered_from == facts[0].event_id
    assert (facts[0].answered_from, facts[0].units[0].answered_from) == (None, None)


def test_verdicts_on_the_log_serve_another_worker_and_nothing_decided_changes(sandbox: Counted) -> None:
    paid = step(REBUILDS, sandbox)
    before = sandbox.ran
    found = step(REBUILDS, sandbox, on_a_log(paid))
    assert sandbox.ran == before
    assert decided(found) == decided(paid)
    assert {fact.answered_from for fact in found} == {fact.event_id for fact in paid if not fact.answered_from}
    assert all(fact.evidence == Evidence() for fact in found)


def test_what_was_just_paid_for_is_not_paid_for_again_in_the_next_slice(sandbox: Counted) -> None:
    answered = Answered(MemoryLog().answers(SuiteRan))
    step(REBUILDS[:1], sandbox, answered)
    before = sandbox.ran
    (fact,) = step(REBUILDS[2:3], sandbox, answered)
    assert (sandbox.ran, fact.answered_from) == (before, owes(REBUILDS[0])[0])


@pytest.mark.parametrize(
    "verdict", [Verdict.INVALID_INFRA, Verdict.TIMEOUT, Verdict.OOM, Verdict.KILLED, Verdict.TAMPERED]
)
def test_a_verdict_that_does_not_speak_of_the_code_is_never_used_again(sandbox: Counted, verdict: Verdict) -> None:
    (fact,) = step(REBUILDS[:1], sandbox)
    spoilt = replace(fact, verdict=verdict, results=(), units=(replace(fact.units[0], verdict=verdict),))
    before = sandbox.ran
    assert [each.answered_from for each in step(REBUILDS[:1], sandbox, on_a_log([spoilt]))] == [None]
    assert sandbox.ran == before + 1


def test_an_answer_that_does_not_speak_of_the_very_tests_is_paid_for_again(sandbox: Counted) -> None:
    (fact,) = step(REBUILDS[:1], sandbox)
    strange = replace(fact, results=tuple(replace(each, test_id="another") for each in fact.results))
    assert decided(step(REBUILDS[:1], sandbox, on_a_log([strange]))) == decided([fact])


# ---- suites of several files -----------------------------------------------------------------------------------------

MODULE = "from app import f\n\n\ndef test_{0}():\n    assert f([{0}]) == [{0}]\n"


def files_of(count: int) -> tuple[File, ...]:
    return tuple(File(path=f"tests/test_{i}.py", content=MODULE.format(i).encode()) for i in range(count))


def of_files(tests: Sequence[File]) -> ApplicationRegistered:
    """An application that answers [0], [1] ... by themselves, with one test in each file."""
    ids = tuple(f"{file.path}::test_{i}" for i, file in enumerate(tests))
    digest = files_digest(APP.source, tests)
    return replace(APP, application_id=digest, tests=tuple(tests), suite=SuiteKind.PYTEST, expected_test_ids=ids)


def judge(
    app: ApplicationRegistered, sandbox: Counted, answered: Answered | None = None, source: str = SOURCES[0]
) -> SuiteRan:
    rebuild = replace(
        REBUILDS[0],
        event_id=f"rebuild of {app.application_id}",
        application_id=app.application_id,
        files=(File(path="app.py", content=source.encode()),),
    )
    (fact,) = run_tests(
        [rebuild],
        sandbox=sandbox,
        environment=sandbox.environment,
        application={app.application_id: app}.__getitem__,
        answered=answered or Answered(MemoryLog().answers(SuiteRan)),
        clock=lambda: DAWN,
    )
    assert isinstance(fact, SuiteRan)
    return fact


def test_of_ten_test_files_with_one_changed_nine_are_answered_from_the_log(sandbox: Counted) -> None:
    """The positive control: the application's own source passes, before and after."""
    tests = files_of(10)
    changed = (*tests[:3], replace(tests[3], content=tests[3].content + b"    assert f([]) == []\n"), *tests[4:])
    first = judge(of_files(tests), sandbox)
    assert (first.verdict, len(first.results), [each.answered_from for each in first.units]) == (
        Verdict.PASSED,
        10,
        [None] * 10,
    )
    before = sandbox.ran
    second = judge(of_files(changed), sandbox, on_a_log([first]))
    assert sandbox.ran - before == 1
    assert (second.verdict, [each.outcome for each in second.results]) == (Verdict.PASSED, [Outcome.PASSED] * 10)
    assert [each.path for each in second.units if each.answered_from is None] == ["tests/test_3.py"]
    assert {each.answered_from for each in second.units if each.path != "tests/test_3.py"} == {first.event_id}
    assert (second.answered_from, second.evidence.cpu_seconds > 0) == (None, True)
    third = judge(of_files(changed), sandbox, on_a_log([first, second]))
    assert sandbox.ran - before == 1
    assert decided([third]) == decided([second])
    assert third.answered_from is None  # of two events; each unit names its own


def test_what_a_changed_rebuild_breaks_is_told_test_by_test(sandbox: Counted) -> None:
    fact = judge(of_files(files_of(4)), sandbox, source="def f(xs):\n    return xs if xs != [2] else []\n")
    assert fact.verdict is Verdict.FAILED
    outcomes = [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.PASSED]
    assert [each.outcome for each in fact.results] == outcomes
    assert [each.verdict for each in fact.units] == [Verdict(outcome) for outcome in outcomes]


def test_one_unit_that_cannot_be_collected_is_the_verdict_of_its_suite(sandbox: Counted) -> None:
    tests = (*files_of(2), File(path="tests/test_2.py", content=b"from app import g\n\n\ndef test_2():\n    g()\n"))
    fact = judge(of_files(tests), sandbox)
    assert (fact.verdict, fact.results) == (Verdict.ERROR, ())
    assert "cannot import name 'g'" in fact.cause
    assert [each.verdict for each in fact.units] == [Verdict.PASSED, Verdict.PASSED, Verdict.ERROR]
    before = sandbox.ran
    again = judge(of_files(tests), sandbox, on_a_log([fact]))
    assert decided([again]) == decided([fact])
    assert sandbox.ran - before == 2  # the fact has no room for the results of those that passed


def test_a_test_that_belongs_to_no_file_is_nobodys_bad_grade(sandbox: Counted) -> None:
    app = of_files(files_of(2))
    fact = judge(replace(app, expected_test_ids=(*app.expected_test_ids, "tests/test_9.py::test_9")), sandbox)
    assert fact.verdict is Verdict.INVALID_INFRA
    assert fact.cause.startswith("the suite cannot be used: it expects tests of tests/test_9.py")


@pytest.mark.parametrize(
    ("fault", "verdict", "results"),
    [(Fault.MODEL, Verdict.FAILED, [Outcome.NOT_RUN]), (Fault.MACHINE, Verdict.INVALID_INFRA, [])],
)
def test_a_rebuild_that_never_was_is_judged_by_whose_fault_it_is(
    sandbox: Counted, fault: Fault, verdict: Verdict, results: list[Outcome]
) -> None:
    (lost, *_) = rebuild_fails(DRAFTS[0], "no answer", clock=lambda: DAWN)
    assert isinstance(lost, ImplementationFailed)
    (fact,) = step([replace(lost, fault=fault)], sandbox)
    assert (fact.verdict, [each.outcome for each in fact.results], fact.cause) == (verdict, results, "no answer")


def test_a_crash_is_the_machines_fault_under_the_same_id() -> None:
    (fact,) = fails(REBUILDS[0], "the step raised", clock=lambda: DAWN)
    assert isinstance(fact, SuiteRan)
    assert (fact.verdict, fact.cause, [fact.event_id]) == (Verdict.INVALID_INFRA, "the step raised", owes(REBUILDS[0]))
