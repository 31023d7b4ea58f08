"""The codec: what goes in comes out, what is not ours is named as such, and the past stays readable."""

import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import committed
from schemas.__main__ import export
from schemas.avro import Codec, Undecodable, Unencodable, decode, encode, kind_of
from schemas.derived import definitions
from schemas.events import (
    ENUM_DEFAULTS,
    DeadLettered,
    Event,
    PolicyUpdated,
    RoundOpened,
    RunStarted,
    SuiteRan,
)
from schemas.topics import KINDS
from tests.unit.schemas.vocabulary import events

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DEAD = DeadLettered(
    event_id="e", recorded_at=NOW, topic="t", partition=1, offset=2, stage="s", exception="x", attempts=1
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_event_comes_back_equal_and_every_float_bit_for_bit(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(events(kind))
    back = decode(encode(event))
    assert type(back) is kind
    assert repr(back) == repr(event)  # repr tells -0.0 from 0.0 and calls nan equal
    assert encode(back) == encode(event)


def test_a_frame_is_a_zero_byte_a_big_endian_id_and_the_avro_of_the_committed_schema() -> None:
    frame = encode(DEAD)
    version = next(version for version in committed.read_lock() if version.event == "DeadLettered")
    assert frame[:5] == b"\x00" + version.id.to_bytes(4, "big")
    assert kind_of(frame) is DeadLettered
    schema: Any = committed.read_schema(version)
    assert fastavro.schemaless_reader(BytesIO(frame[5:]), schema, None) == {**asdict(DEAD), "caused_by": []}


def test_a_time_elsewhere_comes_back_as_the_same_instant_and_a_time_nowhere_is_refused() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert decode(encode(replace(DEAD, recorded_at=elsewhere))) == DEAD
    with pytest.raises(Unencodable, match=r"DeadLettered 'e'.*no time zone"):
        encode(replace(DEAD, recorded_at=datetime(2026, 1, 2)))


@pytest.mark.parametrize(
    "wrong", [{"offset": 2**63}, {"offset": 1.5}, {"offset": None}, {"stage": "\ud800"}, {"stage": 5}, {"run_id": 7}]
)
def test_a_value_that_would_not_come_back_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unencodable, match="DeadLettered 'e' cannot be written"):
        encode(replace(DEAD, **wrong))


# ---- Bytes that are not ours -----------------------------------------------------------------------------------------


def test_a_frame_cut_anywhere_is_undecodable() -> None:
    frame = encode(DEAD)
    for length in range(len(frame)):
        with pytest.raises(Undecodable):
            decode(frame[:length])


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "does not begin a frame"),
        (b"\x01" + encode(DEAD)[1:], "does not begin a frame"),
        (b"\x00\xff\xff\xff\xff" + encode(DEAD)[5:], "schema id 4294967295 is not in the lock"),
        (encode(DEAD) + b"\x00", "ends before"),
        (encode(DEAD).replace(b"\x02e", b"\x02\xff", 1), "utf-8"),
        (b'{"event": "json"}', "does not begin a frame"),
    ],
)
def test_bytes_that_are_not_ours_are_undecodable_and_say_why(frame: bytes, says: str) -> None:
    with pytest.raises(Undecodable, match=says):
        decode(frame)


