"""The log as tables: a fold whose state is PostgreSQL, for pages, queries and retrieval.

    In a table stands the first fact of each id, in the order of its partition, once all it refers to stands there.

That is a function of the records read, however they were batched, interleaved or redelivered (an id has one key, hence
one partition). Topics are applied parents first, so a child hardly ever waits; where it does (a transaction becomes
visible one partition at a time, a parent was rejected or never came) it is parked with its frame and the name of what
it waits for, and let in by the transaction that brings that. What cannot be read, or be held by the database, is parked
with its cause, and the live projector writes a dead letter, the one thing it adds to the log. Parked facts keep their
claim to their id; nothing behind them waits.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from consumers.rows import Fact, Reference, fact
from infra import failpoints, process
from infra.log import Log, Record
from infra.postgres import Database, Parked, Place, Refused, Tables
from schemas.avro import decode, encode
from schemas.events import DeadLettered, Event, Offset
from schemas.identity import event_id
from schemas.topics import KINDS, TOPICS

# Parents first. Only an update refers to a topic after its own.
TABLES = (
    *("applications", "verifications", "runs", "run_endings", "rounds", "draws", "drafts", "implementations", "suites"),
    *("rewards", "updates", "validations", "dead_letters", "dead_letter_replays"),
)

BATCH = 1000  # records in one transaction, at most
STAND_BY_SECONDS = 0.5  # how long a projector waits for its turn before it looks whether to stop
GATHER_SECONDS = 0.5  # a record read is in the tables this much later, at most


ROLE = "project"

Bury = Callable[[Sequence[DeadLettered]], None]


def _unsaid(_: Sequence[DeadLettered]) -> None:
    """What is read only to have tables complains to nobody."""


class _Moved(Exception):
    """The tables no longer stand where this reader left them: rebuilt, or written beside it. Read from there."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A fact where it stands on the log, and what it says in the tables."""

    place: tuple[str, int, int]
    event: Event
    fact: Fact


def project(log: Log, database: Database, *, stop: Callable[[], bool]) -> None:
    """Keep the tables up with the log until `stop()`. One projector works; others stand by for the day it ends."""
    with database.tables() as tables:
        while not stop() and not tables.take_over(STAND_BY_SECONDS):
            continue
        failpoints.reached("project", "elected")
        while not stop():
            with suppress(_Moved):
                _catch_up(log, tables, log.end_offsets(), stop, bury=log.publish)
                _follow(log, tables, stop)


def catch_up(log: Log, database: Database, *, until: Sequence[Offset] | None = None) -> None:
    """Bring the tables to `until`, else to the end of the log as it is now; a projector may run beside it."""
    end = log.end_offsets() if until is None else until
    with database.tables() as tables:
        while not _caught_up(log, tables, end):
            continue


def rebuild(log: Log, database: Database, *, until: Sequence[Offset] | None = None) -> None:
    """Drop the tables and fold them anew from offset 0. Readers see the old ones until the new ones are complete, and
    without `until` never see less than before: writers wait while the last facts are added and the names change."""
    with database.fresh_tables() as fresh:
        _catch_up(log, fresh, log.end_offsets() if until is None else until, _never)
        with fresh.replacing(database.schema):
            if until is None:
                _catch_up(log, fresh, log.end_offsets(), _never)


def admit(database: Database, record: Record) -> None:
    """Let in a record that was parked for good, now that it can be read or held; Refused where it still cannot be. One
    that is not parked changes nothing."""
    assert record.event is not None
    read = _read(record.topic, record.partition, record.offset, record.event)
    refused: list[DeadLettered] = []
    with database.tables() as tables, tables.transaction():
        if tables.unpark(*read.place):
            _fill(tables, _by_table([read]), refused)
        if refused:
            raise Refused(refused[0].exception)


def fingerprint(database: Database) -> dict[str, str]:
    """SHA-256 of every table's rows in order: equal fingerprints are equal tables."""
    with database.tables() as tables:
        return tables.fingerprint()


