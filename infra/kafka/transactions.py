"""Transactions under a fixed name: all facts of one or none, whoever dies, and a newer writer fences an older one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from infra.failpoints import reached
from infra.kafka.cluster import TRANSACTION_SECONDS, Cluster, Config, logger
from infra.ledger import Framed, framed
from infra.log import OutcomeUnknown
from infra.problems import Fenced
from schemas.events import Event

ABANDONED_SECONDS = 6  # an abandoned transaction blocks readers this long and a second: less than they wait for it
GIVE_UP_SECONDS = TRANSACTION_SECONDS + 2
SUPERSEDED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
TRANSACTIONAL: Config = {
    "transaction.timeout.ms": 1000 * ABANDONED_SECONDS,
    "message.timeout.ms": 1000 * ABANDONED_SECONDS,
    "retry.backoff.ms": 5,  # the broker is still writing the markers of the transaction before
    "retry.backoff.max.ms": 100,
}


class Refused(Exception):
    """The transaction is aborted; the producer is as good as new."""


class Superseded(Fenced):
    """A newer producer has the name, or the broker aborted what took this one too long."""


class Transactions:
    """A transactional producer under a fixed name. After anything but Refused it must be thrown away."""

    def __init__(self, cluster: Cluster, name: str, role: str) -> None:
        self._cluster, self._name, self._role = cluster, name, role
        config = cluster.producing() | {"transactional.id": name} | TRANSACTIONAL
        self._producer = Producer(config, logger=logger)
        with cluster.reaching():
            self._producer.init_transactions(3 * TRANSACTION_SECONDS)
        reached(role, "opened", name)

    def commit(
        self, facts: Sequence[Framed], offsets: Sequence[TopicPartition] = (), group: object | None = None
    ) -> None:
        """One transaction. Raises Refused, OutcomeUnknown or Superseded.

        librdkafka 2.16 waits for ever, whatever its timeouts, when the group's coordinator was struck off its list of
        brokers meanwhile (a restart of the only broker does that), so the waiting is done elsewhere and given up here.
        """
        ended: Future[None] = Future()
        action = partial(self._commit, facts, offsets, group)
        threading.Thread(target=run_into, args=(action, ended), name=f"{self._name} commit", daemon=True).start()
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
                raise Superseded(f"another writer has taken the name {self._name}", "end this one") from failure
            logger.warning("transaction of %s: %s", self._name, error)
            if not error.txn_requires_abort():
                raise OutcomeUnknown(f"the transaction of {self._name}: {error.str()}") from failure
            self._abort(error)

    def _abort(self, error: KafkaError) -> None:
        try:
            self._producer.abort_transaction(TRANSACTION_SECONDS)
        except KafkaException as failure:
            raise OutcomeUnknown(f"the transaction of {self._name} could not be aborted: {failure}") from failure
        raise Refused(error.str())


class TransactionWriter:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self._transactions = Transactions(cluster, name, role=name.rpartition(".")[2])

    def publish(self, events: Sequence[Event]) -> None:
        """All of these or none."""
        facts = [framed(event) for event in events]
        try:
            self._transactions.commit(facts)
        except Refused as refused:
            raise OutcomeUnknown(f"the transaction was refused: {refused}") from refused


def run_into(action: Callable[[], None], ended: "Future[None]") -> None:
    try:
        action()
        ended.set_result(None)
    except BaseException as failure:  # whoever waits raises it
        ended.set_exception(failure)
