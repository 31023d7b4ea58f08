"""What both kinds of isolation share: a cell gives every run a place, takes rights away, and leaves nothing behind."""

import os
import resource
import signal
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from infra.sandbox import kernel
from infra.sandbox.messages import Request

OPEN_FILES = 256


class Place(NamedTuple):
    """Where one run happens."""

    project: str
    temporary: str


class Cell(Protocol):
    """An isolation, held by the fork server. `fork` and `clear` run in the server, the rest in the run's processes."""

    protections: tuple[str, ...]

    def fork(self) -> int:
        """As os.fork; the child supervises one run, and its end is the end of every process of the run."""

    def place(self, request: Request) -> Place:
        """The run's files, written."""

    def confine(self, request: Request, place: Place) -> None:
        """Take every right away that a candidate must not have, for good."""

    def clear(self) -> None:
        """After a run: no process and no file of it is left."""


def write(folder: str, files: tuple[tuple[str, bytes], ...]) -> None:
    """The files beneath `folder`; a later one of the same path wins."""
    for path, content in files:
        target = f"{folder}/{path}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)


def limit(request: Request, processes: int) -> None:
    """The run's limits, hard ones. CPU seconds end a process with SIGKILL, which no handler can delay."""
    for kind, value in (
        (resource.RLIMIT_CPU, request.cpu_seconds),
        (resource.RLIMIT_AS, request.memory_bytes),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, request.file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))


def become(uid: int | None) -> None:
    """Another user, in no group but its own. None: stay."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def children(pid: int) -> Iterator[int]:
    """The processes whose parent is `pid` right now."""
    for name in os.listdir("/proc"):
        if name.isdigit() and _parent(name) == pid:
            yield int(name)


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def end_descendants() -> None:
    """End every process that descends from this one, which adopts orphans. Returns when none is left."""
    while True:
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def private_bytes() -> int:
    """Memory that the descendants of this process hold for themselves, together, beyond what they were forked with."""
    me = os.getpid()
    inherited = _private(me)
    family, fresh = set[int](), {me}
    parents = {int(name): _parent(name) for name in os.listdir("/proc") if name.isdigit()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        family |= fresh
    return sum(max(0, _private(pid) - inherited) for pid in family)


def _private(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (resident - shared) * resource.getpagesize()


def drop_rights(program: bytes) -> None:
    """No new privileges, no capability, no system call that `program` closes. The last thing before a candidate."""
    kernel.no_new_privileges()
    kernel.drop_capabilities()
    kernel.filter_system_calls(program)
