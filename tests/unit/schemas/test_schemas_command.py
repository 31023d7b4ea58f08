"""`python -m schemas`: what it writes, what it refuses and what it tells."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from schemas import committed
from schemas.__main__ import complaints, export, main
from schemas.committed import BrokenLock
from schemas.derived import Underivable, derive
from schemas.events import Event, Specification
from schemas.topics import KINDS


def thing(doc: str = "A thing.", **more: tuple[Any, ...]) -> type[Event]:
    """A class called Thing with one field of its own, and more: name=(type,) or name=(type, default)."""
    body: dict[str, Any] = {"__annotations__": {"size": int}, "__doc__": doc, "__module__": __name__}
    for name, (kind, *default) in more.items():
        body["__annotations__"][name] = kind
        if default:
            body[name] = field(default=default[0])
    return dataclass(frozen=True, slots=True, kw_only=True)(type("Thing", (Event,), body))


def test_what_is_committed_agrees_with_the_dataclasses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0, capsys.readouterr().err
    assert f"{len(KINDS)} events agree" in capsys.readouterr().out


def test_an_event_is_exported_once_and_again_only_when_it_changes(tmp_path: Path) -> None:
    assert export([thing()], tmp_path) == ["Thing.v1.avsc (id 1)"]
    assert export([thing()], tmp_path) == []
    assert export([thing(colour=(str, "red"))], tmp_path) == ["Thing.v2.avsc (id 2)"]
    assert list(complaints([thing(colour=(str, "red"))], tmp_path)) == []
    assert [version.number for version in committed.read_lock(tmp_path)] == [1, 2]
    assert json.loads((tmp_path / "Thing.v1.avsc").read_text())["name"] == "iccm.Thing"


def test_new_documentation_is_written_into_the_newest_version(tmp_path: Path) -> None:
    export([thing()], tmp_path)
    assert [text.split(":")[0] for text in complaints([thing("Said better.")], tmp_path)] == [
        "Thing is documented anew"
    ]
    assert export([thing("Said better.")], tmp_path) == ["Thing.v1.avsc (id 1)"]
    assert list(complaints([thing("Said better.")], tmp_path)) == []


def test_an_incompatible_change_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    export([thing()], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Underivable, match=r"Thing\.colour: added without a default \(against version 1\)"):
        export([thing(colour=(str,))], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (said,) = complaints([thing(colour=(str,))], tmp_path)
    assert "added without a default" in said


def unlisted(folder: Path) -> None:
    (folder / "Other.v1.avsc").write_text("{}")


def without_first_line(folder: Path) -> None:
    committed.write_lock(committed.read_lock(folder)[1:], folder)


@pytest.mark.parametrize(
    ("damage", "kinds", "says"),
    [
        (lambda _folder: None, [thing(colour=(str, "red"), shape=(int, 1))], "run `python -m schemas export`"),
        (lambda _folder: None, [], "Thing: removed, though facts of it may be on the log"),
        (unlisted, [thing(colour=(str, "red"))], "Other.v1.avsc: not in ids.lock"),
        (without_first_line, [thing(colour=(str, "red"))], "ids are not 1, 2, 3"),
        (without_first_line, [thing(colour=(str, "red"))], r"the versions of Thing are [2]"),
    ],
)
def test_check_says_what_is_wrong_and_what_to_do(
    damage: Callable[[Path], None], kinds: list[type[Event]], says: str, tmp_path: Path
) -> None:
    export([thing()], tmp_path)
    export([thing(colour=(str, "red"))], tmp_path)
    damage(tmp_path)
    assert any(says in said for said in complaints(kinds, tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [("Thing.v1.avsc", "{}"), ("Thing.v1.avsc", "not json"), ("ids.lock", "[]"), ("ids.lock", '{"1": {}}')],
)
def test_files_that_contradict_the_lock_are_named(name: str, text: str, tmp_path: Path) -> None:
    export([thing()], tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(BrokenLock, match=rf"{name}.*restore"):
        list(complaints([thing()], tmp_path))


@pytest.mark.parametrize(
    ("kind", "says"),
    [(int | str, "union"), (tuple[int, str], "fixed length"), (dict[int, str], "keys"), (complex, "no Avro type")],
)
def test_a_type_that_avro_cannot_say_is_refused_by_name(kind: Any, says: str) -> None:
    with pytest.raises(Underivable, match=rf"Thing\.odd: .*{says}"):
        derive(thing(odd=(kind,)))
    with pytest.raises(Underivable, match=r"Thing\.odd: the default nan"):
        derive(thing(odd=(float, float("nan"))))


def test_a_schema_carries_docstrings_and_defaults_of_nested_records() -> None:
    schema: Any = derive(Specification)
    slots = {slot["name"]: slot for slot in schema["fields"]}
    assert schema["doc"].startswith("A run, before it starts")
    assert slots["draft_sampling"]["default"]["temperature"] == 1.0
    assert slots["rebuild_sampling"]["type"] == "iccm.Sampling"  # inlined where it is first met
    assert slots["author"]["default"] == "orchestra"


def test_show_prints_the_vocabulary_and_one_event_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 0
    shown = capsys.readouterr().out
    assert all(kind.__name__ in shown for kind in KINDS)
    assert max(map(len, shown.splitlines())) <= 120
    assert main(["show", "SuiteRan"]) == 0
    shown = capsys.readouterr().out
    assert "topic tests, key application_id" in shown
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert "verdict Verdict decided" in lines
    assert "seconds float measured = 0.0" in lines


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["help"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("export", "check", "show"))


@pytest.mark.parametrize("arguments", [["exprot"], ["check", "now"], ["show", "Suite"]])
def test_what_cannot_be_understood_exits_with_2_and_says_what_could(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert arguments[-1] in capsys.readouterr().err
