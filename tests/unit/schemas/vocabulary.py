"""Any event at all: strategies derived from the dataclasses, as the schemas are."""

from dataclasses import is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from hypothesis import strategies as st

from schemas.derived import field_types, items, optional, values
from schemas.events import Event

PRIMITIVES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    bool: st.booleans(),
    datetime: st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(fold=0)),
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type."""
    if kind in PRIMITIVES:
        return PRIMITIVES[kind]
    if (inner := optional(kind)) is not None:
        return st.none() | anything(inner)
    if (inner := items(kind)) is not None:
        return st.lists(anything(inner), max_size=3).map(tuple)
    if (inner := values(kind)) is not None:
        return st.dictionaries(st.text(max_size=5), anything(inner), max_size=3)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return st.sampled_from(list(kind))
    assert isinstance(kind, type)
    assert is_dataclass(kind)
    return st.builds(kind, **{name: anything(declared) for name, declared in field_types(kind).items()})


def events(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Events of a class."""
    return anything(kind)
