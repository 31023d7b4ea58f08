"""When two runs are equal: the canonical Avro of their decided fields, slot by slot.

A slot says what a fact completes: its family, purpose, round, application, draft and model, and nothing of when or
where it came. A fact is reduced before it is compared: measured fields are blanked, and ids of other facts become the
slots those facts stand in, so run ids, event ids, clocks, offsets and the order of arrival say nothing.

Dead letters have no slot: they tell where a record lies on one log. What the run made of it stands in its own facts.
A fork is compared with its whole past: what it shares with the runs it comes from counts as its own.
"""

import math
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, cast

from schemas.avro import decode, encode
from schemas.derived import EPOCH, default_of, field_kind, field_types, items, optional, values
from schemas.events import (
    ENUM_DEFAULTS,
    DeadLettered,
    DeadLetterReplayed,
    DraftFailed,
    Event,
    ImplementationFailed,
    ImplementationWritten,
    Purpose,
    RequirementsDrafted,
    RunEnded,
    RunStarted,
)
from schemas.topics import KINDS

# A failure stands in the slot of what it failed to bring.
FAMILY: dict[type[Event], type[Event]] = {
    DraftFailed: RequirementsDrafted,
    ImplementationFailed: ImplementationWritten,
}
STAGES = {kind.__name__: stage for stage, kind in enumerate(KINDS)}
ELSEWHERE = "elsewhere"  # what a reference says that names no fact of the run: the run itself, or another run


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What a fact completes. None where a part does not apply. `copy` counts facts that stand in one slot."""

    family: str
    purpose: Purpose | None = None
    round: int | None = None
    application_id: str | None = None
    draft: int | None = None
    model: str | None = None
    copy: int = 0

    def __str__(self) -> str:
        said = {"purpose": self.purpose, "round": self.round, "application": self.application_id, "draft": self.draft}
        said |= {"model": self.model, "copy": self.copy or None}
        return " ".join([self.family, *(f"{name} {value}" for name, value in said.items() if value is not None)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place where two runs part. `field` is empty where one run has no fact in the slot at all."""

    slot: Slot
    field: str
    left: str
    right: str

    def __str__(self) -> str:
        where = f"{self.slot}: {self.field}" if self.field else str(self.slot)
        return f"{where} is {_shortened(self.left)} on the left, {_shortened(self.right)} on the right"


def slots(events: Iterable[Event], lineage: Sequence[str] = ()) -> dict[Slot, bytes]:
    """The canonical form of one run's facts, whatever their order and repetition. Of facts with one id the first
    counts. Facts of several runs are refused, unless `lineage` names them all: the last of them is the run, the others
    are those it comes from, and `events` hold what it shares with them (`infra.runs.history_of`)."""
    first: dict[str, Event] = {}
    for event in events:
        if not isinstance(event, DeadLettered | DeadLetterReplayed):
            first.setdefault(event.event_id, event)
    runs = {event.run_id for event in first.values()} - {None}
    if len(runs) > 1 and not runs <= set(lineage):
        raise ValueError(f"these are facts of {len(runs)} runs ({', '.join(sorted(map(str, runs)))}): give one run's")
    stands = {event_id: slot_of(event) for event_id, event in first.items()}
    names = {event_id: str(slot) for event_id, slot in stands.items()}
    frames: dict[Slot, list[bytes]] = defaultdict(list)
    for event_id, event in first.items():
        if not (isinstance(event, RunStarted) and event.run_id in lineage[:-1]):
            frames[stands[event_id]].append(canonical(event, names))
    return {
        replace(slot, copy=copy) if copy else slot: frame
        for slot, alike in frames.items()
        for copy, frame in enumerate(sorted(alike))
    }


def first_difference(left: Iterable[Event], right: Iterable[Event]) -> Difference | None:
    """Where two runs part first, in the order of a run's life; None when they are equal."""
    return first_difference_of(slots(left), slots(right))


def first_difference_of(ours: Mapping[Slot, bytes], theirs: Mapping[Slot, bytes]) -> Difference | None:
    """Where two canonical forms part first, in the order of a run's life; None when they are equal."""
    differing = [slot for slot in ours.keys() | theirs.keys() if ours.get(slot) != theirs.get(slot)]
    if not differing:
        return None
    slot = min(differing, key=order_of_life)
    if slot not in ours or slot not in theirs:
        left_word, right_word = ("present" if slot in side else "absent" for side in (ours, theirs))
        return Difference(slot=slot, field="", left=left_word, right=right_word)
    path, one, other = next(_differences("", decode(ours[slot]), decode(theirs[slot])))
    return Difference(slot=slot, field=path, left=one, right=other)


