"""What another reward does to the order of drafts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Purpose
from streams.rescore.comparison import MOST, Pair, compare, places, spearman

values = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=20)


def pair(
    draft: int, before: float | None, after: float | None, app: str = "a", purpose: Purpose = Purpose.TRAIN
) -> Pair:
    return Pair(purpose=purpose, round=1, application_id=app, draft=draft, before=before, after=after)


def group(before: list[float | None], after: list[float | None], app: str = "a") -> list[Pair]:
    return [pair(i, old, new, app) for i, (old, new) in enumerate(zip(before, after, strict=True))]


def test_equal_rewards_share_the_mean_of_their_places() -> None:
    assert places([0.5, 1.0, 0.5, 0.0]) == [2.5, 1.0, 2.5, 4.0]


@given(values)
def test_places_are_a_whole_ranking(column: list[float]) -> None:
    found = places(column)
    assert sum(found) == len(column) * (len(column) + 1) / 2
    assert all((column[i] > column[0]) == (found[i] < found[0]) for i in range(len(column)))


@given(values)
def test_the_same_order_correlates_fully_and_the_opposite_one_fully_against(column: list[float]) -> None:
    stretched = [value**3 + 2 * value for value in column]
    if len(set(column)) == 1:
        assert spearman(column, stretched) is None
    else:
        assert spearman(column, stretched) == pytest.approx(1.0)
        assert spearman(column, [-value for value in stretched]) == pytest.approx(-1.0)


def test_the_correlation_with_ties_is_the_textbooks() -> None:
    assert spearman([1.0, 2.0, 2.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.9486832980505138)


def test_fewer_than_two_drafts_have_no_correlation() -> None:
    assert spearman([1.0], [1.0]) is None
    assert compare([]).correlation is None


def test_a_mean_is_over_the_drafts_that_have_a_reward() -> None:
    (totals,) = compare(group([1.0, 0.0, None], [0.5, None, None])).totals
    assert (totals.drafts, totals.mean_before, totals.mean_after) == (3, 0.5, 0.5)
    assert (totals.invalid_before, totals.invalid_after) == (1, 2)


def test_each_purpose_has_its_own_totals() -> None:
    drafts = [pair(0, 1.0, 1.0), pair(0, 0.0, 0.5, purpose=Purpose.VALIDATE)]
    assert [(each.purpose, each.mean_after) for each in compare(drafts).totals] == [
        (Purpose.TRAIN, 1.0),
        (Purpose.VALIDATE, 0.5),
    ]


def test_a_group_has_another_best_draft_only_when_none_of_its_best_is_best_still() -> None:
    kept = group([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], "kept")
    lost = group([1.0, 0.0], [0.0, 1.0], "lost")
    alone = group([1.0, None], [0.0, 1.0], "alone")
    found = compare([*kept, *lost, *alone])
    assert (found.groups, found.best_changed) == (2, 1)


def test_a_group_without_an_order_has_no_part_in_the_mean_of_the_groups() -> None:
    found = compare([*group([0.0, 1.0], [0.0, 1.0], "a"), *group([1.0, 1.0], [0.0, 1.0], "flat")])
    assert (found.groups, found.ranked_groups, found.group_correlation) == (2, 1, pytest.approx(1.0))


def test_the_drafts_that_moved_farthest_are_named_first() -> None:
    drafts = group([5.0, 4.0, 3.0, 2.0], [1.0, 4.0, 3.0, 2.0])
    first, *rest = compare(drafts).moved_most
    assert (first.pair, first.place_before, first.place_after) == (drafts[0], 1.0, 4.0)
    assert len(rest) == 3
    many = [replace(each, draft=i) for i, each in enumerate(drafts * MOST)]
    assert len(compare(many).moved_most) == MOST < compare(many).moved
