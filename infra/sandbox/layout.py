"""A suite's files as one run's request: paths stay inside, tests win over a rebuild's files of the same name."""

import math
from collections.abc import Sequence
from pathlib import PurePosixPath

from infra.sandbox.messages import Request
from infra.sandbox.suite import Limits
from schemas.events import File

# What would let a rebuild steer the test runner or the interpreter instead of being tested by it.
STEERING = frozenset({"conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "sitecustomize.py", "usercustomize.py"})


class BadFile(ValueError):
    """A file that cannot be laid out, and why."""


def request(files: Sequence[File], tests: Sequence[File], task: tuple[object, ...], limits: Limits) -> Request:
    """One run. `tests` enter the box; a table suite has none that do."""
    return Request(
        files=tuple((file.path, file.content) for file in _laid_out(files, tests)),
        tests=tuple((file.path, file.content) for file in tests),
        task=task,
        cpu_seconds=max(1, math.ceil(limits.cpu_seconds)),
        wall_seconds=limits.wall_seconds,
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        file_bytes=limits.file_bytes,
        disk_bytes=limits.disk_bytes,
        output_bytes=limits.output_bytes,
    )


def check(files: Sequence[File], limits: Limits) -> None:
    """BadFile unless all can lie in one folder, within the limits."""
    folders = {str(parent) for file in files for parent in PurePosixPath(file.path).parents}
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or str(path) != file.path or "\0" in file.path or file.path == ".":
            raise BadFile(f"{file.path!r} is no path inside its folder")
        if file.path in folders:
            raise BadFile(f"{file.path!r} is a file and a folder")
        if not all(len(part.encode("utf-8", "replace")) < 256 for part in path.parts) or len(file.path) > 1000:
            raise BadFile(f"the path {file.path[:40]!r}... is too long")
        if len(file.content) > limits.file_bytes:
            raise BadFile(f"{file.path!r} has {len(file.content)} bytes, {limits.file_bytes} is the most")
    if sum(len(file.content) + 4096 for file in files) > limits.disk_bytes // 2 or len(files) > 2000:
        raise BadFile(f"{len(files)} files, together too large for {limits.disk_bytes // 2} bytes")


def _laid_out(files: Sequence[File], tests: Sequence[File]) -> list[File]:
    taken = {test.path for test in tests}
    return [file for file in files if file.path not in taken and PurePosixPath(file.path).name not in STEERING]
