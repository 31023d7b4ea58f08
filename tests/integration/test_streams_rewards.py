"""The rewards worker on real Kafka: killed, fed poison, beside aborted transactions, it scores every draft once."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from infra import broker
from infra.problems import ServiceUnavailable
from infra.slots import held_slot
from schemas.avro import decode, encode
from schemas.events import DeadLettered, Event, RewardScored, RunOutcome, SuiteRan, Verdict
from schemas.topics import broker_name, key_of, topic_of
from streams.app import ROLE, serve
from streams.gathering import Gathering, gather
from tests.histories import DAWN, ORCHESTRA, application, drafted, drawn, run_ended, suite_ran

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
PATIENCE_SECONDS = 40.0
APPLICATIONS = [application(f"def f(xs):\n    return xs + [{i}]\n", name=str(i)) for i in range(6)]


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for a state of the world, a bounded time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(0.02)


@dataclass
class Stage:
    """One namespace on a broker: what is written to it, what is read from it, the workers at work on it."""

    kafka: str
    home: Path
    stack: ExitStack
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")
    scored: list[RewardScored] = field(default_factory=list)
    dead: list[DeadLettered] = field(default_factory=list)

    def __post_init__(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka})
        topics = [self.topic(entity) for entity in ("tests", "rewards", "runs", "deadletters")]
        for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics]).values():
            made.result(10)
        self.producer = Producer({"bootstrap.servers": self.kafka, "partitioner": "murmur2_random"})
        group = {"bootstrap.servers": self.kafka, "group.id": "nobody", "isolation.level": "read_committed"}
        self.reader = Consumer(group)
        self.stack.callback(self.reader.close)
        outputs = [self.topic("rewards"), self.topic("deadletters")]
        self.reader.assign([TopicPartition(name, i, 0) for name in outputs for i in range(PARTITIONS)])
        self.group = Consumer({"bootstrap.servers": self.kafka, "group.id": f"{self.namespace}.{ROLE}"})
        self.stack.callback(self.group.close)

    def topic(self, entity: str) -> str:
        return broker_name(self.namespace, entity)

    def publish(self, facts: Sequence[Event]) -> None:
        for fact in facts:
            self.producer.produce(self.topic(topic_of(type(fact))), encode(fact), key=key_of(fact))
        assert self.producer.flush(10) == 0

    def publish_raw(self, value: bytes | None, key: str | None = None) -> None:
        self.producer.produce(self.topic("tests"), value, key=key)
        assert self.producer.flush(10) == 0

    def abort(self, facts: Sequence[Event]) -> None:
        name = f"{self.namespace}.{uuid.uuid4()}"
        settings = {"bootstrap.servers": self.kafka, "partitioner": "murmur2_random", "transactional.id": name}
        producer = Producer(settings)
        producer.init_transactions(20)
        producer.begin_transaction()
        for fact in facts:
            producer.produce(self.topic(topic_of(type(fact))), encode(fact), key=key_of(fact))
        producer.flush(10)
        producer.abort_transaction(10)

    def worker(self, slot: int = 0) -> subprocess.Popen[bytes]:
        names = {"ICCM_KAFKA": self.kafka, "ICCM_POSTGRES": "unused", "ICCM_NAMESPACE": self.namespace}
        environment = {**os.environ, **names, "ICCM_HOME": str(self.home)}
        command = [sys.executable, "-m", "streams", "--slot", str(slot)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        self.stack.callback(_end, process)
        return process

    def read(self) -> None:
        """Take in what was scored and what was buried since."""
        for message in self.reader.consume(500, 0.02):
            assert message.error() is None
            fact = decode(_value(message))
            if isinstance(fact, RewardScored):
                self.scored.append(fact)
            elif isinstance(fact, DeadLettered):
                self.dead.append(fact)

    def drafts(self) -> set[str]:
        """The drafts scored so far."""
        self.read()
        return {reward.requirements_id for reward in self.scored}

    def everything_committed(self) -> bool:
        """The group stands behind the last fact, where only transaction markers may follow."""
        places = [TopicPartition(self.topic("tests"), i) for i in range(PARTITIONS)]
        return [each.offset for each in self.group.committed(places, 10)] == [self._after_last(each) for each in places]

    def _after_last(self, place: TopicPartition) -> int:
        low, high = self.group.get_watermark_offsets(place, 10)
        self.group.assign([TopicPartition(place.topic, place.partition, low)])
        after = -1001  # what the broker says of a partition nothing was ever committed for
        while low < high and self.group.position([place])[0].offset < high:
            for message in self.group.consume(500, 0.1):
                after = (message.offset() or 0) + 1
        return after


def _value(message: Message) -> bytes:
    value = message.value()
    assert isinstance(value, bytes)
    return value


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(10)


@pytest.fixture
def stage(kafka: str, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(kafka, tmp_path, stack)


def suites(app: int = 0, number: int = 1, draft: int = 0) -> list[SuiteRan]:
    fact = drafted(drawn(APPLICATIONS[app], number=number, drafts=draft + 1, index=app), draft)
    return [suite_ran(fact, i, Verdict.FAILED, passed=(app + draft + i) % 5) for i in range(len(ORCHESTRA))]


def flat(drafts: Sequence[list[SuiteRan]]) -> list[SuiteRan]:
    return list(chain.from_iterable(drafts))


def interleaved(number: int) -> list[SuiteRan]:
    """A round as it happens: all drafts' first suites, then all their second ones."""
    drafts = [suites(app, number, draft) for app in range(len(APPLICATIONS)) for draft in range(2)]
    return [draft[i] for i in range(len(ORCHESTRA)) for draft in drafts]


