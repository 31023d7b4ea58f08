"""What one judged run costs, beside the plain way: `python -m pytest` in a fresh process, with no isolation at all.

The three run in turns on one machine, so that a busy neighbour is shared by all.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Sandbox, Suite
from schemas.events import File, SuiteKind, Verdict

ROUNDS = 30
BATCH = 96  # suites at once, to measure throughput
TESTS = 12
AGAINST = "cold python -m pytest, not isolated"
SOURCE = "def add(a, b):\n    return a + b\n"
MODULE = "from app import add\n\n" + "\n\n".join(
    f"def test_{i}():\n    assert add({i}, 1) == {i + 1}\n" for i in range(TESTS)
)


def measure() -> list[dict[str, object]]:
    """Medians of interleaved runs of one suite of twelve tests; a ratio below 1 is faster than cold pytest."""
    with closing(open_sandbox()) as box, tempfile.TemporaryDirectory() as folder:
        table, session = _table(), _session()
        _lay_out(Path(folder))
        _played(box, [table, session])  # starts the servers
        milliseconds = _in_turns(
            {
                "table": lambda: _played(box, [table]),
                "pytest": lambda: _played(box, [session]),
                "cold": lambda: _cold(folder),
            }
        )
        many = _in_turns({"table": lambda: _played(box, [table] * BATCH)}, rounds=5)["table"]
        isolation = box.name
    cold = milliseconds["cold"]
    return [
        _row(f"table suite of {TESTS} calls, {isolation}, p50", milliseconds["table"], "ms", cold),
        _row(f"pytest suite of {TESTS} tests, {isolation}, p50", milliseconds["pytest"], "ms", cold),
        _row(f"table suites in a batch, {isolation}", BATCH / many * 1000, "suites/s", None),
        _row(AGAINST, cold, "ms", None),
    ]


def _in_turns(actions: dict[str, Callable[[], None]], rounds: int = ROUNDS) -> dict[str, float]:
    spent: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            spent[name].append(1000 * (time.perf_counter() - began))
    return {name: median(each) for name, each in spent.items()}


def _row(name: str, value: float, unit: str, cold: float | None) -> dict[str, object]:
    ratio = None if cold is None else value / cold
    against = AGAINST if cold is not None else ""
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio, "rounds": ROUNDS}


def _played(box: Sandbox, suites: list[Suite]) -> None:
    bad = [each for each in box.run(suites) if each.verdict is not Verdict.PASSED]
    if bad:
        raise RuntimeError(f"a suite that passes ended as {bad[0].verdict}: {bad[0].cause}")


def _cold(folder: str) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "tests/test_app.py"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def _lay_out(folder: Path) -> None:
    (folder / "tests").mkdir()
    (folder / "app.py").write_text(SOURCE)
    (folder / "tests/test_app.py").write_text(MODULE)


def _table() -> Suite:
    cases = [{"id": f"call-{i}", "args": [i, 1], "expected": i + 1} for i in range(TESTS)]
    content = json.dumps({"module": "app", "function": "add", "cases": cases}).encode()
    return _suite(SuiteKind.TABLE, File(path="tests/cases.json", content=content), [f"call-{i}" for i in range(TESTS)])


def _session() -> Suite:
    ids = [f"tests/test_app.py::test_{i}" for i in range(TESTS)]
    return _suite(SuiteKind.PYTEST, File(path="tests/test_app.py", content=MODULE.encode()), ids)


def _suite(kind: SuiteKind, test: File, ids: list[str]) -> Suite:
    source = (File(path="app.py", content=SOURCE.encode()),)
    return Suite(files=source, tests=(test,), kind=kind, expected_test_ids=tuple(ids))
