"""A whole past: every kind of fact at least once, each fact after what it refers to."""

from collections.abc import Iterator
from dataclasses import replace

from infra.carried import from_draw, from_fact
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    ApplicationRejected,
    ApplicationVerified,
    DeadLettered,
    DeadLetterReplayed,
    DraftEvent,
    DraftFailed,
    Event,
    Fault,
    File,
    ImplementationFailed,
    ImplementationWritten,
    Outcome,
    PassRate,
    PolicyUpdated,
    Purpose,
    RewardScored,
    RewardTerm,
    SuiteRan,
    TestResult,
    ValidationCompleted,
    ValidationRow,
    Verdict,
)
from schemas.identity import event_id
from tests import histories as past

REWARDED = past.ORCHESTRA[:2]


def whole_run(rounds: int = 2, applications: int = 2, drafts: int = 2) -> Iterator[Event]:
    """Train rounds, one validation, an application that was refused and a dead letter."""
    apps = [past.application(f"def f(xs):\n    return xs[{i}:]\n", f"from-{i}") for i in range(applications)]
    yield from apps
    yield from (verified(app) for app in apps[:-1])
    yield rejected(apps[-1])
    yield past.run_started()
    for number in range(1, rounds + 1):
        yield from train_round(number, apps, drafts)
    yield from validation_round(rounds, apps)
    yield dead_lettered()
    yield replayed(dead_lettered())
    yield past.run_ended(seconds=rounds)


def train_round(number: int, apps: list[ApplicationRegistered], drafts: int) -> Iterator[Event]:
    opened = past.round_opened(number)
    yield opened
    rewards: list[RewardScored] = []
    for index, app in enumerate(apps):
        draw = past.drawn(app, number=number, drafts=drafts, index=index, implementers=REWARDED)
        yield draw
        for draft in range(drafts):
            facts = list(one_draft(draw, draft))
            yield from facts
            rewards += [fact for fact in facts if isinstance(fact, RewardScored)]
    yield updated(number, opened.event_id, rewards)


def validation_round(number: int, apps: list[ApplicationRegistered]) -> Iterator[Event]:
    opened = past.round_opened(number, Purpose.VALIDATE)
    yield opened
    for index, app in enumerate(apps):
        draw = past.drawn(app, number=number, drafts=1, purpose=Purpose.VALIDATE, index=index, implementers=REWARDED)
        yield draw
        yield from one_draft(draw, 0)
    rates = tuple(PassRate(model=each.name, rate=0.75, rewarded=True) for each in REWARDED)
    yield ValidationCompleted(
        event_id=event_id(past.RUN, opened.event_id, "validation"),
        recorded_at=past.at(number),
        run_id=past.RUN,
        caused_by=(opened.event_id,),
        round=number,
        purpose=Purpose.VALIDATE,
        policy_digest="p" * 64,
        rows=tuple(ValidationRow(application_id=app.application_id, rates=rates) for app in apps),
        mean_pass_rate=0.75,
        spread=0.0,
        invalid=0,
    )


def one_draft(draw: ApplicationDrawn, draft: int) -> Iterator[Event]:
    """The last draft of several fails, and so do the second model's rebuilds."""
    failed = draft > 0 and draft == len(draw.draft_seeds) - 1
    requirements = draft_failed(draw, draft) if failed else past.drafted(draw, draft)
    yield requirements
    suites = []
    for ordinal in range(len(REWARDED)):
        rebuild = rebuild_failed(requirements, ordinal) if failed or ordinal else written(requirements, ordinal)
        suites.append(ran(requirements, rebuild))
        yield rebuild
        yield suites[-1]
    yield scored(requirements, suites)


def verified(app: ApplicationRegistered) -> ApplicationVerified:
    return ApplicationVerified(
        event_id=event_id(None, app.event_id, "verify"),
        recorded_at=past.DAWN,
        caused_by=(app.event_id,),
        application_id=app.application_id,
        runs=3,
        sandbox="namespaces",
        assurance="full",
    )


def rejected(app: ApplicationRegistered) -> ApplicationRejected:
    return ApplicationRejected(
        event_id=event_id(None, app.event_id, "reject"),
        recorded_at=past.DAWN,
        caused_by=(app.event_id,),
        application_id=app.application_id,
        name=app.name,
        reason="its own source did not pass",
    )


def draft_failed(draw: ApplicationDrawn, draft: int) -> DraftFailed:
    return DraftFailed(
        event_id=event_id(past.RUN, draw.event_id, "requirements", draft),
        recorded_at=draw.recorded_at,
        caused_by=(draw.event_id,),
        **from_draw(draw, draft),
        fault=Fault.MODEL,
        cause="empty answer",
    )


