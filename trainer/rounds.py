"""The course of a run: which rounds are open, what they have gathered, what closes them, what opens next.

Pure: facts in, facts out. Nothing here depends on the order in which facts arrived: a draft's first fact wins, the same
one on every reader since a key has one partition, and whatever leaves this file is sorted by (application, draft).

    round 0          before training: validation and test of the untrained policy
    round 1..rounds  one train round open at a time; validation after every validate_every-th, and after the last
    last round       also a test; a run that trains nothing and holds nothing out plays what it has as a baseline
    a fork           opens what follows the last round it shares, by its own specification
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from statistics import fmean, pstdev

from schemas.events import (
    ApplicationDrawn,
    DraftFailed,
    Event,
    PassRate,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunOutcome,
    RunStarted,
    Sampling,
    Specification,
    Split,
    ValidationCompleted,
    ValidationRow,
)
from schemas.identity import event_id, seed
from trainer.advantage import Advantages, advantages, shuffled

Place = tuple[Purpose, int]
Drafted = RequirementsDrafted | DraftFailed
Slot = tuple[str, int]  # application and draft, within a round

ROUND_FACTS = (RunStarted, RoundOpened, PolicyUpdated, ValidationCompleted, RunEnded)
DRAFT_FACTS = (RequirementsDrafted, DraftFailed, RewardScored)


@dataclass(frozen=True, slots=True)
class Course:
    """What a run is to play: its specification, and which of its applications may be used for what."""

    run_id: str
    specification: Specification
    pools: Mapping[Purpose, tuple[str, ...]]
    after: int  # the train round that its own course follows: 0, or the last one that a fork shares with its parent
    cause: str  # the fact that opens its first rounds: RunStarted, or the update of that round


@dataclass(slots=True)
class Gathered:
    """What one round has so far."""

    drafts: dict[Slot, Drafted] = field(default_factory=dict)
    rewards: dict[Slot, RewardScored] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """What is known of a run. Closed rounds keep nothing but their place."""

    opened: dict[Place, RoundOpened] = field(default_factory=dict)
    gathered: dict[Place, Gathered] = field(default_factory=dict)
    closed: set[Place] = field(default_factory=set)
    started: bool = False
    last_update: PolicyUpdated | None = None
    ended: RunEnded | None = None


@dataclass(frozen=True, slots=True)
class CompleteRound:
    """A round that nobody need wait for any more, in the order (application, draft)."""

    opened: RoundOpened
    drafts: tuple[Drafted, ...]  # of a train round; other rounds are judged by their rewards alone
    rewards: tuple[RewardScored, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a train round has to teach."""

    values: tuple[float | None, ...]  # the rewards as learnt from, one per draft; None is invalid
    advantages: Advantages
    skipped: str  # why nothing can be learnt; "" when something can


# ---- the plan of a run ---------------------------------------------------------------------------------------------


def course(started: RunStarted, splits: Mapping[str, Split], after: int = 0, cause: str = "") -> Course:
    """A run's applications by what they may be used for, each pool in the order of RunStarted. A fork begins `after`
    the last train round it shares, and its first rounds name that round's update as their `cause`."""
    chosen = {split: tuple(each for each in started.application_ids if splits[each] is split) for split in Split}
    held_out = chosen[Split.VALIDATE] + chosen[Split.TEST]
    evaluates_only = started.specification.rounds == 0 and not held_out
    pools = {
        Purpose.TRAIN: chosen[Split.TRAIN],
        Purpose.VALIDATE: chosen[Split.VALIDATE],
        Purpose.TEST: chosen[Split.TEST],
        Purpose.BASELINE: chosen[Split.TRAIN] if evaluates_only else (),
    }
    return Course(started.run_id or "", started.specification, pools, after, cause or started.event_id)


def rounds_after(run: Course, number: int) -> list[Place]:
    """The rounds that open once train round `number` is closed (0: at the start), training first."""
    spec, last = run.specification, number == run.specification.rounds
    due = [
        ((Purpose.TRAIN, number + 1), not last),
        ((Purpose.VALIDATE, number), last or number % spec.validate_every == 0),
        ((Purpose.TEST, number), last or number == 0),
        ((Purpose.BASELINE, number), number == 0),
    ]
    return [place for place, wanted in due if wanted and run.pools[place[0]]]


