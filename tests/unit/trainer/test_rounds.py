"""Laws of a run's course: what opens, what closes it, and that the order of arrival decides nothing."""

import copy
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import (
    ApplicationDrawn,
    Author,
    Event,
    PassRate,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    Specification,
    Split,
)
from tests.histories import policy_updated
from tests.unit.trainer.workshop import NOW, ORCHESTRA, SPECIFICATION, applications, failed_instead_of, started, work
from trainer.rounds import (
    CompleteRound,
    Course,
    Place,
    State,
    applications_of,
    complete,
    course,
    ended,
    finished,
    fold,
    lesson,
    open_places,
    open_round,
    rounds_after,
    validation,
)

TRAIN, VALIDATE, TEST, BASELINE = Purpose.TRAIN, Purpose.VALIDATE, Purpose.TEST, Purpose.BASELINE
SPLITS = {each.application_id: each.split for each in applications()}


def a_course(specification: Specification = SPECIFICATION, splits: dict[str, Split] = SPLITS) -> Course:
    return course(started(specification), splits)


def opened(run: Course, place: Place) -> list[Event]:
    return open_round(run, place, "p" * 64, "cause", NOW)


def draws(facts: list[Event]) -> list[ApplicationDrawn]:
    return [each for each in facts if isinstance(each, ApplicationDrawn)]


def past(run: Course, place: Place) -> list[Event]:
    """A round with everything that belongs to it."""
    facts = opened(run, place)
    return [*facts, *work(facts)]


def after(facts: list[Event]) -> State:
    state = State()
    for fact in facts:
        fold(state, fact)
    return state


def played(run: Course, place: Place = (TRAIN, 1)) -> CompleteRound:
    found = complete(run, after(past(run, place)), place)
    assert found is not None
    return found


# ---- the plan ------------------------------------------------------------------------------------------------------


def test_training_opens_first_and_validation_never_stands_before_it() -> None:
    run = a_course()
    assert rounds_after(run, 0) == [(TRAIN, 1), (VALIDATE, 0), (TEST, 0)]
    assert rounds_after(run, 1) == [(TRAIN, 2)]
    assert rounds_after(run, 2) == [(TRAIN, 3), (VALIDATE, 2)]
    assert rounds_after(run, 4) == [(VALIDATE, 4), (TEST, 4)]


def test_started_with_nothing_to_train_still_plays_what_it_has() -> None:
    idle = replace(SPECIFICATION, rounds=0, author=Author.POSITIVE)
    assert rounds_after(a_course(idle), 0) == [(VALIDATE, 0), (TEST, 0)]
    only_train = dict.fromkeys(SPLITS, Split.TRAIN)
    assert rounds_after(a_course(idle, only_train), 0) == [(BASELINE, 0)]


def test_what_is_held_out_is_never_drawn_and_training_sees_the_train_split_alone() -> None:
    run = a_course()
    for number in range(1, 30):
        for each in draws(opened(run, (TRAIN, number))):
            assert SPLITS[each.application_id] is Split.TRAIN
    for purpose, split in ((VALIDATE, Split.VALIDATE), (TEST, Split.TEST)):
        assert {SPLITS[each.application_id] for each in draws(opened(run, (purpose, 0)))} == {split}


