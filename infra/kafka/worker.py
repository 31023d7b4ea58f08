"""A worker: one slot of one role polls a batch, answers it slice by slice, and commits each slice with its place."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from infra.failpoints import reached
from infra.kafka.cluster import (
    BATCH,
    CONNECT_SECONDS,
    PATIENCE_SECONDS,
    Cluster,
    Config,
    Place,
    as_record,
    logger,
    passes,
    take,
    where,
)
from infra.kafka.reader import Hearing, Reader
from infra.kafka.transactions import Refused, Superseded, Transactions
from infra.ledger import Framed, Ledger
from infra.log import Job, OutcomeUnknown, Record
from infra.problems import Fenced
from schemas.topics import topic_of

SESSION_SECONDS = 6  # a dead worker's partitions go to others after this long
FENCED_AGAIN_SECONDS = 60.0
KEEP_POLLING_SECONDS = 0.5  # a step may take hours: the group hears from us this often
MEMBER: Config = {
    "enable.partition.eof": True,
    "session.timeout.ms": 1000 * SESSION_SECONDS,
    "heartbeat.interval.ms": 1000,
    "auto.offset.reset": "error",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Records, and the group's generation when they were polled: what it says later may cover a lost partition."""

    records: Sequence[Record]
    group: object
    assignment: int


class Fences:
    """Whose doing a fence is. A client whose answer from the coordinator was lost with a broker asks again and so
    fences itself; a rival fences again and again, whatever brokers do.

    So one fence may be our own, and each later one before which a broker was lost; without that, not two within a
    minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = -FENCED_AGAIN_SECONDS
        self._broker_lost = False  # since the last fence

    def broker_lost(self, error: KafkaError) -> None:  # noqa: ARG002 - the shape in which a client tells it
        """A connection to a broker ended, or none can be had."""
        self._broker_lost = True

    def may_be_ours(self) -> bool:
        """We were fenced. Whether to join again."""
        now, excused = self._clock(), self._broker_lost
        again = now - self._last < FENCED_AGAIN_SECONDS
        self._last, self._broker_lost = now, False
        return excused or not again


class Worker:
    """One slot of one role: polls a batch, answers it slice by slice, commits each slice with its place."""

    def __init__(
        self, cluster: Cluster, job: Job, slot: str, transactions: Transactions, ledger: Ledger, runs: Reader
    ) -> None:
        self._cluster, self._job, self._slot = cluster, job, slot
        self._transactions, self._ledger, self._runs = transactions, ledger, runs
        self._assignment = 0  # counts assignments: a batch polled under an older one is void
        self._paused = False
        self._fences = Fences()
        self._left: list[Message] = []  # what was polled while a step ran
        self._hearing = Hearing(cluster)
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
        """Join again after a fence that may be our own doing; else another process has the slot."""
        if not self._fences.may_be_ours():
            raise fenced
        self._join_again("was fenced")

    def _join_again(self, why: str) -> None:
        logger.warning("%s %s and joins again", self._slot, why)
        self._consumer.close()
        self._assignment += 1
        self._left, self._paused = [], False
        self._hearing.begin(())
        self._consumer = self._joined()

    def _batch(self, batch: Batch, stop: Callable[[], bool]) -> None:
        for part in self._ledger.slices(batch.records):
            if stop() or not self._answer(part, batch):
                return

    def _answer(self, part: Sequence[Record], batch: Batch) -> bool:
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

    def _commit(self, facts: Sequence[Framed], part: Sequence[Record], batch: Batch) -> bool:
        after = {(each.topic, each.partition): each.offset + 1 for each in part}
        offsets = [self._cluster.partition(place, offset) for place, offset in after.items()]
        try:
            self._transactions.commit(facts, offsets, batch.group)
        except Refused:
            return False
        except (OutcomeUnknown, Superseded):  # whose the slot is, the group says at the next poll
            self._transactions = Transactions(self._cluster, self._slot, self._job.role)
            return False
        return True

    def _see_ended_runs(self) -> None:
        for record in self._runs.records(0):
            if record.event is not None:
                self._ledger.see(record.event)

    def _gather(self) -> Batch:
        """Poll until a batch of due inputs is full or the topics have been idle."""
        self._resume()
        if self._hearing.is_deaf():
            self._join_again("is told nothing")
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
        return Batch(records, self._consumer.consumer_group_metadata(), assignment)

    def _poll(self, seconds: float, count: int) -> list[Record]:
        """The records that come within `seconds`, as soon as there are some. The end of a partition is none."""
        until = time.monotonic() + seconds
        while messages := self._taken(max(0.0, until - time.monotonic()), count):
            if records := [as_record(*self._noted(each), each) for each in messages if not passes(each.error())]:
                return records
        return []

    def _taken(self, seconds: float, count: int) -> list[Message]:
        messages, self._left = [*self._left, *take(self._consumer, 0 if self._left else seconds, count)], []
        for message in messages:
            if (error := message.error()) is not None and error.code() == KafkaError._PARTITION_EOF:
                self._hearing.note(*where(message, self._cluster.entities))
        return messages

    def _noted(self, message: Message) -> tuple[Place, int]:
        place, offset = where(message, self._cluster.entities)
        self._hearing.note(place, offset + 1)
        return place, offset

    # ---- the group -------------------------------------------------------------------------------------------------

    def _joined(self) -> Consumer:
        group, entities = f"{self._cluster.namespace}.{self._job.role}", {topic_of(kind) for kind in self._job.reads}
        self._cluster.found_group(group, entities)
        config = self._cluster.consuming() | {"group.id": group, "group.instance.id": self._slot} | MEMBER
        consumer = Consumer({**config, "error_cb": self._fences.broker_lost}, logger=logger)
        topics = sorted(self._cluster.topics[entity] for entity in entities)
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        return consumer

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """A new assignment begins paused: nothing of it may be mistaken for a batch of the old one."""
        self._assignment += 1
        consumer.assign(partitions)
        consumer.pause(partitions)
        self._paused = True
        self._hearing.begin((self._cluster.entities[each.topic], each.partition) for each in partitions)
        reached(self._job.role, "joined", partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:  # noqa: ARG002
        self._assignment += 1
        self._left = []
        self._hearing.begin(())

    def _rewind(self, records: Sequence[Record]) -> None:
        """Read these partitions again from what is committed. Answers already paid for are kept by the ledger.

        What was polled of them meanwhile is forgotten: answered first, it would move the group's place past them.
        """
        places = {(each.topic, each.partition) for each in records}
        self._left = [
            each for each in self._left if each.error() or where(each, self._cluster.entities)[0] not in places
        ]
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
            polled = take(self._consumer, 0, 1)
            self._left = [*self._left, *polled]