def expected(facts: Sequence[SuiteRan]) -> dict[str, RewardScored]:
    """The fold's own word on these facts."""
    state, found = Gathering(), {}
    for fact in facts:
        state, rewards = gather(state, fact, clock=lambda: DAWN)
        found.update({reward.requirements_id: reward for reward in rewards})
    return found


def decided(rewards: Sequence[RewardScored]) -> dict[str, RewardScored]:
    """One reward per draft; repeats must be equal in all but their clock."""
    found: dict[str, RewardScored] = {}
    for reward in rewards:
        timeless = replace(reward, recorded_at=DAWN)
        assert found.setdefault(reward.requirements_id, timeless) == timeless
    return found


def test_a_worker_killed_in_the_middle_leaves_no_draft_unscored_and_none_scored_otherwise(stage: Stage) -> None:
    early, middle, late = interleaved(1), interleaved(2), interleaved(3)
    cut = len(middle) - len(middle) // len(ORCHESTRA) // 2  # half of the drafts have their last suite, all are open
    killed = stage.worker()
    stage.publish([*early, *middle[:cut]])
    answered = expected([*early, *middle[:cut]]).keys()
    until(lambda: stage.drafts() == answered, "the drafts that are complete")
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    stage.publish([*middle[cut:], *late])
    stage.worker()
    everything = expected([*early, *middle, *late])
    until(lambda: stage.drafts() == everything.keys(), "every draft")
    until(stage.everything_committed, "the commit to reach the end")
    stage.read()
    assert decided(stage.scored) == everything
    assert stage.dead == []


def test_poison_is_buried_with_its_place_and_the_rest_goes_on(stage: Stage) -> None:
    stray = replace(suites(1)[0], model="stranger")
    stage.worker()
    stage.publish(suites(0)[:2])
    stage.publish_raw(b"no fact at all", key="poison")
    stage.publish_raw(b"\x00\x7f\xff\xff\xff", key=key_of(suites(0)[0]))
    stage.publish_raw(None)
    stage.publish([stray, *suites(0)[2:], *suites(1)])
    until(lambda: len(stage.drafts()) == 2 and len(stage.dead) >= 4, "two rewards and four dead letters")
    until(stage.everything_committed, "the commit to reach the end")
    assert decided(stage.scored) == expected([*suites(0), *suites(1)])
    assert {(each.topic, each.stage, each.attempts) for each in stage.dead} == {("tests", "rewards", 1)}
    assert len({(each.partition, each.offset) for each in stage.dead}) == 4
    [named] = [each for each in stage.dead if "stranger" in each.exception]
    assert named.caused_by == (stray.event_id,)


def test_poison_read_twice_because_of_a_kill_is_buried_once(stage: Stage) -> None:
    """The open draft before it holds the commit, so the second worker reads both again."""
    killed = stage.worker()
    stage.publish(suites(0)[:2])
    stage.publish_raw(b"no fact at all", key=key_of(suites(0)[0]))
    until(lambda: stage.drafts() == set() and len(stage.dead) == 1, "the dead letter")
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    stage.worker()
    stage.publish(suites(0)[2:])
    until(lambda: len(stage.drafts()) == 1, "the reward")
    until(stage.everything_committed, "the commit to reach the end")
    stage.read()
    assert len(stage.dead) == 1


