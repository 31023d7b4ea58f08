"""Laws of the advantages, on random groups with invalid members."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.advantage import advantages, rloo, shuffled

REWARDS = st.one_of(st.none(), st.floats(0.0, 1.0))
GROUPS = st.lists(REWARDS, max_size=12)


@given(GROUPS)
def test_a_draft_is_compared_with_the_mean_of_the_other_valid_ones(group: list[float | None]) -> None:
    for place, value in enumerate(rloo(group)):
        others = [each for rank, each in enumerate(group) if rank != place and each is not None]
        reward = group[place]
        if reward is None or not others:
            assert value is None
        else:
            assert value == pytest.approx(reward - sum(others) / len(others), abs=1e-12)


@given(GROUPS)
def test_invalid_members_leave_the_others_as_if_they_were_never_drawn(group: list[float | None]) -> None:
    kept = [value for value, reward in zip(rloo(group), group, strict=True) if reward is not None]
    assert kept == rloo([reward for reward in group if reward is not None])


@given(st.lists(REWARDS, max_size=8), st.randoms())
def test_the_order_of_the_drafts_does_not_reach_the_last_bit(group: list[float | None], chance: object) -> None:
    order = list(range(len(group)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    straight = rloo(group)
    assert rloo([group[place] for place in order]) == [straight[place] for place in order]


def test_lonely_and_flat_groups_are_counted_apart() -> None:
    judged = advantages([[0.5, None], [None, None], [1.0, 1.0, None], [0.0, 1.0]])
    assert (judged.small_groups, judged.flat_groups) == (2, 1)
    assert judged.values == (None, None, None, None, 0.0, 0.0, None, -1.0, 1.0)


@given(st.lists(GROUPS, max_size=5))
def test_one_group_never_touches_another(groups: list[list[float | None]]) -> None:
    assert list(advantages(groups).values) == [value for group in groups for value in rloo(group)]


@given(GROUPS, st.integers(0, 2**63 - 1))
def test_shuffling_keeps_the_rewards_and_the_invalid_places(group: list[float | None], seed: int) -> None:
    dealt = shuffled(group, seed)
    assert [each is None for each in dealt] == [each is None for each in group]
    assert sorted(each for each in dealt if each is not None) == sorted(each for each in group if each is not None)
    assert dealt == shuffled(group, seed)


def test_shuffled_rewards_know_nothing_of_the_drafts() -> None:
    rewards = [float(place % 2) for place in range(96)]
    deals = [shuffled(rewards, seed) for seed in range(200)]
    agreement = sum(one == two for deal in deals for one, two in zip(deal, rewards, strict=True)) / (96 * 200)
    assert agreement == pytest.approx(0.5, abs=0.02)
