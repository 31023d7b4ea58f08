"""The log in lists: the twin of infra/kafka/ for tests and for runs in one process. It is gone with the process.

Honest about partitions: readers meet them interleaved by seed, transactions leave gaps in the offsets, and with
`mishaps` a share of the transactions is aborted, or loses its group's place, or ends with nobody knowing how.
"""

import random
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from infra import process
from infra.answers import Headers, Index, Lookup, Paid
from infra.ledger import Framed, Ledger, framed
from infra.log import Answers, Job, OutcomeUnknown, Record, ReferenceMissing, Writer
from infra.lost import stand_ins, unreadable
from infra.problems import Fenced
from schemas.avro import Undecodable, decode, encode
from schemas.events import DeadLettered, Event, Offset, RunEnded
from schemas.topics import KINDS, record_headers, topic_of

PATIENCE_SECONDS = 0.1  # how long a reader waits before it looks whether to stop

ABORTED, REPEATED = "aborted", "repeated"  # how transactions go wrong

Place = tuple[str, int]
Entry = tuple[Place, int, Record | None]  # None: a transaction's marker, or what an aborted one left behind


class MemoryLog:
    """A Log in lists. `mishaps` is the share of transactions that go wrong; one seed, one thread: one history."""

    def __init__(
        self,
        partitions: int = 4,
        seed: int = 0,
        *,
        mishaps: float = 0.0,
        reference_seconds: float = 30.0,
        clock: Callable[[], datetime] = process.clock,
    ) -> None:
        topics = sorted({topic_of(kind) for kind in KINDS})
        self._entries: dict[Place, list[Record | None]] = {(t, p): [] for t in topics for p in range(partitions)}
        self._partitions = partitions
        self._random = random.Random(seed)
        self._mishaps = mishaps
        self._reference_seconds = reference_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._groups: dict[str, dict[Place, int]] = defaultdict(dict)  # role -> next offset per partition
        self._claimed: set[tuple[str, Place]] = set()
        self._writers: Counter[str] = Counter()
        self._references: dict[tuple[type[Event], str], Event] = {}
        self._ended: list[RunEnded] = []
        self._paid: dict[str, Index] = {topic: Index() for topic in topics}

    # ---- writing ---------------------------------------------------------------------------------------------------

    def publish(self, events: Iterable[Event]) -> None:
        """Write events. One over MAX_EVENT_BYTES is BadInput, before any is written."""
        facts = [framed(event) for event in events]
        with self._changed:
            for fact in facts:
                self._append(fact)
            self._changed.notify_all()

    def publish_bytes(self, topic: str, key: str, content: bytes, headers: Headers = ()) -> None:
        """Write bytes as they are, readable or not, under any headers."""
        with self._changed:
            place = self._place(topic, key)
            try:
                event, error = decode(content), ""
            except Undecodable as undecodable:
                event, error = None, str(undecodable)
            self._put(place, event, error, headers, content)
            self._changed.notify_all()

    @contextmanager
    def writer(self, name: str) -> Iterator[Writer]:
        """A transactional writer; opening it fences its predecessor."""
        with self._changed:
            self._writers[name] += 1
            opened = _Writer(self, name, self._writers[name])
        yield opened

    def publish_as(self, name: str, epoch: int, events: Sequence[Event]) -> None:
        """One transaction of the epoch-th writer of this name."""
        facts = [framed(event) for event in events]
        with self._changed:
            if self._writers[name] != epoch:
                raise Fenced(f"another writer has taken the name {name}", "this one must end; the other goes on")
            mishap = self._mishap()
            self._transact(facts, commit=mishap != ABORTED)
        if mishap:
            raise OutcomeUnknown(f"the transaction of {name} timed out")

    def _transact(self, facts: Sequence[Framed], *, commit: bool) -> None:
        """All of these facts or none, and a marker on every partition they touch."""
        for fact in facts:
            if commit:
                self._append(fact)
            else:
                self._entries[self._place_of(fact)].append(None)
        for place in {self._place_of(fact) for fact in facts}:
            self._entries[place].append(None)
        self._changed.notify_all()

    def _mishap(self) -> str:
        """How this transaction goes wrong; "" when it does not."""
        return self._random.choice((ABORTED, REPEATED)) if self._random.random() < self._mishaps else ""

    def _append(self, fact: Framed) -> None:
        self._references.setdefault((type(fact.event), fact.key), fact.event)
        if isinstance(fact.event, RunEnded):
            self._ended.append(fact.event)
        self._put(self._place_of(fact), fact.event, "", record_headers(fact.event, "memory"))

    def _put(self, place: Place, event: Event | None, error: str, headers: Headers, content: bytes = b"") -> None:
        topic, partition = place
        entries = self._entries[place]
        self._paid[topic].learn(headers, partition, len(entries))
        offset = len(entries)
        if event is None:
            entries.append(unreadable(topic, partition, offset, error, headers, content))
        else:
            entries.append(Record(topic=topic, partition=partition, offset=offset, event=event))

    def _place_of(self, fact: Framed) -> Place:
        return self._place(topic_of(type(fact.event)), fact.key)

    def _place(self, topic: str, key: str) -> Place:
        return topic, zlib.crc32(key.encode()) % self._partitions

    # ---- reading ---------------------------------------------------------------------------------------------------

    def replay(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
    ) -> Iterator[Record]:
        """Every record of these kinds from `start` to `until`, else to the end as it is at this call."""
        with self._changed:
            begin = self._positions(kinds, start)
            end = {place: len(self._entries[place]) for place in begin} | _by_place(until or ())
            entries = self._interleaved({place: (begin[place], end[place]) for place in begin})
        return iter(_visible(entries, kinds))

    def follow(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), stop: Callable[[], bool]
    ) -> Iterator[Sequence[Record]]:
        """As replay, but ends only at `stop()`."""
        positions = self._positions(kinds, start)
        while not stop():
            yield _visible(self._next(positions), kinds)

    def end_offsets(self) -> tuple[Offset, ...]:
        """Where the log ends now."""
        with self._changed:
            return tuple(
                Offset(topic=topic, partition=partition, offset=len(entries))
                for (topic, partition), entries in sorted(self._entries.items())
            )

    def refer(self, kind: type[Event]) -> Callable[[str], Event]:
        """Reference facts of one type, by the key of their topic."""

        def look_up(key: str) -> Event:
            with self._changed:
                if not self._changed.wait_for(lambda: (kind, key) in self._references, self._reference_seconds):
                    raise ReferenceMissing(f"no {kind.__name__} of {key} came within {self._reference_seconds:g} s")
                return self._references[kind, key]

        return look_up

    def answers(self, kind: type[Event]) -> Answers:
        """Paid answers of one type, by their work keys."""
        topic = topic_of(kind)

        def fetch(places: Collection[Paid]) -> dict[Paid, bytes]:
            records = {paid: self._entries[topic, paid.partition][paid.offset] for paid in places}
            return {paid: encode(each.event) if each and each.event else b"" for paid, each in records.items()}

        return Lookup(kind, self._paid[topic], fetch)

    def close(self) -> None:
        """Nothing is held open."""

    def _positions(self, kinds: Collection[type[Event]], start: Sequence[Offset]) -> dict[Place, int]:
        given, topics = _by_place(start), {topic_of(kind) for kind in kinds}
        return {place: given.get(place, 0) for place in self._entries if place[0] in topics}

    def _next(self, positions: dict[Place, int]) -> list[Entry]:
        """Some of what is new, or nothing after a while: transactions need not become visible at one moment."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting(positions) > 0, PATIENCE_SECONDS)
            found = self._interleaved({place: (at, len(self._entries[place])) for place, at in positions.items()})
            batch = found[: self._random.randint(1, len(found))] if found else []
        positions.update(_after(batch))
        return batch

    def _waiting(self, positions: Mapping[Place, int]) -> int:
        return sum(len(self._entries[place]) - at for place, at in positions.items())

    def _interleaved(self, ranges: Mapping[Place, tuple[int, int]]) -> list[Entry]:
        """A seeded order of these entries that keeps each partition's own."""
        order = [place for place, (begin, end) in ranges.items() for _ in range(begin, end)]
        self._random.shuffle(order)
        offsets = {place: iter(range(begin, end)) for place, (begin, end) in ranges.items()}
        return [(place, offset := next(offsets[place]), self._entries[place][offset]) for place in order]

    # ---- working ---------------------------------------------------------------------------------------------------

    def work(self, job: Job, *, stop: Callable[[], bool]) -> None:
        """Answer every fact of `job.reads` until `stop()`."""
        ledger = self._ledger(job)
        while not stop():
            if self._gathered(job) and not self._turn(job, ledger):
                ledger = self._ledger(job)

    def settle(self, jobs: Sequence[Job]) -> None:
        """Run these jobs in turns, in one thread and in seeded order, until none of them has anything left to do."""
        ledgers = {job.role: self._ledger(job) for job in jobs}
        while waiting := [job for job in jobs if self._waiting(self._unclaimed(job))]:
            job = self._random.choice(waiting)
            if not self._turn(job, ledgers[job.role]):
                ledgers[job.role] = self._ledger(job)

    def _ledger(self, job: Job) -> Ledger:
        """A worker's knowledge as it is after a start."""
        ledger = Ledger(job, self._clock, partial(stand_ins, self, self._clock))
        for record in self.replay((*job.writes, DeadLettered, RunEnded)):
            if record.event:
                ledger.see(record.event)
        return ledger

    def _gathered(self, job: Job) -> bool:
        """Wait until a batch is full or the topics have been idle; False when nothing came."""
        with self._changed:
            now = self._grown(job, beyond=0, seconds=PATIENCE_SECONDS)
            count = 0
            while count < now < job.batch:
                count, now = now, self._grown(job, beyond=now, seconds=job.gather_seconds)
            return now > 0

    def _grown(self, job: Job, *, beyond: int, seconds: float) -> int:
        """How much waits for this job, once it is more than `beyond` or the time is over."""
        self._changed.wait_for(lambda: self._waiting(self._unclaimed(job)) > beyond, seconds)
        return self._waiting(self._unclaimed(job))

    def _turn(self, job: Job, ledger: Ledger) -> bool:
        """One batch. False when the worker must start afresh: its transaction or its place was lost."""
        with self._claim(job) as batch:
            records = [record for _, _, record in batch if record is not None]
            for part in ledger.slices(records):
                for ended in list(self._ended):
                    ledger.see(ended)
                if not self._commit(job, ledger, part, ledger.answer(part)):
                    return False
            with self._changed:
                self._groups[job.role].update(_after(batch))
        return True

    def _commit(self, job: Job, ledger: Ledger, records: Sequence[Record], facts: Sequence[Framed]) -> bool:
        """One transaction: the facts and the place after their inputs. False after a mishap."""
        with self._changed:
            mishap = self._mishap() if facts else ""
            self._transact(facts, commit=mishap != ABORTED)
            if mishap == REPEATED:
                self._groups[job.role].clear()
            if mishap:
                return False
            ledger.wrote(records, facts)
            self._groups[job.role].update({(each.topic, each.partition): each.offset + 1 for each in records})
        return True

    @contextmanager
    def _claim(self, job: Job) -> Iterator[list[Entry]]:
        """The next batch; no other worker of the role gets its partitions meanwhile."""
        with self._changed:
            ranges = {
                place: (at, min(len(self._entries[place]), at + job.batch))
                for place, at in self._unclaimed(job).items()
            }
            batch = self._interleaved(ranges)[: job.batch]
            claimed = {(job.role, place) for place, _, _ in batch}
            self._claimed |= claimed
        try:
            yield batch
        finally:
            with self._changed:
                self._claimed -= claimed
                self._changed.notify_all()

    def _unclaimed(self, job: Job) -> dict[Place, int]:
        positions = self._positions(job.reads, ())
        group = self._groups[job.role]
        return {place: group.get(place, 0) for place in positions if (job.role, place) not in self._claimed}


class _Writer:
    def __init__(self, log: MemoryLog, name: str, epoch: int) -> None:
        self._log, self._name, self._epoch = log, name, epoch
        self._lost = False

    def publish(self, events: Sequence[Event]) -> None:
        """All of these or none."""
        if self._lost:
            raise OutcomeUnknown(f"{self._name} was used again after an unknown outcome; open a new writer")
        try:
            self._log.publish_as(self._name, self._epoch, events)
        except OutcomeUnknown:
            self._lost = True
            raise


def _visible(entries: Iterable[Entry], kinds: Collection[type[Event]]) -> list[Record]:
    """What a reader of these kinds sees: no markers, nothing aborted, every unreadable record."""
    wanted = tuple(kinds)
    records = (record for _, _, record in entries if record is not None)
    return [record for record in records if record.event is None or isinstance(record.event, wanted)]


def _by_place(offsets: Sequence[Offset]) -> dict[Place, int]:
    return {(each.topic, each.partition): each.offset for each in offsets}


def _after(entries: Iterable[Entry]) -> dict[Place, int]:
    return {place: offset + 1 for place, offset, _ in entries}
