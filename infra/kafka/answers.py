"""Paid answers by their work keys: an index folded from record headers, and the values read when they are wanted."""

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition

from infra.answers import Index, Lookup, Paid
from infra.kafka.cluster import (
    BATCH,
    CONNECT_SECONDS,
    LAST,
    PATIENCE_SECONDS,
    Cluster,
    Config,
    Place,
    headers,
    logger,
    take,
    where,
)
from infra.kafka.reader import Reader
from schemas.events import Event
from schemas.topics import topic_of

FETCH_SECONDS = 30.0  # an answer that is not read by then counts as unknown this time: it is paid for anew
FETCH_BYTES = 256 * 1024  # of one partition at a time, when single answers are read
LEAP_BYTES = 1024 * 1024  # an answer no further ahead is read up to, not sought: that is quicker


class Answers:
    """The index of one kind's paid answers, followed in a thread of its own; the answers themselves stay on the log."""

    def __init__(self, cluster: Cluster, kind: type[Event], closed: Callable[[], bool]) -> None:
        self._cluster, self._topic, self._closed = cluster, topic_of(kind), closed
        self._index = Index()
        self._fetcher = Fetcher(cluster, self._topic)
        self._look_up = Lookup(kind, self._index, self._fetcher.fetch)
        # What is beyond the last stable offset no reader sees yet: its writer may be dead, nobody waits for it.
        self._missing = cluster.offsets((self._topic,), LAST, IsolationLevel.READ_COMMITTED)
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name=f"answers of {kind.__name__}", daemon=True)
        self._thread.start()

    def __call__(self, keys: Collection[str]) -> dict[str, Event]:
        """The answer to each of these keys that has one, once all that stood there at the opening is known."""
        with self._changed:
            self._changed.wait_for(lambda: not self._missing or self._failure or self._closed())
            if self._failure:
                raise self._failure
        return self._look_up(keys)

    def join(self) -> None:
        """Wait for the thread, which ends once the log is closed."""
        self._thread.join()
        self._fetcher.close()

    def _follow(self) -> None:
        try:
            places = {(self._topic, partition): 0 for partition in range(self._cluster.partitions)}
            reader = Reader(self._cluster, (), places)
            try:
                while not self._closed():
                    self._learn(reader)
            finally:
                reader.close()
        except Exception as failure:  # the thread ends; whoever looks something up is told why
            self._failure = failure
        with self._changed:
            self._changed.notify_all()

    def _learn(self, reader: Reader) -> None:
        """Fold the headers of what came. Their values are not looked at."""
        ends: dict[Place, int] = {}
        reader.begin_again_if_deaf()
        for message, place, offset in reader.messages(PATIENCE_SECONDS):
            ends[place] = offset
            if message is not None:
                self._index.learn(headers(message), place[1], offset)
                ends[place] += 1
        if self._missing:
            reader.refuse_silence(self._missing)
            with self._changed:
                self._missing = {p: end for p, end in self._missing.items() if ends.get(p, 0) < end}
                self._changed.notify_all()


class Fetcher:
    """Reads single records by their place, several at a time, without a group."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self._cluster, self._topic = cluster, topic
        self._consumer: Consumer | None = None

    def fetch(self, places: Collection[Paid]) -> dict[Paid, bytes]:
        """What stands at these places; b"" where nothing does. What a silent broker keeps from us is left out."""
        found: dict[Paid, bytes] = {}
        try:
            self._read(places, found)
        except KafkaException as failure:
            logger.warning("%d answers could not be read: %s", len(places) - len(found), failure.args[0].str())
            self.close()
        return found

    def close(self) -> None:
        """Let go of the connection; the next fetch makes another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _read(self, places: Collection[Paid], found: dict[Paid, bytes]) -> None:
        lines: dict[int, deque[Paid]] = defaultdict(deque)
        for paid in sorted(places, key=lambda each: each.offset):
            lines[paid.partition].append(paid)
        consumer = self._consumer = self._consumer or Consumer(self._config(), logger=logger)
        consumer.assign([self._place(partition, line[0].offset) for partition, line in lines.items()])
        deadline = time.monotonic() + FETCH_SECONDS
        while lines and time.monotonic() < deadline:
            for message in take(consumer, PATIENCE_SECONDS, BATCH):
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    continue  # the client connects again by itself
                (_, partition), offset = where(message, self._cluster.entities)
                if partition in lines:
                    found |= passed(lines[partition], sys.maxsize if error else offset, message)
                    self._go_on(consumer, message, lines)
        if lines:
            self._give_up(consumer, lines, found)

    def _go_on(self, consumer: Consumer, message: Message, lines: dict[int, deque[Paid]]) -> None:
        """Leave a partition that has nothing more for us; leap over much that nobody asked for.

        Pausing it instead made librdkafka 2.16 idle for a second at the next fetch.
        """
        (_, partition), offset = where(message, self._cluster.entities)
        if not lines[partition]:
            del lines[partition]
            consumer.incremental_unassign([self._place(partition, offset)])
        elif ((wanted := lines[partition][0].offset) - offset) * len(message) > LEAP_BYTES:
            consumer.seek(self._place(partition, wanted))

    def _give_up(self, consumer: Consumer, lines: dict[int, deque[Paid]], found: dict[Paid, bytes]) -> None:
        """Time is up. What a topic made anew does not hold is gone; what was only slow is unknown."""
        logger.warning("%d answers could not be read in %g s", sum(map(len, lines.values())), FETCH_SECONDS)
        for partition, line in lines.items():
            _, end = consumer.get_watermark_offsets(self._place(partition, 0), CONNECT_SECONDS)
            found |= {paid: b"" for paid in line if paid.offset >= end}
        self.close()  # the client may be deaf

    def _place(self, partition: int, offset: int) -> TopicPartition:
        return self._cluster.partition((self._topic, partition), offset)

    def _config(self) -> Config:
        return self._cluster.consuming() | {
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",  # what lies before it is gone
            "fetch.message.max.bytes": FETCH_BYTES,
            "fetch.wait.max.ms": 2,  # a request still waiting at an end would hold up the next one
        }


def passed(line: "deque[Paid]", offset: int, message: Message) -> dict[Paid, bytes]:
    """What a partition's line awaited up to this offset: the message that stands there, and b"" where it is gone."""
    passed: dict[Paid, bytes] = {}
    while line and line[0].offset <= offset:
        paid = line.popleft()
        passed[paid] = (message.value() or b"") if paid.offset == offset else b""
    return passed
