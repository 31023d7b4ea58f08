"""Events to bytes and back: the Confluent frame (a zero byte, a four-byte schema id, Avro binary).

    decode(encode(event)) == event        floats bit for bit, times as instants in UTC

Bytes of every version ever committed are read with today's classes: what the version did not have takes the field's
default, what today's class no longer knows is left out, an unknown symbol becomes the enum's default. Bytes that are
not ours are Undecodable, whatever they are. How to build a class from Avro's maps, and the maps from a class, is
written out once per class and version as straight-line code.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import fastavro

from schemas import committed
from schemas.committed import Version
from schemas.derived import (
    Enum,
    Record,
    Type,
    definitions,
    derive,
    field_types,
    fingerprint,
    items,
    optional,
    values,
)
from schemas.events import ENUM_DEFAULTS, Event
from schemas.topics import KINDS

MAGIC = b"\x00"
HEAD_BYTES = 5

Build = Callable[[Any], Any]  # between Avro's maps and ours; only generated code has this type
Parsed = dict[str, Any]  # a schema as fastavro prepared it


class Undecodable(ValueError):
    """These bytes are no event of ours. The message says what is wrong with them."""


class Unencodable(ValueError):
    """This event cannot be written. The message names it and what is wrong."""


class Codec:
    """Encodes some event classes, and decodes every version of them that a folder of schemas holds."""

    def __init__(self, kinds: Iterable[type[Event]] = KINDS, folder: Path = committed.FOLDER) -> None:
        self._folder = folder
        self._kinds = {kind.__name__: kind for kind in kinds}
        self._lock = {version.id: version for version in committed.read_lock(folder)}
        self._writers: dict[type[Event], tuple[bytes, Parsed, Build]] = {}
        self._readers: dict[bytes, tuple[Parsed, Build]] = {}

    def encode(self, event: Event) -> bytes:
        """One frame. Refuses values that would not come back equal: naive times, integers over 64 bits, wrong types."""
        head, schema, build = self._writers.get(type(event)) or self._writer(type(event))
        output = BytesIO()
        output.write(head)
        try:
            fastavro.schemaless_writer(output, schema, build(event))
        except (TypeError, ValueError, OverflowError, AttributeError, KeyError) as error:
            raise Unencodable(f"{type(event).__name__} {event.event_id!r} cannot be written: {error}") from error
        return output.getvalue()

    def decode(self, frame: bytes) -> Event:
        """The event in a frame, as today's class."""
        schema, build = self._readers.get(frame[:HEAD_BYTES]) or self._reader(frame)
        body = BytesIO(frame)
        body.seek(HEAD_BYTES)
        try:
            event: Event = build(fastavro.schemaless_reader(body, schema, None))
        except (EOFError, IndexError, KeyError, ValueError, OverflowError, TypeError) as error:
            raise Undecodable(f"{schema['name']} cannot be read from {len(frame)} bytes: {error!r}") from error
        if body.read(1):
            raise Undecodable(f"{schema['name']} ends before its {len(frame)} bytes do")
        return event

    def kind_of(self, frame: bytes) -> type[Event]:
        """Which event a frame holds, without reading its body."""
        return self._kinds[self._version(frame).event]

    def _writer(self, kind: type[Event]) -> tuple[bytes, Parsed, Build]:
        if self._kinds.get(kind.__name__) is not kind:
            raise Unencodable(f"{kind.__name__} is not in the vocabulary: add it to KINDS in schemas/topics.py")
        schema = derive(kind)
        digest = fingerprint(schema)
        found = [each for each in self._lock.values() if each.event == kind.__name__ and each.sha256 == digest]
        if not found:
            raise Unencodable(f"the schema of {kind.__name__} is not in the lock: run `python -m schemas export`")
        writer = MAGIC + found[0].id.to_bytes(4, "big"), _parsed(schema), maker_of_maps(kind)
        self._writers[kind] = writer
        return writer

    def _reader(self, frame: bytes) -> tuple[Parsed, Build]:
        version = self._version(frame)
        schema = committed.read_schema(version, self._folder)
        reader = _parsed(schema), maker_of_events(self._kinds[version.event], schema)
        self._readers[frame[:HEAD_BYTES]] = reader
        return reader

    def _version(self, frame: bytes) -> Version:
        if len(frame) < HEAD_BYTES or frame[:1] != MAGIC:
            raise Undecodable(f"{frame[:HEAD_BYTES]!r} does not begin a frame: a zero byte and a four-byte id do")
        number = int.from_bytes(frame[1:HEAD_BYTES], "big")
        version = self._lock.get(number)
        if version is None or version.event not in self._kinds:
            raise Undecodable(f"schema id {number} is not in the lock: written by another system or a newer version")
        return version


def _parsed(schema: Record) -> Parsed:
    parsed: Parsed = fastavro.parse_schema(cast(Parsed, schema))  # type: ignore[assignment]
    return parsed


# ---- Straight-line code ----------------------------------------------------------------------------------------------


