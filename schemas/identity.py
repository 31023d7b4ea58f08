"""Names that derive from causes: event ids, content hashes and seeds.

A fact's id comes from the run and from what the fact completes, so the same work done twice is the same fact. Seeds
come from the run's seed and the place in the run; they never see run ids, event ids, offsets or clocks.
"""

import hashlib
import uuid
from collections.abc import Sequence

from schemas.events import File

NAMESPACE = uuid.UUID("6f3c1d0e-1c5b-5e0a-9a51-1cc300000001")


def event_id(run_id: str | None, completes: str, step: str, ordinal: int = 0) -> str:
    """The id of the fact by which `step` completes the thing called `completes`, for the ordinal-th of its outputs."""
    return str(uuid.uuid5(NAMESPACE, f"{run_id or ''}|{completes}|{step}|{ordinal}"))


def seed(*place: int | str) -> int:
    """A 63-bit seed for one place in a run, for example (run seed, round, application, draft)."""
    digest = hashlib.sha256("|".join(str(part) for part in place).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def files_digest(*groups: Sequence[File]) -> str:
    """SHA-256 over groups of files: paths and contents, each length-prefixed, sorted by path within a group."""
    total = hashlib.sha256()
    for group in groups:
        total.update(f"{len(group)};".encode())
        for file in sorted(group, key=lambda each: each.path):
            path = file.path.encode()
            total.update(f"{len(path)}:".encode() + path + f"{len(file.content)}:".encode() + file.content)
    return total.hexdigest()
