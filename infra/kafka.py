"""The log on Apache Kafka, the one door to confluent_kafka. infra/memory.py is the same in lists.

A worker's place and its outputs are written in one transaction, so each input is answered once whatever dies. Readers
see committed facts only, and read to an end by end-of-partition, never by lag: transactions leave markers behind.
Topics are called by their entity above this door and `<namespace>.<entity>.v1` below it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, TopicMetadata  # type: ignore[attr-defined]

from infra import process
from infra.failpoints import reached
from infra.ledger import Framed, Ledger, framed
from infra.log import Job, OutcomeUnknown, Record, ReferenceMissing, Writer
from infra.problems import BadInput, Fenced, ServiceUnavailable
from infra.slots import held_slot
from schemas.avro import Undecodable, decode, kind_of
from schemas.events import DeadLettered, Event, Offset, RunEnded, RunStarted
from schemas.topics import CONFIG, MAX_MESSAGE_BYTES, TOPICS, broker_name, cloud_event_headers, key_of, topic_of

CONNECT_SECONDS = 10.0
DELIVERY_SECONDS = 30
TRANSACTION_SECONDS = 10  # an abandoned transaction blocks readers at most this long
GIVE_UP_SECONDS = TRANSACTION_SECONDS + 2
SESSION_SECONDS = 6  # a dead worker's partitions go to others after this long
FENCED_AGAIN_SECONDS = 60.0
PATIENCE_SECONDS = 0.1  # how long a reader waits before it looks whether to stop
KEEP_POLLING_SECONDS = 0.5  # a step may take hours: the group hears from us this often
SILENCE_SECONDS = 120.0  # a replay that hears nothing this long has lost its broker
BATCH = 2_000  # messages taken from the client at once, at most
HEAD_BYTES = 5  # of a frame: they name the kind of event

SUPERSEDED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
UNSETTLED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,  # two workers found a group at once
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
PASSING = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._TIMED_OUT,
    }
)

Config = dict[str, str | int | float | bool]

TRANSACTIONAL: Config = {
    "transaction.timeout.ms": 1000 * TRANSACTION_SECONDS,
    "message.timeout.ms": 1000 * TRANSACTION_SECONDS,
    "retry.backoff.ms": 5,  # the broker is still writing the markers of the transaction before
    "retry.backoff.max.ms": 100,
}
MEMBER: Config = {
    "session.timeout.ms": 1000 * SESSION_SECONDS,
    "heartbeat.interval.ms": 1000,
    "auto.offset.reset": "error",
}

FIRST, LAST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]

T = TypeVar("T")

Delivered = Callable[[KafkaError | None, Message], None]

Place = tuple[str, int]  # entity, partition

logger = logging.getLogger("iccm.kafka")
logger.addHandler(logging.NullHandler())


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
        reference_seconds: float = 30.0,
        clock: Callable[[], datetime] = process.clock,
    ) -> None:
        self._cluster = _Cluster(bootstrap, namespace, partitions)
        self._home, self._slot_number = home, slot
        self._reference_seconds = reference_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._references: dict[type[Event], _References] = {}
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
        yield _Writer(self._cluster, name)

    def replay(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
    ) -> Iterator[Record]:
        """Every record of these kinds from `start` to `until`, else to the end as it is at this call."""
        begin, ends = _by_place(start), self._ends(kinds)
        ends |= {place: offset for place, offset in _by_place(until or ()).items() if place in ends}
        ranges = {place: (begin.get(place, 0), end) for place, end in ends.items()}
        return self._read_ranges(kinds, {place: each for place, each in ranges.items() if each[0] < each[1]})

    def _read_ranges(self, kinds: Collection[type[Event]], ranges: Mapping[Place, tuple[int, int]]) -> Iterator[Record]:
        if not ranges:
            return
        ends = {place: end for place, (_, end) in ranges.items()}
        missing = set(ends)
        reader = _Reader(self._cluster, kinds, {place: begin for place, (begin, _) in ranges.items()})
        try:
            while missing:
                for place, position, record in reader.read(PATIENCE_SECONDS):
                    if record is not None and record.offset < ends[place]:
                        yield record
                    if position >= ends[place] and place in missing:
                        missing.remove(place)
                        reader.leave(place)
                reader.refuse_silence(missing)
        finally:
            reader.close()

    def follow(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), stop: Callable[[], bool]
    ) -> Iterator[Sequence[Record]]:
        """As replay, but ends only at `stop()`."""
        begin, ends = _by_place(start), self._ends(kinds)
        for place, end in ends.items():
            if begin.get(place, 0) > end:
                raise BadInput(
                    f"{place} ends at {end} and is to be read from {begin[place]}", "is this the same cluster?"
                )
        reader = _Reader(self._cluster, kinds, {place: begin.get(place, 0) for place in ends})
        try:
            while not stop():
                yield reader.records(PATIENCE_SECONDS)
        finally:
            reader.close()

    def end_offsets(self) -> tuple[Offset, ...]:
        """Where the log ends now."""
        ends = self._cluster.offsets([topic.entity for topic in TOPICS], LAST)
        return tuple(Offset(topic=t, partition=p, offset=offset) for (t, p), offset in sorted(ends.items()))

    def _ends(self, kinds: Collection[type[Event]]) -> dict[Place, int]:
        return self._cluster.offsets({topic_of(kind) for kind in kinds}, LAST)

    def refer(self, kind: type[Event]) -> "_References":
        """Reference facts of one type, by the key of their topic, read in the background."""
        with self._lock:
            if kind not in self._references:
                self._references[kind] = _References(self, kind, self._reference_seconds, self._closed.is_set)
            return self._references[kind]

    def work(self, job: Job, *, stop: Callable[[], bool]) -> None:
        """Answer every fact of `job.reads` until `stop()`."""
        namespace = self._cluster.namespace
        with held_slot(self._home, namespace, job.role, self._slot_number) as number:
            slot = f"{namespace}.{job.role}.{number}"
            transactions = _Transactions(self._cluster, slot, job.role)  # first: ends what was left open
            runs = _Reader(self._cluster, (RunEnded,), self._ends((RunEnded,)))
            try:
                worker = _Worker(self._cluster, job, slot, transactions, self._ledger(job), runs)
                worker.run(stop)
            finally:
                runs.close()

    def _ledger(self, job: Job) -> Ledger:
        """A worker's knowledge at its start: ended runs, dead letters, and what it already wrote for the open ones."""
        ledger = Ledger(job, self._clock)
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
            for record in self.replay(job.writes, start=_earliest(open_runs.values())):
                if record.event is not None:
                    ledger.see(record.event)
        return ledger

    def close(self) -> None:
        """Stop background readers. What was published is already acknowledged."""
        self._closed.set()
        for references in self._references.values():
            references.join()


