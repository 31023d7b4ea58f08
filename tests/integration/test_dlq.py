"""Poison on a real broker: it is buried, its partition and its round go on, and after a fix it is worked on again."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

from consumers import project
from consumers.__main__ import JOBS
from consumers.dlq.__main__ import letters_on, main
from infra import database, process
from infra.kafka import KafkaLog
from infra.lost import stand_ins
from infra.postgres import Database
from infra.settings import Settings
from schemas import avro
from schemas.avro import encode
from schemas.events import (
    Author,
    DeadLettered,
    DeadLetterReplayed,
    Event,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    Specification,
    SuiteRan,
)
from schemas.identity import event_id
from schemas.topics import ID_HEADER, broker_name
from streams.app import serve
from tests import histories as past
from tests.whole_run import rebuild_failed

PATIENCE_SECONDS = 60.0
APP = past.application()
REWARDED = past.ORCHESTRA[:3]
OPENED: RoundOpened = replace(past.round_opened(), application_ids=(APP.application_id,))
SPECIFICATION = Specification(implementers=REWARDED, drafts_per_application=1, author=Author.POSITIVE)
STARTED = past.run_started(SPECIFICATION)
DRAW = past.drawn(APP, drafts=1, implementers=REWARDED, author=Author.POSITIVE)
DRAFT = past.drafted(DRAW)
SUITES = [past.suite_ran(DRAFT, ordinal) for ordinal in range(len(REWARDED))]

NO_FRAME, NEWER = b"no frame at all", b"\x00\x7f\xff\xff\xff and a body"


@dataclass
class Floor:
    """One namespace with a single partition, so that whatever is behind the poison is behind it; roles in threads."""

    kafka: str
    home: Path
    pool: ThreadPoolExecutor
    postgres: str = "not asked for"
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")
    done: threading.Event = field(default_factory=threading.Event)
    working: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = KafkaLog(self.kafka, self.namespace, 1, self.home, reference_seconds=0.5)
        self.producer = Producer({"bootstrap.servers": self.kafka})

    def spoil(self, topic: str, content: bytes, said_id: str = "") -> None:
        headers: list[tuple[str, str | bytes | None]] = [(ID_HEADER, said_id)] if said_id else []
        self.producer.produce(broker_name(self.namespace, topic), content, key="key", headers=headers)
        assert self.producer.flush(10) == 0

    def start(self, *roles: str) -> None:
        for role in roles:
            self.working.append(self.pool.submit(self._role, role))

    def _role(self, role: str) -> None:
        stop = self.done.is_set
        if role == "rewards":
            closing = partial(stand_ins, self.log, process.clock)
            serve(self.kafka, self.namespace, 0, stop=stop, stand_ins=closing)
        elif role == "project":
            project.project(self.log, self.database, stop=stop)
        else:
            with JOBS[role](self.log, self.settings) as job:
                self.log.work(job, stop=stop)

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.home, kafka=self.kafka, postgres=self.postgres, namespace=self.namespace, partitions=1
        )

    @property
    def database(self) -> Database:
        return Database(self.postgres, self.namespace)

    def read(self, *kinds: type[Event]) -> list[Event]:
        return [record.event for record in self.log.replay(kinds) if record.event is not None]

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for a state of the log, a bounded time; what a role raised is raised here."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            for each in self.working:
                if each.done():
                    each.result()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def rewards(self, count: int) -> list[RewardScored]:
        self.until(lambda: len(self.read(RewardScored)) >= count)
        return [each for each in self.read(RewardScored) if isinstance(each, RewardScored)]

    def buried(self, count: int) -> list[DeadLettered]:
        self.until(lambda: len(self.read(DeadLettered)) >= count)
        return [each for each in self.read(DeadLettered) if isinstance(each, DeadLettered)]

    def stop(self) -> None:
        self.done.set()
        for each in self.working:
            each.result(30)


@pytest.fixture
def floor(kafka: str, tmp_path: Path) -> Iterator[Floor]:
    with ThreadPoolExecutor(5) as pool:
        made = Floor(kafka, tmp_path, pool)
        try:
            yield made
        finally:
            made.stop()
            made.log.close()


@pytest.fixture
def iccm(floor: Floor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`iccm dlq` on the floor's log: what it says on standard output. Its exit code must be `code`."""
    for each in fields(floor.settings):
        monkeypatch.setenv(f"ICCM_{each.name.upper()}", str(getattr(floor.settings, each.name)))

    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = main(list(arguments))
        said = capsys.readouterr()
        assert found == code, f"{found}\n{said.out}\n{said.err}"
        return said.out

    return call


