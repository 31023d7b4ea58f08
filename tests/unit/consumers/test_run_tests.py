"""The judge's step: exactly one verdict per rebuild, each distinct rebuild run once, faults told apart."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from consumers.implement import fails as rebuild_fails
from consumers.run_tests import Judged, fails, owes, run_tests, work_key
from infra.sandbox.forked import ForkedSandbox
from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Judgement, Suite
from schemas.events import (
    ApplicationRegistered,
    Event,
    Evidence,
    Fault,
    File,
    ImplementationFailed,
    ImplementationWritten,
    Outcome,
    SuiteRan,
    Verdict,
)
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


def step(rebuilds: Sequence[Event], sandbox: Counted, judged: Judged | None = None) -> list[SuiteRan]:
    facts = run_tests(
        rebuilds,
        sandbox=sandbox,
        environment=sandbox.environment,
        application=lookup,
        judged=judged or Judged(),
        clock=lambda: DAWN,
    )
    return [fact for fact in facts if isinstance(fact, SuiteRan)]


def decided(facts: Sequence[SuiteRan]) -> list[SuiteRan]:
    return [
        replace(
            fact,
            evidence=Evidence(),
            answered_from=None,
            results=tuple(replace(each, seconds=0.0, message="") for each in fact.results),
        )
        for fact in facts
    ]


def test_every_rebuild_gets_the_verdict_it_is_owed(sandbox: Counted) -> None:
    facts = step(REBUILDS, sandbox)
    assert {fact.event_id for fact in facts} == {each for rebuild in REBUILDS for each in owes(rebuild)}
    verdicts = {fact.draft: fact.verdict for fact in facts}
    assert verdicts == {0: Verdict.PASSED, 1: Verdict.FAILED, 2: Verdict.PASSED, 3: Verdict.ERROR}


def test_how_rebuilds_are_batched_changes_nothing_that_is_decided(sandbox: Counted) -> None:
    assert decided(step(REBUILDS, sandbox)) == decided([fact for each in REBUILDS for fact in step([each], sandbox)])


def test_equal_rebuilds_are_run_once_and_say_so(sandbox: Counted) -> None:
    before, judged = sandbox.ran, Judged()
    facts = step(REBUILDS, sandbox, judged)
    assert sandbox.ran - before == 3
    assert facts[2].answered_from == facts[0].event_id
    restarted = Judged()
    for fact in facts:
        restarted.remember(fact)
    step(REBUILDS, sandbox, restarted)
    assert sandbox.ran - before == 3


def test_a_verdict_about_the_machine_is_never_used_again() -> None:
    judged = Judged()
    for verdict in (Verdict.INVALID_INFRA, Verdict.TIMEOUT, Verdict.OOM, Verdict.KILLED, Verdict.TAMPERED):
        (fact,) = fails(REBUILDS[0], "", clock=lambda: DAWN)
        assert isinstance(fact, SuiteRan)
        judged.remember(replace(fact, verdict=verdict, work_key=f"{verdict}"))
    assert judged.by_key == {}


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


def test_work_is_equal_when_files_suite_and_environment_are() -> None:
    key = work_key(REBUILDS[0], APP, "here")
    assert key == work_key(REBUILDS[2], APP, "here")
    others = [work_key(REBUILDS[1], APP, "here"), work_key(REBUILDS[0], APP, "there")]
    changed = replace(APP, tests=(File(path="tests/cases.json", content=b"{}"),))
    assert key not in [*others, work_key(REBUILDS[0], changed, "here")]
