"""What scoring again costs: a draft is 3 models x 10 tests. Seconds are of the processor, so other work counts little.

Bare decoding is fastavro's reader to maps on the same frames. Replays go through a broker; each of the two that say
how much memory they keep runs in a process of its own.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import median

import fastavro

from infra import broker
from infra.kafka import KafkaLog
from infra.log import Record
from schemas.avro import HEAD_BYTES, decode, encode
from schemas.committed import read_lock, read_schema
from schemas.events import Evidence, RewardWeights, SuiteRan, SuiteUnit, Verdict
from streams.__main__ import FEW_COLLECTIONS
from streams.gathering import Gathering, gather
from streams.rescore.rescoring import rescored
from streams.rewards import weighed
from tests.histories import DAWN, ORCHESTRA, application, drafted, drawn, suite_ran

MODELS = ORCHESTRA[:3]
DRAFTS = 2_000
ROUNDS = 5
MANY_RESULTS, RESULTS_PER_SUITE = 1_000_000, 30
OPEN_DRAFTS = 100_000
PARTITIONS = 4
CHUNK = 2_000

Row = dict[str, object]


def measure(bootstrap: str) -> list[Row]:
    """Drafts scored again per second, memory over a million results, and recovery with 100,000 drafts open."""
    return [speed(), *_apart("memory", bootstrap), *_apart("recovery")]


def speed() -> Row:
    """From frames to frames: decode, fold, score by other weights, encode; beside decoding them to maps."""
    frames = [encode(suite) for suite in suites(DRAFTS, tests=10)]
    bare = partial(read_bare, frames)
    turns = [(seconds(partial(score_again, frames)), seconds(bare)) for _ in range(ROUNDS + 1)][1:]
    return row(
        "scoring again, frames to frames, a draft of 3 x 10 tests",
        DRAFTS / median(ours for ours, _ in turns),
        "drafts/s",
        against="fastavro to dict, suites only",
        ratio=median(bare / ours for ours, bare in turns),
        rounds=ROUNDS,
    )


def score_again(frames: list[bytes]) -> None:
    scorer = partial(weighed, weights=RewardWeights(variance=0.5))
    rewards = rescored(Gathering(), map(decode, frames), "again", scorer, clock=lambda: DAWN)
    expect(DRAFTS, sum(1 for reward in rewards if encode(reward)))


def read_bare(frames: list[bytes]) -> None:
    number = int.from_bytes(frames[0][1:HEAD_BYTES], "big")
    schema = fastavro.parse_schema({**read_schema(next(each for each in read_lock() if each.id == number))})
    for frame in frames:
        body = BytesIO(frame)
        body.seek(HEAD_BYTES)
        fastavro.schemaless_reader(body, schema, None)


def memory(bootstrap: str) -> list[Row]:
    """A million results from a broker, scored again draft by draft: what is resident at a tenth and at the end."""
    count = -(-MANY_RESULTS // (RESULTS_PER_SUITE * len(MODELS)))
    with tempfile.TemporaryDirectory() as home:
        log = KafkaLog(bootstrap, f"bench-{uuid.uuid4().hex[:8]}", PARTITIONS, Path(home))
        facts = suites(count, tests=RESULTS_PER_SUITE)
        while chunk := list(islice(facts, CHUNK)):
            log.publish(chunk)
        marks: list[float] = []
        began = time.process_time()
        expect(count, _replayed(log.replay((SuiteRan,)), marks, count * len(MODELS) // 10))
        spent = time.process_time() - began
        marks.append(resident_mib())
        log.close()
    results = count * len(MODELS) * RESULTS_PER_SUITE
    name = f"{results:,} results replayed and scored"
    return [
        row(name, results / spent, "results/s"),
        row(f"{name}: resident at a tenth", marks[0], "MiB"),
        row(f"{name}: resident at the end", marks[1], "MiB"),
    ]


def _replayed(records: Iterator[Record], marks: list[float], tenth: int) -> int:
    def facts() -> Iterator[SuiteRan]:
        for place, record in enumerate(records):
            if place == tenth:
                marks.append(resident_mib())
            assert isinstance(record.event, SuiteRan)
            yield record.event

    scorer = partial(weighed, weights=RewardWeights(variance=0.5))
    rewards = rescored(Gathering(), facts(), "again", scorer, clock=lambda: DAWN)
    return sum(1 for reward in rewards if encode(reward))


def recovery() -> list[Row]:
    """The fold's state again from the frames of 100,000 open drafts, as a worker does after a start: alone, and beside
    decoding the frames."""
    frames = [encode(suite) for suite in first_suites(OPEN_DRAFTS)]
    gc.set_threshold(*FEW_COLLECTIONS)
    decoding = seconds(lambda: [None for frame in frames if decode(frame) is None])
    state = Gathering()
    whole = seconds(lambda: [gather(state, decode(frame), clock=lambda: DAWN) for frame in frames] and None)
    expect(OPEN_DRAFTS, len(state.open))
    name = f"the state of {OPEN_DRAFTS:,} open drafts recovered"
    return [
        row(name, whole, "s", against="decoding alone", ratio=whole / decoding),
        row(f"{name}: resident", resident_mib(), "MiB"),
    ]


def suites(drafts: int, tests: int) -> Iterator[SuiteRan]:
    """Verdicts on many drafts of 40 applications, as the lab's workers write them."""
    patterns = [
        [as_written(suite_ran(each, i, Verdict.FAILED, passed=7, tests=tests)) for i in range(len(MODELS))]
        for each in (drafted(drawn(application(f"x = {i}\n"), index=i, implementers=MODELS)) for i in range(40))
    ]
    for number in range(drafts):
        for place, pattern in enumerate(patterns[number % len(patterns)]):
            number_of_fact = number * len(MODELS) + place
            yield replace(
                pattern,
                event_id=str(uuid.UUID(int=number_of_fact)),
                requirements_id=str(uuid.UUID(int=number)),
                draft=number,
            )


