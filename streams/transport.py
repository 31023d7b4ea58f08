"""Faust's aiokafka transport, hardened: what it needs so that no fact is lost and nothing uncommitted is read.

Six things differ from the stock transport, each with a test that fails on it:
- The offset committed for a partition never passes a fact that was fetched and is not acknowledged, the first batch
  included, and never waits for offsets that hold no fact (transaction markers, aborted records).
- A commit the broker refused is not booked as done; it is tried again.
- Seeking back to where a partition was committed means its beginning when nothing was: a batch that was fetched while
  partitions were being dealt, and thrown away, is read again.
- A partition that has no position yet does not end the worker: the stock's periodic diagnosis asserts that it has one.
- Only committed records are read.
- Sending waits for all replicas, and a retry cannot write twice.

`App` carries it: nothing is registered globally and the installed package is left as it is.
"""

from collections.abc import Mapping
from typing import Any

import aiokafka
import faust
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, ConsumerMessage, Message
from mode.threads import WorkerThread

from infra.failpoints import reached


class HeldOffsets:
    """Which fetched offsets of each partition still wait for their acknowledgement."""

    def __init__(self) -> None:
        self._waiting: dict[TP, dict[int, None]] = {}  # in the order fetched, which is the order of offsets
        self._next: dict[TP, int] = {}

    def fetched(self, tp: TP, offset: int) -> None:
        """A record came from the broker. One fetched again, after a seek back, changes nothing."""
        if offset >= self._next.get(tp, 0):
            self._waiting.setdefault(tp, {})[offset] = None
            self._next[tp] = offset + 1

    def acknowledged(self, tp: TP, offset: int) -> None:
        """A record needs no second reading."""
        self._waiting.get(tp, {}).pop(offset, None)

    def committable(self, tp: TP) -> int | None:
        """Where reading has to begin again after a crash; None where nothing was fetched."""
        return next(iter(self._waiting.get(tp, ())), self._next.get(tp))

    def forget(self, tps: set[TP]) -> None:
        """These partitions were given away, or are read anew from their committed offsets."""
        for tp in tps:
            self._waiting.pop(tp, None)
            self._next.pop(tp, None)


class Consumer(stock.Consumer):
    """Commits by what is held, not by what was acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.held = HeldOffsets()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> "ConsumerThread":
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon, Worker=PassingThread)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        self.held.fetched(tp, record.offset)
        return super()._to_message(tp, record)

    def ack(self, message: Message) -> bool:
        if message.generation_id == self.app.consumer_generation_id:
            self.held.acknowledged(message.tp, message.offset)
        return bool(super().ack(message))

    def _new_offset(self, tp: TP) -> int | None:
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.held.committable(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets without a fact need no bookkeeping: they are never held."""

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        done = await super()._commit_offsets(offsets, start_new_transaction=start_new_transaction)
        if done:
            reached("rewards", "committed", offsets)
        else:
            self._committed_offset.update(before)
        return bool(done)

    async def verify_all_partitions_active(self) -> None:
        """Commits that wait for open drafts are no livelock, so there is nothing to diagnose."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.held.forget(revoked)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.held.forget(assigned)
        await super().on_partitions_assigned(assigned, generation_id)


class ConsumerThread(stock.AIOKafkaConsumerThread):
    """Reads only what was committed."""

    def _create_worker_consumer(self, transport: stock.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer

    async def seek_to_committed(self) -> Mapping[TP, int]:
        committed: Mapping[TP, int] = await super().seek_to_committed()
        if never := [tp for tp, offset in committed.items() if not offset]:
            await self.call_thread(self._ensure_consumer().seek_to_beginning, *never)
        return committed


class Producer(stock.Producer):
    """Sends to all replicas, each record once."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(stock.Transport):
    """The hardened consumer and producer."""

    Consumer = Consumer
    Producer = Producer


class PassingThread(WorkerThread):
    """A process that has stopped does not wait for a thread that waits for the broker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class NoTables(TableManager):
    """Faust gives tables a second to register; there are none to wait for."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app on the hardened transport. It keeps no tables, so it makes no folders."""

    def __init__(self, id: str, **settings: Any) -> None:
        super().__init__(id, store="memory://", TableManager=NoTables, **settings)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return Transport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """Nothing is stored beside the log."""
