"""The checks of the two laws let the lawful pass and find out the others."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from schemas.events import ApplicationDrawn, Event
from tests.histories import drafted
from tests.laws.drafting import draft, draws
from tests.laws.laws import assert_fold_law, assert_step_law, by_id

Seen = frozenset[str]
HISTORY = [*draws(5), *[drafted(draw, 0) for draw in draws(5)]]


def second_sight(seen: Seen, event: Event) -> tuple[Seen, Sequence[Event]]:
    """Speaks once per application, when it has seen both its draw and its draft: lawful."""
    seen = seen | {event.event_id}
    for draw in draws(5):
        both = {draw.event_id, drafted(draw, 0).event_id}
        if event.event_id in both and both <= seen:
            return seen, [draw]
    return seen, []


def counter(seen: int, event: Event) -> tuple[int, Sequence[Event]]:
    """Numbers facts as they arrive: duplicates and order show."""
    return seen + 1, [replace(event, event_id=str(seen))]


def boastful(events: Sequence[Event]) -> list[Event]:
    """Says how large its batch was."""
    return [replace(event, event_id=f"{len(events)}") for event in events]


def test_a_step_that_answers_each_input_by_itself_passes() -> None:
    assert_step_law(lambda events: list(draft(events)), [draws(6), draws(1), []])


def test_a_step_that_sees_its_batch_is_found_out() -> None:
    with pytest.raises(AssertionError, match="split as"):
        assert_step_law(boastful, [draws(6)])


def test_what_is_compared_can_be_chosen() -> None:
    def noting(events: Sequence[Event]) -> list[Event]:
        return [replace(event, caused_by=(str(len(events)),)) for event in events]

    assert_step_law(noting, [draws(4)], compared=by_id)


def test_a_fold_that_only_remembers_what_it_saw_passes() -> None:
    assert_fold_law(second_sight, frozenset, [HISTORY])


def once(seen: set[str], event: Event) -> tuple[set[str], Sequence[Event]]:
    """Repeats each fact the first time, and remembers it in place."""
    new = event.event_id not in seen
    seen.add(event.event_id)
    return seen, [event] if new else []


def test_a_fold_may_change_its_state_in_place() -> None:
    assert_fold_law(once, set, [HISTORY])


def test_a_state_left_over_from_another_order_is_found_out() -> None:
    left_over: set[str] = set()
    with pytest.raises(AssertionError):
        assert_fold_law(once, lambda: left_over, [HISTORY])


def test_a_fold_that_counts_arrivals_is_found_out() -> None:
    with pytest.raises(AssertionError):
        assert_fold_law(counter, int, [[each for each in HISTORY if isinstance(each, ApplicationDrawn)]])
