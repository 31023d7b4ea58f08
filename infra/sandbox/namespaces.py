"""Isolation by namespaces: a candidate sees its own files, read-only system libraries, and no other process or network.

The fork server leaves the host once: fresh user, network, IPC, host-name, mount and process namespaces and a root that
holds only what is listed. A run then costs one process namespace and one mount namespace with a private /tmp and /proc.
When the first process of a namespace ends, the kernel ends all others in it.
"""

import os
import signal
import stat

from infra.sandbox import cell, kernel, landlock, seccomp
from infra.sandbox.cell import Place
from infra.sandbox.messages import Opening, Request

_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV
_RUN = "/tmp"
_ASIDE = "/aside"
_ITSELF = 3  # guard, server and supervisor count against the caller's own processes
_TMPFS_FILES = 4096


class Namespaces:
    """The server's side of it. Made in the guard, it returns in the server, the first process of its namespace."""

    def __init__(self, opening: Opening) -> None:
        self._uid = opening.uid
        _leave_host(opening.uid)
        _fork_server()
        self._covered = _build_root(opening.readable)
        self._landlock = kernel.landlock_version()
        self._program = seccomp.program(kernel.MACHINE)
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.protections: tuple[str, ...] = (
            "user, mount, process, network, IPC and host-name namespaces",
            "read-only root with system libraries alone",
            "private /tmp and /proc",
            "seccomp",
            *([f"landlock {self._landlock}"] if self._landlock else []),
            "no capabilities",
            "limits on CPU, memory, files and processes",
            "absent: control groups (memory and CPU are limited per process)",
        )

    def fork(self) -> int:
        """The child is the first process of a fresh process namespace."""
        kernel.setns(self._own_namespace, kernel.CLONE_NEWPID)
        kernel.unshare(kernel.CLONE_NEWPID)
        return os.fork()

    def place(self, request: Request) -> Place:
        """A tmpfs of the run's own. Tests lie in it as read-only mounts, which cannot be renamed or removed."""
        kernel.unshare(kernel.CLONE_NEWNS)
        options = f"size={request.disk_bytes},nr_inodes={_TMPFS_FILES},mode=1777"
        kernel.mount("tmpfs", _RUN, "tmpfs", _SAFE, options)
        _uncover(self._covered)
        kernel.mount("proc", "/proc", "proc", _SAFE | kernel.MS_NOEXEC, "subset=pid")
        project = f"{_RUN}/project"
        os.mkdir(project)
        os.chmod(project, 0o1777)
        cell.write(project, request)
        for path in _closed(request):
            _read_only(f"{project}/{path}")
        return Place(project, _RUN)

    def confine(self, request: Request, place: Place) -> None:  # noqa: ARG002 - every run has the same place here
        """The order matters: each step needs rights that a later one takes."""
        cell.limit(request, request.processes + (0 if self._uid is not None else _ITSELF))
        cell.become(self._uid)
        if self._landlock:
            kernel.no_new_privileges()
            landlock.confine(self._landlock, readable=("/",), writable=(_RUN, *cell.DEVICES))
        cell.drop_rights(self._program)

    def clear(self) -> None:
        """Nothing to do: the kernel has ended the run's processes and unmounted its files."""


def _closed(request: Request) -> list[str]:
    """What to make read-only: a test's topmost folder where no file of the rebuild lies in it, else the test itself."""
    taken = {path.partition("/")[0] for path, _ in request.files}
    tops = {path: path.partition("/")[0] for path, _ in request.tests}
    return sorted({path if top in taken else top for path, top in tops.items()})


def _leave_host(uid: int | None) -> None:
    wanted = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    wanted |= kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
    if uid is None:
        me, group = os.getuid(), os.getgid()
        kernel.unshare(wanted)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{me} {me} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    else:
        _unshare_mapped(wanted, f"0 0 1\n{uid} {uid} 1")


def _unshare_mapped(wanted: int, users: str) -> None:
    """Mapping a second user takes a process that stayed outside."""
    waits, goes = os.pipe()
    me = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        os.close(goes)
        os.read(waits, 1)
        os._exit(_map(me, users))
    os.close(waits)
    kernel.unshare(wanted)
    os.close(goes)
    if os.waitpid(mapper, 0)[1]:
        raise PermissionError(f"users {users.split()} cannot be mapped into a user namespace")


def _map(pid: int, users: str) -> int:
    try:
        _write(f"/proc/{pid}/uid_map", users)
        _write(f"/proc/{pid}/gid_map", users)
    except OSError:
        return 1
    return 0


def _fork_server() -> None:
    """The parent stays as guard, outside the process namespace, until the server ends."""
    server = os.fork()
    if server:
        os.closerange(0, cell.OPEN_FILES)
        os.waitpid(server, 0)
        os._exit(0)
    kernel.die_with_parent(signal.SIGKILL)


def _build_root(readable: tuple[str, ...]) -> dict[str, str]:
    """Returns what the private /tmp covers of it: where each such path stands aside, by its own name."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    present = [path for path in (*readable, *cell.DEVICES) if os.path.lexists(path)]
    links = {path: os.readlink(path) for path in present if os.path.islink(path)}
    opened = {path: os.open(path, os.O_PATH) for path in present if path not in links}
    kernel.mount("tmpfs", _RUN, "tmpfs", _SAFE, "mode=755")
    covered = {path: f"{_ASIDE}/{i}" for i, path in enumerate(sorted(opened)) if path.startswith(f"{_RUN}/")}
    _fill_root(links, {covered.get(path, path): source for path, source in opened.items()})
    kernel.mount("proc", f"{_RUN}/proc", "proc", _SAFE | kernel.MS_NOEXEC)
    kernel.change_root(_RUN)
    kernel.mount("none", "/", "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _SAFE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", _SAFE, "mode=700,size=16m")
    _uncover(covered)
    return covered


def _uncover(covered: dict[str, str]) -> None:
    """Libraries that live beneath /tmp, in a checkout there for example, keep their names in a private /tmp."""
    for path, aside in covered.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.isdir(aside):
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        kernel.mount(aside, path, "", kernel.MS_BIND | kernel.MS_REC)
        kernel.protect(path, kernel.MS_RDONLY | _SAFE)


def _fill_root(links: dict[str, str], opened: dict[str, int]) -> None:
    for folder in ("/tmp", "/proc", "/dev"):
        os.mkdir(_RUN + folder)
    os.symlink("/tmp", f"{_RUN}/dev/shm")  # where semaphores live
    for path, target in links.items():
        _parent(path)
        os.symlink(target, _RUN + path)
    for path, source in sorted(opened.items()):
        if not os.path.lexists(_RUN + path):  # else it lies within one that is there already
            _parent(path)
            _mirror(source, _RUN + path)
        os.close(source)


def _parent(path: str) -> None:
    os.makedirs(os.path.dirname(_RUN + path), exist_ok=True)


def _mirror(source: int, target: str) -> None:
    mode = os.fstat(source).st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(f"/proc/self/fd/{source}", target, "", kernel.MS_BIND | kernel.MS_REC)
    kernel.protect(target, kernel.MS_RDONLY | kernel.MS_NOSUID | (0 if stat.S_ISCHR(mode) else kernel.MS_NODEV))


def _read_only(path: str) -> None:
    kernel.mount(path, path, "", kernel.MS_BIND | kernel.MS_REC)
    kernel.protect(path, kernel.MS_RDONLY | _SAFE)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
