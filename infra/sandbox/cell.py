"""What both kinds of isolation share: a cell gives every run a place, takes rights away, and leaves nothing behind."""

import os
import resource
import signal
from contextlib import suppress
from typing import NamedTuple, Protocol

from infra.sandbox import kernel
from infra.sandbox.messages import Request

OPEN_FILES = 256
KEPT = range(OPEN_FILES - 4, OPEN_FILES)  # descriptors that a cell may leave open for candidates
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


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


def write(folder: str, request: Request) -> None:
    """The run's files: a rebuild's may be changed by the run, tests and the folders they lie in may not."""
    for files, mask in ((request.tests, 0o022), (request.files, 0)):
        previous = os.umask(mask)
        for path, content in files:
            target = f"{folder}/{path}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(content)
        os.umask(previous)


def limit(request: Request, processes: int) -> None:
    """The run's limits. CPU seconds end a process with SIGXCPU; one that handles it gets SIGKILL a second later."""
    _limit(resource.RLIMIT_CPU, request.cpu_seconds, request.cpu_seconds + 1)
    for kind, value in (
        (resource.RLIMIT_AS, request.memory_bytes),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, request.file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _limit(kind, value, value)


def _limit(kind: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(kind)
    hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(kind, (min(soft, hard), hard))


def become(uid: int | None) -> None:
    """Another user, in no group but its own. None: stay."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def end_descendants() -> None:
    """End every process that descends from this one, which adopts orphans. Returns when none is left.

    All are stopped before any is killed: a stopped process forks no more and still counts against its user's limit.
    """
    while _has_children():
        stopped: set[int] = set()
        while fresh := descendants() - stopped:
            _signal(fresh, signal.SIGSTOP)
            stopped |= fresh
        _signal(stopped, signal.SIGKILL)


def descendants() -> set[int]:
    """The living processes that descend from this one, zombies too."""
    parents = {int(name): _parent(name) for name in os.listdir("/proc") if name.isdigit()}
    family, fresh = set[int](), {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        family |= fresh
    return family


def private_bytes() -> int:
    """Memory that the descendants of this process hold for themselves, together, beyond what they were forked with."""
    inherited = _private(os.getpid())
    return sum(max(0, _private(pid) - inherited) for pid in descendants())


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, number)


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


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