def test_what_was_aborted_is_never_scored(stage: Stage) -> None:
    kept, aborted = [suites(app) for app in range(6)], [suites(app, number=2) for app in range(6)]
    stage.abort(flat(aborted))
    stage.publish(flat(kept)[:7])
    stage.abort([fact for draft in aborted for fact in draft[1:]])
    stage.publish(flat(kept)[7:])
    stage.abort(flat(aborted))
    stage.worker()
    until(lambda: len(stage.drafts()) == 6, "the six rewards that are due")
    until(stage.everything_committed, "the commit to pass what was aborted")
    stage.read()
    assert decided(stage.scored) == expected(flat(kept))


def test_drafts_of_an_ended_run_are_neither_scored_nor_waited_for(stage: Stage) -> None:
    before, during = ([replace(fact, run_id=run) for fact in suites(0)] for run in ("before", "during"))
    during = [replace(fact, requirements_id="during") for fact in during]
    stage.publish([run_ended("before", RunOutcome.ABANDONED), *before])
    stage.worker()
    stage.publish([*during[:2], *suites(0)])
    until(lambda: len(stage.drafts()) == 1, "the run that goes on")
    assert not stage.everything_committed()
    stage.publish([run_ended("during", RunOutcome.ABANDONED)])
    until(stage.everything_committed, "the commit to pass the drafts nobody waits for")
    stage.publish(during[2:])
    until(stage.everything_committed, "the commit to pass what came late")
    assert stage.drafts() == {suites(0)[0].requirements_id}


def test_a_second_worker_takes_partitions_over_with_their_open_drafts(stage: Stage) -> None:
    facts = interleaved(1)
    half = len(facts) - 6
    first = stage.worker(slot=0)
    stage.publish(facts[:half])
    until(lambda: stage.drafts() == expected(facts[:half]).keys(), "the first half")
    stage.worker(slot=1)
    until(lambda: _members(stage) == 2, "two members in the group")
    stage.publish(facts[half:])
    until(lambda: stage.drafts() == expected(facts).keys(), "every draft")
    until(stage.everything_committed, "the commit to reach the end")
    assert decided(stage.scored) == expected(facts)
    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0


def _members(stage: Stage) -> int:
    admin = AdminClient({"bootstrap.servers": stage.kafka})
    [group] = admin.describe_consumer_groups([f"{stage.namespace}.{ROLE}"]).values()
    return sum(bool(member.assignment.topic_partitions) for member in group.result(10).members)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_asked_to_stop_ends_cleanly_and_its_successor_goes_on_where_it_was(
    stage: Stage, asked: signal.Signals
) -> None:
    facts = interleaved(1)
    worker = stage.worker()
    stage.publish(facts)
    until(lambda: stage.drafts() == expected(facts).keys(), "every draft")
    worker.send_signal(asked)
    assert worker.wait(10) == 0
    assert stage.everything_committed()
    scored = len(stage.scored)
    stage.worker()
    stage.publish(interleaved(2))
    until(lambda: stage.drafts() == expected([*facts, *interleaved(2)]).keys(), "the next round")
    assert len(stage.scored) == scored + len(expected(interleaved(2)))


def test_a_broker_that_has_gone_holds_no_worker_back_from_stopping(tmp_path: Path) -> None:
    with ExitStack() as workers:
        with broker.running(tmp_path / "broker", print) as bootstrap, ExitStack() as clients:
            stage = Stage(bootstrap, tmp_path, clients)
            stage.stack = workers
            worker = stage.worker()
            stage.publish(suites())
            until(lambda: len(stage.drafts()) == 1, "the reward")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_a_slot_is_for_one_worker(stage: Stage) -> None:
    with held_slot(stage.home, stage.namespace, ROLE, 0):
        assert stage.worker(slot=0).wait(PATIENCE_SECONDS) == 7


def test_a_broker_that_is_away_is_named() -> None:
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:1"):
        serve("127.0.0.1:1", "nowhere", 0, stop=lambda: False, stand_ins=lambda _: ())
