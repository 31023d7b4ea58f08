"""Runs a pytest session, as the candidate, and tells what each test did. It judges nothing.

Told: ("uncollected", where, why) per file that cannot be imported; ("collected", ids); ("test", id, outcome, seconds,
message) when a test is over; ("exhausted",) at a MemoryError; ("closed", exit status); ("end",) last.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from infra.sandbox import calls
from infra.sandbox.cell import Place

MAX_MESSAGE = 2000
_PLAIN = ("-q", "-s", "--assert=plain", "-p", "no:cacheprovider", "-c", os.devnull)


def warm() -> None:
    """One session of a test of our own, so that all that pytest loads late is loaded before the first fork."""
    kept = sys.path.copy(), set(sys.modules), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_warm.py").write_text("def test_warm(tmp_path):\n    assert tmp_path\n")
        os.chdir(folder)
        pytest.main([*_PLAIN, *_within(folder), "test_warm.py"], plugins=[_Teller(lambda _: None, os._exit)])
        os.chdir(kept[2])
    sys.path[:] = kept[0]
    sys.modules.pop("test_warm", None)
    tempfile.tempdir = None


def run(
    task: Sequence[object],
    place: Place,
    tell: Callable[[object], None],
    leave: Callable[[int], NoReturn] = os._exit,
) -> None:
    """Play the task (options and files for pytest) and leave."""
    teller = _Teller(tell, leave)
    try:
        status = pytest.main([*_PLAIN, *_within(place.project), *map(str, task)], plugins=[teller])
        tell(("closed", int(status)))
    except MemoryError:
        tell(("exhausted",))
    calls.flush()
    tell(("end",))
    leave(0)


def _within(folder: str) -> tuple[str, ...]:
    """Nothing above the folder is looked at."""
    return "--rootdir", folder, "--confcutdir", folder


class _Teller:
    """A pytest plugin: three phases of a test become one word."""

    def __init__(self, tell: Callable[[object], None], leave: Callable[[int], NoReturn]) -> None:
        self._tell, self._leave = tell, leave
        self._outcome, self._seconds, self._message = "passed", 0.0, ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(("uncollected", report.nodeid, report.longreprtext[-MAX_MESSAGE:]))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tell(("collected", [item.nodeid for item in session.items]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._outcome, self._seconds, self._message = "passed", 0.0, ""
        self._seconds += report.duration
        if not report.passed and self._outcome == "passed":
            self._outcome = "skipped" if report.skipped else "failed" if report.when == "call" else "error"
            self._message = report.longreprtext[-MAX_MESSAGE:]
        if report.when == "teardown":
            self._tell(("test", report.nodeid, self._outcome, self._seconds, self._message))

    def pytest_exception_interact(self, call: pytest.CallInfo[object]) -> None:
        if call.excinfo is not None and isinstance(call.excinfo.value, MemoryError):
            self._tell(("exhausted",))
            self._tell(("end",))
            self._leave(0)