class _Cluster:
    """The cluster as every client of ours meets it: addresses, names, settings, the shape of messages."""

    def __init__(self, bootstrap: str, namespace: str, partitions: int) -> None:
        self.bootstrap, self.namespace, self.partitions = bootstrap, namespace, partitions
        self.topics = {topic.entity: broker_name(namespace, topic.entity) for topic in TOPICS}
        self.entities = {name: entity for entity, name in self.topics.items()}
        self._admin = AdminClient(self._common(), logger=logger)

    def partition(self, place: Place, offset: int = OFFSET_INVALID) -> TopicPartition:
        """A place as the client names it."""
        return TopicPartition(self.topics[place[0]], place[1], offset)

    def send(self, producer: Producer, facts: Iterable[Framed], delivered: Delivered | None = None) -> None:
        """Hand facts to a producer, waiting where its queue is full."""
        for fact in facts:
            headers: list[tuple[str, str | bytes | None]] = [*cloud_event_headers(fact.event, self.namespace)]
            topic = self.topics[topic_of(type(fact.event))]
            produce = partial(producer.produce, topic, fact.content, fact.key, headers=headers)
            while not _accepted(produce, delivered):
                producer.poll(PATIENCE_SECONDS)

    def offsets(self, entities: Iterable[str], spec: OffsetSpec) -> dict[Place, int]:
        """The first or last offset of every partition of these topics, open transactions included."""
        asked = {self.partition((entity, p)): spec for entity in entities for p in range(self.partitions)}

        def answer() -> dict[Place, int]:
            answers = self._admin.list_offsets(asked, request_timeout=CONNECT_SECONDS)
            return {(self.entities[each.topic], each.partition): answers[each].result().offset for each in answers}

        return self._settled(answer)

    def found_group(self, group: str, entities: Collection[str]) -> None:
        """Give a group a place on partitions where it has none: their beginning. Facts answered before cost nothing."""
        places = [self.partition((entity, p)) for entity in entities for p in range(self.partitions)]
        consumer = Consumer(self.consuming() | {"group.id": group}, logger=logger)

        def found() -> None:
            committed = consumer.committed(places, CONNECT_SECONDS)
            if new := [(self.entities[each.topic], each.partition) for each in committed if each.offset < 0]:
                first = self.offsets({entity for entity, _ in new}, FIRST)
                consumer.commit(offsets=[self.partition(place, first[place]) for place in new], asynchronous=False)

        try:
            self._settled(found)
        finally:
            consumer.close()

    def _common(self) -> Config:
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": "iccm",
            "message.max.bytes": MAX_MESSAGE_BYTES,
        }

    def producing(self) -> Config:
        """What every producer of ours is set to."""
        return self._common() | {
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",  # where Java and aiokafka put the same key
            "linger.ms": 5,  # flush and commit do not wait for it
            "compression.type": "lz4",
            "message.timeout.ms": 1000 * DELIVERY_SECONDS,
        }

    def consuming(self) -> Config:
        """What every consumer of ours is set to."""
        return self._common() | {
            "group.id": f"{self.namespace}.readers",  # never joined, nothing is committed to it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 20,
        }

    def prepare_topics(self) -> None:
        """Create the topics that are missing; refuse those with another partition count."""
        with self.reaching():
            metadata = self._admin.list_topics(timeout=CONNECT_SECONDS)
            missing = [name for name in self.topics.values() if name not in metadata.topics]
            if missing:
                self._create(missing, replicas=min(3, len(metadata.brokers)))
        self._check_partitions()

    def _create(self, names: Sequence[str], replicas: int) -> None:
        wanted = [NewTopic(name, self.partitions, replicas, config=CONFIG) for name in names]
        for future in self._admin.create_topics(wanted, operation_timeout=CONNECT_SECONDS).values():
            try:
                future.result()
            except KafkaException as failure:
                if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    def _check_partitions(self) -> None:
        topics = self._settled(lambda: self._admin.list_topics(timeout=CONNECT_SECONDS).topics, self._complete)
        for name in self.entities:
            if (found := len(topics[name].partitions)) != self.partitions:
                raise BadInput(
                    f"topic {name} has {found} partitions, the settings say {self.partitions}",
                    f"set ICCM_PARTITIONS={found}: a partition count never changes",
                )
        self.offsets(self.topics, LAST)  # answers once every partition has a leader

    def _complete(self, topics: Mapping[str, TopicMetadata]) -> bool:
        return all(name in topics and topics[name].partitions for name in self.entities)

    def _settled(self, ask: Callable[[], T], enough: Callable[[T], bool] = lambda _: True) -> T:
        """The first answer that is enough. New topics take a moment to have leaders everywhere."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            with self.reaching():
                try:
                    if enough(answer := ask()):
                        return answer
                except KafkaException as failure:
                    if failure.args[0].code() not in UNSETTLED or time.monotonic() > deadline:
                        raise
                    self._admin.list_topics(timeout=CONNECT_SECONDS)  # who leads is asked again only when told to
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"the topics of {self.namespace} do not become ready on {self.bootstrap}")
            time.sleep(0.02)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """The client's errors in here mean that the cluster cannot be reached."""
        try:
            yield
        except KafkaException as failure:
            raise ServiceUnavailable(
                f"Kafka at {self.bootstrap} does not answer: {failure.args[0].str()}", "is it up, is the address right?"
            ) from failure


