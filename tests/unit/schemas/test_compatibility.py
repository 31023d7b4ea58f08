"""Which edits may follow what is on the log, and by which rule the others may not."""

import io
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import fastavro
import fastavro.utils
import pytest

from schemas.compatibility import (
    ADDED,
    CHANGED,
    DEFAULT_CHANGED,
    MISFIT,
    NARROWED,
    NO_DEFAULT_SYMBOL,
    REMOVED,
    RENAMED,
    SYMBOL_ADDED,
    SYMBOL_REMOVED,
    WIDENED,
    judge,
    judge_history,
)
from schemas.derived import derive
from schemas.topics import KINDS

Edit = Callable[[Any], object]  # changes a schema in place

PART: Any = {
    "type": "record",
    "name": "iccm.Part",
    "doc": "",
    "fields": [{"name": "size", "type": "double"}, {"name": "tag", "type": "string", "default": ""}],
}
MOOD: Any = {"type": "enum", "name": "iccm.Mood", "doc": "", "symbols": ["calm", "wild"], "default": "calm"}
THING: Any = {
    "type": "record",
    "name": "iccm.Thing",
    "doc": "A thing.",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "count", "type": "long", "default": 3},
        {"name": "share", "type": "double"},
        {"name": "flag", "type": "boolean"},
        {"name": "body", "type": "bytes"},
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "mood", "type": MOOD},
        {"name": "parts", "type": {"type": "array", "items": PART}},
        {"name": "spare", "type": ["null", "iccm.Part"], "default": None},
        {"name": "tags", "type": {"type": "map", "values": "string"}, "default": {}},
        {"name": "moods", "type": {"type": "array", "items": "iccm.Mood"}, "default": []},
    ],
}


def at(schema: Any, name: str) -> Any:
    return next(each for each in schema["fields"] if each["name"] == name)


def retyped(name: str, kind: Any) -> Edit:
    return lambda schema: at(schema, name).update(type=kind)


def added(name: str, kind: Any, **default: Any) -> Edit:
    return lambda schema: schema["fields"].append({"name": name, "type": kind, **default})


def removed(name: str) -> Edit:
    return lambda schema: schema["fields"].remove(at(schema, name))


def renamed(name: str, to: str) -> Edit:
    return lambda schema: at(schema, name).update(name=to)


def mood(**changed: Any) -> Edit:
    return lambda schema: at(schema, "mood")["type"].update(changed)


def part(edit: Edit) -> Edit:
    return lambda schema: edit(at(schema, "parts")["type"]["items"])


def reordered(schema: Any) -> None:
    schema["fields"].insert(0, schema["fields"].pop(1))


TIME = {"type": "long", "logicalType": "timestamp-micros"}
ALLOWED: dict[str, Edit] = {
    "nothing": lambda _schema: None,
    "documentation": lambda schema: schema.update(doc="Another thing."),
    "a field with a default": added("new", "string", default=""),
    "an optional field": added("new", ["null", "long"], default=None),
    "an optional field with a value": added("new", ["double", "null"], default=0.5),
    "a tuple": added("new", {"type": "array", "items": "string"}, default=["a"]),
    "a map": added("new", {"type": "map", "values": "long"}, default={"a": 1}),
    "a record with all its fields": added("new", "iccm.Part", default={"size": 1, "tag": "x"}),
    "a record that fills in the rest": added("new", "iccm.Part", default={"size": 1.5}),
    "an enum": added("new", "iccm.Mood", default="wild"),
    "a time": added("new", TIME, default=0),
    "a nested field with a default": part(added("new", "bytes", default="")),
    "fields in another order": reordered,
    "branches in another order": lambda schema: at(schema, "note").update(type=["string", "null"], default="x"),
    "an enum symbol where the old has a default": mood(symbols=["calm", "wild", "sad"]),
    "enum symbols in another order": mood(symbols=["wild", "calm"]),
    "another default symbol": mood(default="wild"),
    "another default that nothing relies on": lambda schema: at(schema, "count").update(default=4),
    "a default for an old field": lambda schema: at(schema, "id").update(default="x"),
    "a default taken from an old field": lambda schema: at(schema, "count").pop("default"),
}
REFUSED: dict[str, tuple[Edit, str, str]] = {
    "a field without a default": (added("new", "string"), "new", ADDED),
    "an optional field without a default": (added("new", ["null", "string"]), "new", ADDED),
    "a nested field without a default": (part(added("new", "long")), "Part.new", ADDED),
    "a field is gone": (removed("id"), "id", REMOVED),
    "a field with a default is gone": (removed("count"), "count", REMOVED),
    "a nested field is gone": (part(removed("tag")), "Part.tag", REMOVED),
    "a field has another name": (renamed("count", "number"), "count", REMOVED),
    "the event has another name": (lambda schema: schema.update(name="iccm.Object"), "", RENAMED),
    "a record has another name": (
        lambda schema: (part(lambda it: it.update(name="iccm.Piece"))(schema), removed("spare")(schema)),
        "parts[]",
        RENAMED,
    ),
    "an enum has another name": (
        lambda schema: (mood(name="iccm.Temper")(schema), removed("moods")(schema)),
        "mood",
        RENAMED,
    ),
    "long to double": (retyped("count", "double"), "count", WIDENED),
    "long to int": (retyped("count", "int"), "count", NARROWED),
    "double to float": (retyped("share", "float"), "share", NARROWED),
    "double to long": (retyped("share", "long"), "share", NARROWED),
    "a nested double to long": (part(retyped("size", "long")), "Part.size", NARROWED),
    "string to long": (retyped("id", "long"), "id", CHANGED),
    "string to bytes": (retyped("id", "bytes"), "id", CHANGED),
    "bytes to string": (retyped("body", "string"), "body", CHANGED),
    "bool to long": (retyped("flag", "long"), "flag", CHANGED),
    "time to long": (retyped("when", "long"), "when", CHANGED),
    "long to time": (retyped("count", TIME), "count", CHANGED),
    "string to enum": (retyped("id", "iccm.Mood"), "id", CHANGED),
    "tuple to one": (retyped("moods", "iccm.Mood"), "moods", CHANGED),
    "tuple to map": (retyped("moods", {"type": "map", "values": "iccm.Mood"}), "moods", CHANGED),
    "the values of a map": (retyped("tags", {"type": "map", "values": "long"}), "tags{}", CHANGED),
    "the items of a tuple": (retyped("moods", {"type": "array", "items": "string"}), "moods[]", CHANGED),
    "required to optional": (retyped("id", ["null", "string"]), "id", WIDENED),
    "optional to required": (retyped("note", "string"), "note", NARROWED),
    "another branch": (retyped("note", ["null", "string", "long"]), "note", WIDENED),
    "other branches": (retyped("note", ["null", "long"]), "note", CHANGED),
    "a symbol is gone": (mood(symbols=["calm"]), "mood", SYMBOL_REMOVED),
    "the default symbol is unknown": (mood(default="sad"), "Mood", NO_DEFAULT_SYMBOL),
    "a default of another type": (added("new", "long", default="3"), "new", MISFIT),
    "a fraction for a whole number": (added("new", "long", default=0.5), "new", MISFIT),
    "none for a required field": (added("new", "string", default=None), "new", MISFIT),
    "the second branch's default": (added("new", ["null", "long"], default=3), "new", MISFIT),
    "a truth for a number": (added("new", "double", default=True), "new", MISFIT),
    "an unknown symbol as default": (added("new", "iccm.Mood", default="sad"), "new", MISFIT),
    "a tuple's default with a wrong item": (
        added("new", {"type": "array", "items": "long"}, default=["a"]),
        "new",
        MISFIT,
    ),
    "a map's default with a wrong value": (
        added("new", {"type": "map", "values": "long"}, default={"a": None}),
        "new",
        MISFIT,
    ),
    "a record's default that lacks a field": (added("new", "iccm.Part", default={"tag": ""}), "new", MISFIT),
    "a record's default that is none": (added("new", "iccm.Part", default=[]), "new", MISFIT),
}


