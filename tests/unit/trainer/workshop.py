"""Everything between a draw and its rewards as one step: texts and rewards that follow from seeds alone."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from infra.blobs import Blobs
from infra.log import Job
from infra.memory import MemoryLog
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    DraftEvent,
    DraftFailed,
    Event,
    Fault,
    Implementer,
    Learning,
    PassRate,
    RequirementsDrafted,
    RewardScored,
    RunEnded,
    RunStarted,
    Specification,
    Split,
)
from schemas.identity import event_id
from schemas.topics import KINDS
from tests.histories import DAWN, application, drafted, run_started
from trainer.policy import Policy, numerics
from trainer.train import train

ORCHESTRA = tuple(Implementer(name=f"impl-{i}", digest=f"{i}" * 64, rewarded=i < 2) for i in range(3))
LEARNING = Learning(lora_rank=4, lora_alpha=8, warmup_rounds=1)
SPECIFICATION = Specification(
    seed=5,
    rounds=4,
    applications_per_round=2,
    drafts_per_application=3,
    validate_every=2,
    implementers=ORCHESTRA,
    learning=LEARNING,
)


def applications() -> list[ApplicationRegistered]:
    """Five to train on, two to validate with, three to test with, one that nothing may touch."""
    splits = [Split.TRAIN] * 5 + [Split.VALIDATE] * 2 + [Split.TEST] * 3 + [Split.HOLD_OUT]
    return [
        replace(application(f"def f(xs):\n    return xs[{number}:]\n", f"app-{number}"), split=split)
        for number, split in enumerate(splits)
    ]


def ticking(start: datetime = DAWN) -> Callable[[], datetime]:
    """A clock that moves a second at every look."""
    looks = iter(range(1_000_000))
    return lambda: start + timedelta(seconds=next(looks))


def draft_of(draw: ApplicationDrawn, draft: int) -> RequirementsDrafted:
    """A text whose words follow from the policy and the draft's seed."""
    chance = random.Random(f"{draw.policy_digest}/{draw.draft_seeds[draft]}")
    words = tuple(chance.randrange(40) for _ in range(chance.randint(1, 9)))
    return replace(
        drafted(draw, draft),
        event_id=event_id(draw.run_id, draw.event_id, "requirements", draft),
        run_id=draw.run_id,
        prompt_token_ids=tuple(random.Random(draw.application_id).randrange(40) for _ in range(5)),
        token_ids=words,
        log_probs=(-3.5,) * len(words),
    )


def reward_of(draft: RequirementsDrafted, value: float | None = -1.0) -> RewardScored:
    """Without a value of your own: the share of even words, minus a penalty that differs from model to model."""
    share = sum(word % 2 == 0 for word in draft.token_ids) / len(draft.token_ids)
    return RewardScored(
        event_id=event_id(draft.run_id, draft.event_id, "reward"),
        recorded_at=draft.recorded_at,
        run_id=draft.run_id,
        application_id=draft.application_id,
        round=draft.round,
        purpose=draft.purpose,
        draft=draft.draft,
        policy_digest=draft.policy_digest,
        requirements_id=draft.event_id,
        suite_ids=(),
        value=share if value == -1.0 else value,
        cause="",
        terms=(),
        rates=tuple(
            PassRate(model=each.name, rate=share / (place + 1), rewarded=each.rewarded)
            for place, each in enumerate(draft.implementers)
        ),
        function="workshop/1",
    )


def failed_instead_of(draft: DraftEvent) -> DraftFailed:
    """The same draft, had the model had nothing to say."""
    shared = {each.name: getattr(draft, each.name) for each in fields(DraftEvent)}
    return DraftFailed(**shared, fault=Fault.MODEL, cause="no words")


def work(events: Sequence[Event]) -> Iterator[Event]:
    """The whole way from draws to rewards."""
    for draw in events:
        if isinstance(draw, ApplicationDrawn):
            for number in range(len(draw.draft_seeds)):
                draft = draft_of(draw, number)
                yield draft
                yield reward_of(draft)


def owes(event: Event) -> list[str]:
    return [each.event_id for each in work([event])]


def fails(event: Event, cause: str) -> list[Event]:
    raise AssertionError(f"{type(event).__name__} failed: {cause}")


JOB = Job(
    role="workshop",
    step=work,
    reads=(ApplicationDrawn,),
    writes=(RequirementsDrafted, RewardScored),
    owes=owes,
    fails=fails,
    gather_seconds=0.0,
)
NOW = DAWN


# ---- a log whose trainer dies ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """kill -9, as far as one process can tell."""


class MortalLog(MemoryLog):
    """A log whose trainer is killed at its n-th transaction: just before it, or just after it was committed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.transactions = 0
        self.dies_at: tuple[int, str] | None = None

    def publish_as(self, name: str, epoch: int, events: Sequence[Event]) -> None:
        self.transactions += 1
        if self.dies_at == (self.transactions, "before"):
            raise Killed
        super().publish_as(name, epoch, events)
        if self.dies_at == (self.transactions, "after"):
            raise Killed


# ---- a run, played in one thread ---------------------------------------------------------------------------------

Kind = TypeVar("Kind", bound=Event)


def started(specification: Specification = SPECIFICATION) -> RunStarted:
    ids = tuple(sorted(each.application_id for each in applications()))
    return replace(run_started(specification), application_ids=ids, numerics=numerics())


def play(
    log: MemoryLog,
    blobs: Blobs,
    base: Path,
    run: RunStarted | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    heard: list[str] | None = None,
    job: Job = JOB,
) -> RunEnded | None:
    """One life of a trainer, in one thread with the workshop: drafts are answered whenever the trainer looks around."""

    def look_around() -> bool:
        log.settle([job])
        return stop()

    run = run or started()
    policy = Policy(base, learning=run.specification.learning, seed=run.specification.seed)
    return train(
        log,
        blobs,
        run,
        applications(),
        policy,
        writer="iccm.run.trainer",
        clock=ticking(),
        stop=look_around,
        say=(heard if heard is not None else []).append,
    )


def facts_of(log: MemoryLog) -> dict[str, Event]:
    """The first fact of every id, with what was measured blanked."""
    found: dict[str, Event] = {}
    for record in log.replay(KINDS):
        if record.event is not None:
            found.setdefault(record.event.event_id, blanked(record.event))
    return found


def blanked(event: Event) -> Event:
    measured = [each.name for each in fields(event) if each.metadata.get("kind") == "measured"]
    values = dict.fromkeys(measured)
    return replace(event, **values)  # type: ignore[arg-type]


def of_kind(log: MemoryLog, kind: type[Kind]) -> list[Kind]:
    return among(facts_of(log), kind)


def among(facts: dict[str, Event], kind: type[Kind]) -> list[Kind]:
    return [each for each in facts.values() if isinstance(each, kind)]
