"""Reading partitions from given offsets, in no group, and noticing when a client has gone deaf."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message

from infra.kafka.cluster import BATCH, LAST, Cluster, Place, as_record, logger, passes, take, where
from infra.log import Record
from infra.problems import ServiceUnavailable
from schemas.avro import Undecodable, kind_of
from schemas.events import Event

BLOCKED_SECONDS = 8.0  # a replay that hears nothing this long asks whether an open transaction or a new topic is why
ASK_AGAIN_SECONDS = 1.0
SILENCE_SECONDS = 120.0  # and one that hears nothing this long, for no reason to be seen, has lost its broker
HEAD_BYTES = 5  # of a frame: they name the kind of event
DEAF_SECONDS = 8.0  # a client that is told nothing this long is asked for, by what it should have been told


class Hearing:
    """Tells a quiet log from a deaf client.

    librdkafka 2.16 can stay connected after its broker came back, be polled, and fetch nothing any more. So a client
    that was told nothing for a while is compared with where its partitions end; one that is behind the same end twice
    is deaf, and must be replaced.
    """

    def __init__(self, cluster: Cluster, starts: Mapping[Place, int] | None = None) -> None:
        self._cluster = cluster
        self.reached: dict[Place, int] = dict(starts or {})
        self._heard_at = self._asked_at = time.monotonic()
        self._behind: dict[Place, int] = {}

    def begin(self, places: Iterable[Place]) -> None:
        """These partitions are read from now on, from wherever they are committed."""
        self.reached = dict.fromkeys(places, 0)
        self._heard_at, self._behind = time.monotonic(), {}

    def note(self, place: Place, offset: int) -> None:
        """The client said something of this partition; `offset` is next."""
        self.reached[place] = offset
        self._heard_at, self._behind = time.monotonic(), {}

    def is_deaf(self) -> bool:
        """Whether the client should have said more by now. Asks the cluster, but only after a long silence."""
        now = time.monotonic()
        if now - self._heard_at < DEAF_SECONDS or now - self._asked_at < ASK_AGAIN_SECONDS or not self.reached:
            return False
        behind = self._behind_now()
        self._asked_at = time.monotonic()
        deaf = any(self.reached[place] < end for place, end in self._behind.items())
        self._behind = behind
        return deaf

    def _behind_now(self) -> dict[Place, int]:
        """Partitions that visibly go on beyond what was reached; none while the cluster does not answer."""
        try:
            ends = self._cluster.offsets({topic for topic, _ in self.reached}, LAST, IsolationLevel.READ_COMMITTED)
        except ServiceUnavailable:
            return {}
        return {place: ends[place] for place, at in self.reached.items() if ends[place] > at}


class Reader:
    """Reads partitions from given offsets, in no group."""

    def __init__(self, cluster: Cluster, kinds: Collection[type[Event]], starts: Mapping[Place, int]) -> None:
        self._cluster = cluster
        self._kinds = tuple(kinds)
        self._wanted: dict[bytes, bool] = {}
        self._silent_since: float | None = None
        self._asked_at = 0.0
        self._hearing = Hearing(cluster, starts)
        self._consumer = self._assigned(starts)

    def _assigned(self, starts: Mapping[Place, int]) -> Consumer:
        config = self._cluster.consuming() | {"enable.partition.eof": True, "auto.offset.reset": "earliest"}
        consumer = Consumer(config, logger=logger)
        consumer.assign([self._cluster.partition(place, offset) for place, offset in starts.items()])
        return consumer

    def begin_again_if_deaf(self) -> None:
        """Go on from the same places with another client, where this one is told nothing although there is more."""
        if self._hearing.is_deaf():
            logger.warning("a reader is told nothing and begins again")
            self._consumer.close()
            self._consumer = self._assigned(self._hearing.reached)

    def read(self, seconds: float) -> Iterator[tuple[Place, int, Record | None]]:
        """What came within `seconds`: a partition, its next offset, and the record if it is of our kinds.

        One at a time: a replay keeps no more events alive than its caller does, which spares the garbage collector.
        """
        for message, place, offset in self.messages(seconds):
            if message is None:
                yield place, offset, None
            else:
                content = message.value() or b""
                wanted = self._wanted.get(content[:HEAD_BYTES]) or self._wants(content)
                yield place, offset + 1, as_record(place, offset, message) if wanted else None

    def messages(self, seconds: float) -> Iterator[tuple[Message | None, Place, int]]:
        """What came within `seconds`, undecoded: a message and where it stands, or None and where a partition ends."""
        messages = take(self._consumer, seconds, BATCH)
        self._silent_since = None if messages else self._silent_since or time.monotonic()
        for message in messages:
            error = message.error()
            if error is None:
                place, offset = where(message, self._cluster.entities)
                self._hearing.note(place, offset + 1)
                yield message, place, offset
            elif error.code() == KafkaError._PARTITION_EOF:
                place, offset = where(message, self._cluster.entities)
                self._hearing.note(place, offset)
                yield None, place, offset
            else:
                passes(error)

    def records(self, seconds: float) -> list[Record]:
        """The records of our kinds that came within `seconds`."""
        return [record for _, _, record in self.read(seconds) if record is not None]

    def leave(self, place: Place) -> None:
        """Fetch no more of a partition."""
        self._consumer.pause([self._cluster.partition(place)])

    def refuse_silence(self, missing: Mapping[Place, int]) -> None:
        """Why the end does not come, once it is late: a transaction is open, a topic is another, the broker is gone."""
        silent = 0.0 if self._silent_since is None else time.monotonic() - self._silent_since
        if silent > BLOCKED_SECONDS and time.monotonic() - self._asked_at > ASK_AGAIN_SECONDS:
            self._asked_at = time.monotonic()
            self._cluster.refuse_blocked(missing)
        if silent > SILENCE_SECONDS:
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
