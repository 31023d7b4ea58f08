"""A fork server: it waits outside all candidate code, forks once per run, watches, and reports what it saw.

It imports little, has one thread, plays one run at a time and ends when its client does. No candidate code enters it:
a run's supervisor and the candidate are forked from it, and the supervisor alone tells how the candidate ended.
"""

import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from infra.sandbox import cell, kernel, wire
from infra.sandbox.cell import Cell, Place
from infra.sandbox.messages import Opening, Report, Request

MAX_STREAM_BYTES = 16 * 1024 * 1024
_GLANCE_SECONDS = 0.1  # how often the memory of all processes of a run is added up
Runner = Callable[[tuple[object, ...], Place, Callable[[object], None]], None]


class _Pipes(NamedTuple):
    """A run's three ways out: the candidate's stream and output, and the supervisor's word on how it ended."""

    stream: tuple[int, int]
    output: tuple[int, int]
    status: tuple[int, int]


def main(control: int) -> NoReturn:
    """Serve the client at the other end of this socket until it is gone."""

    def read(size: int) -> bytes:
        return os.read(control, size)

    try:
        opening = wire.receive(read)
        assert isinstance(opening, tuple)
        held, runner = _open(Opening._make(opening))
        _say(control, ("", *held.protections))
        while True:
            request = wire.receive(read)
            assert isinstance(request, tuple)
            _say(control, tuple(_play(held, runner, Request._make(request), control)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except Exception as problem:  # whatever it is, the client must hear of it: the host's fault, never a grade
        _say(control, (f"{type(problem).__name__}: {problem}",))
        os._exit(1)


def _open(opening: Opening) -> tuple[Cell, Runner]:
    sys.path += opening.packages
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warm, runner = _runner(opening.runner)  # before the cell closes: this code lies outside
    held = _cell(opening)
    warm()
    sys.stdout.flush()
    for name in [each for each in sys.modules if each.partition(".")[0] in ("infra", "schemas")]:
        del sys.modules[name]  # a candidate may have modules of these names
    sys.path.remove(sys.argv[1])  # where this code lies
    sys.argv[:] = [""]
    gc.collect()
    gc.freeze()
    return held, runner


def _cell(opening: Opening) -> Cell:
    if opening.isolation == "namespaces":
        from infra.sandbox.namespaces import Namespaces

        return Namespaces(opening)
    from infra.sandbox.fallback import Fallback

    return Fallback(opening)


def _runner(name: str) -> tuple[Callable[[], None], Runner]:
    if name == "table":
        from infra.sandbox import calls

        return calls.warm, calls.run
    from infra.sandbox import session  # loads pytest

    return session.warm, session.run


def _say(control: int, value: object) -> None:
    _write(control, wire.frame(value))


def _write(descriptor: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> None:
    while data:
        data = data[write(descriptor, data) :]


def _play(held: Cell, runner: Runner, request: Request, control: int) -> Report:
    pipes = _Pipes(os.pipe(), os.pipe(), os.pipe())
    kills = _kernel_kills()
    began = time.monotonic()
    supervisor = held.fork()
    if supervisor == 0:
        _supervise(held, runner, request, pipes)
    for _, entry in pipes:
        os.close(entry)
    seen = _watch(request, pipes, control, began + request.wall_seconds)
    os.kill(supervisor, signal.SIGKILL)
    _, _, usage = os.wait4(supervisor, 0)
    held.clear()
    seen.drain()
    for way_out, _ in pipes:
        os.close(way_out)
    if seen.client_gone:
        raise EOFError
    wall = time.monotonic() - began
    return seen.report(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, wall, _kernel_kills() > kills)


class _Seen:
    """What a run has said so far, read as it comes and bounded."""

    def __init__(self, pipes: _Pipes, output_bytes: int) -> None:
        self._pipes, self._output_bytes = pipes, output_bytes
        self._stream, self._output, self._status = bytearray(), bytearray(), bytearray()
        self._stream_cut = False
        self.client_gone = self.out_of_wall = self.out_of_memory = False

    def read(self, descriptor: int) -> bool:
        """Take what is there; false at the end."""
        data = os.read(descriptor, 1 << 16)
        if descriptor == self._pipes.status[0]:
            self._status += data
        elif descriptor == self._pipes.output[0]:
            self._output += data
            del self._output[: -self._output_bytes]
        elif len(self._stream) + len(data) <= MAX_STREAM_BYTES:
            self._stream += data
        else:
            self._stream_cut = True
        return bool(data)

    def drain(self) -> None:
        """Every writer is dead: read all three to their ends."""
        for descriptor, _ in self._pipes:
            while self.read(descriptor):
                pass

    def report(self, cpu_seconds: float, peak_bytes: int, wall_seconds: float, host_out_of_memory: bool) -> Report:
        """All of it."""
        fault, status = _ending(bytes(self._status))
        code = None if status is None else os.waitstatus_to_exitcode(status)
        ended = self.out_of_wall or self.out_of_memory
        return Report(
            fault=fault if status is not None or fault or ended else "the supervisor of the run was ended from outside",
            out_of_wall=self.out_of_wall,
            out_of_memory=self.out_of_memory,
            host_out_of_memory=host_out_of_memory,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
            peak_bytes=peak_bytes,
            stream=bytes(self._stream),
            stream_cut=self._stream_cut,
            output=bytes(self._output),
        )


def _ending(said: bytes) -> tuple[str, int | None]:
    """The host's fault, and the candidate's wait status: what the supervisor said first."""
    for word in wire.unframe(said):
        match word:
            case str(fault):
                return fault, None
            case int(status):
                return "", status
    return "", None


def _watch(request: Request, pipes: _Pipes, control: int, deadline: float) -> _Seen:
    """Read until the supervisor has spoken, the time is over, the memory is, or the client is gone."""
    seen = _Seen(pipes, request.output_bytes)
    poll = select.poll()
    for descriptor in (pipes.stream[0], pipes.output[0], pipes.status[0], control):
        poll.register(descriptor, select.POLLIN)
    glance = time.monotonic() + _GLANCE_SECONDS
    while (now := time.monotonic()) < deadline:
        for descriptor, _ in poll.poll(1000 * max(0.0, min(deadline, glance) - now)):
            if descriptor == control:
                seen.client_gone = True
                return seen
            if not seen.read(descriptor):
                poll.unregister(descriptor)
                if descriptor == pipes.status[0]:
                    return seen
        if now >= glance:
            glance = now + _GLANCE_SECONDS
            if cell.private_bytes() > request.memory_bytes:
                seen.out_of_memory = True
                return seen
    seen.out_of_wall = True
    return seen


def _supervise(held: Cell, runner: Runner, request: Request, pipes: _Pipes) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kernel.die_with_parent(signal.SIGKILL)
    try:
        place = held.place(request)
        candidate = os.fork()
    except OSError as problem:
        _write(pipes.status[1], wire.frame(str(problem)))
        os._exit(1)
    if candidate == 0:
        _become_candidate(held, runner, request, place, pipes)
    os.close(pipes.stream[1])
    os.close(pipes.output[1])
    kernel.hide_memory()
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == candidate:
            _write(pipes.status[1], wire.frame(status))
            os._exit(0)


def _become_candidate(held: Cell, runner: Runner, request: Request, place: Place, pipes: _Pipes) -> NoReturn:
    stream, status = 3, pipes.status[1]
    try:
        os.setsid()
        held.confine(request, place)
    except (OSError, ValueError) as problem:
        _write(status, wire.frame(str(problem)))
        os._exit(1)
    os.dup2(pipes.output[1], 1)
    os.dup2(pipes.output[1], 2)
    os.dup2(pipes.stream[1], stream, inheritable=False)
    os.closerange(stream + 1, cell.KEPT.start)
    os.chdir(place.project)
    os.environ.update(HOME=place.temporary, TMPDIR=place.temporary)
    sys.path.insert(0, place.project)
    leave, own_pid, me = os._exit, os.getpid, os.getpid()

    def tell(value: object) -> None:
        if own_pid() != me:
            leave(0)  # a copy that the candidate forked off: the original tells
        _write(stream, wire.frame(value))

    try:
        runner(request.task, place, tell)
    finally:
        leave(1)  # a runner that has told all leaves by itself


def _kernel_kills() -> int:
    """How many processes the kernel has ended on this host for want of memory."""
    try:
        with open("/proc/vmstat", "rb") as file:
            _, _, rest = file.read().partition(b"\noom_kill ")
            return int(rest.split(b"\n", 1)[0] or 0)
    except FileNotFoundError:
        return 0
