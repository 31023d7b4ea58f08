"""Reading begins and ends whatever became of a topic: empty, aborted, full of gaps, compacted, cut short, made anew.

Every reader of the log meets every such topic, and each comes to a result or to an error that names the place, soon.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from consumers import project
from infra import database
from infra.kafka import KafkaLog
from infra.kafka.cluster import Config
from infra.kafka.transactions import TRANSACTIONAL
from infra.log import ReferenceMissing
from infra.postgres import Database
from infra.problems import BadInput, Problem, ServiceUnavailable
from schemas.avro import encode
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    Event,
    RequirementsDrafted,
    RewardScored,
    RunEnded,
    SuiteRan,
)
from schemas.identity import event_id
from schemas.topics import KINDS, TOPICS, broker_name, key_of, topic_of
from streams.app import serve
from tests import histories as past
from tests.laws.drafting import drafting_job, draws, owed
from tests.whole_run import whole_run

PARTITIONS = 2
SOON_SECONDS = 10.0


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database.running(tmp_path_factory.mktemp("home")) as found:
        yield found


@dataclass
class Place:
    """One namespace on a broker and one schema of a database."""

    kafka: str
    database: Database
    home: Path
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")

    def __post_init__(self) -> None:
        self.admin = AdminClient({"bootstrap.servers": self.kafka})
        self.log = self.opened()

    def opened(self) -> KafkaLog:
        return KafkaLog(self.kafka, self.namespace, PARTITIONS, self.home, reference_seconds=1.0)

    def transaction(self, facts: Sequence[Event], changes: Config | None = None) -> Producer:
        """An open transaction of another program, with these facts in it."""
        name = f"{self.namespace}.{uuid.uuid4()}"
        settings: Config = {"bootstrap.servers": self.kafka, "partitioner": "murmur2_random", "transactional.id": name}
        producer = Producer(settings | (changes or {}))
        producer.init_transactions(20)
        producer.begin_transaction()
        for fact in facts:
            producer.produce(broker_name(self.namespace, topic_of(type(fact))), encode(fact), key=key_of(fact))
        assert producer.flush(10) == 0
        return producer

    @contextmanager
    def another_log(self) -> Iterator[KafkaLog]:
        """As a process that has just started sees it."""
        log = self.opened()
        try:
            yield log
        finally:
            log.close()

    def compact(self) -> None:
        """Every topic keeps the last record of each key alone, as soon as the broker can."""
        self._alter(ResourceType.BROKER, "1", {"log.cleaner.backoff.ms": "100"})
        self.alter(
            cleanup_policy="compact", segment_ms="50", min_cleanable_dirty_ratio="0.0", max_compaction_lag_ms="1"
        )

    def alter(self, **changes: str) -> None:
        """Every topic is kept otherwise from now on."""
        named = {key.replace("_", "."): value for key, value in changes.items()}
        for topic in TOPICS:
            self._alter(ResourceType.TOPIC, broker_name(self.namespace, topic.entity), named)

    def _alter(self, kind: ResourceType, name: str, changes: dict[str, str]) -> None:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in changes.items()
        ]
        [future] = self.admin.incremental_alter_configs(
            [ConfigResource(kind, name, incremental_configs=entries)]
        ).values()
        future.result()

    def cut(self, until: dict[tuple[str, int], int] | None = None) -> None:
        """Delete every record before these offsets, else all there are."""
        ends = {(e.topic, e.partition): e.offset for e in self.log.end_offsets()} if until is None else until
        gone = [TopicPartition(broker_name(self.namespace, t), p, offset) for (t, p), offset in ends.items() if offset]
        for future in self.admin.delete_records(gone).values():
            future.result()

    def made_anew(self) -> None:
        """Delete every topic, and open the log again."""
        self.delete()
        self.log.close()
        self.log = self.opened()

    def delete(self) -> None:
        """No topic of ours is there any more."""
        names = [broker_name(self.namespace, topic.entity) for topic in TOPICS]
        for future in self.admin.delete_topics(names).values():
            future.result()
        until(lambda: not set(names) & set(self.admin.list_topics(timeout=10).topics))


def until(true: Callable[[], bool], ended: Callable[[], bool] = lambda: False) -> None:
    """Wait for a state of the world, a bounded time, or until a worker has ended."""
    deadline = time.monotonic() + 40
    while not true() and not ended():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def place(kafka: str, postgres: str, tmp_path: Path) -> Iterator[Place]:
    made = Place(kafka, Database(postgres, f"recovery-{uuid.uuid4().hex[:8]}"), tmp_path)
    yield made
    made.log.close()


# ---- the readers: each comes to a result, or says why not ---------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a reader ended, and after how long."""

    seconds: float
    problem: Exception | None = None


