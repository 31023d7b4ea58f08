"""Isolation where a host forbids user namespaces: seccomp without sockets, Landlock, limits, and a sweep afterwards.

It holds less: the run's files share the host's disk without a quota of their own, and what may be read is a matter of
Landlock and permissions alone. A candidate reaches no process but its own run's.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import NoReturn

from infra.sandbox import cell, kernel, landlock, seccomp
from infra.sandbox.cell import Place
from infra.sandbox.messages import Opening, Request

_RECOUNT_SECONDS = 1.0  # the user's other threads count against the kernel's limit; counting them takes milliseconds


class Fallback:
    """The server's side of it. Made in the guard, it returns in the server; the guard sweeps up after that."""

    def __init__(self, opening: Opening) -> None:
        self._uid = opening.uid
        self._folder = f"{opening.folder}/{os.getpid()}"
        os.makedirs(self._folder, 0o711)
        _fork_server(self._folder)
        self._run = f"{self._folder}/run"
        os.environ["TMPDIR"] = self._folder
        self._counted, self._tasks = -_RECOUNT_SECONDS, 0
        self._landlock = kernel.landlock_version()
        self._readable = [path for path in opening.readable if os.path.exists(path)]
        if self._uid is not None:
            _reroute([path for path in (sys.base_prefix, *opening.packages) if _hidden(path)])
        self.protections: tuple[str, ...] = (
            "seccomp",
            f"landlock {self._landlock}" if self._landlock else "absent: landlock",
            "no capabilities",
            "absent: another user, read-only tests" if self._uid is None else "another user",
            "limits on CPU, memory, files and processes",
            "absent: namespaces (what may be read is a matter of landlock and permissions)",
            "absent: a quota on the files of a run",
            "absent: control groups (memory and CPU are limited per process)",
        )

    def fork(self) -> int:
        """The supervisor's orphans become children of the server."""
        if time.monotonic() - self._counted > _RECOUNT_SECONDS:
            self._tasks = _tasks(os.getuid() if self._uid is None else self._uid)
            self._counted = time.monotonic()
        return os.fork()

    def place(self, request: Request) -> Place:
        """A folder of the run's own. Tests in it belong to the server's user and cannot be written."""
        place = Place(f"{self._run}/project", f"{self._run}/tmp")
        os.mkdir(self._run)
        for folder in place:
            os.mkdir(folder)
            os.chmod(folder, 0o1777)
        cell.write(place.project, request)
        for path, _ in request.tests:
            os.chmod(f"{place.project}/{path}", 0o444)
        return place

    def confine(self, request: Request, place: Place) -> None:
        """The order matters: each step needs rights that a later one takes."""
        cell.limit(request, request.processes + self._tasks)
        if self._landlock:
            kernel.no_new_privileges()
            landlock.confine(self._landlock, readable=self._readable, writable=(*place, *cell.DEVICES))
        cell.become(self._uid)
        kernel.die_with_parent(signal.SIGKILL)
        cell.drop_rights(seccomp.program(kernel.MACHINE, os.getpid()))

    def clear(self) -> None:
        """End what the run left running, then remove what it wrote."""
        cell.end_descendants()
        _remove(self._run)


def _fork_server(folder: str) -> None:
    """Guard and server each adopt orphans and sweep when the other dies: only both at once leave something."""
    kernel.adopt_orphans()
    server = os.fork()
    if server:
        signal.signal(signal.SIGTERM, lambda *_: _end(server))
        os.closerange(0, cell.OPEN_FILES)
        os.waitpid(server, 0)
        _sweep(folder)
    kernel.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: _sweep(folder))
    kernel.die_with_parent(signal.SIGTERM)


def _end(server: int) -> None:
    with suppress(ProcessLookupError):  # it is over, and the sweep goes on
        os.kill(server, signal.SIGKILL)


def _sweep(folder: str) -> NoReturn:
    cell.end_descendants()
    _remove(folder)
    _remove_empty(os.path.dirname(folder))
    os._exit(0)


def _tasks(uid: int) -> int:
    """How many threads this user runs on the host: the kernel's limit counts them all."""
    return sum(_threads(pid, uid) for pid in os.listdir("/proc") if pid.isdigit())


def _threads(pid: str, uid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    owner = status.partition(b"\nUid:\t")[2].split(b"\t", 1)[0]
    return int(status.partition(b"\nThreads:\t")[2].split(b"\n", 1)[0]) if int(owner) == uid else 0


def _hidden(path: str) -> bool:
    """Whether another user is kept out by a folder on the way."""
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            return True
    return False


def _reroute(folders: Sequence[str]) -> None:
    """Let candidates import from folders whose parents are closed to them: through descriptors of the folders."""
    for number, folder in zip(cell.KEPT, folders, strict=False):
        opened = os.open(folder, os.O_PATH)
        os.dup2(opened, number)
        os.close(opened)
        for paths in _search_paths():
            paths[:] = [_moved(each, folder, f"/proc/self/fd/{number}") for each in paths]


def _search_paths() -> Iterator[list[str]]:
    yield sys.path
    for module in list(sys.modules.values()):
        path = getattr(module, "__path__", None)
        if isinstance(path, list):
            yield path


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path


def _remove(folder: str) -> None:
    """However deep: what lies in a folder's folders is first brought up into it."""
    if not os.path.lexists(folder):
        return
    os.chmod(folder, 0o700)
    names = count()
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                for inner in os.scandir(entry.path):
                    _lift(inner, f"{folder}/lifted-{os.getpid()}-{next(names)}")
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(folder)


def _lift(entry: os.DirEntry[str], target: str) -> None:
    if entry.is_dir(follow_symlinks=False):
        os.chmod(entry.path, 0o700)
        os.rename(entry.path, target)
    else:
        os.unlink(entry.path)


def _remove_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        return  # other servers are still at work in it
