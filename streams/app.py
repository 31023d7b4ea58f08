"""Rewards as a worker: the gathering fold on Faust, with the commit held back until rewards are written.

Nothing is stored beside the log. A stretch is what a partition says from one moment without open drafts to the next;
its first fact is acknowledged when all of its rewards are acknowledged by the broker, and the committed offset never
passes it. So reading always begins again where no draft was open, and sees every draft whole or not at all: the source
topic is the state. While drafts overlap without a pause commits wait; a crash then costs more reading, nothing else.

A fact on which the fold raises, and a record that is no fact, become DeadLettered in the same way, once; so does what
stands in for the verdict that an unreadable record was to be. Facts of ended runs are passed over. A write the broker
does not accept ends the worker; the next one reads again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from faust import Stream
from faust.exceptions import ProducerSendError
from faust.types import TP, EventT, Message, RecordMetadata, StreamT, TopicT

from infra.failpoints import reached
from infra.ledger import MAX_CAUSE, StandIns
from infra.log import MAX_EVENT_BYTES, Record
from infra.lost import unreadable
from infra.problems import Problem, ServiceUnavailable
from infra.process import clock as wall_clock
from schemas.avro import Undecodable, decode, encode
from schemas.events import DeadLettered, Event, RunEnded, SuiteRan
from schemas.identity import event_id
from schemas.topics import broker_name, cloud_event_headers, key_of, topic_of
from streams.gathering import Clock, Gathering, forget, gather
from streams.transport import App

ROLE = "rewards"
MAX_REQUEST_BYTES = MAX_EVENT_BYTES + 1024 * 1024  # an event, its key and headers, the batch around it
COMMIT_SECONDS = 0.5
SESSION_SECONDS = 6.0
HEARTBEAT_SECONDS = 1.5
SEND_SECONDS = 30.0
ASK_SECONDS = 0.05  # how often a worker asks whether to stop
STOP_SECONDS = 5.0  # how long it may take about it
CANCEL_SECONDS = 0.5


def serve(
    bootstrap: str,
    namespace: str,
    slot: int,
    *,
    stop: Callable[[], bool],
    stand_ins: StandIns,
    clock: Clock = wall_clock,
) -> None:
    """Score drafts until `stop()`; ServiceUnavailable when Kafka is away. A slot is for one worker: the broker does not
    fence a second one, so the caller holds the slot's lock. `stand_ins` may wait for Kafka; it runs in a thread."""
    try:
        _run(_serve(bootstrap, namespace, slot, stop, stand_ins, clock))
    except (KafkaError, ProducerSendError) as failed:
        raise ServiceUnavailable(f"Kafka at {bootstrap} failed: {failed!r}", "is it up? then start again") from failed


async def _serve(
    bootstrap: str, namespace: str, slot: int, stop: Callable[[], bool], stand_ins: StandIns, clock: Clock
) -> None:
    app = make_app(bootstrap, namespace, slot)
    desk = Desk(app, namespace, stand_ins, clock)
    app.agent(_raw(app, namespace, SuiteRan), concurrency=1, name=ROLE)(desk.read)
    app.on_partitions_assigned.connect(desk.assigned, weak=False)
    app.on_partitions_revoked.connect(desk.revoked, weak=False)
    beside = [broker_name(namespace, topic_of(kind)) for kind in (RunEnded, DeadLettered)]
    async with followed(bootstrap, beside, desk.beside) as following:
        await app.start()
        try:
            while not (stop() or app.should_stop or following.done()):
                await asyncio.sleep(ASK_SECONDS)
        finally:
            await _briefly(app.stop())
        if following.done():
            await following
        if app.crash_reason is not None:
            raise app.crash_reason


async def _briefly(stopping: Coroutine[None, None, None]) -> None:
    """Stopping speaks to the broker once more. What that would have said is read again otherwise, so a broker that is
    away is not waited for."""
    task = asyncio.create_task(stopping)
    await asyncio.wait([task], timeout=STOP_SECONDS)
    if task.done() and not task.cancelled():
        task.result()