class _Refused(Exception):
    """The transaction is aborted; the producer is as good as new."""


class _Superseded(Fenced):
    """A newer producer has the name, or the broker aborted what took this one too long."""


class _Transactions:
    """A transactional producer under a fixed name. After anything but _Refused it must be thrown away."""

    def __init__(self, cluster: "_Cluster", name: str, role: str) -> None:
        self._cluster, self._name, self._role = cluster, name, role
        config = cluster.producing() | {"transactional.id": name} | TRANSACTIONAL
        self._producer = Producer(config, logger=logger)
        with cluster.reaching():
            self._producer.init_transactions(3 * TRANSACTION_SECONDS)
        reached(role, "opened", name)

    def commit(
        self, facts: Sequence[Framed], offsets: Sequence[TopicPartition] = (), group: object | None = None
    ) -> None:
        """One transaction. Raises _Refused, OutcomeUnknown or _Superseded.

        librdkafka 2.16 waits for ever, whatever its timeouts, when the group's coordinator was struck off its list of
        brokers meanwhile (a restart of the only broker does that), so the waiting is done elsewhere and given up here.
        """
        ended: Future[None] = Future()
        action = partial(self._commit, facts, offsets, group)
        threading.Thread(target=_run, args=(action, ended), name=f"{self._name} commit", daemon=True).start()
        try:
            ended.result(GIVE_UP_SECONDS)
        except TimeoutError as silence:
            raise OutcomeUnknown(f"the transaction of {self._name} never ended") from silence

    def _commit(self, facts: Sequence[Framed], offsets: Sequence[TopicPartition], group: object | None) -> None:
        with self._told_apart():
            self._producer.begin_transaction()
            reached(self._role, "transaction_begun", facts)
            self._cluster.send(self._producer, facts)
            reached(self._role, "produced", facts)
            if offsets:
                self._producer.send_offsets_to_transaction(list(offsets), group, TRANSACTION_SECONDS)
                reached(self._role, "offsets_sent", offsets)
            self._producer.commit_transaction(TRANSACTION_SECONDS)
            reached(self._role, "committed", facts)

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() in SUPERSEDED:
                raise _Superseded(f"another writer has taken the name {self._name}", "end this one") from failure
            logger.warning("transaction of %s: %s", self._name, error)
            if not error.txn_requires_abort():
                raise OutcomeUnknown(f"the transaction of {self._name}: {error.str()}") from failure
            self._abort(error)

    def _abort(self, error: KafkaError) -> None:
        try:
            self._producer.abort_transaction(TRANSACTION_SECONDS)
        except KafkaException as failure:
            raise OutcomeUnknown(f"the transaction of {self._name} could not be aborted: {failure}") from failure
        raise _Refused(error.str())


