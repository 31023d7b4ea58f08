"""The same tables from a real broker, whose transactions become visible one partition at a time."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from consumers import project
from infra import database
from infra.kafka import KafkaLog
from infra.postgres import Database
from schemas.topics import KINDS
from tests import histories as past
from tests.whole_run import whole_run


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database.running(tmp_path_factory.mktemp("home")) as found:
        yield found


def test_tables_followed_live_equal_a_rebuild(kafka: str, address: str, tmp_path: Path) -> None:
    log = KafkaLog(kafka, "projection", 3, tmp_path)
    live, done = Database(address, "live"), threading.Event()
    projector = threading.Thread(target=partial(project.project, log, live, stop=done.is_set))
    projector.start()
    try:
        events = list(whole_run(rounds=6))
        for start in range(0, len(events), 15):
            with log.writer("projection.writer") as writer:
                writer.publish(events[start : start + 15])
        log.publish([past.application(name="the last", source="last = 1\n")])
        expected = [(record.topic, record.partition, record.offset + 1) for record in log.replay(KINDS)]
        reached = {(topic, partition): offset for topic, partition, offset in expected}
        wait_until_reached(live, reached)
        project.rebuild(log, again := Database(address, "again"))
        assert project.fingerprint(again) == project.fingerprint(live)
    finally:
        done.set()
        projector.join()
        log.close()


def wait_until_reached(database: Database, reached: dict[tuple[str, int], int], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    with database.tables() as tables:
        while tables.offsets() != reached:
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)
