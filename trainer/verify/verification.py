"""A run made again from its own facts, in the order of its life, and held against the log fact by fact.

    the plan          RoundOpened, ApplicationDrawn      from the specification, the splits and the policy's digest
    what a draw says  drafts and verdicts                the fields that their draw decides
    rewards           RewardScored                       from the recorded verdicts, with the product's own fold
    learning          PolicyUpdated                      from the recorded drafts and the rewards made again
    tables            ValidationCompleted, RunEnded      from the rewards made again

Ids derive from causes and are compared like everything else; clocks and durations are the only fields left out. The
first difference ends it. A fact that nobody has written yet is no difference in a run that is still open.

Pure: how an update is made again comes in as an argument, so this file needs neither torch nor checkpoints.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TypeVar

from infra.problems import RunsDiffer
from schemas.equality import Difference, Slot, divergence, order_of_life, slot_of
from schemas.events import (
    ApplicationDrawn,
    DraftFailed,
    Event,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunOutcome,
    ValidationCompleted,
)
from schemas.identity import event_id
from trainer.rounds import (
    CompleteRound,
    Course,
    Place,
    complete,
    ended,
    lesson,
    mean,
    open_round,
    rounds_after,
    validation,
)
from trainer.verify.recorded import Facts, Recorded, decided_for_draft

Learn = Callable[[CompleteRound, PolicyUpdated], PolicyUpdated]  # the update that a round and its rewards give again
Show = Callable[[int, int], None]  # a train round, and how many there are

NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # what facts made again are recorded at
MEASURES = ("loss", "gradient_norm", "kl_to_base", "entropy", "sampler_kl")
DIGESTS = ("parent_policy_digest", "policy_digest", "optimizer_digest", "random_digest", "checkpoint_digest")

E = TypeVar("E", bound=Event)


class ReplayDiffers(RunsDiffer):
    """A fact made again is not the one on the log. Left is the log, right is what its own facts give."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(
            f"{difference} (left: the log, right: made again)",
            "a fact was changed, or other code made it: `iccm replay --json` names the version of the code that did",
        )
        self.difference = difference


