"""What the log costs beside the bare clients: publish and replay of SuiteRan facts with twelve results each.

Bare publish is fastavro's writer on maps and `produce` of key and value; bare replay is `consume(1000)` and fastavro's
reader to maps, on the same bytes without headers. Both sides run in turns in one process, against one broker.
"""

import logging
import struct
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import fastavro
from confluent_kafka import Consumer, Producer, TopicPartition

from infra import broker
from infra.kafka import KafkaLog
from schemas.avro import encode
from schemas.committed import read_lock, read_schema
from schemas.events import Event, RequirementsDrafted, SuiteRan, TestResult
from schemas.topics import broker_name, key_of
from tests.histories import application, drafted, drawn, run_started, suite_ran
from tests.laws.drafting import Working, drafting_job, draws

EVENTS = 10_000
ROUNDS = 5
PARTITIONS = 4
HEAD_BYTES = 5


def measure(bootstrap: str) -> list[dict[str, object]]:
    """Throughputs as ratios to the bare loops, and two latencies; medians of interleaved rounds."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    events = suites(EVENTS)
    frames = [(key_of(event), encode(event)) for event in events]
    bare_namespace = f"{namespace}-bare"
    with tempfile.TemporaryDirectory() as home:
        log = KafkaLog(bootstrap, namespace, PARTITIONS, Path(home))
        KafkaLog(bootstrap, bare_namespace, PARTITIONS, Path(home)).close()
        bare = Bare(bootstrap, broker_name(bare_namespace, "tests"), frames)
        publish = in_turns(lambda: log.publish(events), bare.publish)
        start = log.end_offsets()
        log.publish(events)
        replay = in_turns(lambda: expect(EVENTS, sum(1 for _ in log.replay((SuiteRan,), start=start))), bare.replay)
        rows = [
            ratio("publish", publish, "fastavro + produce, no headers"),
            ratio("replay", replay, "consume(1000) + fastavro to dict, no headers"),
            *latencies(log),
        ]
        log.close()
    return rows


class Bare:
    """The loops one would write by hand."""

    def __init__(self, bootstrap: str, topic: str, frames: list[tuple[str, bytes]]) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        version = next(each for each in read_lock() if each.id == struct.unpack(">I", frames[0][1][1:HEAD_BYTES])[0])
        self._schema = fastavro.parse_schema({**read_schema(version)})
        self._frames = frames
        self._maps = [(key, self._read(content)) for key, content in frames]
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "compression.type": "lz4",
            }
        )

    def publish(self) -> None:
        """Maps to acknowledged records."""
        head = self._frames[0][1][:HEAD_BYTES]
        for key, value in self._maps:
            output = BytesIO()
            output.write(head)
            fastavro.schemaless_writer(output, self._schema, value)
            self._produce(key, output.getvalue())
        self._producer.flush()

    def _produce(self, key: str, content: bytes) -> None:
        try:
            self._producer.produce(self._topic, content, key)
        except BufferError:
            self._producer.poll(1)
            self._produce(key, content)

    def replay(self) -> None:
        """Records to maps: as many as one publish wrote."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "bare",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
        )
        consumer.assign([TopicPartition(self._topic, partition, 0) for partition in range(PARTITIONS)])
        count = 0
        while count < EVENTS:
            for message in consumer.consume(1000, 0.1):
                if message.error() is not None:
                    raise SystemExit(f"the bare loop failed: {message.error()}")
                self._read(message.value() or b"")
                count += 1
        consumer.close()

    def _read(self, content: bytes) -> Any:
        body = BytesIO(content)
        body.seek(HEAD_BYTES)
        return fastavro.schemaless_reader(body, self._schema, None)


def in_turns(ours: Callable[[], object], bare: Callable[[], object]) -> list[tuple[float, float]]:
    """Seconds of each, round by round, after one round that is not counted."""
    return [(seconds(ours), seconds(bare)) for _ in range(ROUNDS + 1)][1:]


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def expect(wanted: int, found: int) -> None:
    if wanted != found:
        raise SystemExit(f"replay gave {found} events, {wanted} were published")


def ratio(name: str, rounds: list[tuple[float, float]], against: str) -> dict[str, object]:
    return {
        "name": f"log: {name} of SuiteRan with 12 results",
        "value": EVENTS / median(ours for ours, _ in rounds),
        "unit": "events/s",
        "against": against,
        "ratio": median(bare / ours for ours, bare in rounds),
        "rounds": len(rounds),
    }


def latencies(log: KafkaLog) -> list[dict[str, object]]:
    """One slice of 32 inputs and 64 facts; and one new fact to its answer's reader, without the gathering time."""
    log.publish([run_started()])
    done, gathering = threading.Event(), 0.02
    job = drafting_job(batch=32, slice=32, gather_seconds=gathering)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(log.work, job, stop=done.is_set)
        working = Working(log, worker.done)
        log.publish(draws(1))
        working.until(2)
        alone = [answered(log, worker.done, 1, 1 + turn) - gathering for turn in range(20)]
        slices = [answered(log, worker.done, 32, 100 + 32 * turn) for turn in range(20)]
        done.set()
        worker.result()
    return [
        latency("one fact, published to answered and read", alone),
        latency("a slice of 32 inputs, published to 64 facts read", slices),
    ]


def answered(log: KafkaLog, ended: Callable[[], bool], count: int, first: int) -> float:
    batches = log.follow((RequirementsDrafted,), start=log.end_offsets(), stop=ended)
    next(batches)
    inputs = draws(count, first=first)
    began, missing = time.perf_counter(), 2 * count
    log.publish(inputs)
    for records in batches:
        missing -= len(records)
        if missing <= 0:
            return time.perf_counter() - began
    raise SystemExit("the worker ended")


def latency(name: str, measured: list[float]) -> dict[str, object]:
    return {
        "name": f"log: {name}",
        "value": 1000 * median(measured),
        "unit": "ms",
        "against": "",
        "ratio": None,
        "rounds": len(measured),
    }


def suites(count: int) -> list[Event]:
    """Verdicts on the drafts of 40 applications, twelve results each."""
    drafts = [drafted(drawn(application(f"x = {i}\n"), index=i)) for i in range(40)]
    results = tuple(
        TestResult(test_id=f"t{i}", outcome=each.outcome, seconds=0.001)
        for i, each in enumerate(suite_ran(drafts[0], tests=12, passed=9).results)
    )
    return [
        replace(suite_ran(drafts[i % 40], passed=9, tests=12), event_id=str(uuid.UUID(int=i)), results=results)
        for i in range(count)
    ]


if __name__ == "__main__":
    logging.basicConfig()
    with tempfile.TemporaryDirectory() as folder, broker.running(Path(folder), print) as address:
        for row in measure(sys.argv[1] if len(sys.argv) > 1 else address):
            print(row)