def first_suites(drafts: int) -> Iterator[SuiteRan]:
    """One suite of each draft: all of them stay open."""
    return islice(suites(drafts, tests=10), 0, None, len(MODELS))


def as_written(suite: SuiteRan) -> SuiteRan:
    unit = SuiteUnit(
        work_key="w" * 64,
        path="tests/cases.json",
        test_ids=tuple(result.test_id for result in suite.results),
        verdict=suite.verdict,
    )
    return replace(
        suite,
        results=tuple(replace(result, seconds=0.001) for result in suite.results),
        sandbox="namespaces",
        assurance="full",
        evidence=Evidence(cpu_seconds=0.01, wall_seconds=0.02, peak_memory_bytes=2**24, exit_code=0),
        work_key="w" * 64,
        units=(unit,),
    )


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def expect(wanted: int, found: int) -> None:
    if wanted != found:
        raise SystemExit(f"{found} instead of {wanted}")


def row(name: str, value: float, unit: str, *, against: str = "", ratio: float | None = None, rounds: int = 1) -> Row:
    return {
        "name": f"rewards: {name}", "value": value, "unit": unit, "against": against, "ratio": ratio, "rounds": rounds,
    }  # fmt: skip


def _apart(*what: str) -> list[Row]:
    command = [sys.executable, "-m", "tests.bench.bench_rewards", *what]
    rows: list[Row] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return rows


def main(what: list[str]) -> None:
    match what:
        case ["memory", bootstrap]:
            print(json.dumps(memory(bootstrap)))
        case ["recovery"]:
            print(json.dumps(recovery()))
        case _:
            with tempfile.TemporaryDirectory() as folder, broker.running(Path(folder), print) as address:
                for each in measure(address):
                    print(each)


if __name__ == "__main__":
    main(sys.argv[1:])
