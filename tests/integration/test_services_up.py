"""Real Kafka and PostgreSQL: up, found, killed, brought back, down; what was acknowledged is there afterwards."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra import broker, services, settings
from infra.children import Process, end, process
from infra.problems import Busy

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[settings.Settings]:
    """A home whose services, whatever became of them, are down afterwards."""
    chosen = settings.read({"ICCM_HOME": str(tmp_path_factory.mktemp("home"))})
    yield chosen
    services.down(chosen)


def quiet(_: str) -> None:
    """Says nothing."""


def pid_of(chosen: settings.Settings, name: str) -> Process:
    [pid] = [each.pid for each in services.status(chosen).services if each.name == name]
    assert pid is not None
    found = process(pid)
    assert found is not None
    return found


def write(bootstrap: str, value: bytes) -> None:
    """One record, in a transaction, acknowledged."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": "t", "message.max.bytes": broker.MAX_MESSAGE_BYTES}
    )
    producer.init_transactions(PATIENCE_SECONDS)
    producer.begin_transaction()
    producer.produce("facts", value)
    producer.commit_transaction(PATIENCE_SECONDS)


def read(bootstrap: str, count: int) -> list[bytes | None]:
    """The first records of the topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition("facts", 0, 0)])
    try:
        return [message.value() for message in consumer.consume(count, PATIENCE_SECONDS)]
    finally:
        consumer.close()


def create_topic(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # the answer needs it alive
    [created] = admin.create_topics([NewTopic("facts", 1, 1)]).values()
    created.result(PATIENCE_SECONDS)


def test_a_home_goes_up_dies_comes_back_with_its_data_and_goes_down(home: settings.Settings) -> None:
    # started by a process that ends: the services stay
    up = "from infra import services, settings; services.up(settings.read(), say=print)"
    environment = {**os.environ, "ICCM_HOME": str(home.home)}
    subprocess.run([sys.executable, "-c", up], cwd=ROOT, env=environment, check=True, start_new_session=True)
    found = services.endpoints(home)
    kafka, postgres = pid_of(home, "kafka"), pid_of(home, "postgres")
    assert [each.state for each in services.status(home).services] == ["running", "running"]

    # two at once find them
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(lambda _: services.up(home, say=quiet), range(2))) == {found}
    assert (pid_of(home, "kafka"), pid_of(home, "postgres")) == (kafka, postgres)

    # an event of the largest size goes in, and a vector
    create_topic(found.kafka)
    write(found.kafka, b"x" * 8 * 1024 * 1024)
    with psycopg.connect(found.postgres) as connection:
        connection.execute("create table kept as select '[1,2,3]'::vector as embedding")

    # killed: seen, started again at the same addresses, nothing acknowledged is lost
    for service in (kafka, postgres):
        end(service, signal.SIGKILL, PATIENCE_SECONDS)
        assert not service.alive()
    assert [each.state for each in services.status(home).services] == ["died", "died"]
    assert services.up(home, say=quiet) == found
    write(found.kafka, b"after the kill")
    assert [len(value or b"") for value in read(found.kafka, 2)] == [8 * 1024 * 1024, len(b"after the kill")]
    with psycopg.connect(found.postgres) as connection:
        assert connection.execute("select embedding <-> '[1,2,4]' from kept").fetchall() == [(1.0,)]

    # stopped: nothing of it is left, and a port that was taken since is replaced
    survivors = [pid_of(home, "kafka"), pid_of(home, "postgres")]
    services.down(home)
    assert not any(each.alive() for each in survivors)
    with socket.create_server(("127.0.0.1", int(found.kafka.partition(":")[2]))):
        moved = services.up(home, say=quiet)
    assert moved.kafka != found.kafka
    assert moved.postgres == found.postgres
    assert len(read(moved.kafka, 2)) == 2


def test_two_brokers_never_share_a_folder_and_one_dies_with_the_process_that_holds_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from infra import broker\n"
        "with broker.running(pathlib.Path(sys.argv[1]), lambda _: None) as bootstrap:\n"
        "    print(bootstrap, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        bootstrap = holder.stdout.readline().strip()
        create_topic(bootstrap)
        with pytest.raises(Busy, match=str(tmp_path)):
            broker.prepare(tmp_path, quiet)
        holder.kill()
    assert gone(tmp_path / "kafka")
    with broker.running(tmp_path, quiet) as again:
        assert "facts" in AdminClient({"bootstrap.servers": again}).list_topics(timeout=PATIENCE_SECONDS).topics


def gone(folder: Path) -> bool:
    """Waits for the lock that a broker holds on its data for as long as it lives."""
    with (folder / "data" / ".lock").open("r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        return True
