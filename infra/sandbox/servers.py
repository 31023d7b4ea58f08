"""Fork servers as the client sees them: started with a clean environment, spoken to over a socket, replaced if lost."""

import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from infra.problems import ServiceUnavailable
from infra.sandbox import wire
from infra.sandbox.messages import Opening, Report, Request

RETRIES = 2
_GRACE_SECONDS = 30.0  # for starting, and beyond a run's wall limit for its report
_SWEEP_SECONDS = 120.0  # where a server must end its run's processes one by one
_SOURCE = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, sys.argv[1]); from infra.sandbox.server import main; main(int(sys.argv[2]))"
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/tmp",
    "LOGNAME": "sandbox",
    "PYTHONHASHSEED": "0",  # sets iterate alike in every run
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}


class ServerLost(Exception):
    """A fork server ended, or did not answer in time, with a run in its hands."""


class Server:
    """One fork server. Closing it, or the end of this process, ends it and all it started."""

    def __init__(self, opening: Opening) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_GRACE_SECONDS)
        with theirs:
            command = [os.path.realpath(sys.executable), "-s", "-S", "-B", "-P", "-c", _START]
            self._process = subprocess.Popen(
                [*command, _SOURCE, str(theirs.fileno()), f"client={os.getpid()}"],  # ps shows whose it is
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self._send(tuple(opening))
            fault, *self.protections = self._receive()
        except ServerLost as lost:
            self.close()
            raise ServiceUnavailable("a sandbox server ended while it started") from lost
        if fault:
            self.close()
            raise ServiceUnavailable(f"a sandbox server cannot start: {fault!s}")

    @property
    def pid(self) -> int:
        """Of the server's outermost process."""
        return self._process.pid

    def fileno(self) -> int:
        """For select: readable when a report is there, or the server is lost."""
        return self._socket.fileno()

    def start(self, request: Request) -> None:
        """Begin a run. Raises ServerLost."""
        self._send(tuple(request))

    def report(self) -> Report:
        """The run's report. Raises ServerLost."""
        word = self._receive()
        if len(word) == 1:
            raise ServerLost(str(word[0]))
        return Report._make(word)

    def close(self) -> None:
        """End it; returns when it is gone, its runs with it."""
        self._socket.close()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it without waiting for its run; returns when it is gone, its run with it."""
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(_SWEEP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, value: tuple[object, ...]) -> None:
        try:
            self._socket.sendall(wire.frame(value))
        except OSError as problem:
            raise ServerLost(f"a sandbox server is gone: {problem}") from problem

    def _receive(self) -> tuple[wire.Plain, ...]:
        try:
            word = wire.receive(self._socket.recv)
        except (OSError, EOFError) as problem:
            raise ServerLost("a sandbox server ended in the middle of a run") from problem
        assert isinstance(word, tuple)
        return word


class Servers:
    """A few fork servers of one kind. Every run gets its report, or after `RETRIES` lost servers the cause."""

    def __init__(self, opening: Opening, count: int) -> None:
        self._opening, self._count = opening, count
        self._idle = [Server(opening)]
        self.protections = self._idle[0].protections

    def play(self, requests: Sequence[Request]) -> list[Report | str]:
        """One report per request, in order; runs are spread over the servers."""
        waiting = deque((index, 0) for index in range(len(requests)))
        answers: dict[int, Report | str] = {}
        busy: dict[Server, tuple[int, int, float]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self._count:
                    self._begin(requests, waiting, busy, answers)
                for server in _answering(busy):
                    self._finish(server, *busy.pop(server)[:2], waiting, answers)
        finally:
            for server in busy:
                server.kill()
        return [answers[index] for index in range(len(requests))]

    def close(self) -> None:
        """End them all."""
        while self._idle:
            self._idle.pop().close()

    def _begin(
        self,
        requests: Sequence[Request],
        waiting: deque[tuple[int, int]],
        busy: dict[Server, tuple[int, int, float]],
        answers: dict[int, Report | str],
    ) -> None:
        index, tried = waiting.popleft()
        try:
            server = self._idle.pop() if self._idle else Server(self._opening)
        except ServiceUnavailable as problem:
            answers[index] = problem.message
            return
        try:
            server.start(requests[index])
        except ServerLost as lost:
            server.kill()
            self._again(waiting, answers, index, tried, str(lost))
        else:
            busy[server] = (index, tried, time.monotonic() + requests[index].wall_seconds + _GRACE_SECONDS)

    def _finish(
        self, server: Server, index: int, tried: int, waiting: deque[tuple[int, int]], answers: dict[int, Report | str]
    ) -> None:
        try:
            answers[index] = server.report()
        except ServerLost as lost:
            server.kill()
            self._again(waiting, answers, index, tried, str(lost))
        else:
            self._idle.append(server)

    @staticmethod
    def _again(
        waiting: deque[tuple[int, int]], answers: dict[int, Report | str], index: int, tried: int, cause: str
    ) -> None:
        if tried < RETRIES:
            waiting.append((index, tried + 1))
        else:
            answers[index] = f"{cause} ({tried + 1} times)"


def _answering(busy: dict[Server, tuple[int, int, float]]) -> list[Server]:
    """Those that have something to say, or else those that have been silent for too long."""
    if not busy:
        return []
    soonest = min(deadline for _, _, deadline in busy.values())
    ready, _, _ = select.select(list(busy), [], [], max(0.0, soonest - time.monotonic()))
    return ready or _silenced(busy)


def _silenced(busy: dict[Server, tuple[int, int, float]]) -> list[Server]:
    late = [server for server, (_, _, deadline) in busy.items() if deadline <= time.monotonic()]
    for server in late:
        server.kill()
    return late