def written(requirements: DraftEvent, ordinal: int) -> ImplementationWritten:
    return ImplementationWritten(
        event_id=event_id(past.RUN, requirements.event_id, "implement", ordinal),
        recorded_at=requirements.recorded_at,
        caused_by=(requirements.event_id,),
        **from_fact(requirements),
        requirements_id=requirements.event_id,
        model=requirements.implementers[ordinal].name,
        model_digest=requirements.implementers[ordinal].digest,
        prompt_version="lab/1",
        files=(File(path="app.py", content=b"\x00\xff not text"), File(path="README", content=b"")),
        answer="def f(xs):\n\treturn 'a \\\\ in \"quotes\"'\n",
        seed=2**63 - 1,
        finish_reason="stop",
        work_key="w" * 64,
    )


def rebuild_failed(requirements: DraftEvent, ordinal: int) -> ImplementationFailed:
    return ImplementationFailed(
        event_id=event_id(past.RUN, requirements.event_id, "implement", ordinal),
        recorded_at=requirements.recorded_at,
        caused_by=(requirements.event_id,),
        **from_fact(requirements),
        requirements_id=requirements.event_id,
        model=requirements.implementers[ordinal].name,
        fault=Fault.MODEL,
        cause="no code in the answer",
    )


def ran(requirements: DraftEvent, rebuild: ImplementationWritten | ImplementationFailed) -> SuiteRan:
    works = isinstance(rebuild, ImplementationWritten)
    outcomes = (Outcome.PASSED, Outcome.PASSED, Outcome.FAILED) if works else ()
    return SuiteRan(
        event_id=event_id(past.RUN, rebuild.event_id, "run_tests"),
        recorded_at=rebuild.recorded_at,
        caused_by=(rebuild.event_id,),
        **from_fact(requirements),
        requirements_id=requirements.event_id,
        implementation_id=rebuild.event_id,
        model=rebuild.model,
        verdict=Verdict.FAILED,
        results=tuple(
            TestResult(test_id=f"t{place}", outcome=outcome, seconds=place / 7, message='{"a\\b", NULL}')
            for place, outcome in enumerate(outcomes)
        ),
        cause="",
        suite_digest="s" * 64,
    )


def scored(requirements: DraftEvent, suites: list[SuiteRan]) -> RewardScored:
    return RewardScored(
        event_id=event_id(past.RUN, requirements.event_id, "reward"),
        recorded_at=requirements.recorded_at,
        run_id=past.RUN,
        caused_by=tuple(suite.event_id for suite in suites),
        application_id=requirements.application_id,
        round=requirements.round,
        purpose=requirements.purpose,
        draft=requirements.draft,
        policy_digest=requirements.policy_digest,
        requirements_id=requirements.event_id,
        suite_ids=tuple(suite.event_id for suite in suites),
        value=0.1 + 0.2 if any(suite.results for suite in suites) else None,
        cause="",
        terms=(RewardTerm(name="mean", value=0.3), RewardTerm(name="variance", value=-0.0)),
        rates=tuple(PassRate(model=suite.model, rate=_rate(suite.results), rewarded=True) for suite in suites),
        function="mean-variance/1",
    )


def updated(number: int, opened_id: str, rewards: list[RewardScored]) -> PolicyUpdated:
    return replace(
        past.policy_updated(number, seconds=number),
        event_id=event_id(past.RUN, opened_id, "update"),
        caused_by=(opened_id,),
        reward_ids=tuple(reward.event_id for reward in rewards),
        advantages=tuple(reward.value for reward in rewards),
        loss=float("nan"),
    )


def dead_lettered() -> DeadLettered:
    return DeadLettered(
        event_id=event_id(None, "tests/0/7", "dead letter"),
        recorded_at=past.DAWN,
        topic="tests",
        partition=0,
        offset=7,
        stage="run_tests",
        exception="ValueError: no such suite",
        attempts=1,
    )


def replayed(letter: DeadLettered, number: int = 0) -> DeadLetterReplayed:
    return DeadLetterReplayed(
        event_id=event_id(letter.run_id, letter.event_id, "replay", number),
        recorded_at=past.DAWN,
        run_id=letter.run_id,
        caused_by=(letter.event_id,),
        dead_letter_id=letter.event_id,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        stage=letter.stage,
        written=1,
        exception="",
    )


def _rate(results: tuple[TestResult, ...]) -> float | None:
    return sum(each.outcome is Outcome.PASSED for each in results) / len(results) if results else None
