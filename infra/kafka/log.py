"""The log: the doors above it, each over a reader, a writer or a worker of this folder."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

from infra import process
from infra.kafka.answers import Answers
from infra.kafka.cluster import LAST, PATIENCE_SECONDS, Cluster, Place, by_place, logger
from infra.kafka.reader import Reader
from infra.kafka.references import References
from infra.kafka.transactions import Transactions, TransactionWriter
from infra.kafka.worker import Worker
from infra.ledger import Ledger, framed
from infra.log import Job, Record, Writer
from infra.lost import stand_ins
from infra.problems import BadInput, ServiceUnavailable
from infra.slots import held_slot
from schemas.events import DeadLettered, Event, Offset, RunEnded, RunStarted
from schemas.topics import TOPICS, broker_name, topic_of


class KafkaLog:
    """A Log on a Kafka cluster. Topics are created when they are missing; another partition count is refused.

    Workers of one home share its slots; workers of another home need a namespace or slot numbers of their own.
    """

    def __init__(
        self,
        bootstrap: str,
        namespace: str,
        partitions: int,
        home: Path,
        *,
        slot: int | None = None,
        reference_seconds: float = 8.0,
        clock: Callable[[], datetime] = process.clock,
    ) -> None:
        self._cluster = Cluster(bootstrap, namespace, partitions)
        self._home, self._slot_number = home, slot
        self._reference_seconds = reference_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._references: dict[type[Event], References] = {}
        self._answers: dict[type[Event], Answers] = {}
        self._closed = threading.Event()
        self._cluster.prepare_topics()

    def publish(self, events: Iterable[Event]) -> None:
        """Write events, return when all are acknowledged. One over 8 MiB is BadInput, before any is sent."""
        facts = [framed(event) for event in events]
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:  # noqa: ARG001 - the shape it is called in
            if error is not None:
                failures.append(error)

        with self._lock:
            self._producer = self._producer or Producer(self._cluster.producing(), logger=logger)
            self._cluster.send(self._producer, facts, delivered)
            self._producer.flush()
            if failures:
                self._producer = None
                raise ServiceUnavailable(
                    f"{len(failures)} of {len(facts)} events were not acknowledged: {failures[0].str()}",
                    "publish them again when Kafka answers: ids make it harmless",
                )

    @contextmanager
    def writer(self, name: str) -> Iterator[Writer]:
        """A transactional writer. Opening it fences its predecessor and aborts what that left open."""
        yield TransactionWriter(self._cluster, name)

    def replay(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
    ) -> Iterator[Record]:
        """Every record of these kinds from `start` to `until`, else to the end as it is at this call."""
        begin, ends = self._bounds(kinds, start)
        ends |= {place: offset for place, offset in by_place(until or ()).items() if place in ends}
        ranges = {place: (begin.get(place, 0), end) for place, end in ends.items()}
        return self._read_ranges(kinds, {place: each for place, each in ranges.items() if each[0] < each[1]})

    def _read_ranges(self, kinds: Collection[type[Event]], ranges: Mapping[Place, tuple[int, int]]) -> Iterator[Record]:
        if not ranges:
            return
        ends = {place: end for place, (_, end) in ranges.items()}
        missing = set(ends)
        reader = Reader(self._cluster, kinds, {place: begin for place, (begin, _) in ranges.items()})
        try:
            while missing:
                for place, position, record in reader.read(PATIENCE_SECONDS):
                    if record is not None and record.offset < ends[place]:
                        yield record
                    if position >= ends[place] and place in missing:
                        missing.remove(place)
                        reader.leave(place)
                reader.refuse_silence({place: ends[place] for place in missing})
        finally:
            reader.close()

    def follow(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), stop: Callable[[], bool]
    ) -> Iterator[Sequence[Record]]:
        """As replay, but ends only at `stop()`."""
        begin, ends = self._bounds(kinds, start)
        reader = Reader(self._cluster, kinds, {place: begin.get(place, 0) for place in ends})
        try:
            while not stop():
                yield reader.records(PATIENCE_SECONDS)
                reader.begin_again_if_deaf()
        finally:
            reader.close()

    def end_offsets(self) -> tuple[Offset, ...]:
        """Where the log ends now."""
        ends = self._cluster.offsets([topic.entity for topic in TOPICS], LAST)
        return tuple(Offset(topic=t, partition=p, offset=offset) for (t, p), offset in sorted(ends.items()))

    def _bounds(
        self, kinds: Collection[type[Event]], start: Sequence[Offset]
    ) -> tuple[dict[Place, int], dict[Place, int]]:
        """Where to begin, where it ends now. A beginning beyond the end is of another log."""
        begin, ends = by_place(start), self._ends(kinds)
        for place in begin.keys() & ends.keys():
            if begin[place] > ends[place]:
                raise BadInput(
                    f"{broker_name(self._cluster.namespace, place[0])}/{place[1]} ends at {ends[place]} "
                    f"and is to be read from {begin[place]}",
                    "is this the same cluster? where the topic was made anew, `iccm rebuild` refolds the tables; "
                    "an open run from before cannot go on",
                )
        return begin, ends

    def _ends(self, kinds: Collection[type[Event]]) -> dict[Place, int]:
        return self._cluster.offsets({topic_of(kind) for kind in kinds}, LAST)

    def refer(self, kind: type[Event]) -> References:
        """Reference facts of one type, by the key of their topic, read in the background."""
        with self._lock:
            if kind not in self._references:
                seconds, closed = self._reference_seconds, self._closed.is_set
                self._references[kind] = References(self._cluster, kind, seconds, closed)
            return self._references[kind]

    def answers(self, kind: type[Event]) -> Answers:
        """Paid answers of one type, by their work keys; their headers are read in the background."""
        with self._lock:
            if kind not in self._answers:
                self._answers[kind] = Answers(self._cluster, kind, self._closed.is_set)
            return self._answers[kind]

    def work(self, job: Job, *, stop: Callable[[], bool]) -> None:
        """Answer every fact of `job.reads` until `stop()`."""
        namespace = self._cluster.namespace
        with held_slot(self._home, namespace, job.role, self._slot_number) as number:
            slot = f"{namespace}.{job.role}.{number}"
            transactions = Transactions(self._cluster, slot, job.role)  # first: ends what was left open
            runs = Reader(self._cluster, (RunEnded,), self._ends((RunEnded,)))
            try:
                worker = Worker(self._cluster, job, slot, transactions, self._ledger(job), runs)
                worker.run(stop)
            finally:
                runs.close()

    def _ledger(self, job: Job) -> Ledger:
        """A worker's knowledge at its start: ended runs, dead letters, and what it already wrote for the open ones."""
        ledger = Ledger(job, self._clock, partial(stand_ins, self, self._clock))
        open_runs: dict[str | None, Sequence[Offset]] = {}
        for record in self.replay((RunStarted, RunEnded, DeadLettered)):
            match record.event:
                case RunStarted():
                    open_runs[record.event.run_id] = record.event.offsets
                case RunEnded():
                    open_runs.pop(record.event.run_id, None)
                    ledger.see(record.event)
                case DeadLettered():
                    ledger.see(record.event)
        if open_runs:
            for record in self.replay(job.writes, start=earliest(open_runs.values())):
                if record.event is not None:
                    ledger.see(record.event)
        return ledger

    def close(self) -> None:
        """Stop background readers. What was published is already acknowledged."""
        self._closed.set()
        for references in self._references.values():
            references.join()
        for answers in self._answers.values():
            answers.join()


def earliest(starts: Iterable[Sequence[Offset]]) -> tuple[Offset, ...]:
    """The smallest offset of each place that all of them name: where none names one, its beginning."""
    all_starts = [by_place(start) for start in starts]
    named = set.intersection(*(set(start) for start in all_starts))
    return tuple(Offset(topic=t, partition=p, offset=min(s[t, p] for s in all_starts)) for t, p in sorted(named))
