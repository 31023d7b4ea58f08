"""What the hardened transport promises, each promise broken by the stock transport it replaces.

A strict xfail holds the second half: the day the installed Faust keeps a promise itself, its test says so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import faust
import pytest
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, Message

from streams.transport import App, HeldOffsets

HERE, THERE = TP("tests", 0), TP("tests", 1)

either = pytest.mark.parametrize(
    "make", [App, pytest.param(faust.App, marks=pytest.mark.xfail(strict=True, reason="the stock transport"))]
)


class Broker:
    """Stands where the consumer's thread stands: takes commits, or refuses them."""

    def __init__(self, accepts: bool = True) -> None:
        self.accepts = accepts
        self.committed: dict[TP, int] = {}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        if self.accepts:
            self.committed.update(offsets)
        return self.accepts

    def assignment(self) -> set[TP]:
        return {HERE, THERE}

    def verify_event_path(self, now: float, tp: TP) -> None:
        """As the stock thread, for a partition that was just dealt."""
        raise AssertionError(f"{tp} has no position at {now}")


class Reader:
    """One consumer without a broker: fetches, hands over, acknowledges."""

    def __init__(self, make: type[faust.App], broker: Broker) -> None:
        self.app = cast(Any, make)("test", broker="kafka://127.0.0.1:1", stream_wait_empty=False)
        self.app.consumer_generation_id = 1
        self.app.topics.acking_topics.add(HERE.topic)
        self.consumer = self.app.consumer
        self.thread, self.consumer._thread = self.consumer._thread, broker

    def fetch(self, tp: TP, *offsets: int) -> list[Message]:
        return [self._fetched(tp, offset) for offset in offsets]

    def ack(self, messages: Iterable[Message]) -> None:
        for message in messages:
            message.ack(self.consumer)

    async def assigned(self) -> None:
        await self.consumer.on_partitions_revoked({HERE, THERE})
        self.app.consumer_generation_id += 1

    def close(self) -> None:
        self.thread.thread_loop.close()

    def _fetched(self, tp: TP, offset: int) -> Message:
        record = SimpleNamespace(topic=tp.topic, partition=tp.partition, offset=offset, timestamp=0, timestamp_type=0)
        rest = {"headers": (), "key": b"", "value": b"", "checksum": 0, "serialized_key_size": 0}
        record.__dict__.update(rest, serialized_value_size=0)
        message: Message = self.consumer._to_message(tp, record)
        message.incref()
        self.consumer.track_message(message)
        return message


def run(make: type[faust.App], story: Callable[[Reader], Awaitable[None]], *, accepts: bool = True) -> Broker:
    """What the broker was told to commit after the story."""
    broker = Broker(accepts)

    async def told() -> None:
        with closing(Reader(make, broker)) as reader:
            await story(reader)

    asyncio.run(told())
    return broker


@either
def test_a_commit_never_passes_a_fact_still_held(make: type[faust.App]) -> None:
    async def story(reader: Reader) -> None:
        reader.consumer._committed_offset[HERE] = 2
        _held, *rest = reader.fetch(HERE, 2, 3, 4)
        reader.ack(rest)
        await reader.consumer.commit()

    assert run(make, story).committed.get(HERE, 2) == 2


@either
def test_the_very_first_batch_is_held_like_any_other(make: type[faust.App]) -> None:
    async def story(reader: Reader) -> None:
        _held, *rest = reader.fetch(HERE, 0, 1, 2)
        reader.ack(rest)
        await reader.consumer.commit()

    assert run(make, story).committed.get(HERE, 0) == 0


@either
def test_offsets_without_a_fact_hold_nothing_back(make: type[faust.App]) -> None:
    async def story(reader: Reader) -> None:
        reader.ack(reader.fetch(HERE, 0))
        await reader.consumer.commit()
        reader.ack(reader.fetch(HERE, 3))  # 1 and 2 were aborted; after offset 0 the stock reader notes no gap
        await reader.consumer.commit()

    assert run(make, story).committed[HERE] == 4