def _catch_up(
    log: Log, tables: Tables, until: Sequence[Offset], stop: Callable[[], bool], bury: Bury = _unsaid
) -> None:
    reached = tables.offsets()
    for topic in TOPICS:
        for records in _batches(log.replay(topic.kinds, start=_offsets(reached), until=until)):
            if stop():
                return
            reached = apply(tables, records, reached, bury)


def _caught_up(log: Log, tables: Tables, until: Sequence[Offset]) -> bool:
    try:
        _catch_up(log, tables, until, _never)
    except _Moved:
        return False
    return True


def _follow(log: Log, tables: Tables, stop: Callable[[], bool]) -> None:
    reached = tables.offsets()
    for records in _gathered(log.follow(KINDS, start=_offsets(reached), stop=stop), clock=time.monotonic):
        reached = apply(tables, records, reached, log.publish)


def _gathered(batches: Iterable[Sequence[Record]], clock: Callable[[], float]) -> Iterator[Sequence[Record]]:
    """Fewer, larger batches: until the log is silent, enough has come, or the oldest has waited long enough."""
    waiting: list[Record] = []
    since = 0.0
    for batch in batches:
        since = since if waiting else clock()
        waiting += batch
        if waiting and (not batch or len(waiting) >= BATCH or clock() - since >= GATHER_SECONDS):
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, BATCH)):
        yield batch


def _offsets(reached: Mapping[Place, int]) -> list[Offset]:
    return [Offset(topic=topic, partition=partition, offset=offset) for (topic, partition), offset in reached.items()]


def _never() -> bool:
    return False


# ---- The fold -------------------------------------------------------------------------------------------------------


def apply(
    tables: Tables, records: Sequence[Record], reached: Mapping[Place, int], bury: Bury = _unsaid
) -> dict[Place, int]:
    """Fold these records in, in one transaction with the offsets after them; returns where reading goes on. Records
    before `reached` are left out: they were folded before. Dead letters go out before the transaction ends, so that
    none is missing, and one that is written again has its id."""
    with tables.transaction():
        if tables.offsets() != reached:
            raise _Moved
        failpoints.reached("project", "sql_begun", records)
        fresh = [record for record in records if record.offset >= reached.get((record.topic, record.partition), 0)]
        tables.park([_unreadable(record) for record in fresh if record.event is None])
        arriving = _by_table(
            _read(each.topic, each.partition, each.offset, each.event) for each in fresh if each.event is not None
        )
        letters = [_unreadable_letter(record) for record in fresh if record.event is None]
        _fill(tables, arriving, letters)
        if letters:
            bury(letters)
        failpoints.reached("project", "rows_written")
        passed = _after(fresh)
        tables.advance(passed)
        failpoints.reached("project", "offsets_written", passed)
    failpoints.reached("project", "sql_committed", passed)
    return {**reached, **passed}


def _fill(tables: Tables, arriving: dict[str, list[_Read]], letters: list[DeadLettered]) -> None:
    """The facts into their tables, parents first, with all that was parked until they came."""
    for table in TABLES:
        for later, reads in _by_table(_store(tables, table, arriving[table], letters)).items():
            arriving[later] += reads


def _store(tables: Tables, table: str, reads: list[_Read], letters: list[DeadLettered]) -> list[_Read]:
    """The facts of one table, each in its place or parked. Returns those that were parked until these came."""
    if not reads:
        return []
    first = _first_of_each_id(tables, table, reads)
    missing = _missing(tables, first)
    tables.park([_waiting(each, missing[each.fact.id]) for each in first if each.fact.id in missing])
    stored = _insert(tables, [each for each in first if each.fact.id not in missing], letters)
    released = tables.release(table, stored)
    return [_read(topic, partition, offset, decode(frame)) for topic, partition, offset, frame in released]


