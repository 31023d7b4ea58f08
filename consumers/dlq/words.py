"""Dead letters in words and as plain data. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from consumers.dlq.again import Case, counted, stood
from consumers.dlq.letters import Letter
from infra.log import Record

LONGEST_LINE = 110  # characters of an exception in a list
LONGEST_TEXT = 400  # characters of a text, and items of a sequence, that a person is shown of a record
MOST_ITEMS = 8

Plain = dict[str, object]


def listed(found: Sequence[Letter]) -> list[str]:
    """One line per letter."""
    return [_line(each) for each in found] or ["no dead letters"]


def _line(letter: Letter) -> str:
    dead = letter.dead
    head = f"{dead.event_id[:8]}  {_time(dead.recorded_at)}  {letter.state:<12}  {dead.stage:<12}  {letter.place:<22}"
    exception = (dead.exception.splitlines() or [""])[0][:LONGEST_LINE]
    return f"{head}  run {(dead.run_id or '-')[:8]:<8}  attempts {dead.attempts}  {exception}"


def described(letter: Letter) -> Plain:
    """A letter and its replays."""
    replays = [
        {"recorded_at": each.recorded_at.isoformat(), "written": each.written, "exception": each.exception}
        for each in letter.replays
    ]
    return {**_whole(asdict(letter.dead)), "state": letter.state, "replays": replays}


def described_case(case: Case) -> Plain:
    """A letter with its record and where what it owed stands."""
    record = case.record
    return {
        **described(case.letter),
        "record": _whole(asdict(record.event)) if record and record.event else None,
        "record_type": type(record.event).__name__ if record and record.event else None,
        "obstacle": case.unreadable,
        "head": record.head.hex() if record else "",
        "run_ended": case.run_ended,
        "owed": {each: _place(case, each) for each in case.owed},
    }


def plan(case: Case) -> str:
    """What a replay would do."""
    said = f"{case.letter.dead.event_id[:8]} {case.letter.dead.stage} {case.letter.place}: "
    if case.unreadable:
        return f"{said}would fail: {case.unreadable}"
    work = "would work on it again" if case.needs_work else "nothing to do"
    return f"{said}{work}: {counted(len(case.missing))} missing{stood(len(case.standing))}"


def shown(case: Case) -> list[str]:
    """Everything about one letter, for a person."""
    dead = case.letter.dead
    return [
        f"dead letter  {dead.event_id}",
        f"buried       {_time(dead.recorded_at)} by {dead.stage}, attempts {dead.attempts}; {case.letter.state}",
        f"run          {dead.run_id or 'not known'}{', which has ended' if case.run_ended else ''}",
        f"record       {case.letter.place}{_record_said(case)}",
        *_indented("exception    ", dead.exception),
        *(f"owed         {each}  {_place(case, each) or 'missing'}" for each in case.owed),
        *(
            f"replayed     {_time(each.recorded_at)}: {_replay_said(each.written, each.exception)}"
            for each in case.letter.replays
        ),
        *_content(case.record),
    ]


def _record_said(case: Case) -> str:
    record = case.record
    event = record.event if record else None
    if event is not None:
        return f", {type(event).__name__} {event.event_id}"
    named = f"; its header says {record.said_id}" if record and record.said_id else ""
    return f", {case.unreadable}{named}"


def _replay_said(written: int, exception: str) -> str:
    return f"failed again: {exception}" if exception else f"{counted(written)} written"


def _place(case: Case, event_id: str) -> str:
    """Where an owed fact stands; "" where it does not."""
    there = [each for each in case.standing if each.event is not None and each.event.event_id == event_id]
    return f"{type(there[0].event).__name__} at {_at(there[0])}" if there else ""


def _at(record: Record) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"


def _content(record: Record | None) -> list[str]:
    if record is None:
        return []
    if record.event is None:
        return [f"bytes        {record.head.hex(' ')}"]
    return json.dumps(_brief(asdict(record.event)), indent=1, ensure_ascii=False).splitlines()


def _indented(head: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [head + first, *(" " * len(head) + line for line in rest)]


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _whole(fields: Plain) -> Plain:
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: object) -> object:
    """Plain data of what a dataclass holds; bytes as the text they are most of the time."""
    match value:
        case bytes():
            return value.decode(errors="replace")
        case datetime():
            return value.isoformat()
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case tuple() | list():
            return [_plain(each) for each in value]
    return value


def _brief(value: object) -> object:
    """The same, with long texts and long sequences cut."""
    plain = _plain(value)
    match plain:
        case str() if len(plain) > LONGEST_TEXT:
            return f"{plain[:LONGEST_TEXT]}... ({len(plain)} characters)"
        case list() if len(plain) > MOST_ITEMS:
            return [*(_brief(each) for each in plain[:MOST_ITEMS]), f"... ({len(plain)} in all)"]
        case list():
            return [_brief(each) for each in plain]
        case dict():
            return {name: _brief(each) for name, each in plain.items()}
    return plain
