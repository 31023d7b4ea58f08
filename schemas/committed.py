"""Every schema ever written with, kept for ever: one .avsc file per event and version, and the lock that gives ids.

The lock says which four-byte id on the wire means which event and version, and the fingerprint that its file must have.
Lines are added, never changed: what was once written must stay readable.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.derived import Record, fingerprint

FOLDER = Path(__file__).with_name("avsc")


class BrokenLock(ValueError):
    """The lock and the files beside it contradict each other. They are derived: restore them from version control."""


@dataclass(frozen=True, slots=True)
class Version:
    """One line of the lock."""

    id: int
    event: str
    number: int
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file that holds the schema."""
        return f"{self.event}.v{self.number}.avsc"


def read_lock(folder: Path = FOLDER) -> tuple[Version, ...]:
    """All versions, by id. An absent lock has none."""
    path = folder / "ids.lock"
    if not path.exists():
        return ()
    try:
        lines = json.loads(path.read_text())
        found = [Version(int(number), line["event"], line["version"], line["sha256"]) for number, line in lines.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenLock(f"{path} is no lock of schema ids ({error!r}): restore it from version control") from error
    return tuple(sorted(found, key=lambda version: version.id))


def read_schema(version: Version, folder: Path = FOLDER) -> Record:
    """The schema of one version, once its fingerprint has been found right."""
    path = folder / version.file
    try:
        schema: Record = json.loads(path.read_text())
        right = fingerprint(schema) == version.sha256
    except (OSError, ValueError, TypeError) as error:
        raise BrokenLock(f"{path}: cannot be read ({error}): restore it from version control") from error
    if not right:
        raise BrokenLock(f"{path} is not what ids.lock says it is: restore both from version control")
    return schema


def versions_of(event: str, lock: Sequence[Version]) -> list[Version]:
    """The versions of one event, oldest first."""
    return sorted((version for version in lock if version.event == event), key=lambda version: version.number)


def following(event: str, schema: Record, lock: Sequence[Version]) -> Version:
    """The version that a new schema of an event becomes."""
    highest = max((version.id for version in lock), default=0)
    earlier = versions_of(event, lock)
    return Version(highest + 1, event, earlier[-1].number + 1 if earlier else 1, fingerprint(schema))


def write_schema(version: Version, schema: Record, folder: Path = FOLDER) -> None:
    """Write one schema file; its documentation may be newer than its version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / version.file).write_text(json.dumps(schema, indent=1) + "\n")


def write_lock(lock: Sequence[Version], folder: Path = FOLDER) -> None:
    """Write the lock."""
    lines = {
        str(version.id): {"event": version.event, "version": version.number, "sha256": version.sha256}
        for version in sorted(lock, key=lambda version: version.id)
    }
    (folder / "ids.lock").write_text(json.dumps(lines, indent=1) + "\n")
