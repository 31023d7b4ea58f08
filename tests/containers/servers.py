"""Kafka and PostgreSQL in containers: published on 127.0.0.1 alone, on one port for life, ready when this returns."""

import os

# Read when the library is imported. Its reaper's image cannot be pulled everywhere, and `with` ends every server here.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import docker
from confluent_kafka.admin import AdminClient
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID
from testcontainers.core.wait_strategies import (
    ExecWaitStrategy,
    LogMessageWaitStrategy,
    WaitStrategy,
    WaitStrategyTarget,
)

from infra import broker, database
from infra.ports import ports

PATIENCE_SECONDS = 120
USER, PASSWORD = "iccm", "of-one-test-session"

# What a node that is alone must be told. Everything else is as Kafka's makers left it.
ALONE = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9092,INSIDE://127.0.0.1:9094,CONTROLLER://127.0.0.1:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",  # the published address does not lead back to it from inside
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
    "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    "KAFKA_BROKER_SESSION_TIMEOUT_MS": "3000",  # a killed node's successor waits this long to be let in
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
}


class BrokerAnswers(WaitStrategy):
    """Ready is a broker that names its topics to a client."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:  # noqa: ARG002 - asked from outside of it
        """Return when it does."""
        admin = AdminClient({"bootstrap.servers": self._address, "log_level": 2})
        admin.list_topics(timeout=self._startup_timeout)


@dataclass(frozen=True, slots=True)
class Server:
    """One server in its container."""

    address: str
    container: DockerContainer
    ready: tuple[WaitStrategy, ...]

    def kill(self) -> None:
        """As by a power cut to the container: SIGKILL to all in it."""
        self.container.get_wrapped_container().kill()

    def start(self) -> None:
        """The same container again, with its files and its address; it answers when this returns."""
        self.container.get_wrapped_container().start()
        self.await_answer()

    def await_answer(self) -> None:
        """Return when it answers. The error, when it does not, has its last words."""
        try:
            for each in self.ready:
                each.with_startup_timeout(PATIENCE_SECONDS).with_poll_interval(0.1).wait_until_ready(self.container)
        except Exception as error:
            error.add_note(self.container.get_wrapped_container().logs(tail=30).decode())
            raise


@contextmanager
def kafka(image: str) -> Iterator[Server]:
    """A broker for this block."""
    [port] = ports(1)
    address = f"127.0.0.1:{port}"
    advertised = f"PLAINTEXT://{address},INSIDE://127.0.0.1:9094"
    container = DockerContainer(image, env={**ALONE, "KAFKA_ADVERTISED_LISTENERS": advertised})
    ready = (LogMessageWaitStrategy(broker.READY), BrokerAnswers(address))
    with _published(container, 9092, port) as started:
        server = Server(address, started, ready)
        server.await_answer()
        yield server


@contextmanager
def postgres(image: str) -> Iterator[Server]:
    """A database server for this block."""
    [port] = ports(1)
    address = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
    container = DockerContainer(image, env={"POSTGRES_USER": USER, "POSTGRES_PASSWORD": PASSWORD})
    asked = ExecWaitStrategy(["pg_isready", "-h", "127.0.0.1", "-U", USER])
    with _published(container, 5432, port) as started:
        server = Server(address, started, (LogMessageWaitStrategy(database.READY), asked))
        server.await_answer()
        yield server


def remove_all(client: docker.DockerClient) -> None:
    """What an interrupted block of this session left in the engine."""
    for left in client.containers.list(all=True, filters={"label": f"{LABEL_SESSION_ID}={SESSION_ID}"}):
        left.remove(force=True, v=True)


def _published(container: DockerContainer, inside: int, outside: int) -> DockerContainer:
    container.ports[str(inside)] = ("127.0.0.1", outside)  # type: ignore[assignment]  # what docker takes
    return container