class _Writer:
    def __init__(self, cluster: "_Cluster", name: str) -> None:
        self._cluster = cluster
        self._transactions = _Transactions(cluster, name, role=name.rpartition(".")[2])

    def publish(self, events: Sequence[Event]) -> None:
        """All of these or none."""
        facts = [framed(event) for event in events]
        try:
            self._transactions.commit(facts)
        except _Refused as refused:
            raise OutcomeUnknown(f"the transaction was refused: {refused}") from refused


class _Reader:
    """Reads partitions from given offsets, in no group."""

    def __init__(self, cluster: "_Cluster", kinds: Collection[type[Event]], starts: Mapping[Place, int]) -> None:
        self._cluster = cluster
        self._kinds = tuple(kinds)
        self._wanted: dict[bytes, bool] = {}
        self._silent_since: float | None = None
        config = cluster.consuming() | {"enable.partition.eof": True, "auto.offset.reset": "earliest"}
        self._consumer = Consumer(config, logger=logger)
        self._consumer.assign([cluster.partition(place, offset) for place, offset in starts.items()])

    def read(self, seconds: float) -> Iterator[tuple[Place, int, Record | None]]:
        """What came within `seconds`: a partition, its next offset, and the record if it is of our kinds.

        One at a time: a replay keeps no more events alive than its caller does, which spares the garbage collector.
        """
        messages = _take(self._consumer, seconds, BATCH)
        self._silent_since = None if messages else self._silent_since or time.monotonic()
        for message in messages:
            error = message.error()
            if error is None:
                place, offset = _where(message, self._cluster.entities)
                content = message.value() or b""
                wanted = self._wanted.get(content[:HEAD_BYTES]) or self._wants(content)
                yield place, offset + 1, _record(place, offset, content) if wanted else None
            elif error.code() == KafkaError._PARTITION_EOF:
                yield *_where(message, self._cluster.entities), None
            else:
                _check(error)

    def records(self, seconds: float) -> list[Record]:
        """The records of our kinds that came within `seconds`."""
        return [record for _, _, record in self.read(seconds) if record is not None]

    def leave(self, place: Place) -> None:
        """Fetch no more of a partition."""
        self._consumer.pause([self._cluster.partition(place)])

    def refuse_silence(self, missing: Collection[Place]) -> None:
        """A broker that says nothing for minutes is gone."""
        if self._silent_since is not None and time.monotonic() - self._silent_since > SILENCE_SECONDS:
            raise ServiceUnavailable(
                f"Kafka at {self._cluster.bootstrap} has been silent for {SILENCE_SECONDS:g} s before the end of "
                f"{', '.join(f'{topic}/{partition}' for topic, partition in sorted(missing))}",
                "is the broker up, or did another program leave a transaction open?",
            )

    def _wants(self, content: bytes) -> bool:
        """Whether the frame's head names one of our kinds. What has no readable head is everybody's."""
        head = content[:HEAD_BYTES]
        if head not in self._wanted:
            try:
                self._wanted[head] = issubclass(kind_of(content), self._kinds)
            except Undecodable:
                return True
        return self._wanted[head]

    def close(self) -> None:
        """Let go of the partitions."""
        self._consumer.close()