@dataclass(slots=True)
class Verification:
    """A run being verified: what was found equal so far, and what an open run still owes."""

    run: Course
    recorded: Recorded
    learn: Learn
    show: Show = lambda _number, _rounds: None
    equal: Counter[str] = field(default_factory=Counter)  # facts compared, by kind
    owed: Counter[str] = field(default_factory=Counter)  # facts that an open run has not written yet, by kind
    last_update: PolicyUpdated | None = None

    @property
    def finished(self) -> bool:
        """Whether the log says that the whole plan was played."""
        return self.recorded.ended is not None and self.recorded.ended.outcome is RunOutcome.FINISHED

    def verify(self, digest: str, until: int | None = None) -> None:
        """Holds every fact against its double, up to train round `until` or to the end. Raises ReplayDiffers.

        `digest` names the policy that the run begins with."""
        cause, played = self.run.cause, set[Place]()
        for number in range(self.run.after, self.run.specification.rounds + 1 if until is None else until):
            places = sorted(rounds_after(self.run, number), key=lambda place: place[0] is Purpose.TRAIN)
            for place in places:
                played.add(place)
                concluded = self._round(place, cause, digest)
                if isinstance(concluded, PolicyUpdated):
                    self.last_update, cause, digest = concluded, concluded.event_id, concluded.policy_digest
            if self.last_update is None or self.last_update.round != number + 1:
                break
        self._refuse_strangers(played, until)
        if self.finished and until is None:
            self._end(digest)

    def verify_rewards(self, strict: bool) -> None:
        """A re-scoring has rewards and nothing else. Raises ReplayDiffers.

        `strict`: the verdicts are those there were when it was scored, so none may lack its reward."""
        said, again = self.recorded.rounds, self.recorded.again
        for place in sorted({*said, *again}, key=lambda each: (each[1], each[0] is not Purpose.TRAIN, each[0])):
            self._hold(said.get(place, {}), again.get(place, {}), strict and self.finished)

    def _round(self, place: Place, cause: str, digest: str) -> Event | None:
        """One round. Its conclusion as made again, or None where the log has none yet."""
        if place[0] is Purpose.TRAIN:
            self.show(place[1], self.run.specification.rounds)
        facts, again = self.recorded.rounds.get(place, {}), self.recorded.again.get(place, {})
        made = open_round(self.run, place, digest, cause, NEVER)
        drafts = {slot: draw for draw in made if isinstance(draw, ApplicationDrawn) for slot in _draft_slots(draw)}
        scores = [replace(slot, family=RewardScored.__name__) for slot in drafts]
        strict = self._is_over(place)
        self._hold(_of(facts, RoundOpened, ApplicationDrawn), {slot_of(fact): fact for fact in made}, strict)
        said = _of(facts, RequirementsDrafted, DraftFailed)
        self._hold(said, {slot: _as_drawn(said[slot], drafts[slot]) for slot in said if slot in drafts}, strict, drafts)
        if place in self.recorded.strayed:
            raise ReplayDiffers(self.recorded.strayed[place])
        self._hold(_of(facts, RewardScored), again, strict, scores)
        return self._conclusion(place, _of(facts, PolicyUpdated, ValidationCompleted))

    def _conclusion(self, place: Place, said: Facts) -> Event | None:
        slot = _conclusion_slot(place)
        fact, played = said.get(slot), self._complete(place)
        if fact is None or played is None:
            self._hold(said, {}, self._is_over(place), [slot])
            return None
        again = self.learn(played, fact) if isinstance(fact, PolicyUpdated) else validation(played, NEVER)
        self._hold(said, {slot: again}, strict=True)
        return again

    def _complete(self, place: Place) -> CompleteRound | None:
        state = self.recorded.state
        return complete(self.run, state, place) if place in state.opened else None

    def _is_over(self, place: Place) -> bool:
        """Whether all of a round must be on the log: it or the run is concluded, or another was trained since."""
        concluded = _conclusion_slot(place) in self.recorded.rounds.get(place, {})
        later = any(purpose is Purpose.TRAIN and number > place[1] for purpose, number in self.recorded.rounds)
        return self.finished or concluded or (place[0] is Purpose.TRAIN and later)

    def _hold(self, said: Facts, again: Facts, strict: bool, slots: Iterable[Slot] = ()) -> None:
        """The log's facts against those made again, and against the slots that must be filled once a round is over."""
        for slot in sorted({*said, *again, *slots}, key=order_of_life):
            left, right = said.get(slot), again.get(slot)
            if left is not None and right is not None:
                self._compare(left, right)
            elif left is not None or strict:
                raise ReplayDiffers(_missing(slot, left, right))
            else:
                self.owed[slot.family] += 1

    def _compare(self, left: Event, right: Event) -> None:
        if difference := _difference(left, with_measured_of(left, right)):
            raise ReplayDiffers(difference)
        self.equal[type(left).__name__] += 1

    def _refuse_strangers(self, played: set[Place], until: int | None) -> None:
        """Rounds on the log that the plan does not know."""
        strange = [place for place in self.recorded.rounds.keys() - played if until is None or _is_before(place, until)]
        facts = [slot for place in strange for slot in self.recorded.rounds[place]]
        if facts:
            first = min(facts, key=order_of_life)
            raise ReplayDiffers(Difference(slot=first, field="", left="present", right="absent"))

    def _end(self, digest: str) -> None:
        assert self.recorded.ended is not None
        self._compare(self.recorded.ended, ended(self.run, self.last_update, digest, NEVER))


def first_policy(recorded: Recorded) -> str:
    """The policy that the log says its first rounds were opened with; "" where none is."""
    opened = [fact for facts in recorded.rounds.values() for fact in facts.values() if isinstance(fact, RoundOpened)]
    return min(opened, key=lambda fact: order_of_life(slot_of(fact))).policy_digest if opened else ""


# ---- making a fact again -------------------------------------------------------------------------------------------