@contextmanager
def older_version(kind: type[Event]) -> Iterator[None]:
    """As if the code in this block had been committed before today's schema of `kind`."""
    head = encode(next(each for each in (DRAFT, SUITES[0], APP) if isinstance(each, kind)))[: avro.HEAD_BYTES]
    number = int.from_bytes(head[1:], "big")
    version = avro.CODEC._lock.pop(number)
    avro.CODEC._readers.pop(head, None)
    try:
        yield
    finally:
        avro.CODEC._lock[number] = version


def test_poison_before_every_roles_facts_stalls_neither_its_partition_nor_the_round(floor: Floor) -> None:
    floor.log.publish([APP, STARTED, OPENED])
    for topic in ("draws", "requirements", "implementations", "tests"):
        for content in (NO_FRAME, NEWER):
            floor.spoil(topic, content)
    floor.log.publish([DRAW])
    floor.start("requirements", "implement", "run_tests", "rewards")
    [reward] = floor.rewards(1)
    assert reward.value == 1.0
    letters = floor.buried(8)
    stages = {"draws": "requirements", "requirements": "implement", "implementations": "run_tests", "tests": "rewards"}
    assert sorted((each.topic, each.offset) for each in letters) == sorted((t, o) for t in stages for o in (0, 1))
    assert all(each.stage == stages[each.topic] and each.caused_by == () for each in letters)


@pytest.mark.parametrize("topic", ["draws", "requirements", "implementations", "tests"])
def test_a_round_does_not_wait_for_a_fact_nobody_can_read(floor: Floor, topic: str) -> None:
    """What its header names is filled by the role that buries it; the others answer that as any failure."""
    draw = replace(DRAW, event_id=event_id(past.RUN, OPENED.event_id, "draw", 0))
    rebuilds = [rebuild_failed(DRAFT, ordinal) for ordinal in range(len(REWARDED))]
    before: dict[str, tuple[list[Event], list[str], str]] = {
        "draws": ([], ["requirements", "implement", "run_tests"], draw.event_id),
        "requirements": ([draw], ["implement", "run_tests"], DRAFT.event_id),
        "implementations": ([draw, DRAFT, *rebuilds[1:]], ["run_tests"], rebuilds[0].event_id),
        "tests": ([draw, DRAFT, *rebuilds, *SUITES[1:]], [], SUITES[0].event_id),
    }
    facts, roles, lost = before[topic]
    floor.log.publish([APP, STARTED, OPENED, *facts])
    floor.spoil(topic, NO_FRAME, lost)
    floor.start(*roles, "rewards")
    [reward] = floor.rewards(1)
    assert reward.value is None
    assert f"{topic}/0@" in reward.cause
    assert "cannot be read" in reward.cause
    assert [each.caused_by for each in floor.buried(1)] == [(lost,)]


def test_what_an_older_worker_could_not_read_is_rebuilt_by_a_replay_and_the_round_goes_on(
    floor: Floor, iccm: Callable[..., str]
) -> None:
    floor.log.publish([APP, STARTED, OPENED, DRAW, DRAFT])
    with older_version(RequirementsDrafted):
        floor.start("implement")
        [letter] = floor.buried(1)
    assert "schema id" in letter.exception
    floor.start("run_tests", "rewards")
    assert "3 facts missing" in iccm("replay", "--filter", "open", "--dry-run")
    assert "3 facts written" in iccm("replay", letter.event_id[:8])
    assert floor.rewards(1)[0].value == 1.0
    assert iccm("replay", letter.event_id) == ""
    assert iccm("list", "--filter", "open") == "no dead letters\n"
    [listed] = json.loads(iccm("list", "--json"))
    assert (listed["state"], [each["written"] for each in listed["replays"]]) == ("replayed", [3])
    assert len(floor.read(DeadLetterReplayed)) == 1