class _References:
    """The first fact with each key, followed in a thread of its own."""

    def __init__(self, log: KafkaLog, kind: type[Event], seconds: float, closed: Callable[[], bool]) -> None:
        self._log, self._kind, self._seconds, self._closed = log, kind, seconds, closed
        self._known: dict[str, Event] = {}
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name=f"references to {kind.__name__}", daemon=True)
        self._thread.start()

    def __call__(self, key: str) -> Event:
        """The first fact with this key. Waits a bounded time for one not yet seen, then raises ReferenceMissing."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._known or self._failure or self._closed(), self._seconds)
            if self._failure:
                raise self._failure
            if key not in self._known:
                raise ReferenceMissing(f"no {self._kind.__name__} of {key} came within {self._seconds:g} s")
            return self._known[key]

    def join(self) -> None:
        """Wait for the thread, which ends once the log is closed."""
        self._thread.join()

    def _follow(self) -> None:
        try:
            for records in self._log.follow((self._kind,), stop=self._closed):
                self._learn([record.event for record in records if record.event is not None])
        except Exception as failure:  # the thread ends; whoever looks something up is told why
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _learn(self, events: Sequence[Event]) -> None:
        with self._changed:
            for event in events:
                self._known.setdefault(key_of(event), event)
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records, and the group's generation when they were polled: what it says later may cover a lost partition."""

    records: Sequence[Record]
    group: object
    assignment: int