@given(st.integers(0, 2**62), st.integers(1, 7))
def test_an_epoch_deals_no_application_twice(seed: int, size: int) -> None:
    run = a_course(replace(SPECIFICATION, seed=seed, applications_per_round=size))
    pool = run.pools[TRAIN]
    in_an_epoch = max(1, len(pool) // size)
    for epoch in range(4):
        numbers = range(epoch * in_an_epoch + 1, (epoch + 1) * in_an_epoch + 1)
        dealt = Counter(each for number in numbers for each in applications_of(run, (TRAIN, number)))
        assert set(dealt.values()) == {1}
        assert len(dealt) == min(len(pool), in_an_epoch * size)


def test_epochs_differ_and_a_seed_is_a_dealing() -> None:
    run, other = a_course(), a_course(replace(SPECIFICATION, seed=6))
    dealings = [[applications_of(each, (TRAIN, number)) for number in range(1, 9)] for each in (run, run, other)]
    assert dealings[0] == dealings[1] != dealings[2]
    assert dealings[0][:2] != dealings[0][2:4]


def test_training_samples_for_the_rewarded_and_the_rest_is_greedy_for_all() -> None:
    run = a_course()
    training, validating = (draws(opened(run, place))[0] for place in ((TRAIN, 1), (VALIDATE, 0)))
    assert (len(training.draft_seeds), training.draft_sampling.temperature) == (3, 1.0)
    assert training.implementers == ORCHESTRA[:2]
    assert (len(validating.draft_seeds), validating.draft_sampling.temperature) == (1, 0.0)
    assert validating.implementers == ORCHESTRA


def test_ids_and_seeds_know_the_place_and_not_the_moment() -> None:
    run = a_course()
    early, late = opened(run, (TRAIN, 3)), open_round(run, (TRAIN, 3), "p" * 64, "cause", NOW.replace(year=2030))
    assert [replace(each, recorded_at=NOW) for each in late] == early
    seeds = [number for round in (1, 2) for draw in draws(opened(run, (TRAIN, round))) for number in draw.draft_seeds]
    assert len(set(seeds)) == len(seeds) == 12


# ---- the fold ------------------------------------------------------------------------------------------------------


def topic(fact: Event) -> str:
    """Facts of one topic and key keep their order."""
    return f"{type(fact).__name__[0:4]}/{getattr(fact, 'application_id', '')}"


def interleaved(facts: list[Event], chance: random.Random) -> list[Event]:
    """Another order that a reader of the same partitions may see, some facts twice."""
    lanes: dict[str, list[Event]] = {}
    for fact in facts:
        lane = lanes.setdefault(topic(fact), [])
        lane.extend([fact, fact] if chance.random() < 0.2 else [fact])
    order = []
    while lanes:
        name = chance.choice(sorted(lanes))
        order.append(lanes[name].pop(0))
        if not lanes[name]:
            del lanes[name]
    return order


@given(st.randoms(use_true_random=False))
def test_any_interleaving_with_repeats_leads_to_the_same_round(chance: random.Random) -> None:
    run = a_course()
    facts = past(run, (TRAIN, 1)) + past(run, (VALIDATE, 0))
    rivals: list[Event] = [replace(each, value=0.123) for each in facts if isinstance(each, RewardScored)]
    straight, crooked = after(facts), after(interleaved(facts + rivals, chance))
    for place in ((TRAIN, 1), (VALIDATE, 0)):
        assert complete(run, crooked, place) == complete(run, straight, place)
    assert open_places(crooked) == open_places(straight) == [(TRAIN, 1), (VALIDATE, 0)]


def test_the_first_fact_in_a_slot_wins() -> None:
    run = a_course()
    facts = past(run, (TRAIN, 1))
    later: list[Event] = [replace(each, value=0.999) for each in facts if isinstance(each, RewardScored)]
    later += [replace(each, text="later") for each in facts if isinstance(each, RequirementsDrafted)]
    assert complete(run, after(facts + later), (TRAIN, 1)) == played(run)


@given(st.data())
def test_a_round_waits_for_every_one_of_its_drafts(data: st.DataObject) -> None:
    run = a_course()
    facts = past(run, (TRAIN, 1))
    owed = [each for each in facts if isinstance(each, RequirementsDrafted | RewardScored)]
    missing = data.draw(st.sampled_from(owed))
    state = after([each for each in facts if each is not missing])
    assert complete(run, state, (TRAIN, 1)) is None
    assert complete(run, fold(state, missing), (TRAIN, 1)) == played(run)


def test_a_complete_round_is_sorted_by_application_and_draft() -> None:
    found = played(a_course())
    slots = [(each.application_id, each.draft) for each in found.rewards]
    assert slots == sorted(slots)
    assert [each.event_id for each in found.drafts] == [each.requirements_id for each in found.rewards]


@given(st.randoms(use_true_random=False))
def test_a_closed_round_keeps_nothing_and_stays_closed(chance: random.Random) -> None:
    run = a_course()
    facts = [*past(run, (TRAIN, 1)), policy_updated(1)]
    chance.shuffle(facts)
    state = after(facts)
    assert state.gathered == {}
    assert open_places(state) == []


def test_folding_a_fact_again_changes_nothing() -> None:
    state = after([started(), *past(a_course(), (TRAIN, 1)), policy_updated(1)])
    before = copy.deepcopy(state)
    for fact in (started(), *past(a_course(), (TRAIN, 1)), policy_updated(1)):
        assert fold(state, fact) == before


def test_started_is_finished_when_its_last_validation_is() -> None:
    run = a_course()
    state = after([policy_updated(number) for number in range(1, 5)])
    for place in ((VALIDATE, 0), (TEST, 0), (VALIDATE, 2), (VALIDATE, 4), (TEST, 4)):
        assert not finished(run, state)
        fold(state, validation(played(run, place), NOW))
    assert finished(run, state)


def test_a_fork_is_finished_when_the_rounds_after_its_cut_are() -> None:
    run = course(started(), SPLITS, 3, "the update of round 3")
    state = State()
    assert not finished(run, state)
    for number in (3, 4):
        fold(state, policy_updated(number))
    for place in ((VALIDATE, 4), (TEST, 4)):
        assert not finished(run, state)
        fold(state, validation(played(run, place), NOW))
    assert finished(run, state)
    assert ended(run, None, "p" * 64, NOW).caused_by == ("the update of round 3",)
    assert ended(a_course(), None, "p" * 64, NOW).caused_by == (started().event_id,)


# ---- what a round comes to -----------------------------------------------------------------------------------------


def with_values(found: CompleteRound, values: list[float | None]) -> CompleteRound:
    rewards = tuple(replace(each, value=value) for each, value in zip(found.rewards, values, strict=True))
    return replace(found, rewards=rewards)


def test_a_lesson_compares_the_drafts_of_one_application() -> None:
    taught = lesson(SPECIFICATION, with_values(played(a_course()), [1.0, 0.0, None, 0.5, 0.5, 0.5]))
    assert taught.advantages.values == (1.0, -1.0, None, 0.0, 0.0, 0.0)
    assert (taught.advantages.small_groups, taught.advantages.flat_groups, taught.skipped) == (0, 1, "")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None, None, 0.5, None, None, None], "no application has two valid drafts"),
        ([0.5, 0.5, 0.5, 1.0, 1.0, None], "every application's drafts were worth the same"),
        ([0.1, 0.1, 0.1, None, None, 1.0], "every application's drafts were worth the same"),
    ],
)
def test_a_round_that_teaches_nothing_says_why(values: list[float | None], reason: str) -> None:
    assert lesson(SPECIFICATION, with_values(played(a_course()), values)).skipped == reason