class _Code:
    """Functions written out as text and compiled. A value they mention gets a name in their namespace."""

    def __init__(self, definitions: dict[str, Record | Enum]) -> None:
        self.definitions = definitions
        self._namespace: dict[str, Any] = {}
        self._records: dict[type, str] = {}

    def name(self, value: object) -> str:
        """The name under which the text finds a value."""
        name = f"_{len(self._namespace)}"
        self._namespace[name] = value
        return name

    def record(self, kind: type, lines: Callable[[], Sequence[str]]) -> str:
        """The name of the function for this class, compiled when first asked for: `lines` speak of its argument `d`."""
        if kind not in self._records:
            text = "\n    ".join(["def made(d):", *lines()])
            exec(text, self._namespace)
            self._records[kind] = self.name(self._namespace.pop("made"))
        return self._records[kind]

    def compiled(self, name: str) -> Build:
        """The function with this name."""
        build: Build = self._namespace[name]
        return build

    def defined(self, written: Type) -> Type:
        """The definition that a name stands for; anything else as it is."""
        return self.definitions.get(written, written) if isinstance(written, str) else written


def maker_of_events(kind: type, schema: Record) -> Build:
    """The function from what fastavro reads with `schema` to an instance of `kind`. Slots are set one by one past the
    frozen __init__, which took twice as long."""
    code = _Code(definitions(schema))
    return code.compiled(_made(code, kind, schema))


def _made(code: _Code, kind: type, schema: Record) -> str:
    return code.record(kind, lambda: _made_lines(code, kind, schema))


def _made_lines(code: _Code, kind: type, schema: Record) -> list[str]:
    written = {slot["name"]: slot["type"] for slot in schema["fields"]}
    lines = [f"o = {code.name(object.__new__)}({code.name(kind)})"]
    for field, declared in zip(fields(kind), field_types(kind).values(), strict=True):
        if field.name in written:
            value = _from_avro(code, declared, written[field.name], f"d[{field.name!r}]")
        else:
            value = _absent(code, kind, field)
        lines.append(f"{code.name(getattr(kind, field.name).__set__)}(o, {value})")
    return [*lines, "return o"]


def _absent(code: _Code, kind: type, field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return f"{code.name(field.default_factory)}()"
    if field.default is MISSING:
        raise Undecodable(f"{kind.__name__}.{field.name} was added without a default: give it one")
    return code.name(field.default)


def _from_avro(code: _Code, kind: Any, written: Type, value: str) -> str:
    """The expression for a value of type `kind`, where `value` is the expression for what fastavro read."""
    written = code.defined(written)
    if (inner := optional(kind)) is not None:
        made = _from_avro(code, inner, _not_null(written), value)
        return value if made == value else f"(None if {value} is None else {made})"
    if isinstance(written, dict) and written["type"] == "array":
        made = _from_avro(code, items(kind), written["items"], "i")
        return f"tuple({value})" if made == "i" else f"tuple([{made} for i in {value}])"
    if isinstance(written, dict) and written["type"] == "map":
        made = _from_avro(code, values(kind), written["values"], "v")
        return value if made == "v" else f"{{k: {made} for k, v in {value}.items()}}"
    if isinstance(written, dict) and written["type"] == "enum":
        known = {symbol: kind(symbol) for symbol in kind}
        return f"{code.name({each: known.get(each, ENUM_DEFAULTS[kind]) for each in written['symbols']})}[{value}]"
    if isinstance(written, dict) and written["type"] == "record":
        return f"{_made(code, kind, written)}({value})"
    return value


def _not_null(written: Type) -> Type:
    return next(branch for branch in written if branch != "null") if isinstance(written, list) else written


def maker_of_maps(kind: type) -> Build:
    """The function from an instance of `kind` to what fastavro writes."""
    code = _Code({})
    return code.compiled(_taken(code, kind))


def _taken(code: _Code, kind: type) -> str:
    return code.record(kind, lambda: [f"return {{{', '.join(_taken_items(code, kind))}}}"])


def _taken_items(code: _Code, kind: type) -> list[str]:
    return [f"{name!r}: {_to_avro(code, declared, f'd.{name}')}" for name, declared in field_types(kind).items()]


def _to_avro(code: _Code, kind: Any, value: str) -> str:
    """The expression for what fastavro shall write, where `value` is the expression for ours."""
    if (inner := optional(kind)) is not None:
        made = _to_avro(code, inner, value)
        return value if made == value else f"(None if {value} is None else {made})"
    if (inner := items(kind)) is not None:
        return f"[{_to_avro(code, inner, 'i')} for i in {value}]"
    if (inner := values(kind)) is not None:
        return f"{{k: {_to_avro(code, inner, 'v')} for k, v in {value}.items()}}"
    if kind is int:
        return f"{code.name(operator.index)}({value})"
    if kind is datetime:
        return f"{code.name(_instant)}({value})"
    return f"{_taken(code, kind)}({value})" if isinstance(kind, type) and is_dataclass(kind) else value


def _instant(time: datetime) -> datetime:
    if time.utcoffset() is None:
        raise ValueError(f"{time!r} has no time zone: use datetime.now(UTC)")
    return time


CODEC = Codec()
encode = CODEC.encode
decode = CODEC.decode
kind_of = CODEC.kind_of