def _first_of_each_id(tables: Tables, table: str, reads: list[_Read]) -> list[_Read]:
    """In the order of the log, and only ids that nothing in the tables or parked bears yet."""
    ids = [each.fact.id for each in reads]
    taken = tables.present(table, ids) | tables.claimed(table, ids)
    first: dict[str, _Read] = {}
    for each in sorted(reads, key=lambda read: read.place):
        if each.fact.id not in taken:
            first.setdefault(each.fact.id, each)
    return list(first.values())


def _missing(tables: Tables, reads: list[_Read]) -> dict[str, Reference]:
    """The facts that refer to a row that is not there, by id; of several such rows the last."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for table, row_id in chain.from_iterable(each.fact.parents for each in reads):
        wanted[table].add(row_id)
    there = {table: tables.present(table, ids) for table, ids in wanted.items()}
    missing = ((each.fact.id, parent) for each in reads for parent in each.fact.parents)
    return {fact_id: (table, row_id) for fact_id, (table, row_id) in missing if row_id not in there[table]}


def _insert(tables: Tables, reads: list[_Read], letters: list[DeadLettered]) -> list[str]:
    """The ids of the facts whose rows went in. One that the database refuses is found by halving, and parked."""
    try:
        tables.insert([row for each in reads for row in each.fact.rows])
        return [each.fact.id for each in reads]
    except Refused as refusal:
        if len(reads) == 1:
            tables.park([_refused(reads[0], str(refusal))])
            letters.append(_refused_letter(reads[0], str(refusal)))
            return []
    half = len(reads) // 2
    return _insert(tables, reads[:half], letters) + _insert(tables, reads[half:], letters)


# ---- Records --------------------------------------------------------------------------------------------------------


def _read(topic: str, partition: int, offset: int, event: Event) -> _Read:
    return _Read((topic, partition, offset), event, fact(event))


def _by_table(reads: Iterable[_Read]) -> dict[str, list[_Read]]:
    arriving: dict[str, list[_Read]] = defaultdict(list)
    for each in reads:
        arriving[each.fact.table].append(each)
    return arriving


def _after(records: Sequence[Record]) -> dict[Place, int]:
    reached: dict[Place, int] = {}
    for record in records:
        place = record.topic, record.partition
        reached[place] = max(reached.get(place, 0), record.offset + 1)
    return reached


def _unreadable(record: Record) -> Parked:
    return Parked(
        topic=record.topic, partition=record.partition, offset=record.offset, cause=f"unreadable: {record.error}"
    )


def _unreadable_letter(record: Record) -> DeadLettered:
    return _letter((record.topic, record.partition, record.offset), None, record.said_id, record.error)


def _refused_letter(read: _Read, why: str) -> DeadLettered:
    return _letter(read.place, read.event.run_id, read.event.event_id, why)


def _letter(place: tuple[str, int, int], run_id: str | None, cause_id: str, exception: str) -> DeadLettered:
    topic, partition, offset = place
    return DeadLettered(
        event_id=event_id(run_id, f"{topic}/{partition}/{offset}", f"dead_letter/{ROLE}"),
        recorded_at=process.clock(),
        run_id=run_id,
        caused_by=(cause_id,) if cause_id else (),
        topic=topic,
        partition=partition,
        offset=offset,
        stage=ROLE,
        exception=exception,
        attempts=1,
    )


def _refused(read: _Read, why: str) -> Parked:
    topic, partition, offset = read.place
    return Parked(
        topic=topic,
        partition=partition,
        offset=offset,
        cause=f"refused: {why}",
        table=read.fact.table,
        fact_id=read.fact.id,
    )


def _waiting(read: _Read, missing: Reference) -> Parked:
    topic, partition, offset = read.place
    table, row_id = missing
    return Parked(
        topic=topic,
        partition=partition,
        offset=offset,
        cause=f"waits for {row_id} in {table}",
        table=read.fact.table,
        fact_id=read.fact.id,
        missing=missing,
        frame=encode(read.event),
    )
