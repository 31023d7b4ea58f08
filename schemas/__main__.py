"""`python -m schemas`: the vocabulary and the Avro schemas derived from it.

    export          write the schema of every event that has changed; refuse what would make old facts unreadable
    check           do dataclasses, schemas and ids agree, and does every version read every other? For CI
    show [EVENT]    print the vocabulary as a table, or one event field by field

Exit codes: 0 done, 2 something is to be mended; the message says what.
"""

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from schemas import committed
from schemas.committed import BrokenLock, Version
from schemas.compatibility import judge, judge_history
from schemas.derived import Record, Underivable, default_of, derive, field_kind, field_types, fingerprint
from schemas.events import Event
from schemas.topics import KINDS, TOPICS

EXPORT = "run `python -m schemas export` and commit schemas/avsc"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help") or {"-h", "--help"} & set(rest):
        print((__doc__ or "").strip())
        return 0
    if command not in COMMANDS or len(rest) > (command == "show"):
        return _mend([f"no such command: {' '.join([command, *rest])}; `python -m schemas --help` lists them"])
    try:
        return COMMANDS[command](rest)
    except (BrokenLock, Underivable) as refusal:
        return _mend([str(refusal)])


def _mend(complaints: Sequence[str]) -> int:
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 2 if complaints else 0


# ---- export and check ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """One event's derived schema beside its committed ones, by version."""

    event: str
    derived: Record
    versions: tuple[Version, ...]
    schemas: Mapping[int, Record]

    @property
    def is_new(self) -> bool:
        """Whether the newest committed schema reads or writes otherwise than the derived one."""
        return not self.versions or self.versions[-1].sha256 != fingerprint(self.derived)

    @property
    def is_stale(self) -> bool:
        """Whether the two differ in documentation alone."""
        return not self.is_new and self.schemas[self.versions[-1].number] != self.derived


def export(kinds: Sequence[type[Event]] = KINDS, folder: Path = committed.FOLDER) -> list[str]:
    """Write what has changed and say what was written. Refuses everything when one schema is incompatible."""
    lock = list(committed.read_lock(folder))
    standings = [_standing(kind, lock, folder) for kind in kinds]
    refusals = [refusal for each in standings for refusal in judge(each.event, each.derived, each.schemas)]
    if refusals:
        raise Underivable("\n".join(map(str, refusals)))
    written = []
    for standing in standings:
        if standing.is_new:
            lock.append(committed.following(standing.event, standing.derived, lock))
        if standing.is_new or standing.is_stale:
            newest = committed.versions_of(standing.event, lock)[-1]
            committed.write_schema(newest, standing.derived, folder)
            written.append(f"{newest.file} (id {newest.id})")
    committed.write_lock(lock, folder)
    return written


def complaints(kinds: Sequence[type[Event]] = KINDS, folder: Path = committed.FOLDER) -> Iterator[str]:
    """All that `check` finds wrong."""
    lock = committed.read_lock(folder)
    yield from _lock_complaints(lock, {kind.__name__ for kind in kinds}, folder)
    for kind in kinds:
        standing = _standing(kind, lock, folder)
        refusals = judge(standing.event, standing.derived, standing.schemas)
        yield from map(str, refusals)
        yield from map(str, judge_history(standing.event, standing.schemas))
        if standing.is_new and not refusals:
            yield f"{standing.event} has changed since it was exported: {EXPORT}"
        elif standing.is_stale:
            yield f"{standing.event} is documented anew: {EXPORT}"


def _standing(kind: type[Event], lock: Sequence[Version], folder: Path) -> Standing:
    versions = tuple(committed.versions_of(kind.__name__, lock))
    schemas = {version.number: committed.read_schema(version, folder) for version in versions}
    return Standing(kind.__name__, derive(kind), versions, schemas)


def _lock_complaints(lock: Sequence[Version], events: set[str], folder: Path) -> Iterator[str]:
    if [version.id for version in lock] != list(range(1, len(lock) + 1)):
        yield "ids.lock: ids are not 1, 2, 3 ...: a line was removed; restore it from version control"
    for event in dict.fromkeys(version.event for version in lock):
        if event not in events:
            yield f"{event}: removed, though facts of it may be on the log; declare it again in schemas/events.py"
        numbers = [version.number for version in committed.versions_of(event, lock)]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"ids.lock: the versions of {event} are {numbers}, not 1, 2, 3 ...; restore it from version control"
    known = {version.file for version in lock}
    for path in sorted(folder.glob("*.avsc")):
        if path.name not in known:
            yield f"{path.name}: not in ids.lock; schemas are derived, never added by hand: remove it"


def _export(_arguments: list[str]) -> int:
    for line in export() or ["nothing has changed"]:
        print(line)
    return 0


def _check(_arguments: list[str]) -> int:
    found = list(complaints())
    if not found:
        print(f"{len(KINDS)} events agree with {len(committed.read_lock())} committed schemas")
    return _mend(found)


# ---- show ------------------------------------------------------------------------------------------------------------


def _show(arguments: list[str]) -> int:
    kinds = {kind.__name__: kind for kind in KINDS}
    if not arguments:
        print("\n\n".join([_envelope(), *map(_summary, KINDS)]))
        return 0
    if arguments[0] not in kinds:
        return _mend([f"no event is called {arguments[0]!r}; there are {', '.join(kinds)}"])
    print("\n\n".join([_heading(kinds[arguments[0]]), *map(_table, _records(kinds[arguments[0]]))]))
    return 0


def _envelope() -> str:
    return "\n".join(["envelope of every event", *_field_lists(Event, set())])


def _summary(kind: type[Event]) -> str:
    return "\n".join([_heading(kind), *_field_lists(kind, {field.name for field in fields(Event)})])


def _heading(kind: type[Event]) -> str:
    topic = next(topic for topic in TOPICS if kind in topic.kinds)
    doc = " ".join((kind.__doc__ or "").split())
    return f"{kind.__name__:24}topic {topic.entity}, key {topic.key}\n    {doc}"


def _field_lists(kind: type[Event], hidden: set[str]) -> Iterator[str]:
    for sort in ("decided", "reference", "measured"):
        names = [each.name for each in fields(kind) if field_kind(each) == sort and each.name not in hidden]
        if names:
            lines = textwrap.wrap(", ".join(names), width=100)
            yield from (f"    {label:11}{line}" for label, line in zip_longest((sort,), lines, fillvalue=""))


def _table(kind: type) -> str:
    declared = field_types(kind)
    rows = [(each.name, _spelled(declared[each.name]), field_kind(each), _default(each)) for each in fields(kind)]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(3)]
    lines = ["".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    return "\n".join([kind.__name__, *(f"    {line.rstrip()}" for line in lines)])


def _records(kind: Any) -> list[type]:
    """A record and those it is made of, each once."""
    record = isinstance(kind, type) and is_dataclass(kind)
    found: dict[type, None] = {kind: None} if record else {}
    for each in field_types(kind).values() if record else get_args(kind):
        found |= dict.fromkeys(_records(each))
    return list(found)


def _spelled(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("schemas.events.", "")


def _default(field: Any) -> str:
    default = default_of(field)
    return "" if default is MISSING else f"= {default!r}".replace("\n", " ")


COMMANDS: dict[str, Callable[[list[str]], int]] = {"export": _export, "check": _check, "show": _show}

if __name__ == "__main__":
    sys.exit(main())
