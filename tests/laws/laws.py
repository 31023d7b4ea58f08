"""The two laws of DESIGN.md section 3 as checks: hand them a step or a fold, and histories it must answer."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.log import Step
from schemas.events import Event
from schemas.topics import key_of, topic_of

S = TypeVar("S")
Fold = Callable[[S, Event], tuple[S, Sequence[Event]]]
Facts = Callable[[Event], object]


def whole(event: Event) -> object:
    """The whole fact counts."""
    return event


def by_id(event: Event) -> object:
    """Only the fact's id counts: for steps that measure clocks."""
    return event.event_id


def assert_step_law(
    step: Step, histories: Iterable[Sequence[Event]], *, compared: Facts = whole, examples: int = 30
) -> None:
    """step(a + b) == step(a) + step(b), for random splits of every history, as sets of facts."""
    for history in histories:
        _assert_splits_agree(step, history, compared, examples)


def _assert_splits_agree(step: Step, history: Sequence[Event], compared: Facts, examples: int) -> None:
    expected = sorted(repr(compared(fact)) for fact in step(list(history)))

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.data())
    def split(data: st.DataObject) -> None:
        parts = _split(data, history)
        answered = sorted(repr(compared(fact)) for part in parts for fact in step(part))
        assert answered == expected, f"split as {[len(part) for part in parts]}"

    split()


def assert_fold_law(
    fold: Fold[S],
    initial: Callable[[], S],
    histories: Iterable[Sequence[Event]],
    *,
    compared: Facts = whole,
    examples: int = 60,
) -> None:
    """Duplicates, and any interleaving that keeps each partition's order, give the same set of facts. A fold may change
    its state in place: each order begins with one of its own, and one left over from an order before would show."""
    for history in histories:
        _assert_orders_agree(fold, initial, history, compared, examples)


def _assert_orders_agree(
    fold: Fold[S], initial: Callable[[], S], history: Sequence[Event], compared: Facts, examples: int
) -> None:
    expected = _folded(fold, initial(), history, compared)

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.data())
    def shuffle(data: st.DataObject) -> None:
        again = list(_redelivered(data, interleaved(data, history)))
        assert _folded(fold, initial(), again, compared) == expected

    shuffle()


def interleaved(data: st.DataObject, history: Sequence[Event]) -> list[Event]:
    """Another order of these facts in which each topic's facts of one key keep theirs."""
    lines: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in history:
        lines[topic_of(type(event)), key_of(event)].append(event)
    turns = data.draw(st.permutations([line for line, events in lines.items() for _ in events]))
    rest = {line: iter(events) for line, events in lines.items()}
    return [next(rest[line]) for line in turns]


def _redelivered(data: st.DataObject, history: Sequence[Event]) -> Iterator[Event]:
    """Now and then the reader goes back and reads on from an earlier fact."""
    position = 0
    for turn in data.draw(st.lists(st.integers(0, max(len(history), 1)), max_size=4)):
        yield from history[position : max(position, turn)]
        position = turn
    yield from history[position:]


def _split(data: st.DataObject, history: Sequence[Event]) -> list[Sequence[Event]]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(history)), max_size=5)))
    return [history[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(history)], strict=True)]


def _folded(fold: Fold[S], state: S, history: Iterable[Event], compared: Facts) -> set[str]:
    facts: set[str] = set()
    for event in history:
        state, written = fold(state, event)
        facts |= {repr(compared(fact)) for fact in written}
    return facts