def replays(place: Place, turn: int) -> None:
    seen = {record.event.event_id for record in place.log.replay(KINDS) if record.event is not None}
    assert app(turn).event_id in seen


def follows(place: Place, turn: int) -> None:
    seen: set[str] = set()
    batches = place.log.follow(KINDS, stop=lambda: app(turn).event_id in seen)
    for record in chain.from_iterable(batches):
        if record.event is not None:
            seen.add(record.event.event_id)


def refers(place: Place, turn: int) -> None:
    with place.another_log() as log:
        assert log.refer(ApplicationRegistered)(app(turn).application_id) == app(turn)


def works(place: Place, turn: int) -> None:
    with place.another_log() as log, working(partial(log.work, drafting_job())) as ended:
        until(lambda: set(owed([draw(turn)])) <= on_the_log(place, RequirementsDrafted), ended)


def scores(place: Place, turn: int) -> None:
    rewards = partial(serve, place.kafka, place.namespace, 0, stand_ins=lambda _: ())
    with working(rewards) as ended:
        until(lambda: reward_id(turn) in on_the_log(place, RewardScored), ended)


def projects(place: Place, turn: int) -> None:
    """As an operator would: where the tables stand beyond the log, what is said to mend it does."""
    try:
        project.catch_up(place.log, place.database)
    except BadInput as other:
        if "`iccm rebuild` refolds the tables" not in other.remedy:
            raise
        project.rebuild(place.log, place.database)
    with place.database.tables() as tables:
        assert app(turn).application_id in tables.present("applications", [app(turn).application_id])


Reader = Callable[[Place, int], None]
READERS: Sequence[Reader] = (replays, follows, refers, works, scores, projects)


def app(turn: int) -> ApplicationRegistered:
    return past.application(f"x = {turn}\n")


def draw(turn: int) -> ApplicationDrawn:
    return draws(1, first=10 + turn)[0]  # others than the draws of PAST


def reward_id(turn: int) -> str:
    return event_id(past.RUN, past.drafted(draw(turn)).event_id, "reward")


def news(turn: int) -> list[Event]:
    """What every reader is to find, each its own."""
    requirements = past.drafted(draw(turn))
    suites = [past.suite_ran(requirements, ordinal) for ordinal in range(len(requirements.implementers))]
    return [past.run_started(), app(turn), draw(turn), *suites]


def on_the_log(place: Place, kind: type[Event]) -> set[str]:
    return {record.event.event_id for record in place.log.replay((kind,)) if record.event is not None}


