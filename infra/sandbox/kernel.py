"""The few system calls Python has no name for. Every one raises OSError naming itself."""

import ctypes
import os
import platform

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_CAPABILITY_VERSION = 0x20080522

MACHINE = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), what)


def _prctl(what: str, option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *words), what)


def unshare(flags: int) -> None:
    """Leave these namespaces for fresh ones."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace this descriptor names."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """As mount(2)."""
    texts = [each.encode() for each in (source, target, kind, options)]
    done = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(done, f"mount {kind or source} on {target}")


def protect(target: str, flags: int) -> None:
    """Give the mount at `target` and all beneath it these of MS_RDONLY, MS_NOSUID, MS_NODEV and MS_NOEXEC."""
    attributes = b"".join(each.to_bytes(8, "little") for each in (flags, 0, 0, 0))
    what = f"mount_setattr {target}"
    _syscall(what, _MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, len(attributes))


def change_root(folder: str) -> None:
    """Make `folder`, a mount, the root of this mount namespace; nothing of the old one stays reachable."""
    os.chdir(folder)
    _syscall("pivot_root", _PIVOT_ROOT[MACHINE], b".", b".")
    _checked(_libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability, for good once no_new_privs is set."""
    header = _CAPABILITY_VERSION.to_bytes(4, "little") + bytes(4)
    _checked(_libc.capset(header, bytes(24)), "capset")


def die_with_parent(number: int) -> None:
    """Get this signal when the parent dies. A change of user undoes it."""
    _prctl("prctl PDEATHSIG", _PR_SET_PDEATHSIG, number)


def hide_memory() -> None:
    """No core dump, and no other process of this user reads or writes this one's memory."""
    _prctl("prctl DUMPABLE", _PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Descendants whose parent dies become children of this process."""
    _prctl("prctl SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """No program started from here gains rights its starter lacks."""
    _prctl("prctl NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def filter_system_calls(program: bytes) -> None:
    """Install a seccomp filter, for this process and all it starts, for good."""
    code = ctypes.create_string_buffer(program, len(program))
    header = (len(program) // 8).to_bytes(8, "little") + ctypes.addressof(code).to_bytes(8, "little")
    pointer = ctypes.create_string_buffer(header, len(header))
    _prctl("prctl SECCOMP", _PR_SET_SECCOMP, 2, ctypes.addressof(pointer))


def landlock_version() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    try:
        return _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, 0, 0, 1)
    except OSError:
        return 0


def landlock_ruleset(attributes: bytes) -> int:
    """A new ruleset's descriptor."""
    return _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, attributes, len(attributes), 0)


def landlock_allow(ruleset: int, rights: int, path: int) -> None:
    """Grant rights beneath an open path."""
    rule = rights.to_bytes(8, "little") + path.to_bytes(4, "little")
    _syscall("landlock_add_rule", _LANDLOCK_ADD, ruleset, 1, rule, 0)


def landlock_restrict(ruleset: int) -> None:
    """Hold this process and all it starts to the ruleset, for good."""
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, 0)