@pytest.mark.parametrize("length", [b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80\x20", b"\x03"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_length_that_lies_costs_no_memory(kind: type[Event], length: bytes) -> None:
    head = b"\x00" + next(v.id for v in committed.read_lock() if v.event == kind.__name__).to_bytes(4, "big")
    with pytest.raises(Undecodable):
        decode(head)  # the reader is built now, not while memory is counted
    tracemalloc.start()
    for prefix in (b"", b"\x02e", b"\x02e\x00", b"\x02e\x00\x00"):
        with pytest.raises(Undecodable):
            decode(head + prefix + length + b"tail")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@settings(max_examples=300, deadline=None)
@given(number=st.integers(1, len(KINDS)), body=st.binary(max_size=200))
def test_any_bytes_are_an_event_or_undecodable(number: int, body: bytes) -> None:
    with suppress(Undecodable):
        assert isinstance(decode(b"\x00" + number.to_bytes(4, "big") + body), Event)


@settings(max_examples=300, deadline=None)
@given(
    event=st.sampled_from([SuiteRan, RunStarted, PolicyUpdated, RoundOpened]).flatmap(events),
    hits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_bytes_are_an_event_or_undecodable(event: Event, hits: Sequence[tuple[int, int]]) -> None:
    frame = bytearray(encode(event))
    for place, value in hits:
        frame[5 + place % (len(frame) - 5)] = value
    with suppress(Undecodable):
        assert isinstance(decode(bytes(frame)), Event)


# ---- The past --------------------------------------------------------------------------------------------------------


def datum(schema: Any, known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a foreign writer with this schema may write."""
    if isinstance(schema, list):
        return st.one_of([datum(branch, known) for branch in schema])
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind in known:
        return datum(known[kind], known)
    if kind == "record":
        return st.fixed_dictionaries({each["name"]: datum(each["type"], known) for each in schema["fields"]})
    if kind == "array":
        return st.lists(datum(schema["items"], known), max_size=2)
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    numbers = st.integers(0, 10**15)  # as microseconds these are years that a datetime has
    plain = {"null": st.none(), "string": st.text(max_size=5), "bytes": st.binary(max_size=5), "long": numbers}
    return {**plain, "double": st.floats(allow_nan=False), "boolean": st.booleans()}[kind]


@pytest.mark.parametrize("version", committed.read_lock(), ids=lambda version: version.file)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_todays_classes_read_every_version_ever_committed(version: committed.Version, data: st.DataObject) -> None:
    schema: Any = committed.read_schema(version)
    output = BytesIO()
    fastavro.schemaless_writer(output, schema, data.draw(datum(schema, dict(definitions(schema)))))
    read = decode(b"\x00" + version.id.to_bytes(4, "big") + output.getvalue())
    assert type(read).__name__ == version.event


def before() -> dict[str, Any]:
    """A small vocabulary, years ago."""

    class Mood(StrEnum):
        """A mood."""

        CALM = "calm"
        WILD = "wild"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Part:
        """A part."""

        size: int

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Thing(Event):
        """A thing."""

        parts: tuple[Part, ...]
        named: dict[str, Part]
        spare: Part | None
        mood: Mood

    return {"Mood": Mood, "Part": Part, "Thing": Thing}


def after() -> dict[str, Any]:
    """The same, today: other orders, more fields, another symbol."""

    class Mood(StrEnum):
        """A mood."""

        SAD = "sad"
        WILD = "wild"
        CALM = "calm"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Part:
        """A part."""

        colour: bytes = b"\x00\xff"
        size: int

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Thing(Event):
        """A thing, seen again."""

        spare: Part | None
        parts: tuple[Part, ...]
        since: datetime = NOW
        best: Part = Part(colour=b"best", size=3)
        labels: dict[str, Mood] = field(default_factory=dict)
        mood: Mood
        named: dict[str, Part]
        counts: tuple[int, ...] = (1, 2)
        share: float | None = 0.5
        moods: tuple[Mood, ...] = (Mood.SAD,)

    return {"Mood": Mood, "Part": Part, "Thing": Thing}


@pytest.fixture
def ages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Both vocabularies, and a folder in which each was exported in its time."""
    old, new = before(), after()
    for age in (old, new):
        monkeypatch.setitem(ENUM_DEFAULTS, age["Mood"], age["Mood"]("calm"))
        export([age["Thing"]], tmp_path)
    return old, new, tmp_path


def test_an_old_fact_keeps_what_it_said_and_takes_todays_defaults(ages: Any) -> None:
    old, new, folder = ages
    part = old["Part"](size=1)
    envelope = {"event_id": "e", "recorded_at": NOW}
    said = old["Thing"](**envelope, parts=(part, part), named={"a": part}, spare=None, mood=old["Mood"].WILD)
    read: Any = Codec([new["Thing"]], folder).decode(Codec([old["Thing"]], folder).encode(said))
    now = new["Part"](size=1)
    assert read == new["Thing"](**envelope, parts=(now, now), named={"a": now}, spare=None, mood=new["Mood"].WILD)
    assert read.mood is new["Mood"].WILD


def test_a_process_that_was_not_upgraded_reads_todays_facts(ages: Any) -> None:
    old, new, folder = ages
    part = new["Part"](size=1)
    said = new["Thing"](event_id="e", recorded_at=NOW, parts=(), named={}, spare=part, mood=new["Mood"].SAD)
    read: Any = Codec([old["Thing"]], folder).decode(Codec([new["Thing"]], folder).encode(said))
    assert read.spare == old["Part"](size=1)
    assert read.mood is old["Mood"].CALM  # a symbol it never heard of


def test_a_class_whose_schema_was_not_exported_cannot_be_encoded(ages: Any, tmp_path_factory: Any) -> None:
    _, new, _ = ages
    said = new["Thing"](event_id="e", recorded_at=NOW, parts=(), named={}, spare=None, mood=new["Mood"].SAD)
    with pytest.raises(Unencodable, match=r"Thing is not in the lock: run `python -m schemas export`"):
        Codec([new["Thing"]], tmp_path_factory.mktemp("empty")).encode(said)
    with pytest.raises(Unencodable, match="Thing is not in the vocabulary"):
        encode(said)


def test_a_schema_edited_by_hand_is_not_read_with(ages: Any) -> None:
    old, new, folder = ages
    said = old["Thing"](event_id="e", recorded_at=NOW, parts=(), named={}, spare=None, mood=old["Mood"].WILD)
    frame = Codec([old["Thing"]], folder).encode(said)
    path = folder / "Thing.v1.avsc"
    path.write_text(path.read_text().replace('"long"', '"int"'))
    with pytest.raises(committed.BrokenLock, match=r"Thing\.v1\.avsc is not what ids.lock says"):
        Codec([new["Thing"]], folder).decode(frame)
