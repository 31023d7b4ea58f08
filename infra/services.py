"""Kafka and PostgreSQL for one home: started, found again, described and stopped, whoever asks and in whatever order.

What ICCM_KAFKA or ICCM_POSTGRES names is somebody else's: nothing is started or stopped for it. The rest stands in
home/services.json, written the moment a server is born, so that a killed `iccm up` leaves nothing that is not found.
"""

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from infra import broker, daemons, database
from infra.children import Process
from infra.daemons import Daemon
from infra.problems import ServiceUnavailable
from infra.settings import Settings, without_password

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the services answer. The database's address may hold a password."""

    kafka: str
    postgres: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service as it is now: `external`, `running`, `died` (it was started and is gone) or `stopped`."""

    name: str
    state: str
    address: str = ""
    version: str = ""
    pid: int | None = None

    def as_text(self) -> str:
        """One line for a person."""
        match self.state:
            case "external":
                return f"external at {self.address}"
            case "running":
                return f"running at {self.address}, version {self.version}, pid {self.pid}"
            case "died":
                return f"died, was pid {self.pid}; `iccm up` starts it again"
        return "stopped; `iccm up` starts it"


@dataclass(frozen=True, slots=True)
class Status:
    """All services of a home. Passwords are struck out."""

    services: tuple[Service, ...]

    def as_text(self) -> dict[str, str]:
        """One line for each service."""
        return {each.name: each.as_text() for each in self.services}

    def as_plain(self) -> dict[str, dict[str, str | int | None]]:
        """The same for a machine."""
        return {each.name: asdict(each) for each in self.services}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What telling one embedded service from the other takes."""

    name: str
    version: str
    ready: str
    stopped_by: signal.Signals
    prepare: Callable[[Path, Say], Daemon]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    """One server as services.json remembers it."""

    address: str
    version: str
    process: Process


KINDS = (
    _Kind(
        name="kafka",
        version=broker.VERSION,
        ready=broker.READY,
        stopped_by=broker.STOPPED_BY,
        prepare=broker.prepare,
    ),
    _Kind(
        name="postgres",
        version=database.VERSION,
        ready=database.READY,
        stopped_by=database.STOPPED_BY,
        prepare=database.prepare,
    ),
)


def up(settings: Settings, *, say: Say) -> Endpoints:
    """Every service answers when this returns. Those that run already are left alone; two calls at once are one."""
    with _locked(settings.home):
        for kind in KINDS:
            if not _external(settings, kind.name):
                _ensure(settings.home, kind, say)
    return endpoints(settings)


@contextmanager
def running(settings: Settings, *, say: Say) -> Iterator[Endpoints]:
    """Services for one command: those already up are left up, those it had to start are stopped with it."""
    try:
        found, ours = endpoints(settings), False
    except ServiceUnavailable:
        found, ours = up(settings, say=say), True
    try:
        yield found
    finally:
        if ours:
            down(settings)


def down(settings: Settings) -> None:
    """Stop what `up` started. Data stays; what is not running is no error."""
    with _locked(settings.home):
        started = _read(settings.home)
        for kind in KINDS:
            if kind.name in started:
                daemons.stop(started[kind.name].process, kind.stopped_by)
        _state(settings.home).unlink(missing_ok=True)


def status(settings: Settings) -> Status:
    """What is known without asking the services themselves."""
    started = _read(settings.home)
    return Status(tuple(_service(settings, kind.name, started.get(kind.name)) for kind in KINDS))


def endpoints(settings: Settings) -> Endpoints:
    """Where the services answer: as the settings say, else as `up` left them. Raises ServiceUnavailable."""
    started = _read(settings.home)
    return Endpoints(
        kafka=settings.kafka or _address(settings.home, "kafka", started),
        postgres=settings.postgres or _address(settings.home, "postgres", started),
    )


def blobs_url(settings: Settings) -> str:
    """Where blobs lie: as the settings say, else under home."""
    return settings.blobs or str(settings.home / "blobs")


def _ensure(home: Path, kind: _Kind, say: Say) -> None:
    found = _read(home).get(kind.name)
    if found is not None and found.process.alive():
        daemons.await_ready(kind.name, home / "logs" / f"{kind.name}.log", kind.ready, found.process.alive)
        return
    daemon = kind.prepare(home, say)
    say(f"starting {daemon.name} {kind.version}")

    def born(process: Process) -> None:
        _remember(home, kind.name, _Started(address=daemon.address, version=kind.version, process=process))

    daemons.start(daemon, born)


def _service(settings: Settings, name: str, started: _Started | None) -> Service:
    external = _external(settings, name)
    if external:
        return Service(name=name, state="external", address=without_password(external))
    if started is None:
        return Service(name=name, state="stopped")
    state = "running" if started.process.alive() else "died"
    address = without_password(started.address)
    return Service(name=name, state=state, address=address, version=started.version, pid=started.process.pid)


def _external(settings: Settings, name: str) -> str:
    return {"kafka": settings.kafka, "postgres": settings.postgres}[name]


def _address(home: Path, name: str, started: Mapping[str, _Started]) -> str:
    if name not in started:
        raise ServiceUnavailable(f"{name} is not running for {home}", "iccm up")
    if not started[name].process.alive():
        raise ServiceUnavailable(f"{name} of {home} has died; see {home / 'logs' / f'{name}.log'}", "iccm up")
    return started[name].address


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "services.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _state(home: Path) -> Path:
    return home / "services.json"


def _read(home: Path) -> dict[str, _Started]:
    try:
        known = json.loads(_state(home).read_text())
    except FileNotFoundError:
        return {}
    return {name: _Started(**{**each, "process": Process(**each["process"])}) for name, each in known.items()}


def _remember(home: Path, name: str, started: _Started) -> None:
    known = {each: asdict(one) for each, one in {**_read(home), name: started}.items()}
    arriving = _state(home).with_suffix(".arriving")
    handle = os.open(arriving, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # addresses hold passwords
    with os.fdopen(handle, "w") as output:
        json.dump(known, output, indent=1)
    arriving.replace(_state(home))
