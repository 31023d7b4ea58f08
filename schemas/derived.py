"""Avro schemas, derived from the dataclasses. The classes are the one declaration; nobody writes a schema by hand.

    str  bytes  int = long  float = double  bool  datetime = timestamp-micros  X | None  tuple[X, ...]  dict[str, X]
    a StrEnum with its default symbol     a frozen dataclass = record, inlined where it is first met

A field's default becomes the schema's default, so that a reader without the field's value knows what it is.
"""

import hashlib
import json
import math
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, Union, cast, get_args, get_origin, get_type_hints

from schemas.events import ENUM_DEFAULTS

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Type: TypeAlias = "str | list[Type] | Record | Enum | Array | Map | Time"


class Slot(TypedDict):
    """One field of a record."""

    name: str
    type: Type
    default: NotRequired[Json]


class Record(TypedDict):
    """A dataclass."""

    type: Literal["record"]
    name: str
    doc: str
    fields: list[Slot]


class Enum(TypedDict):
    """A StrEnum, with the symbol that an older reader takes for one it does not know."""

    type: Literal["enum"]
    name: str
    doc: str
    symbols: list[str]
    default: str


class Array(TypedDict):
    """A tuple[X, ...]."""

    type: Literal["array"]
    items: Type


class Map(TypedDict):
    """A dict[str, X]."""

    type: Literal["map"]
    values: Type


class Time(TypedDict):
    """A datetime."""

    type: Literal["long"]
    logicalType: Literal["timestamp-micros"]


PRIMITIVES: dict[object, str] = {str: "string", bytes: "bytes", int: "long", float: "double", bool: "boolean"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Underivable(TypeError):
    """A dataclass says something that Avro cannot. The message names class, field and remedy."""


def wire_name(kind: type) -> str:
    """The name on the wire: chosen here alone, so a class may move between modules and its old facts stay readable."""
    return f"iccm.{kind.__name__}"


def derive(kind: type) -> Record:
    """The record schema of a dataclass."""
    return _record(kind, set())


def canonical(schema: Type) -> str:
    """The schema as text in which only what matters to readers and writers shows: sorted, without documentation."""
    return json.dumps(_undocumented(cast(Json, schema)), sort_keys=True, separators=(",", ":"))


def fingerprint(schema: Type) -> str:
    """SHA-256 of the canonical schema. Schemas with one fingerprint read and write alike."""
    return hashlib.sha256(canonical(schema).encode()).hexdigest()


def definitions(schema: Type) -> dict[str, Record | Enum]:
    """Every record and enum that a schema defines, by name."""
    if isinstance(schema, list):
        return {name: found for branch in schema for name, found in definitions(branch).items()}
    if isinstance(schema, str) or schema["type"] == "long":
        return {}
    if schema["type"] == "array":
        return definitions(schema["items"])
    if schema["type"] == "map":
        return definitions(schema["values"])
    found: dict[str, Record | Enum] = {schema["name"]: schema}
    if schema["type"] == "record":
        for slot in schema["fields"]:
            found.update(definitions(slot["type"]))
    return found


def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a dataclass, in order."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def field_kind(field: Field[Any]) -> str:
    """Whether a field is decided, measured or a reference (schemas/events.py says what that means)."""
    return str(field.metadata.get("kind", "decided"))


def optional(kind: object) -> Any:
    """X where `kind` is X | None, else None. Other unions are refused: a reader could not tell their branches apart."""
    if get_origin(kind) not in (Union, types.UnionType):
        return None
    branches = [branch for branch in get_args(kind) if branch is not types.NoneType]
    if len(branches) != 1 or len(get_args(kind)) != 2:
        raise Underivable(f"{kind} is a union: only X | None can be written; use a record with optional fields")
    return branches[0]


def items(kind: object) -> Any:
    """X where `kind` is tuple[X, ...], else None."""
    if get_origin(kind) is not tuple:
        return None
    found = get_args(kind)
    if len(found) != 2 or found[1] is not Ellipsis:
        raise Underivable(f"{kind} has a fixed length: use tuple[X, ...] or a record")
    return found[0]


def values(kind: object) -> Any:
    """X where `kind` is dict[str, X], else None."""
    if get_origin(kind) is not dict:
        return None
    key, value = get_args(kind)
    if key is not str:
        raise Underivable(f"{kind} has keys that are no strings: Avro maps have string keys only")
    return value


def _record(kind: type, seen: set[str]) -> Record:
    if not is_dataclass(kind) or not fields(kind) or "__slots__" not in vars(kind):
        raise Underivable(f"{kind.__name__} is no slotted dataclass with fields: declare it as in schemas/events.py")
    seen.add(wire_name(kind))
    declared = field_types(kind)
    slots = [_slot(kind, field, declared[field.name], seen) for field in fields(kind)]
    return {"type": "record", "name": wire_name(kind), "doc": _doc(kind), "fields": slots}


def _slot(kind: type, field: Field[Any], declared: object, seen: set[str]) -> Slot:
    try:
        written, default = _type(declared, seen), default_of(field)
        if default is MISSING:
            return {"name": field.name, "type": written}
        if isinstance(written, list) and default is not None:
            written.reverse()  # a default is a value of the union's first branch
        return {"name": field.name, "type": written, "default": _plain(default)}
    except Underivable as refusal:
        raise Underivable(f"{kind.__name__}.{field.name}: {refusal}") from None


def default_of(field: Field[Any]) -> Any:
    """The value a field takes when nobody gives one, or dataclasses.MISSING."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _type(kind: object, seen: set[str]) -> Type:
    if (primitive := PRIMITIVES.get(kind)) is not None:
        return primitive
    if kind is datetime:
        return {"type": "long", "logicalType": "timestamp-micros"}
    if (inner := optional(kind)) is not None:
        return ["null", _type(inner, seen)]
    if (inner := items(kind)) is not None:
        return {"type": "array", "items": _type(inner, seen)}
    if (inner := values(kind)) is not None:
        return {"type": "map", "values": _type(inner, seen)}
    if not isinstance(kind, type) or not (is_dataclass(kind) or issubclass(kind, StrEnum)):
        raise Underivable(f"{kind} has no Avro type here: use one of those listed in schemas/derived.py")
    if wire_name(kind) in seen:
        return wire_name(kind)
    return _enum(kind, seen) if issubclass(kind, StrEnum) else _record(kind, seen)


def _enum(kind: type[StrEnum], seen: set[str]) -> Enum:
    if kind not in ENUM_DEFAULTS:
        raise Underivable(f"{kind.__name__} has no default symbol: add it to ENUM_DEFAULTS, or it can never grow")
    seen.add(wire_name(kind))
    symbols = [str(symbol) for symbol in kind]
    default = str(ENUM_DEFAULTS[kind])
    return {"type": "enum", "name": wire_name(kind), "doc": _doc(kind), "symbols": symbols, "default": default}


def _plain(value: object) -> Json:
    """A default as JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Underivable(f"the default {value} has no JSON: use None or a finite number")
    if isinstance(value, StrEnum):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    raise Underivable(f"the default {value!r} has no JSON")


def _doc(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split())


def _undocumented(schema: Json) -> Json:
    if isinstance(schema, list):
        return [_undocumented(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    named = "name" in schema  # a default may be a map with a key of its own called doc
    return {
        key: value if key == "default" else _undocumented(value)
        for key, value in schema.items()
        if not (named and key == "doc")
    }
