"""An application from a directory: its source and its pytest suite told apart, checked, and named by their content.

What comes in is hostile until checked: links are not followed, sizes are bounded, and nothing of it runs out here; test
ids are collected inside the sandbox.
"""

import os
import tomllib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath

from infra.log import MAX_EVENT_BYTES
from infra.problems import ApplicationRefused
from schemas.events import ApplicationRegistered, File, Split, SuiteKind
from schemas.identity import event_id, files_digest

MAX_FILES = 2_000
MAX_BYTES = MAX_EVENT_BYTES // 2
LEFT_OUT = frozenset({"__pycache__", "node_modules", "build", "dist", "venv"})

Collect = Callable[[Sequence[File], Sequence[File]], Sequence[str]]


def from_directory(folder: Path, *, split: Split, collect: Collect, now: datetime) -> ApplicationRegistered:
    """The application in `folder`, or ApplicationRefused with the reason. `collect` lists the suite's test ids."""
    source, tests = read_directory(folder)
    test_ids = tuple(collect(source, tests))
    if not test_ids:
        raise ApplicationRefused(f"{folder}: pytest collects no test", "its tests must run offline with pytest alone")
    application_id = files_digest(source, tests)
    return ApplicationRegistered(
        event_id=event_id(None, application_id, "register"),
        recorded_at=now,
        application_id=application_id,
        name=folder.resolve().name,
        family="directory",
        split=split,
        origin="directory",
        licence=_licence(folder),
        source=source,
        tests=tests,
        suite=SuiteKind.PYTEST,
        expected_test_ids=test_ids,
    )


def read_directory(folder: Path) -> tuple[tuple[File, ...], tuple[File, ...]]:
    """All plain files under `folder`, split into source and tests."""
    if not folder.is_dir():
        raise ApplicationRefused(f"{folder} is not a directory", "name the folder that holds the application")
    files: list[File] = []
    total = 0
    for path in _walk(folder):
        file = _read(folder, path)
        files.append(file)
        total += len(file.content)
        if total > MAX_BYTES or len(files) > MAX_FILES:
            raise ApplicationRefused(
                f"{folder} is larger than {MAX_BYTES} bytes or {MAX_FILES} files", "leave out data and build results"
            )
    tests = tuple(file for file in files if is_test(file.path))
    source = tuple(file for file in files if not is_test(file.path))
    if not any(file.path.endswith(".py") for file in tests):
        raise ApplicationRefused(f"{folder} has no tests", "add tests/test_*.py: without tests nothing can be judged")
    if not any(file.path.endswith(".py") for file in source):
        raise ApplicationRefused(f"{folder} has no Python source beside its tests")
    return source, tests


def is_test(path: str) -> bool:
    """Whether a file belongs to the suite: anything under a tests folder, test modules, pytest's conftest."""
    parts = PurePosixPath(path).parts
    name = parts[-1]
    in_folder = any(part in ("tests", "test") for part in parts[:-1])
    return in_folder or name == "conftest.py" or (name.startswith("test_") and name.endswith(".py"))


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(each for each in folders if each not in LEFT_OUT and not each.startswith("."))
        found.extend(Path(where, name) for name in sorted(names) if not name.startswith(".") and name[-4:] != ".pyc")
    return found


def _unreadable(error: OSError) -> None:
    raise ApplicationRefused(f"cannot read {error.filename}: {error.strerror}", "make it readable or remove it")


def _read(folder: Path, path: Path) -> File:
    relative = path.relative_to(folder).as_posix()
    if path.is_symlink() or not path.is_file():
        raise ApplicationRefused(f"{relative} is a link or not a plain file", "replace it by the file it means")
    if path.stat().st_size > MAX_BYTES:
        raise ApplicationRefused(f"{relative} is larger than {MAX_BYTES} bytes", "leave out data and build results")
    try:
        return File(path=relative, content=path.read_bytes())
    except OSError as error:
        raise ApplicationRefused(
            f"cannot read {relative}: {error.strerror}", "make it readable or remove it"
        ) from error


def _licence(folder: Path) -> str:
    """The licence that pyproject.toml states, as it states it; "unknown" where there is none."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text()).get("project", {})
    except (OSError, ValueError):
        return "unknown"
    licence = project.get("license", "unknown")
    return str(licence.get("text", "unknown")) if isinstance(licence, dict) else str(licence)