def test_a_verdict_an_older_worker_could_not_read_brings_its_drafts_reward(
    floor: Floor, iccm: Callable[..., str]
) -> None:
    """Once while the draft waits for another verdict, then when all are there."""
    floor.log.publish([APP, STARTED, OPENED, DRAW, DRAFT, SUITES[0]])
    with older_version(SuiteRan):
        floor.start("rewards")
        [letter] = floor.buried(1)
    floor.log.publish(SUITES[1:2])
    assert "1 fact written" in iccm("replay", letter.event_id)
    floor.log.publish(SUITES[2:])
    [reward] = floor.rewards(1)
    assert (reward.value, reward.suite_ids) == (1.0, tuple(each.event_id for each in SUITES))


def test_failures_written_when_a_step_raised_stay_and_a_replay_says_so(floor: Floor, iccm: Callable[..., str]) -> None:
    unknown = replace(DRAFT, application_id="never registered")
    floor.log.publish([STARTED, unknown])
    floor.start("implement", "run_tests", "rewards")
    [reward] = floor.rewards(1)
    assert (reward.value, "ReferenceMissing" in reward.cause) == (None, True)
    [letter] = floor.buried(1)
    assert (letter.stage, letter.run_id, letter.caused_by) == ("implement", past.RUN, (unknown.event_id,))
    assert "nothing to do" in iccm("replay", letter.event_id, "--dry-run")
    assert "0 facts written, 3 facts stood there already and stay" in iccm("replay", letter.event_id)
    shown = iccm("show", letter.event_id)
    assert shown.count("ImplementationFailed at implementations/0@") == 3
    assert "ReferenceMissing: no ApplicationRegistered of never registered" in shown


def test_a_stray_verdict_fails_again_and_the_others_are_replayed_all_the_same(
    floor: Floor, iccm: Callable[..., str]
) -> None:
    stray = replace(SUITES[0], event_id="stray", model="stranger")
    floor.log.publish([STARTED, stray, *SUITES[1:]])
    floor.spoil("tests", NO_FRAME)
    floor.start("rewards")
    [first, second] = sorted(floor.buried(2), key=lambda each: each.offset)
    said = iccm("replay", "--filter", "stage=rewards", code=9)
    assert said.count("failed again") == 2
    assert {each.state for each in letters_on(floor.log)} == {"failed again"}
    assert "StrayFact" in iccm("show", first.event_id)
    assert "6e 6f 20 66" in iccm("show", second.event_id)
    assert [each["stage"] for each in json.loads(iccm("list", "--json", "--filter", "exception~stranger"))] == [
        "rewards"
    ]


def test_records_of_an_ended_run_are_refused_by_name(floor: Floor, iccm: Callable[..., str]) -> None:
    floor.log.publish([STARTED, replace(SUITES[0], model="stranger")])
    floor.start("rewards")
    [letter] = floor.buried(1)
    floor.log.publish([past.run_ended()])
    assert iccm("replay", "--filter", "open") == ""
    iccm("replay", letter.event_id, code=2)
    iccm("replay", code=2)
    iccm("replay", "--filter", "colour=red", code=2)
    iccm("show", "no such id", code=2)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database.running(tmp_path_factory.mktemp("home")) as found:
        yield found


def test_what_the_tables_could_not_take_is_let_in_by_a_replay(
    floor: Floor, iccm: Callable[..., str], postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.postgres = postgres
    monkeypatch.setenv("ICCM_POSTGRES", postgres)
    floor.log.publish([APP, STARTED, OPENED, DRAW, DRAFT])
    with older_version(RequirementsDrafted):
        floor.start("project")
        [letter] = floor.buried(1)
        floor.until(lambda: rows(floor, "SELECT stage FROM dead_letters") == [("project",)])
    assert rows(floor, "SELECT id FROM drafts") == []
    assert "0 facts written" in iccm("replay", letter.event_id)
    assert rows(floor, "SELECT id FROM drafts") == [(DRAFT.event_id,)]
    floor.until(lambda: rows(floor, "SELECT written FROM dead_letter_replays") == [(0,)])
    assert rows(floor, "SELECT count(*) FROM parked") == [(0,)]
    floor.stop()
    project.rebuild(floor.log, again := Database(postgres, f"{floor.namespace}-again"))
    assert project.fingerprint(again) == project.fingerprint(floor.database)


def rows(floor: Floor, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(floor.postgres) as connection:
        connection.execute(f'SET search_path = "{floor.namespace}", public')
        return connection.execute(query).fetchall()