def edited(edit: Edit, schema: Any = THING) -> Any:
    new = deepcopy(schema)
    edit(new)
    return new


@pytest.mark.parametrize("label", ALLOWED)
def test_this_may_change(label: str) -> None:
    assert judge("Thing", edited(ALLOWED[label]), {1: THING}) == []


@pytest.mark.parametrize("label", REFUSED)
def test_this_may_not_change_and_the_refusal_names_field_and_rule(label: str) -> None:
    edit, field, rule = REFUSED[label]
    refusals = judge("Thing", edited(edit), {1: THING})
    assert (field, rule) in {(refusal.field, refusal.rule) for refusal in refusals}
    assert all(f"Thing.{refusal.field}: {refusal.rule}" in str(refusal) for refusal in refusals)


@pytest.mark.parametrize("label", ALLOWED)
def test_what_may_change_is_read_both_ways_by_avro_itself(label: str) -> None:
    old, new = (fastavro.parse_schema(schema) for schema in (THING, edited(ALLOWED[label])))
    for written, read in ((old, new), (new, old)):
        for record in fastavro.utils.generate_many(written, 5):
            frame = io.BytesIO()
            fastavro.schemaless_writer(frame, written, record)
            assert fastavro.schemaless_reader(io.BytesIO(frame.getvalue()), written, read) is not None


def test_the_corpus_is_large() -> None:
    assert len(ALLOWED) + len(REFUSED) >= 60


def test_an_enum_that_had_no_default_cannot_grow() -> None:
    old = edited(lambda schema: at(schema, "mood")["type"].pop("default"))
    (refusal,) = judge("Thing", edited(mood(symbols=["calm", "wild", "sad"])), {7: old})
    assert (refusal.field, refusal.rule) == ("mood", SYMBOL_ADDED)
    assert str(refusal).endswith("sad (against version 7)")


def test_a_default_never_changes_once_the_facts_of_some_version_rely_on_it() -> None:
    second = edited(added("new", "long", default=1))
    third = edited(lambda schema: at(schema, "new").update(default=2), second)
    (refusal,) = judge("Thing", third, {1: THING, 2: second})
    assert (refusal.version, refusal.field, refusal.rule) == (2, "new", DEFAULT_CHANGED)
    assert judge("Thing", third, {2: second}) == []


def test_every_version_counts_not_only_the_newest() -> None:
    second = edited(added("new", "long", default=1))
    third = edited(lambda schema: at(schema, "new").pop("default"), second)
    assert judge("Thing", third, {2: second}) == []
    (refusal,) = judge("Thing", third, {1: THING, 2: second})
    assert (refusal.version, refusal.field, refusal.rule) == (1, "new", ADDED)
    assert judge_history("Thing", {1: THING, 2: second, 3: third}) == [refusal]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_follows_itself(kind: type) -> None:
    assert judge(kind.__name__, derive(kind), {1: derive(kind)}) == []