def test_a_draft_of_another_policy_is_invalid() -> None:
    found = with_values(played(a_course()), [1.0, 0.0, 0.5, 0.5, 0.5, 0.5])
    second = found.drafts[2]
    assert isinstance(second, RequirementsDrafted)
    stranger = replace(second, adapter_digest="other")
    taught = lesson(SPECIFICATION, replace(found, drafts=(*found.drafts[:2], stranger, *found.drafts[3:])))
    assert taught.values == (1.0, 0.0, None, 0.5, 0.5, 0.5)


def test_a_draft_that_failed_by_the_models_fault_counts() -> None:
    found = with_values(played(a_course()), [1.0, 0.0, 0.5, 0.5, 0.5, 0.5])
    failed = failed_instead_of(found.drafts[0])
    taught = lesson(SPECIFICATION, replace(found, drafts=(failed, *found.drafts[1:])))
    assert taught.advantages.values[0] == 0.75


def test_the_shuffled_control_deals_the_same_rewards_otherwise() -> None:
    control = replace(SPECIFICATION, learning=replace(SPECIFICATION.learning, shuffled_rewards=True))
    found = with_values(played(a_course(), (TRAIN, 3)), [0.0, 0.1, 0.2, 0.3, 0.4, None])
    honest, dealt = lesson(SPECIFICATION, found), lesson(control, found)
    assert honest.values != dealt.values
    assert sorted(each for each in dealt.values if each is not None) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert lesson(control, found) == dealt


def test_a_validation_tells_the_mean_and_the_spread_of_the_rewarded() -> None:
    found = played(a_course(), (VALIDATE, 0))
    told = validation(with_rates(found, [(1.0, 0.5, 0.0), (0.25, None, 1.0)]), NOW)
    assert told.mean_pass_rate == pytest.approx((1.0 + 0.5 + 0.25) / 3)
    assert told.spread == pytest.approx(0.25)
    assert told.invalid == 1
    assert tuple(row.application_id for row in told.rows) == found.opened.application_ids


def test_where_nothing_could_be_measured_there_is_no_mean() -> None:
    found = played(a_course(), (VALIDATE, 0))
    told = validation(with_rates(found, [(None, None, None)] * 2), NOW)
    assert math.isnan(told.mean_pass_rate)
    assert told.invalid == 6


def with_rates(found: CompleteRound, rates: list[tuple[float | None, ...]]) -> CompleteRound:
    by_application = dict(zip(found.opened.application_ids, rates, strict=True))
    rewards = tuple(
        replace(
            each,
            rates=tuple(
                PassRate(model=model.name, rate=rate, rewarded=model.rewarded)
                for model, rate in zip(ORCHESTRA, by_application[each.application_id], strict=True)
            ),
        )
        for each in found.rewards
    )
    return replace(found, rewards=rewards)