class _Worker:
    """One slot of one role: polls a batch, answers it slice by slice, commits each slice with its place."""

    def __init__(
        self, cluster: "_Cluster", job: Job, slot: str, transactions: _Transactions, ledger: Ledger, runs: _Reader
    ) -> None:
        self._cluster, self._job, self._slot = cluster, job, slot
        self._transactions, self._ledger, self._runs = transactions, ledger, runs
        self._assignment = 0  # counts assignments: a batch polled under an older one is void
        self._paused = False
        self._fenced_at = -FENCED_AGAIN_SECONDS
        self._left: list[Message] = []  # what was polled while a step ran
        self._consumer = self._joined()

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until `stop()`. The slot stays a member of its group until the session ends, so a restart is quick."""
        try:
            while not stop():
                try:
                    self._batch(self._gather(), stop)
                except Fenced as fenced:
                    self._rejoin(fenced)
        finally:
            self._consumer.close()

    def _rejoin(self, fenced: Fenced) -> None:
        """Join again after a fence, but not twice in a short time: then another process has the slot.

        A client whose answer from the coordinator was lost in a broker's restart asks again and so fences itself.
        """
        now = time.monotonic()
        if now - self._fenced_at < FENCED_AGAIN_SECONDS:
            raise fenced
        self._fenced_at = now
        logger.warning("%s was fenced and joins again", self._slot)
        self._consumer.close()
        self._assignment += 1
        self._left, self._paused = [], False
        self._consumer = self._joined()

    def _batch(self, batch: _Batch, stop: Callable[[], bool]) -> None:
        for part in self._ledger.slices(batch.records):
            if stop() or not self._answer(part, batch):
                return

    def _answer(self, part: Sequence[Record], batch: _Batch) -> bool:
        """One slice: the effect, then one transaction. False when the rest of the batch is void."""
        self._see_ended_runs()
        with self._polling():
            facts = self._ledger.answer(part)
        reached(self._job.role, "effect_done", facts)
        if batch.assignment != self._assignment:
            return False
        if not self._commit(facts, part, batch):
            self._rewind(batch.records)
            return False
        self._ledger.wrote(part, facts)
        return True

    def _commit(self, facts: Sequence[Framed], part: Sequence[Record], batch: _Batch) -> bool:
        after = {(each.topic, each.partition): each.offset + 1 for each in part}
        offsets = [self._cluster.partition(place, offset) for place, offset in after.items()]
        try:
            self._transactions.commit(facts, offsets, batch.group)
        except _Refused:
            return False
        except (OutcomeUnknown, _Superseded):  # whose the slot is, the group says at the next poll
            self._transactions = _Transactions(self._cluster, self._slot, self._job.role)
            return False
        return True

    def _see_ended_runs(self) -> None:
        for record in self._runs.records(0):
            if record.event is not None:
                self._ledger.see(record.event)

    def _gather(self) -> _Batch:
        """Poll until a batch of due inputs is full or the topics have been idle."""
        self._resume()
        records: list[Record] = []
        due, assignment, seconds = 0, self._assignment, PATIENCE_SECONDS
        while due < self._job.batch and len(records) < BATCH:
            polled = self._poll(seconds, self._job.batch - due)
            if assignment != self._assignment:
                records, due, assignment = [], 0, self._assignment
                self._resume()
            elif not polled:
                break
            else:
                records += polled
                due += sum(self._ledger.is_due(record) for record in polled)
                seconds = self._job.gather_seconds
        if records:
            reached(self._job.role, "polled", records)
        return _Batch(records, self._consumer.consumer_group_metadata(), assignment)

    def _poll(self, seconds: float, count: int) -> list[Record]:
        messages, self._left = [*self._left, *_take(self._consumer, 0 if self._left else seconds, count)], []
        readable = [message for message in messages if not _check(message.error())]
        return [_record(*_where(message, self._cluster.entities), message.value() or b"") for message in readable]

    # ---- the group -------------------------------------------------------------------------------------------------

    def _joined(self) -> Consumer:
        group, entities = f"{self._cluster.namespace}.{self._job.role}", {topic_of(kind) for kind in self._job.reads}
        self._cluster.found_group(group, entities)
        config = self._cluster.consuming() | {"group.id": group, "group.instance.id": self._slot} | MEMBER
        consumer = Consumer(config, logger=logger)
        topics = sorted(self._cluster.topics[entity] for entity in entities)
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        return consumer

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """A new assignment begins paused: nothing of it may be mistaken for a batch of the old one."""
        self._assignment += 1
        consumer.assign(partitions)
        consumer.pause(partitions)
        self._paused = True
        reached(self._job.role, "joined", partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:  # noqa: ARG002
        self._assignment += 1
        self._left = []

    def _rewind(self, records: Sequence[Record]) -> None:
        """Read these partitions again from what is committed. Answers already paid for are kept by the ledger."""
        places = {(each.topic, each.partition) for each in records}
        with self._cluster.reaching():
            committed = self._consumer.committed([self._cluster.partition(each) for each in places], CONNECT_SECONDS)
            for partition in committed:
                self._consumer.seek(partition)

    def _resume(self) -> None:
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    @contextmanager
    def _polling(self) -> Iterator[None]:
        """Keep the group's coordinator content while a slow step runs."""
        done = threading.Event()
        keeper = threading.Thread(target=self._keep_polling, args=(done,), name=f"{self._slot} keeper", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def _keep_polling(self, done: threading.Event) -> None:
        while not done.wait(KEEP_POLLING_SECONDS):
            if not self._paused:
                self._consumer.pause(self._consumer.assignment())
                self._paused = True
            polled = _take(self._consumer, 0, 1)
            self._left = [*self._left, *polled]


def _run(action: Callable[[], None], ended: "Future[None]") -> None:
    try:
        action()
        ended.set_result(None)
    except BaseException as failure:  # whoever waits raises it
        ended.set_exception(failure)


def _accepted(produce: Callable[..., None], delivered: Delivered | None) -> bool:
    try:
        produce(on_delivery=delivered)
    except BufferError:
        return False
    return True


def _take(consumer: Consumer, seconds: float, count: int) -> list[Message]:
    """The first message as soon as there is one, with all that came along."""
    first = consumer.poll(seconds)
    return [] if first is None else [first, *consumer.consume(count - 1, 0)]


def _where(message: Message, entities: Mapping[str, str]) -> tuple[Place, int]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return (entities[topic], partition), offset


def _record(place: Place, offset: int, content: bytes) -> Record:
    topic, partition = place
    try:
        return Record(topic=topic, partition=partition, offset=offset, event=decode(content))
    except Undecodable as undecodable:
        return Record(topic=topic, partition=partition, offset=offset, event=None, error=str(undecodable))


def _check(error: KafkaError | None) -> bool:
    """True for an error the client gets over by itself; what it cannot is raised."""
    if error is None or error.code() in PASSING:
        return error is not None
    if error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL):  # nothing else is fatal to a consumer
        raise Fenced(f"another process has this slot: {error.str()}", "this one ends; the other goes on")
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise BadInput(f"the place of this reader is gone from the log: {error.str()}", "was the topic made anew?")
    raise ServiceUnavailable(f"Kafka: {error.str()}")


def _by_place(offsets: Iterable[Offset]) -> dict[Place, int]:
    return {(each.topic, each.partition): each.offset for each in offsets}


def _earliest(starts: Iterable[Sequence[Offset]]) -> tuple[Offset, ...]:
    """The smallest offset of each place that all of them name: where none names one, its beginning."""
    all_starts = [_by_place(start) for start in starts]
    named = set.intersection(*(set(start) for start in all_starts))
    return tuple(Offset(topic=t, partition=p, offset=min(s[t, p] for s in all_starts)) for t, p in sorted(named))
