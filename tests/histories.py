"""Builders of pasts: facts with sensible fields, so that a test names only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    Author,
    File,
    Implementer,
    Numerics,
    Outcome,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardWeights,
    RoundOpened,
    RunEnded,
    RunOutcome,
    RunStarted,
    Sampling,
    Specification,
    Split,
    SuiteKind,
    SuiteRan,
    TestResult,
    Verdict,
)
from schemas.identity import event_id, files_digest

DAWN = datetime(2026, 1, 1, tzinfo=UTC)
RUN = "00000000-0000-0000-0000-00000000000a"
ORCHESTRA = tuple(Implementer(name=f"impl-{i}", digest=f"{i}" * 64, rewarded=i < 3) for i in range(4))


def at(seconds: float) -> datetime:
    return DAWN + timedelta(seconds=seconds)


def run_started(specification: Specification | None = None, run_id: str = RUN, seconds: float = 0.0) -> RunStarted:
    return RunStarted(
        event_id=event_id(run_id, "run", "start"),
        recorded_at=at(seconds),
        run_id=run_id,
        specification=specification or Specification(),
        application_ids=(),
        numerics=Numerics(torch="0", capability="none", threads=1, deterministic=True),
    )


def run_ended(run_id: str = RUN, outcome: RunOutcome = RunOutcome.FINISHED, seconds: float = 0.0) -> RunEnded:
    return RunEnded(
        event_id=event_id(run_id, "run", "end"),
        recorded_at=at(seconds),
        run_id=run_id,
        outcome=outcome,
        cause="",
        rounds=0,
        policy_digest="",
    )


def round_opened(number: int = 1, purpose: Purpose = Purpose.TRAIN, seconds: float = 0.0) -> RoundOpened:
    return RoundOpened(
        event_id=event_id(RUN, f"{purpose}/{number}", "round"),
        recorded_at=at(seconds),
        run_id=RUN,
        round=number,
        purpose=purpose,
        policy_digest="p" * 64,
        application_ids=(),
    )


def application(source: str = "def f(xs):\n    return xs\n", name: str = "identity") -> ApplicationRegistered:
    files = (File(path="app.py", content=source.encode()),)
    cases = b'{"module": "app", "function": "f", "cases": [{"id": "t0", "args": [[1, 2]], "expected": [1, 2]}]}'
    tests = (File(path="tests/cases.json", content=cases),)
    application_id = files_digest(files, tests)
    return ApplicationRegistered(
        event_id=event_id(None, application_id, "register"),
        recorded_at=DAWN,
        application_id=application_id,
        name=name,
        family="lab",
        split=Split.TRAIN,
        origin="generated",
        licence="Apache-2.0",
        source=files,
        tests=tests,
        suite=SuiteKind.TABLE,
        expected_test_ids=("t0",),
    )


def drawn(
    app: ApplicationRegistered,
    *,
    number: int = 1,
    drafts: int = 2,
    purpose: Purpose = Purpose.TRAIN,
    policy_digest: str = "p" * 64,
    implementers: tuple[Implementer, ...] = ORCHESTRA,
    author: Author = Author.ORCHESTRA,
    index: int = 0,
) -> ApplicationDrawn:
    opened = round_opened(number, purpose)
    return ApplicationDrawn(
        event_id=event_id(RUN, opened.event_id, "draw", index),
        recorded_at=at(number),
        run_id=RUN,
        caused_by=(opened.event_id,),
        application_id=app.application_id,
        round=number,
        purpose=purpose,
        policy_digest=policy_digest,
        draft_seeds=tuple(range(100 * index, 100 * index + drafts)),
        draft_sampling=Sampling(max_tokens=50),
        implementers=implementers,
        rebuild_sampling=Sampling(temperature=0.0, max_tokens=80),
        author=author,
        reward=RewardWeights(),
    )


def drafted(draw: ApplicationDrawn, draft: int = 0, text: str = "- return the list") -> RequirementsDrafted:
    return RequirementsDrafted(
        event_id=event_id(RUN, draw.event_id, "requirements", draft),
        recorded_at=draw.recorded_at,
        run_id=RUN,
        caused_by=(draw.event_id,),
        application_id=draw.application_id,
        round=draw.round,
        purpose=draw.purpose,
        draft=draft,
        policy_digest=draw.policy_digest,
        implementers=draw.implementers,
        rebuild_sampling=draw.rebuild_sampling,
        author=draw.author,
        reward=draw.reward,
        text=text,
        prompt_version="lab/1",
        prompt_token_ids=(5, 6),
        token_ids=(7, 1),
        log_probs=(-0.5, -0.1),
        seed=draw.draft_seeds[draft],
        sampling=draw.draft_sampling,
        adapter_digest=draw.policy_digest,
        finish_reason="stop",
    )


def suite_ran(
    draft: RequirementsDrafted, ordinal: int = 0, verdict: Verdict = Verdict.PASSED, passed: int = 4, tests: int = 4
) -> SuiteRan:
    implementation_id = event_id(RUN, draft.event_id, "implement", ordinal)
    outcomes = [Outcome.PASSED] * passed + [Outcome.FAILED] * (tests - passed)
    return SuiteRan(
        event_id=event_id(RUN, implementation_id, "run_tests"),
        recorded_at=draft.recorded_at,
        run_id=RUN,
        caused_by=(implementation_id,),
        application_id=draft.application_id,
        round=draft.round,
        purpose=draft.purpose,
        draft=draft.draft,
        policy_digest=draft.policy_digest,
        implementers=draft.implementers,
        rebuild_sampling=draft.rebuild_sampling,
        author=draft.author,
        reward=draft.reward,
        requirements_id=draft.event_id,
        implementation_id=implementation_id,
        model=draft.implementers[ordinal].name,
        verdict=verdict,
        results=tuple(TestResult(test_id=f"t{i}", outcome=outcome) for i, outcome in enumerate(outcomes)),
        cause="",
        suite_digest="s" * 64,
    )


def policy_updated(number: int, *, run_id: str = RUN, digest: str = "q" * 64, seconds: float = 0.0) -> PolicyUpdated:
    opened = replace(round_opened(number), run_id=run_id)
    return PolicyUpdated(
        event_id=event_id(run_id, f"{opened.event_id}/{run_id}", "update"),
        recorded_at=at(seconds),
        run_id=run_id,
        round=number,
        step=number,
        skipped="",
        parent_policy_digest="p" * 64,
        policy_digest=digest,
        reward_ids=(),
        advantages=(),
        mean_reward=0.5,
        loss=0.0,
        gradient_norm=1.0,
        kl_to_base=0.0,
        entropy=1.0,
        sampler_kl=0.0,
        learning_rate=1e-3,
        invalid_drafts=0,
        small_groups=0,
        flat_groups=0,
        checkpoint_digest="c" * 64,
        optimizer_digest="o" * 64,
        random_digest="r" * 64,
    )