@either
def test_a_commit_the_broker_refused_is_tried_again(make: type[faust.App]) -> None:
    async def story(reader: Reader) -> None:
        broker = reader.consumer._thread
        reader.ack(reader.fetch(HERE, 0, 1))
        await reader.consumer.commit()
        broker.accepts = True
        await reader.consumer.commit()

    assert run(make, story, accepts=False).committed == {HERE: 2}


@either
def test_a_partition_without_a_position_does_not_end_the_worker(make: type[faust.App]) -> None:
    async def story(reader: Reader) -> None:
        await reader.consumer.verify_all_partitions_active()

    run(make, story)


class Position:
    """Stands where aiokafka's consumer stands: seeks to committed offsets above 0 and leaves the rest where it is."""

    def __init__(self) -> None:
        self.at = {HERE: 5, THERE: 5}

    async def seek_to_committed(self) -> dict[TP, int | None]:
        self.at[THERE] = 2
        return {HERE: None, THERE: 2}

    async def seek_to_beginning(self, *places: TP) -> None:
        self.at.update(dict.fromkeys(places, 0))


@either
def test_where_nothing_was_committed_seeking_back_means_the_beginning(make: type[faust.App]) -> None:
    position = Position()

    async def story(reader: Reader) -> None:
        reader.thread._consumer = position
        reader.thread.call_thread = lambda method, *args: method(*args)
        await reader.thread.seek_to_committed()

    run(make, story)
    assert position.at == {HERE: 0, THERE: 2}


@either
def test_only_committed_records_are_read(make: type[faust.App]) -> None:
    levels: list[str] = []

    async def story(reader: Reader) -> None:
        consumer = reader.thread._create_consumer(asyncio.get_running_loop())
        levels.append(consumer._isolation_level)
        await consumer.stop()

    run(make, story)
    assert levels == ["read_committed"]


@either
def test_sending_waits_for_all_replicas_and_writes_once(make: type[faust.App]) -> None:
    sent: list[tuple[Any, Any]] = []

    async def story(reader: Reader) -> None:
        producer = reader.app.producer._new_producer()
        sent.append((producer._sender._acks, producer._txn_manager is not None))
        await producer.stop()

    run(make, story)
    assert sent == [(-1, True)]


def test_both_transports_are_ours_and_the_package_stays_as_it_was() -> None:
    async def story(reader: Reader) -> None:
        assert type(reader.app.transport).__module__ == "streams.transport"
        assert type(reader.app.producer_transport).__module__ == "streams.transport"

    run(App, story)
    assert stock.Transport.Consumer is stock.Consumer
    assert stock.Transport.Producer is stock.Producer


def test_partitions_are_held_apart() -> None:
    async def story(reader: Reader) -> None:
        reader.fetch(HERE, 0)
        reader.ack(reader.fetch(THERE, 0, 1))
        await reader.consumer.commit()

    assert run(App, story).committed == {THERE: 2}


def test_an_acknowledgement_from_before_a_rebalance_moves_nothing() -> None:
    async def story(reader: Reader) -> None:
        old = reader.fetch(HERE, 5, 6, 7)
        await reader.assigned()
        reader.fetch(HERE, 5)
        reader.ack(old)
        await reader.consumer.commit()

    assert run(App, story).committed.get(HERE, 5) == 5


def test_reading_begins_again_at_the_smallest_offset_still_waiting() -> None:
    held = HeldOffsets()
    assert held.committable(HERE) is None
    for offset in (3, 4, 7):
        held.fetched(HERE, offset)
    held.acknowledged(HERE, 4)
    assert held.committable(HERE) == 3
    held.acknowledged(HERE, 3)
    assert held.committable(HERE) == 7
    held.acknowledged(HERE, 7)
    assert held.committable(HERE) == 8


def test_a_record_fetched_again_is_not_held_again() -> None:
    held = HeldOffsets()
    for offset in (3, 4, 3, 4):
        held.fetched(HERE, offset)
    held.acknowledged(HERE, 3)
    held.fetched(HERE, 3)
    assert held.committable(HERE) == 4


def test_what_is_given_away_is_forgotten() -> None:
    held = HeldOffsets()
    held.fetched(HERE, 3)
    held.fetched(THERE, 3)
    held.forget({HERE})
    assert (held.committable(HERE), held.committable(THERE)) == (None, 3)
