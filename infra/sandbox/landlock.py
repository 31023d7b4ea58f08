"""Landlock: what files a candidate may touch, whatever their permissions. Older kernels know fewer rights."""

import os
import stat
from collections.abc import Sequence

from infra.sandbox import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_FIRST_RIGHTS, _REFER, _IOCTL_DEVICE = (1 << 13) - 1, 1 << 13, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_TCP = 0b11  # bind and connect
_SCOPES = 0b11  # abstract sockets and signals end at the candidate's own processes


def confine(version: int, readable: Sequence[str], writable: Sequence[str]) -> None:
    """Reading and running beneath `readable`, all but devices beneath `writable`, nothing elsewhere."""
    rights = _rights(version)
    ruleset = kernel.landlock_ruleset(_attributes(version, rights))
    for path in readable:
        _allow(ruleset, path, _READ & rights)
    for path in writable:
        _allow(ruleset, path, rights & ~_IOCTL_DEVICE)
    kernel.landlock_restrict(ruleset)
    os.close(ruleset)


def _rights(version: int) -> int:
    known = [(1, _FIRST_RIGHTS), (2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE)]
    return sum(rights for since, rights in known if version >= since)


def _attributes(version: int, rights: int) -> bytes:
    words = [rights] + [_TCP] * (version >= 4) + [_SCOPES] * (version >= 6)
    return b"".join(each.to_bytes(8, "little") for each in words)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        kernel.landlock_allow(ruleset, rights if folder else rights & _ON_FILES, descriptor)
    finally:
        os.close(descriptor)