def divergence(left: Event, right: Event) -> Difference | None:
    """Where two facts part first, ids and clocks included; None when they are equal byte for byte."""
    if encode(left) == encode(right):
        return None
    path, one, other = next(_differences("", left, right))
    return Difference(slot=slot_of(left), field=path, left=one, right=other)


def slot_of(event: Event) -> Slot:
    """The slot that a fact stands in."""
    kind = FAMILY.get(type(event), type(event))
    return Slot(
        family=kind.__name__,
        purpose=getattr(event, "purpose", None),
        round=getattr(event, "round", None),
        application_id=getattr(event, "application_id", None),
        draft=getattr(event, "draft", None),
        model=getattr(event, "model", None),
    )


def canonical(event: Event, names: Mapping[str, str]) -> bytes:
    """The Avro of what a fact decides; `names` says for each event id which slot it stands for."""
    return encode(_reduced(event, names))


def order_of_life(slot: Slot) -> tuple[float, int, int, str, int, str, int]:
    """Where a slot comes in the order of a run's life."""
    end = math.inf if slot.family == RunEnded.__name__ else -1
    purpose = list(Purpose).index(slot.purpose or Purpose.TRAIN)
    round_ = end if slot.round is None else slot.round
    draft = -1 if slot.draft is None else slot.draft
    return round_, purpose, STAGES[slot.family], slot.application_id or "", draft, slot.model or "", slot.copy


# ---- Reducing a fact -------------------------------------------------------------------------------------------------

Reduce = Callable[[Any, Mapping[str, str]], Any]  # a field's value and the names of slots, to what counts of it


def _reduced(record: Any, names: Mapping[str, str]) -> Any:
    kind: Any = type(record)
    return kind(**{name: reduce(getattr(record, name), names) for name, reduce in _plan(kind)})


@cache
def _plan(kind: type) -> tuple[tuple[str, Reduce], ...]:
    declared = field_types(kind)
    return tuple((field.name, _reduce(field, declared[field.name])) for field in fields(kind))


def _reduce(field: Field[Any], kind: object) -> Reduce:
    if field_kind(field) == "measured":
        blank = default_of(field)
        nothing = _nothing(kind) if blank is MISSING else blank
        return lambda _value, _names: nothing
    return _named if field_kind(field) == "reference" else _decided(kind)


def _named(value: str | tuple[str, ...] | None, names: Mapping[str, str]) -> str | tuple[str, ...] | None:
    if isinstance(value, tuple):
        return tuple([names.get(each, ELSEWHERE) for each in value])
    return None if value is None else names.get(value, ELSEWHERE)


def _decided(kind: Any) -> Reduce:
    """Values of this type, without what is measured deep inside them."""
    if not _hides(kind):
        return lambda value, _names: value
    if (inner := optional(kind)) is not None:
        some = _decided(inner)
        return lambda value, names: None if value is None else some(value, names)
    if (inner := items(kind)) is not None:
        each = _decided(inner)
        return lambda value, names: tuple([each(item, names) for item in value])
    if (inner := values(kind)) is not None:
        one = _decided(inner)
        return lambda value, names: {key: one(item, names) for key, item in value.items()}
    return _reduced


def _hides(kind: Any) -> bool:
    """Whether some field deep inside this type is not decided."""
    inner = optional(kind) or items(kind) or values(kind)
    if inner is not None:
        return _hides(inner)
    if not is_dataclass(kind):
        return False
    declared = field_types(cast(type, kind))
    return any(field_kind(field) != "decided" or _hides(declared[field.name]) for field in fields(kind))


def _nothing(kind: Any) -> object:
    """The emptiest value of a type."""
    if optional(kind) is not None:
        return None
    if items(kind) is not None:
        return ()
    if kind is datetime:
        return EPOCH
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ENUM_DEFAULTS[kind]
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**{name: _nothing(declared) for name, declared in field_types(kind).items()})
    return kind() if values(kind) is None else {}


# ---- Naming a difference ---------------------------------------------------------------------------------------------


def _differences(path: str, left: object, right: object) -> Iterator[tuple[str, str, str]]:
    """Where two values part: the path, and what each side says there."""
    if type(left) is not type(right):
        yield path or "event", _said(left), _said(right)
    elif is_dataclass(left):
        for field in fields(left):
            name = f"{path}.{field.name}" if path else field.name
            yield from _differences(name, getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _differences(f"{path}[{index}]", one, other)
    elif _bits(left) != _bits(right):
        yield path, _said(left), _said(right)


def _bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value


def _said(value: object) -> str:
    return type(value).__name__ if isinstance(value, Event) else repr(value)


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