def _run(work: Coroutine[None, None, None]) -> None:
    """As asyncio.run, but a task that cannot be cancelled is left: Faust shields those that wait for the broker."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=CANCEL_SECONDS))
        loop.close()


def make_app(bootstrap: str, namespace: str, slot: int) -> App:
    """A Faust app that remembers nothing and starts at the earliest fact it has not answered."""
    return App(
        f"{namespace}.{ROLE}",
        broker=[f"kafka://{address}" for address in bootstrap.split(",")],
        processing_guarantee="at_least_once",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=f"{namespace}.{ROLE}.{slot}",
        consumer_max_fetch_size=MAX_REQUEST_BYTES,
        producer_max_request_size=MAX_REQUEST_BYTES,
        producer_request_timeout=SEND_SECONDS,
        broker_commit_interval=COMMIT_SECONDS,
        broker_session_timeout=SESSION_SECONDS,
        broker_heartbeat_interval=HEARTBEAT_SECONDS,
    )


@dataclass(slots=True)
class Page:
    """One partition under one assignment: its open drafts, and the fact before which nothing needs reading again."""

    gathering: Gathering = field(default_factory=Gathering)
    first: EventT[bytes] | None = None
    unsent: int = 0

    def take(self, event: EventT[bytes]) -> None:
        """A fact is acknowledged at once, unless it begins a stretch: that one holds the commit for all of them."""
        if self.first is None:
            self.first = event
        else:
            event.ack()

    def settle(self) -> None:
        """With no draft open and no write under way the stretch is done."""
        if self.first is not None and not self.gathering.open and not self.unsent:
            self.first.ack()
            self.first = None


class Desk:
    """Takes facts one by one and answers each draft."""

    def __init__(self, app: App, namespace: str, stand_ins: StandIns, clock: Clock) -> None:
        self._app = app
        self._namespace = namespace
        self._stand_ins = stand_ins
        self._clock = clock
        self._buried: set[str] = set()
        self._pages: dict[tuple[TP, int | None], Page] = {}
        self._ended: set[str] = set()

    async def read(self, stream: StreamT[bytes]) -> None:
        """Every fact of the stream, until it stops."""
        async for event in cast(Stream[bytes], stream).noack().events():
            await self._take(event)

    async def assigned(self, *dealt: object, **__: object) -> None:
        """Partitions were dealt, and are read from where they were committed."""
        reached(ROLE, "joined", dealt[-1])

    async def revoked(self, *_: object, **__: object) -> None:
        """Partitions are all given away before they are dealt again: whoever gets one reads its open drafts anew."""
        self._pages.clear()

    def beside(self, value: bytes | None) -> None:
        """The drafts of a run that has ended are waited for no longer; what is buried is not buried again."""
        try:
            fact = decode(value or b"")
        except Undecodable:  # said to whoever works on that topic
            return
        if isinstance(fact, DeadLettered) and fact.stage == ROLE:
            self._buried.add(fact.event_id)
        elif isinstance(fact, RunEnded) and fact.run_id is not None:
            self._ended.add(fact.run_id)
            for page in self._pages.values():
                forget(page.gathering, fact.run_id)
                page.settle()

    async def _take(self, event: EventT[bytes]) -> None:
        page = self._pages.setdefault((event.message.tp, event.message.generation_id), Page())
        page.take(event)
        reached(ROLE, "taken", event.message)
        for output in await self._answers(page, event):
            reached(ROLE, "scored", output)
            await self._send(page, output)
            reached(ROLE, "sent", output)
        page.settle()

    async def _answers(self, page: Page, event: EventT[bytes]) -> Sequence[Event]:
        message = event.message
        try:
            fact = decode(event.value or b"")
        except Undecodable as undecodable:
            content, headers = event.value or b"", _headers(message)
            lost = unreadable(topic_of(SuiteRan), message.partition, message.offset, str(undecodable), headers, content)
            letter = self._dead_letter(message, None, lost.said_id, lost.error)
            if letter.event_id in self._buried:
                return ()
            return [*await self._standing_in(page, lost), letter]
        try:
            return self._rewards(page, fact)
        except Exception as raised:  # whatever it was, the log says it and the next fact is read
            letter = self._dead_letter(message, fact.run_id, fact.event_id, f"{type(raised).__name__}: {raised}")
            return () if letter.event_id in self._buried else [letter]

    async def _standing_in(self, page: Page, lost: Record) -> Sequence[Event]:
        try:
            return await asyncio.to_thread(self._stand_ins, lost)
        except Problem as problem:
            page.unsent += 1  # the record is not acknowledged: the next worker reads it again
            await self._app.crash(problem)
            return ()

    def _rewards(self, page: Page, fact: Event) -> Sequence[Event]:
        if fact.run_id in self._ended:
            return ()
        _, rewards = gather(page.gathering, fact, clock=self._clock)
        return rewards

    async def _send(self, page: Page, output: Event) -> None:
        topic = broker_name(self._namespace, topic_of(type(output)))
        page.unsent += 1
        try:
            sent = await self._app.producer.send(
                topic,
                key_of(output).encode(),
                encode(output),
                None,
                None,
                {name: value.encode() for name, value in cloud_event_headers(output, self._namespace)},
            )
        except ProducerSendError as refused:
            await self._app.crash(refused)
        else:
            asyncio.ensure_future(sent).add_done_callback(partial(self._sent, page))

    def _sent(self, page: Page, sent: asyncio.Future[RecordMetadata]) -> None:
        if sent.cancelled():
            return
        if (refused := sent.exception()) is not None:
            self._app.add_future(self._app.crash(refused))
            return
        page.unsent -= 1
        reached(ROLE, "acknowledged", sent.result())
        page.settle()

    def _dead_letter(self, message: Message, run_id: str | None, cause_id: str, exception: str) -> DeadLettered:
        topic = topic_of(SuiteRan)
        return DeadLettered(
            event_id=event_id(run_id, f"{topic}/{message.partition}/{message.offset}", f"dead_letter/{ROLE}"),
            recorded_at=self._clock(),
            run_id=run_id,
            caused_by=(cause_id,) if cause_id else (),
            topic=topic,
            partition=message.partition,
            offset=message.offset,
            stage=ROLE,
            exception=exception[:MAX_CAUSE],
            attempts=1,
        )


def _headers(message: Message) -> Sequence[tuple[str, bytes]]:
    headers = message.headers or ()
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


def _raw(app: App, namespace: str, kind: type[Event]) -> TopicT:
    name = broker_name(namespace, topic_of(kind))
    return app.topic(name, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")


@asynccontextmanager
async def followed(
    bootstrap: str, topics: Sequence[str], take: Callable[[bytes | None], None]
) -> AsyncIterator[asyncio.Task[None]]:
    """Every committed value of these topics, without a group: all that is there before the body, the rest beside it."""
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=MAX_REQUEST_BYTES,
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            await _take_some(consumer, take, timeout_ms=20)
        following = asyncio.create_task(_take_all(consumer, take))
        try:
            yield following
        finally:
            following.cancel()
    finally:
        await _briefly(consumer.stop())


async def _take_all(consumer: AIOKafkaConsumer, take: Callable[[bytes | None], None]) -> None:
    while True:
        await _take_some(consumer, take, timeout_ms=1000)


async def _take_some(consumer: AIOKafkaConsumer, take: Callable[[bytes | None], None], timeout_ms: int) -> None:
    for records in (await consumer.getmany(timeout_ms=timeout_ms)).values():
        for record in records:
            take(record.value)
