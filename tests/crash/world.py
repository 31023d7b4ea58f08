"""What the harness breaks: a Kafka and a PostgreSQL that can be killed and started again, same data, same address."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from infra import broker, daemons, database
from infra.children import leashed
from infra.daemons import Daemon
from infra.problems import Problem
from infra.process import say

PARTITIONS = 4
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Server:
    """A server under one folder. It dies with the thread that started it, or when it is told to."""

    home: Path
    prepare: Callable[[Path], Daemon]
    address: str = ""
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers. What is left of one that was killed may hold its files a moment longer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._start()
            except Problem:
                self.end(signal.SIGKILL)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _start(self) -> None:
        daemon = self.prepare(self.home)
        self.address = daemon.address
        with daemon.log.open("ab") as output:
            self.child = child = subprocess.Popen(
                [*daemon.before, *leashed(daemon.command)],
                cwd=daemon.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        daemons.await_ready(daemon.name, daemon.log, daemon.ready, lambda: child.poll() is None)

    def kill(self) -> None:
        """As a machine that loses one process: no goodbye."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> None:
        """Signal it, and its whole session after a while."""
        if self.child is None:
            return
        self.child.send_signal(number)
        try:
            self.child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait(PATIENCE_SECONDS)
        self.child = None


def behind(proxied: int, listener: int) -> Callable[[Path], Daemon]:
    """How to prepare a broker that has one more listener, at which it says it is to be found at the port `proxied`."""

    def prepare(home: Path) -> Daemon:
        daemon = broker.prepare(home, say)
        file = home.absolute() / "kafka" / "server.properties"
        file.write_text("".join(f"{line}\n" for line in _with_listener(file.read_text(), proxied, listener)))
        return daemon

    return prepare


def _with_listener(text: str, proxied: int, listener: int) -> Iterator[str]:
    for line in text.splitlines():
        match line.partition("="):
            case ("listeners", _, value):
                yield f"listeners={value},PROXIED://127.0.0.1:{listener}"
            case ("advertised.listeners", _, value):
                yield f"advertised.listeners={value},PROXIED://127.0.0.1:{proxied}"
            case ("listener.security.protocol.map", _, value):
                yield f"listener.security.protocol.map={value},PROXIED:PLAINTEXT"
            case _:
                yield line
    yield "inter.broker.listener.name=PLAINTEXT"


@dataclass(slots=True)
class World:
    """Everything a run needs beside itself."""

    folder: Path
    kafka: Server
    postgres: Server
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def home(self) -> tuple[Path, str]:
        """A fresh home and namespace for one run."""
        number = next(self.numbers)
        home = self.folder / f"run-{number}"
        home.mkdir()
        return home, f"crash-{number}"


@contextmanager
def world(folder: Path, prepare: Callable[[Path], Daemon] = lambda home: broker.prepare(home, say)) -> Iterator[World]:
    """A Kafka and a PostgreSQL for one block."""
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "services"
    servers = Server(home, prepare), Server(home, lambda each: database.prepare(each, say))
    try:
        for server in servers:
            server.start()
        yield World(folder, *servers)
    finally:
        for server in servers:
            server.end(signal.SIGTERM)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A folder that holds no more than this. PermissionError where this user cannot mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        raise PermissionError(mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is left."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as output:
        while True:
            try:
                output.write(bytes(4096))
            except OSError:
                return filler