def on_trust(run: Course) -> Learn:
    """Updates without learning: what rewards alone decide is made again, numbers and digests are the log's."""

    def taken(played: CompleteRound, said: PolicyUpdated) -> PolicyUpdated:
        taught = lesson(run.specification, played)
        return replace(
            said,
            event_id=event_id(run.run_id, played.opened.event_id, "update"),
            run_id=run.run_id,
            caused_by=(played.opened.event_id, *(reward.event_id for reward in played.rewards)),
            skipped=taught.skipped or said.skipped,
            parent_policy_digest=played.opened.policy_digest,
            reward_ids=tuple(reward.event_id for reward in played.rewards),
            advantages=taught.advantages.values,
            mean_reward=mean([value for value in taught.values if value is not None]),
            invalid_drafts=sum(value is None for value in taught.values),
            small_groups=taught.advantages.small_groups,
            flat_groups=taught.advantages.flat_groups,
        )

    return taken


def after(number: int, first: Learn, then: Learn) -> Learn:
    """One way up to a train round, another after it."""
    return lambda played, said: (first if played.opened.round <= number else then)(played, said)


def within(tolerance: float, learn: Learn, widest: dict[str, float]) -> Learn:
    """Weights are let differ: an update counts as equal when each number it reports lies within `tolerance`.

    `widest` gathers the largest distance of each.
    """

    def near(played: CompleteRound, said: PolicyUpdated) -> PolicyUpdated:
        again = learn(played, said)
        apart = {name: abs(getattr(again, name) - getattr(said, name)) for name in MEASURES}
        widest.update({name: max(widest.get(name, 0.0), each) for name, each in apart.items()})
        allowed = [*DIGESTS, *(name for name, each in apart.items() if each <= tolerance)]
        said_values: dict[str, str | float] = {name: getattr(said, name) for name in allowed}
        return replace(again, **said_values)  # type: ignore[arg-type]

    return near


def with_measured_of(left: E, right: E) -> E:
    """`right` with the clocks and durations of `left`: what is left to differ was decided."""
    measured = {each.name: getattr(left, each.name) for each in fields(left) if each.metadata.get("kind") == "measured"}
    return replace(right, **measured)


def _difference(left: Event, right: Event) -> Difference | None:
    """Where they part. Of an update, numbers and advantages before digests: they say more of what went another way."""
    if isinstance(left, PolicyUpdated) and isinstance(right, PolicyUpdated):
        digests = {name: getattr(left, name) for name in DIGESTS}
        return divergence(left, replace(right, **digests)) or divergence(left, right)
    return divergence(left, right)


def _as_drawn(fact: Event, draw: ApplicationDrawn) -> Event:
    """A draft as its draw would have it."""
    assert isinstance(fact, RequirementsDrafted | DraftFailed)
    decided: Mapping[str, object] = decided_for_draft(draw, fact)
    return replace(fact, **decided)  # type: ignore[arg-type]


# ---- places and slots ----------------------------------------------------------------------------------------------


def _of(facts: Facts, *kinds: type[Event]) -> Facts:
    return {slot: fact for slot, fact in facts.items() if isinstance(fact, kinds)}


def _draft_slots(draw: ApplicationDrawn) -> list[Slot]:
    drawn = replace(slot_of(draw), family=RequirementsDrafted.__name__)
    return [replace(drawn, draft=draft) for draft in range(len(draw.draft_seeds))]


def _conclusion_slot(place: Place) -> Slot:
    if place[0] is Purpose.TRAIN:
        return Slot(family=PolicyUpdated.__name__, round=place[1])
    return Slot(family=ValidationCompleted.__name__, purpose=place[0], round=place[1])


def _is_before(place: Place, until: int) -> bool:
    return place[1] <= until if place[0] is Purpose.TRAIN else place[1] < until


def _missing(slot: Slot, left: Event | None, right: Event | None) -> Difference:
    """A fact that one side lacks. `owed`: the plan asks for it, and not even what it is made from is there."""
    word = "present" if right is not None else "absent" if left is not None else "owed"
    return Difference(slot=slot, field="", left="absent" if left is None else "present", right=word)
