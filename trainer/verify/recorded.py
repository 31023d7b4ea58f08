"""What the log says of one run, slot by slot, and the rewards that its test results give again.

The first fact in a slot counts, as it did when the run was played. Verdicts are not kept: each is held against its draw
and handed to the fold of rewards, so memory grows with drafts and never with test results.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from infra.carried import from_draw
from infra.log import Log
from infra.problems import BadInput
from infra.runs import Run, cut_of, lineage, runs_on
from schemas.equality import Difference, Slot, order_of_life, slot_of
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    DraftEvent,
    DraftFailed,
    Event,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunStarted,
    Split,
    SuiteRan,
    ValidationCompleted,
)
from schemas.identity import event_id
from trainer.rounds import Course, Place, State, course, fold

KINDS = (
    RoundOpened,
    ApplicationDrawn,
    RequirementsDrafted,
    DraftFailed,
    RewardScored,
    PolicyUpdated,
    ValidationCompleted,
    RunEnded,
)

Facts = dict[Slot, Event]
Score = Callable[[Iterable[SuiteRan]], Iterator[RewardScored]]


@dataclass(slots=True)
class Recorded:
    """One run as the log has it. `state` holds its drafts as they were written and its rewards as they come again."""

    rounds: dict[Place, Facts] = field(default_factory=lambda: defaultdict(dict))
    again: dict[Place, Facts] = field(default_factory=lambda: defaultdict(dict))  # rewards, from the suites
    strayed: dict[Place, Difference] = field(default_factory=dict)  # the first verdict that is not what its draw says
    state: State = field(default_factory=State)
    ended: RunEnded | None = None
    verdicts: int = 0  # that were read


def recorded(facts: Iterable[Event]) -> Recorded:
    """A run's facts of KINDS, in any order that keeps each partition's."""
    found = Recorded()
    for fact in facts:
        if isinstance(fact, RunEnded):
            found.ended = found.ended or fact
        elif isinstance(fact, KINDS):
            found.rounds[place_of(fact)].setdefault(slot_of(fact), fact)
            if isinstance(fact, RoundOpened | RequirementsDrafted | DraftFailed):
                fold(found.state, fact)
    return found


def score_again(found: Recorded, suites: Iterable[SuiteRan], score: Score) -> None:
    """Every reward that the suites of the run give, beside those that the log has. Its draws are known by now."""
    draws = {(*place, fact.application_id): fact for place, fact in _draws(found)}
    for reward in score(_held_against(draws, suites, found)):
        if found.again[place_of(reward)].setdefault(slot_of(reward), reward) is reward:
            fold(found.state, reward)


def plan_of(log: Log, started: RunStarted) -> Course:
    """What a run is to play, from the log alone: its specification, and what each application may be used for."""
    splits: dict[str, Split] = {}
    for record in log.replay((ApplicationRegistered,)):
        if isinstance(record.event, ApplicationRegistered):
            splits.setdefault(record.event.application_id, record.event.split)
    if missing := [each for each in started.application_ids if each not in splits]:
        raise BadInput(
            f"application {missing[0]} of the run is not on this log", "`iccm apps list` names those that are"
        )
    cut = cut_of(lineage(runs_on(log), Run(started=started))) if started.parent_step else None
    return course(started, splits, cut.round, cut.event_id) if cut else course(started, splits)


def place_of(fact: Event) -> Place:
    """The round that a fact belongs to."""
    return getattr(fact, "purpose", Purpose.TRAIN), getattr(fact, "round", 0)


def _draws(found: Recorded) -> Iterator[tuple[Place, ApplicationDrawn]]:
    for place, facts in found.rounds.items():
        yield from ((place, fact) for fact in facts.values() if isinstance(fact, ApplicationDrawn))


def _held_against(
    draws: dict[tuple[Purpose, int, str], ApplicationDrawn], suites: Iterable[SuiteRan], found: Recorded
) -> Iterator[SuiteRan]:
    for suite in suites:
        found.verdicts += 1
        place = place_of(suite)
        draw = draws.get((*place, suite.application_id))
        if draw is not None and (difference := _difference(suite, decided_for_suite(draw, suite))):
            known = found.strayed.get(place, difference)
            found.strayed[place] = min(known, difference, key=lambda each: order_of_life(each.slot))
        yield suite


# ---- what a draw decides of the facts after it ---------------------------------------------------------------------


def decided_for_draft(draw: ApplicationDrawn, fact: RequirementsDrafted | DraftFailed) -> dict[str, object]:
    """The fields of a draft that follow from its draw: all but what the policy said."""
    decided: dict[str, object] = {
        **from_draw(draw, fact.draft),
        "event_id": _draft_id(draw, fact),
        "caused_by": (draw.event_id,),
    }
    if isinstance(fact, RequirementsDrafted) and fact.draft < len(draw.draft_seeds):
        decided |= {"seed": draw.draft_seeds[fact.draft], "sampling": draw.draft_sampling}
    return decided


def decided_for_suite(draw: ApplicationDrawn, suite: SuiteRan) -> dict[str, object]:
    """The fields of a verdict that follow from its draw: all but what the tests said."""
    names = [each.name for each in draw.implementers]
    if suite.model not in names:
        return {**from_draw(draw, suite.draft)}
    requirements_id = _draft_id(draw, suite)
    implementation_id = event_id(draw.run_id, requirements_id, "implement", names.index(suite.model))
    return {
        **from_draw(draw, suite.draft),
        "event_id": event_id(draw.run_id, implementation_id, "run_tests"),
        "caused_by": (implementation_id,),
        "requirements_id": requirements_id,
        "implementation_id": implementation_id,
    }


def _draft_id(draw: ApplicationDrawn, fact: DraftEvent) -> str:
    return event_id(draw.run_id, draw.event_id, "requirements", fact.draft)


def _difference(fact: Event, decided: dict[str, object]) -> Difference | None:
    for name, value in decided.items():
        if getattr(fact, name) != value:
            return Difference(slot=slot_of(fact), field=name, left=repr(getattr(fact, name)), right=repr(value))
    return None