@contextmanager
def working(work: Callable[..., None]) -> Iterator[Callable[[], bool]]:
    """A worker beside the block, which is told whether it has ended; what it raised is raised at the end."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work, stop=done.is_set)
        try:
            yield worker.done
        finally:
            done.set()
            worker.result(30)


def ended(reader: Reader, place: Place, turn: int) -> Ended:
    began = time.monotonic()
    try:
        reader(place, turn)
    except (Problem, ReferenceMissing) as problem:
        return Ended(time.monotonic() - began, problem)
    return Ended(time.monotonic() - began)


def all_ended(place: Place, turn: int, readers: Sequence[Reader] = READERS) -> dict[str, Ended]:
    """These readers at once, each in a thread."""
    with ThreadPoolExecutor(len(readers)) as pool:
        asked = {reader.__name__: pool.submit(ended, reader, place, turn) for reader in readers}
        found = {name: each.result() for name, each in asked.items()}
    print(f"turn {turn}: " + ", ".join(f"{name} {each.seconds:.1f} s" for name, each in found.items()))
    assert {name: each.seconds for name, each in found.items() if each.seconds >= SOON_SECONDS} == {}
    return found


PAST = [fact for fact in whole_run() if not isinstance(fact, RunEnded)]


def abort(place: Place) -> None:
    place.transaction(PAST).abort_transaction()


def leave_gaps(place: Place) -> None:
    """Committed and aborted transactions in turn, and an aborted one at the end."""
    for begin in range(0, 60, 20):
        place.transaction(PAST[begin : begin + 20]).commit_transaction()
        abort(place)


def cut_all(place: Place) -> None:
    """Beyond where every group and the tables stand."""
    place.log.publish(PAST)
    place.cut()


def cut_some(place: Place) -> None:
    place.log.publish(PAST)
    ends = {(each.topic, each.partition): each.offset for each in place.log.end_offsets()}
    place.log.publish(PAST)
    place.cut(ends)


CONDITIONS: tuple[Callable[[Place], None], ...] = (abort, leave_gaps, cut_all, cut_some, Place.made_anew, abort)


@pytest.mark.timeout(200)
def test_every_reader_finds_what_is_new_whatever_became_of_the_topics(place: Place) -> None:
    """The topics begin empty and suffer one thing after the other, while groups and tables stand somewhere on them."""
    for turn, suffer in enumerate([lambda _: None, *CONDITIONS]):
        suffer(place)
        place.log.publish(news(turn))
        assert {name: each.problem for name, each in all_ended(place, turn).items() if each.problem} == {}


def test_every_reader_finds_what_is_new_on_compacted_topics(place: Place) -> None:
    place.compact()
    for _ in range(3):
        place.log.publish(PAST)
        time.sleep(0.1)  # segments are told apart by the time of their records
    until(lambda: len(list(place.log.replay(KINDS))) < 3 * len(PAST))
    place.alter(cleanup_policy="delete")  # a draft's verdicts share a key
    place.log.publish(news(0))
    assert {name: each.problem for name, each in all_ended(place, 0).items() if each.problem} == {}


def test_nobody_waits_long_for_another_programs_open_transaction_and_its_place_is_named(place: Place) -> None:
    """The verdicts are not in it, so rewards go on; a follower ends when it is told to, as always."""
    opened = place.transaction([fact for fact in PAST if not isinstance(fact, SuiteRan | RewardScored)])
    try:
        place.log.publish(news(0))
        found = all_ended(place, 0, (replays, refers, works, scores, projects))
        assert next(place.log.follow((ApplicationRegistered,), stop=lambda: False)) == []
    finally:
        opened.abort_transaction()
    assert found.pop("scores").problem is None
    for each in found.values():
        assert isinstance(each.problem, ServiceUnavailable)
        assert f"{place.namespace}." in str(each.problem)
        assert "a transaction is open" in str(each.problem)


def test_a_topic_that_is_deleted_or_made_anew_while_it_is_read_is_named(kafka: str, place: Place) -> None:
    other = Place(kafka, place.database, place.home)
    for each in (place, other):
        each.log.publish(PAST)
    anew, gone = place.log.replay((ApplicationDrawn,)), other.log.replay((ApplicationDrawn,))
    place.made_anew()
    other.delete()
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        read = [pool.submit(list, records) for records in (anew, gone)]
        with pytest.raises(BadInput, match=rf"{place.namespace}.draws.v1/. ended at . and now ends at 0"):
            read[0].result()
        with pytest.raises(BadInput, match=rf"topic {other.namespace}.draws.v1 is gone"):
            read[1].result()
    assert time.monotonic() - began < SOON_SECONDS
    other.log.close()


def test_what_a_killed_process_of_ours_left_open_is_waited_for(place: Place) -> None:
    """Nobody comes to abort it, and still it ends before a reader would give up."""
    place.transaction([draw(1)], {"transaction.timeout.ms": TRANSACTIONAL["transaction.timeout.ms"]})
    place.log.publish([draw(2)])
    began = time.monotonic()
    assert on_the_log(place, ApplicationDrawn) == {draw(2).event_id}
    assert 1 < time.monotonic() - began < SOON_SECONDS
