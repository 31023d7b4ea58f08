"""Suites come in any order; each draft is scored once."""

import random
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Implementer, RewardScored, SuiteRan, Verdict
from schemas.identity import event_id
from streams.gathering import REMEMBERED, Gathering, StrayFact, forget, gather
from tests.histories import DAWN, ORCHESTRA, RUN, application, drafted, drawn, round_opened, suite_ran
from tests.laws.laws import assert_fold_law

APPLICATIONS = [application(f"def f(xs):\n    return xs + [{i}]\n", name=str(i)) for i in range(4)]
VERDICTS = list(Verdict)


def clock() -> datetime:
    return DAWN


def suites(app: int = 0, number: int = 1, draft: int = 0, seed: int = 0) -> list[SuiteRan]:
    fact = drafted(drawn(APPLICATIONS[app], number=number, drafts=draft + 1, index=app), draft)
    dice = random.Random(f"{seed}/{app}/{number}/{draft}")
    return [suite_ran(fact, i, dice.choice(VERDICTS), passed=dice.randint(0, 4)) for i in range(len(ORCHESTRA))]


def flat(partitions: list[list[SuiteRan]]) -> list[SuiteRan]:
    return list(chain.from_iterable(partitions))


def gathered(facts: list[SuiteRan], state: Gathering | None = None) -> tuple[Gathering, list[RewardScored]]:
    state = state or Gathering()
    rewards: list[RewardScored] = []
    for fact in facts:
        state, more = gather(state, fact, clock=clock)
        rewards.extend(more)
    return state, rewards


def test_a_draft_is_scored_when_its_last_suite_is_in() -> None:
    *most, last = suites()
    state, rewards = gathered(most)
    assert rewards == []
    state, rewards = gathered([last], state)
    assert len(rewards) == 1
    assert state.open == {}


def test_a_reward_names_what_it_completes_and_what_it_was_made_of() -> None:
    facts = suites()
    _, [reward] = gathered(facts[::-1])
    assert reward.event_id == event_id(RUN, facts[0].requirements_id, "reward")
    assert reward.caused_by == reward.suite_ids == tuple(fact.event_id for fact in facts)
    assert (reward.run_id, reward.recorded_at) == (RUN, DAWN)
    assert [rate.model for rate in reward.rates] == [implementer.name for implementer in ORCHESTRA]


def test_the_first_suite_in_a_slot_wins() -> None:
    facts = suites()
    late = replace(facts[0], event_id="another", verdict=Verdict.TIMEOUT)
    _, first = gathered([facts[0], late, *facts[1:]])
    assert first == gathered(facts)[1]


def test_a_suite_written_again_after_its_draft_was_scored_opens_nothing() -> None:
    facts = suites()
    state, _ = gathered(facts)
    assert gathered(facts[:1], state) == (state, [])


def test_facts_of_other_kinds_change_nothing() -> None:
    assert gather(Gathering(), round_opened(), clock=clock) == (Gathering(), ())


def test_a_suite_of_a_model_its_draft_does_not_name_is_refused_by_name() -> None:
    stray = replace(suites()[0], model="stranger")
    with pytest.raises(StrayFact, match="stranger"):
        gather(Gathering(), stray, clock=clock)


def test_a_run_that_has_ended_leaves_no_open_draft() -> None:
    mine, other = suites()[:2], [replace(fact, run_id="b", requirements_id="other") for fact in suites()[:2]]
    state, _ = gathered([*mine, *other])
    forget(state, RUN)
    assert list(state.open) == ["other"]


@st.composite
def histories(draw: st.DrawFn) -> list[list[SuiteRan]]:
    """A partition per application: its suites in some order, some of them twice."""
    seed = draw(st.integers(0, 1000))
    partitions = []
    for app in range(draw(st.integers(1, 4))):
        facts = list(chain.from_iterable(suites(app, number, d, seed) for number in (1, 2) for d in range(2)))
        facts = draw(st.permutations(facts))
        for fact in draw(st.lists(st.sampled_from(facts), max_size=6)):
            facts.insert(draw(st.integers(facts.index(fact), len(facts))), fact)
        partitions.append(facts)
    return partitions


def interleaved(partitions: list[list[SuiteRan]], dice: random.Random) -> list[SuiteRan]:
    turns = [index for index, facts in enumerate(partitions) for _ in facts]
    dice.shuffle(turns)
    readers = [iter(facts) for facts in partitions]
    return [next(readers[turn]) for turn in turns]


@settings(deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_duplicates_and_interleavings_give_the_same_rewards(
    partitions: list[list[SuiteRan]], dice: random.Random
) -> None:
    once = flat([list(dict.fromkeys(facts)) for facts in partitions])
    state, rewards = gathered(interleaved(partitions, dice))
    assert {reward.event_id: reward for reward in rewards} == {each.event_id: each for each in gathered(once)[1]}
    assert len(rewards) == len(once) // len(ORCHESTRA)
    assert state.open == {}


@settings(deadline=None)
@given(histories(), st.data())
def test_reading_again_from_a_place_without_open_drafts_gives_the_rest(
    partitions: list[list[SuiteRan]], data: st.DataObject
) -> None:
    facts = partitions[0]
    stands: list[tuple[int, int]] = [(0, 0)]
    state, written = Gathering(), 0
    for place, fact in enumerate(facts, 1):
        state, rewards = gather(state, fact, clock=clock)
        written += len(rewards)
        if not state.open:
            stands.append((place, written))
    place, written = data.draw(st.sampled_from(stands))
    _, everything = gathered(facts)
    _, again = gathered(facts[place:])
    assert {reward.event_id for reward in everything[written:]} <= {reward.event_id for reward in again}
    assert all(reward in everything for reward in again)


def test_the_state_stays_small_over_a_long_run() -> None:
    score = partial(gather, clock=clock)
    alone = (Implementer(name="a", digest=""),)
    template, state = replace(suites()[0], implementers=alone, model="a"), Gathering()
    for number in range(3 * REMEMBERED):
        state, rewards = score(state, replace(template, requirements_id=str(number)))
        assert len(rewards) == 1
    assert state.open == {}
    assert REMEMBERED <= len(state.scored) + len(state.scored_lately) <= 2 * REMEMBERED


def test_the_state_is_changed_in_place_and_no_fact_pays_for_the_drafts_that_are_open() -> None:
    first, *rest = suites()
    begun = Gathering()
    state, _ = gathered(suites(app=1)[:1], begun)
    others = state.open[suites(app=1)[0].requirements_id]
    state, _ = gathered([first, *rest], state)
    assert state is begun
    assert state.open == {suites(app=1)[0].requirements_id: others}
    assert state.open[suites(app=1)[0].requirements_id] is others


def test_a_refused_fact_changes_nothing() -> None:
    first, second, *_ = suites()
    state, _ = gathered([first])
    before = deepcopy(state)
    with pytest.raises(StrayFact):
        gather(state, replace(second, model="stranger"), clock=clock)
    assert state == before


def test_the_fold_keeps_its_law() -> None:
    past = flat([suites(app, number, d) for app in range(2) for number in (1, 2) for d in range(2)])
    assert_fold_law(partial(gather, clock=clock), Gathering, [past])