def applications_of(run: Course, place: Place) -> tuple[str, ...]:
    """Train rounds deal the pool out, epoch by epoch in seeded orders, none twice in an epoch; others play it whole."""
    purpose, number = place
    pool, size = run.pools[purpose], run.specification.applications_per_round
    if purpose is not Purpose.TRAIN or len(pool) <= size:
        return pool
    # What an epoch leaves over, fewer than a round takes, sits that epoch out: no round ever holds one twice.
    epoch, place_in_epoch = divmod(number - 1, len(pool) // size)
    dealt = sorted(pool, key=lambda each: seed(run.specification.seed, "epoch", epoch, each))
    return tuple(dealt[place_in_epoch * size : (place_in_epoch + 1) * size])


def open_round(run: Course, place: Place, policy_digest: str, cause: str, now: datetime) -> list[Event]:
    """RoundOpened and its ApplicationDrawns: every draft of the round, with its seed."""
    purpose, number = place
    opened = RoundOpened(
        event_id=event_id(run.run_id, f"{purpose}/{number}", "round"),
        recorded_at=now,
        run_id=run.run_id,
        caused_by=(cause,),
        round=number,
        purpose=purpose,
        policy_digest=policy_digest,
        application_ids=applications_of(run, place),
    )
    return [opened, *(_draw(run, opened, ordinal, now) for ordinal in range(len(opened.application_ids)))]


def _draw(run: Course, opened: RoundOpened, ordinal: int, now: datetime) -> ApplicationDrawn:
    spec, application_id = run.specification, opened.application_ids[ordinal]
    training = opened.purpose is Purpose.TRAIN
    return ApplicationDrawn(
        event_id=event_id(run.run_id, opened.event_id, "draw", ordinal),
        recorded_at=now,
        run_id=run.run_id,
        caused_by=(opened.event_id,),
        application_id=application_id,
        round=opened.round,
        purpose=opened.purpose,
        policy_digest=opened.policy_digest,
        draft_seeds=tuple(
            seed(spec.seed, opened.round, application_id, draft) for draft in range(_drafts(spec, opened.purpose))
        ),
        draft_sampling=spec.draft_sampling if training else _greedy(spec.draft_sampling),
        implementers=tuple(each for each in spec.implementers if each.rewarded or not training),
        rebuild_sampling=spec.rebuild_sampling,
        author=spec.author,
        reward=spec.reward,
    )


def _drafts(spec: Specification, purpose: Purpose) -> int:
    return spec.drafts_per_application if purpose is Purpose.TRAIN else 1


def _greedy(sampling: Sampling) -> Sampling:
    return replace(sampling, temperature=0.0)


# ---- the fold ------------------------------------------------------------------------------------------------------


def fold(state: State, event: Event) -> State:
    """One more fact of the run. A second fact in a slot, and any fact of a closed round, changes nothing."""
    match event:
        case RunStarted():
            state.started = True
        case RoundOpened():
            state.opened.setdefault((event.purpose, event.round), event)
        case RequirementsDrafted(purpose=Purpose.TRAIN) | DraftFailed(purpose=Purpose.TRAIN):
            _gathered(state, event).drafts.setdefault((event.application_id, event.draft), event)
        case RewardScored():
            _gathered(state, event).rewards.setdefault((event.application_id, event.draft), event)
        case PolicyUpdated():
            _close(state, (Purpose.TRAIN, event.round))
            if state.last_update is None or event.round > state.last_update.round:
                state.last_update = event
        case ValidationCompleted():
            _close(state, (event.purpose, event.round))
        case RunEnded() if state.ended is None:
            state.ended = event
    return state


def _gathered(state: State, event: Drafted | RewardScored) -> Gathered:
    place = event.purpose, event.round
    return Gathered() if place in state.closed else state.gathered.setdefault(place, Gathered())


def _close(state: State, place: Place) -> None:
    state.closed.add(place)
    state.gathered.pop(place, None)


def open_places(state: State) -> list[Place]:
    """Rounds opened and not closed: training first."""
    return sorted(state.opened.keys() - state.closed, key=lambda place: (place[0] is not Purpose.TRAIN, place[1]))


def complete(run: Course, state: State, place: Place) -> CompleteRound | None:
    """The round once each of its drafts has its reward (and, in training, its text); None while one is missing."""
    opened, gathered = state.opened[place], state.gathered.get(place, Gathered())
    drafts = range(_drafts(run.specification, place[0]))
    if len(gathered.rewards) < len(opened.application_ids) * len(drafts):
        return None
    slots = [(each, draft) for each in sorted(opened.application_ids) for draft in drafts]
    told = slots if place[0] is Purpose.TRAIN else []
    if not all(slot in gathered.rewards for slot in slots) or not all(slot in gathered.drafts for slot in told):
        return None
    return CompleteRound(
        opened=opened,
        drafts=tuple(gathered.drafts[slot] for slot in told),
        rewards=tuple(gathered.rewards[slot] for slot in slots),
    )


def finished(run: Course, state: State) -> bool:
    """Every round of the plan is closed, validations and tests included."""
    last = state.last_update.round if state.last_update else run.after
    if last < run.specification.rounds:
        return False
    own = range(run.after, last + 1)
    return all(place in state.closed for number in own for place in rounds_after(run, number))


# ---- what a round comes to -----------------------------------------------------------------------------------------


def lesson(spec: Specification, played: CompleteRound) -> Lesson:
    """Advantages within each application's drafts. A draft of another policy than the round's is invalid."""
    policy = played.opened.policy_digest
    pairs = zip(played.drafts, played.rewards, strict=True)
    values = [reward.value if _is_of_the_policy(draft, policy) else None for draft, reward in pairs]
    if spec.learning.shuffled_rewards:
        values = shuffled(values, seed(spec.seed, "shuffle", played.opened.round))
    groups = [
        [value for _, value in group]
        for _, group in groupby(zip(played.rewards, values, strict=True), key=lambda pair: pair[0].application_id)
    ]
    judged = advantages(groups)
    return Lesson(tuple(values), judged, _why_nothing(played.drafts, judged, len(groups)))


def _is_of_the_policy(draft: Drafted, policy_digest: str) -> bool:
    return isinstance(draft, DraftFailed) or draft.adapter_digest == policy_digest


def _why_nothing(drafts: Sequence[Drafted], judged: Advantages, groups: int) -> str:
    said = [isinstance(draft, RequirementsDrafted) and bool(draft.token_ids) for draft in drafts]
    if judged.small_groups == groups:
        return "no application has two valid drafts"
    if judged.small_groups + judged.flat_groups == groups:
        return "every application's drafts were worth the same"
    if not any(heard and value is not None for heard, value in zip(said, judged.values, strict=True)):
        return "no draft that counts has a text"
    return ""


def validation(played: CompleteRound, now: datetime) -> ValidationCompleted:
    """The round's table. A rate of None is counted as invalid and left out of every mean."""
    rates = {reward.application_id: reward.rates for reward in played.rewards}
    rows = tuple(ValidationRow(application_id=each, rates=rates[each]) for each in played.opened.application_ids)
    known = [_known(row.rates) for row in rows]
    whole = [rates for rates, row in zip(known, rows, strict=True) if len(rates) == sum(r.rewarded for r in row.rates)]
    return ValidationCompleted(
        event_id=event_id(played.opened.run_id, played.opened.event_id, "validation"),
        recorded_at=now,
        run_id=played.opened.run_id,
        caused_by=(played.opened.event_id, *(reward.event_id for reward in played.rewards)),
        round=played.opened.round,
        purpose=played.opened.purpose,
        policy_digest=played.opened.policy_digest,
        rows=rows,
        mean_pass_rate=mean([rate for rates in known for rate in rates]),
        spread=mean([pstdev(rates) for rates in whole if rates]),
        invalid=sum(rate.rate is None for row in rows for rate in row.rates),
    )


def _known(rates: Sequence[PassRate]) -> list[float]:
    return [each.rate for each in rates if each.rewarded and each.rate is not None]


def mean(values: Sequence[float]) -> float:
    """Not a number where nothing valid was measured: a broken machine is not a bad grade."""
    return fmean(values) if values else math.nan


def ended(run: Course, last: PolicyUpdated | None, policy_digest: str, now: datetime) -> RunEnded:
    """The fact that a run which played its whole plan is over."""
    return RunEnded(
        event_id=event_id(run.run_id, "run", "end"),
        recorded_at=now,
        run_id=run.run_id,
        caused_by=(last.event_id if last else run.cause,),
        outcome=RunOutcome.FINISHED,
        cause="",
        rounds=run.specification.rounds,
        policy_digest=policy_digest,
    )
