"""What the cache costs: recovering the index of 100,000 paid answers from real Kafka, looking answers up, and memory.

The bare loop beside the recovery is `consume(2000)` over the same records: the headers must come over the wire anyway.
"""

import hashlib
import logging
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from infra import broker
from infra.answers import Index
from infra.kafka import KafkaLog
from infra.log import Answers
from schemas.events import Event, SuiteRan, SuiteUnit, Verdict
from schemas.topics import broker_name, record_headers
from tests.bench.bench_log import expect, suites

ENTRIES = 100_000
ROUNDS = 5
PARTITIONS = 4
SLICE = 96  # keys a worker asks for at once
AGAINST = "consume(2000)"


def measure(bootstrap: str) -> list[dict[str, object]]:
    """Medians of rounds; the recovery is held against its aim of three seconds."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as home:
        log = KafkaLog(bootstrap, namespace, PARTITIONS, Path(home))
        for begin in range(0, ENTRIES, 10_000):
            log.publish([paid(number) for number in range(begin, begin + 10_000)])
        rounds = [(recovery(bootstrap, namespace, Path(home)), bare(bootstrap, namespace)) for _ in range(ROUNDS + 1)]
        took, loops = [ours for ours, _ in rounds[1:]], [loop for _, loop in rounds[1:]]
        ratios = [ours.wall / loop.wall for ours, loop in zip(took, loops, strict=True)]
        rows = [
            row("recovery of 100,000 entries, aim 3 s", median(each.wall for each in took), "s", AGAINST, ratios),
            row("recovery of 100,000 entries, CPU", median(each.cpu for each in took), "s"),
            *lookups(log),
            row("memory of an entry", bytes_per_entry(), "bytes"),
        ]
        log.close()
    return rows


def key(number: int) -> str:
    return hashlib.sha256(f"work {number}".encode()).hexdigest()


TEMPLATE = suites(40)


def paid(number: int) -> Event:
    """A verdict with twelve results that was paid for, one unit each."""
    fact = TEMPLATE[number % 40]
    assert isinstance(fact, SuiteRan)
    ids = tuple(result.test_id for result in fact.results)
    unit = SuiteUnit(work_key=key(number), path="tests/cases.json", test_ids=ids, verdict=Verdict.PASSED)
    return replace(fact, event_id=str(uuid.UUID(int=number)), units=(unit,))


class Spent(NamedTuple):
    """Seconds on the clock, and of all threads of this process."""

    wall: float
    cpu: float


def spent_by(action: Callable[[], None]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def recovery(bootstrap: str, namespace: str, home: Path) -> Spent:
    """From opening the answers to the first one, in a worker that starts."""
    log = KafkaLog(bootstrap, namespace, PARTITIONS, home)
    spent = spent_by(lambda: expect(1, len(log.answers(SuiteRan)([key(0)]))))
    log.close()
    return spent


def bare(bootstrap: str, namespace: str) -> Spent:
    """A loop that takes the same records and looks at nothing."""
    config = {"bootstrap.servers": bootstrap, "group.id": "bare", "isolation.level": "read_committed"}
    consumer = Consumer(config | {"auto.offset.reset": "earliest"})
    topic = broker_name(namespace, "tests")

    def loop() -> None:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        count = 0
        while count < ENTRIES:
            count += len(consumer.consume(2000, 0.1))

    spent = spent_by(loop)
    consumer.close()
    return spent


def lookups(log: KafkaLog) -> list[dict[str, object]]:
    """A slice of keys that stand close together, as in a run played again; far apart; and unknown ones."""
    answers = log.answers(SuiteRan)
    answers([key(0)])
    together, apart, unknown = range(1_000, 31_000, 3_000), range(10), range(10 * ENTRIES, 20 * ENTRIES, ENTRIES)
    return [
        row("known keys that stand together", SLICE / timed(answers, together, 1), "keys/s"),
        row("known keys, 1,000 records apart", SLICE / timed(answers, apart, 1_000), "keys/s"),
        row("unknown keys", SLICE / timed(answers, unknown, 1), "keys/s"),
    ]


def timed(answers: Answers, firsts: Sequence[int], stride: int) -> float:
    """Seconds for one slice of keys."""
    spent = []
    for first in firsts:
        keys = [key(first + stride * number) for number in range(SLICE)]
        expected = SLICE if first < ENTRIES else 0
        spent.append(spent_by(lambda: expect(expected, len(answers(keys)))).wall)  # noqa: B023 - called at once
    return median(spent)


def bytes_per_entry() -> float:
    """Of the index alone, with the interpreter's own bookkeeping."""
    said = [record_headers(paid(number), "bench") for number in range(1_000)]
    index = Index()
    tracemalloc.start()
    for number in range(ENTRIES):
        headers = dict(said[number % 1_000]) | {"iccm_work": key(number), "ce_id": str(uuid.UUID(int=number))}
        index.learn(headers.items(), number % PARTITIONS, number)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(index)


def row(name: str, value: float, unit: str, against: str = "", ratios: Sequence[float] = ()) -> dict[str, object]:
    return {
        "name": f"cache: {name}",
        "value": value,
        "unit": unit,
        "against": against,
        "ratio": median(ratios) if ratios else None,
        "rounds": len(ratios) or ROUNDS,
    }


if __name__ == "__main__":
    logging.basicConfig()
    with tempfile.TemporaryDirectory() as folder, broker.running(Path(folder), print) as address:
        for line in measure(sys.argv[1] if len(sys.argv) > 1 else address):
            print(line)
