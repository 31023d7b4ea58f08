"""The history checker: what processes noted of their work, held against the log as it stands committed in the end.

    lost              an input without a fact it is owed, or a fact that was acknowledged and is not there
    duplicated        two ids in one slot; one id with two contents; one id twice where it may stand only once
    aborted but read  a process worked on a record that is not on the committed log
    reordered         a partition was read backwards within one assignment, although nothing had been refused

Pure: it knows nothing of Kafka, nor of the product. Records are told apart by (topic, partition, offset), facts by id;
`digest` stands for all that a fact decides.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Place = tuple[str, int]  # topic, partition

READING = frozenset({"polled", "taken", "sql_begun"})
BEGUN = frozenset({"transaction_begun", "sql_begun"})
COMMITTED = frozenset({"committed", "sql_committed"})


@dataclass(frozen=True, slots=True)
class Read:
    """A process took this record."""

    topic: str
    partition: int
    offset: int
    id: str


@dataclass(frozen=True, slots=True)
class Wrote:
    """A process sent this fact."""

    id: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One process was at one place."""

    place: str
    reads: tuple[Read, ...] = ()
    facts: tuple[Wrote, ...] = ()
    offsets: tuple[tuple[str, int, int | None], ...] = ()
    assignment: int | None = None  # where the process itself counts them; else `joined` begins the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One record of the log, committed."""

    topic: str
    partition: int
    offset: int
    id: str
    digest: str = ""
    kind: str = ""
    slot: str = ""  # what the fact completes; "" where it completes nothing that has but one answer


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken law."""

    law: str
    what: str

    def __str__(self) -> str:
        return f"{self.law}: {self.what}"


def check(
    histories: Mapping[str, Sequence[Entry]],
    log: Sequence[Standing],
    owed: Mapping[str, Collection[str]],
    repeatable: Collection[str] = (),
) -> list[Fault]:
    """Every broken law, none where all is well. `owed`: for each input the ids that must answer it. `repeatable`: kinds
    of fact that may stand twice under one id if both say the same."""
    return [
        *_lost(log, owed),
        *_acknowledged_and_gone(histories, log),
        *_two_answers(log),
        *_repeated(log, repeatable),
        *_aborted_but_read(histories, log),
        *(fault for process, entries in histories.items() for fault in _reordered(process, entries)),
    ]


def entries(lines: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Entries as one process noted them in JSON."""
    return [
        Entry(
            place=line["place"],
            reads=tuple(Read(*each) for each in line.get("reads", ())),
            facts=tuple(Wrote(*each) for each in line.get("facts", ())),
            offsets=tuple((topic, partition, offset) for topic, partition, offset in line.get("offsets", ())),
            assignment=line.get("assignment"),
        )
        for line in lines
    ]


# ---- lost ------------------------------------------------------------------------------------------------------------


def _lost(log: Sequence[Standing], owed: Mapping[str, Collection[str]]) -> Iterator[Fault]:
    there = {each.id for each in log}
    for each in {each.id: each for each in log if each.id in owed}.values():
        missing = sorted(set(owed[each.id]) - there)
        if missing:
            where = f"{each.topic}/{each.partition}@{each.offset}"
            yield Fault("lost", f"{each.kind} {each.id} at {where} is owed {', '.join(missing)}, never committed")


def _acknowledged_and_gone(histories: Mapping[str, Sequence[Entry]], log: Sequence[Standing]) -> Iterator[Fault]:
    there = {each.id for each in log}
    places = {(each.topic, each.partition, each.offset) for each in log}
    for process, lived in histories.items():
        for entry in lived:
            if entry.place == "committed":
                for fact in entry.facts:
                    if fact.id not in there:
                        yield Fault("lost", f"{process} committed {fact.id}, which is not on the log")
            elif entry.place == "acknowledged":
                for place in set(entry.offsets) - places:
                    yield Fault("lost", f"{process} was told that {place} is written; nothing stands there")


# ---- duplicated ------------------------------------------------------------------------------------------------------


def _two_answers(log: Sequence[Standing]) -> Iterator[Fault]:
    answers: dict[str, dict[str, None]] = defaultdict(dict)
    for each in log:
        if each.slot:
            answers[each.slot][each.id] = None
    for slot, ids in answers.items():
        if len(ids) > 1:
            yield Fault("duplicated", f"{slot} has {len(ids)} answers: {', '.join(ids)}")


def _repeated(log: Sequence[Standing], repeatable: Collection[str]) -> Iterator[Fault]:
    first: dict[str, Standing] = {}
    for each in log:
        before = first.setdefault(each.id, each)
        if before.digest != each.digest:
            yield Fault(
                "duplicated", f"{each.kind} {each.id} stands twice and says {before.digest}, then {each.digest}"
            )
        elif before is not each and each.kind not in repeatable:
            yield Fault("duplicated", f"{each.kind} {each.id} stands twice, at {before.offset} and {each.offset}")


# ---- aborted but read ------------------------------------------------------------------------------------------------


def _aborted_but_read(histories: Mapping[str, Sequence[Entry]], log: Sequence[Standing]) -> Iterator[Fault]:
    standing = {(each.topic, each.partition, each.offset): each.id for each in log}
    for process, lived in histories.items():
        for read in {read for entry in lived for read in entry.reads}:
            found = standing.get((read.topic, read.partition, read.offset))
            if found != read.id:
                where = f"{read.topic}/{read.partition}@{read.offset}"
                yield Fault("aborted but read", f"{process} took {read.id} from {where}, where {found} is committed")


# ---- reordered -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reading:
    """How far one process has come, under one assignment."""

    after: dict[tuple[int | None, str, int], int] = field(default_factory=dict)
    refused: bool = False  # a transaction began and was not committed: reading goes back to where it began


def _reordered(process: str, lived: Sequence[Entry]) -> Iterator[Fault]:
    reading = _Reading()
    for entry in lived:
        if entry.place == "joined" and entry.assignment is None:
            reading = _Reading()
        if entry.place in READING:
            yield from _backwards(process, entry, reading)
        if entry.place in BEGUN:
            reading.refused = True
        elif entry.place in COMMITTED:
            reading.refused = False


def _backwards(process: str, entry: Entry, reading: _Reading) -> Iterator[Fault]:
    if reading.refused:
        reading.after.clear()
    reading.refused = False
    for read in entry.reads:
        place = entry.assignment, read.topic, read.partition
        if read.offset < reading.after.get(place, 0):
            where = f"{read.topic}/{read.partition}@{read.offset}"
            yield Fault("reordered", f"{process} took {where} after @{reading.after[place] - 1}")
        reading.after[place] = read.offset + 1
