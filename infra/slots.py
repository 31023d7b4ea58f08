"""A worker's slot: a number that no other worker of its role has, held by a file lock that falls with the process.

Transactional ids and group instance ids belong to slots, so a restarted worker takes over its predecessor's at once.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from infra.problems import Busy


@contextmanager
def held_slot(home: Path, namespace: str, role: str, wanted: int | None = None) -> Iterator[int]:
    """The wanted slot, or the first free one, held as long as this block. A wanted one that is taken is Busy."""
    folder = home / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for number in count() if wanted is None else (wanted,):
        with (folder / f"{namespace}.{role}.{number}.lock").open("a") as lock:
            if _locked(lock):
                yield number
                return
    raise Busy(
        f"slot {wanted} of {namespace}.{role} is taken by another worker", "leave --slot out, or stop that worker"
    )


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
