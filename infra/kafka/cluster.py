"""The cluster as every client of ours meets it: addresses, names, settings, the shape of messages and of errors."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, TopicMetadata  # type: ignore[attr-defined]

from infra.ledger import Framed
from infra.log import Record
from infra.lost import unreadable
from infra.problems import BadInput, Fenced, ServiceUnavailable
from schemas.avro import Undecodable, decode
from schemas.events import Offset
from schemas.topics import CONFIG, MAX_MESSAGE_BYTES, TOPICS, broker_name, record_headers, topic_of

CONNECT_SECONDS = 10.0
DELIVERY_SECONDS = 30
TRANSACTION_SECONDS = 10
PATIENCE_SECONDS = 0.1  # how long a reader waits before it looks whether to stop
BATCH = 2_000  # messages taken from the client at once, at most
UNSETTLED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,  # two workers found a group at once
        KafkaError.NOT_COORDINATOR,  # a young broker is still making the topics that groups stand in
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._NOENT,  # the client knows no leader yet, or no more
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

FIRST, LAST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]

T = TypeVar("T")

Delivered = Callable[[KafkaError | None, Message], None]

Place = tuple[str, int]  # entity, partition

logger = logging.getLogger("iccm.kafka")
logger.addHandler(logging.NullHandler())


class Cluster:
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
            headers: list[tuple[str, str | bytes | None]] = [*record_headers(fact.event, self.namespace)]
            topic = self.topics[topic_of(type(fact.event))]
            produce = partial(producer.produce, topic, fact.content, fact.key, headers=headers)
            while not accepted(produce, delivered):
                producer.poll(PATIENCE_SECONDS)

    def offsets(
        self, entities: Iterable[str], spec: OffsetSpec, level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[Place, int]:
        """The first or last offset of every partition of these topics; open transactions included unless `level` says
        that only what is committed counts."""
        asked = {self.partition((entity, p)): spec for entity in entities for p in range(self.partitions)}

        def answer() -> dict[Place, int]:
            answers = self._admin.list_offsets(asked, isolation_level=level, request_timeout=CONNECT_SECONDS)
            return {(self.entities[each.topic], each.partition): answers[each].result().offset for each in answers}

        return self._settled(answer)

    def refuse_blocked(self, ends: Mapping[Place, int]) -> None:
        """Refuse to wait for ends that do not come, where it can be said why."""
        entities = {entity for entity, _ in ends}
        try:
            self._refuse_missing(entities)
            last = self.offsets(entities, LAST)
            committed = self.offsets(entities, LAST, IsolationLevel.READ_COMMITTED)
        except ServiceUnavailable:  # the broker may be starting again
            return
        for place, end in sorted(ends.items()):
            topic, partition = broker_name(self.namespace, place[0]), place[1]
            if last[place] < end:
                raise BadInput(
                    f"{topic}/{partition} ended at {end} and now ends at {last[place]}",
                    "the topic was made anew meanwhile: run the command again",
                )
            if committed[place] < end:
                raise ServiceUnavailable(
                    f"{topic}/{partition} cannot be read beyond {committed[place]} of {end}: a transaction is open",
                    "end the program that holds it, or run this again when the transaction has timed out",
                )

    def _refuse_missing(self, entities: Collection[str]) -> None:
        with self.reaching():
            there = self._admin.list_topics(timeout=CONNECT_SECONDS).topics
        if gone := sorted({self.topics[entity] for entity in entities} - there.keys()):
            raise BadInput(f"topic {gone[0]} is gone", "it was deleted meanwhile: run the command again")

    def found_group(self, group: str, entities: Collection[str]) -> None:
        """Give a group a place on partitions where it has none, or one that the log no longer holds: their beginning.

        Facts answered before cost nothing; facts that were deleted before anyone answered them are said to be gone.
        """
        places = [self.partition((entity, p)) for entity in entities for p in range(self.partitions)]
        consumer = Consumer(self.consuming() | {"group.id": group}, logger=logger)

        def found() -> None:
            first, last = self.offsets(entities, FIRST), self.offsets(entities, LAST)
            committed = consumer.committed(places, CONNECT_SECONDS)
            at = {(self.entities[each.topic], each.partition): each.offset for each in committed}
            astray = [place for place in at if not first[place] <= at[place] <= last[place]]
            for place in astray:
                if at[place] >= 0:
                    logger.warning(
                        "%s stood at %d of %s/%d: the log begins at %d", group, at[place], *place, first[place]
                    )
            if astray:
                consumer.commit(offsets=[self.partition(place, first[place]) for place in astray], asynchronous=False)

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


def accepted(produce: Callable[..., None], delivered: Delivered | None) -> bool:
    try:
        produce(on_delivery=delivered)
    except BufferError:
        return False
    return True


def take(consumer: Consumer, seconds: float, count: int) -> list[Message]:
    """The first message as soon as there is one, with all that came along."""
    first = consumer.poll(seconds)
    return [] if first is None else [first, *consumer.consume(count - 1, 0)]


def where(message: Message, entities: Mapping[str, str]) -> tuple[Place, int]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return (entities[topic], partition), offset


def as_record(place: Place, offset: int, message: Message) -> Record:
    topic, partition = place
    content = message.value() or b""
    try:
        return Record(topic=topic, partition=partition, offset=offset, event=decode(content))
    except Undecodable as undecodable:
        return unreadable(topic, partition, offset, str(undecodable), headers(message), content)


def headers(message: Message) -> list[tuple[str, str | bytes | None]]:
    return list(message.headers() or [])  # type: ignore[arg-type] # a list, whatever the client's types say


def passes(error: KafkaError | None) -> bool:
    """True for an error the client gets over by itself; what it cannot is raised."""
    if error is None or error.code() in PASSING:
        return error is not None
    if error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL):  # nothing else is fatal to a consumer
        raise Fenced(f"another process has this slot: {error.str()}", "this one ends; the other goes on")
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise ServiceUnavailable(
            f"the place of this reader is gone from the log: {error.str()}",
            "start it again: it goes on where the log begins",
        )
    raise ServiceUnavailable(f"Kafka: {error.str()}")


def by_place(offsets: Iterable[Offset]) -> dict[Place, int]:
    return {(each.topic, each.partition): each.offset for each in offsets}
