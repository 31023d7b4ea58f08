"""The whole pipeline must score an application's own source 1 and nothing 0, whoever wrote the application."""

import json
from pathlib import Path

import pytest

from tests.commands import Iccm, survivors

STACK = """
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()
"""

TESTS = """
import pytest
from stack import Stack


def test_the_last_pushed_is_popped_first():
    stack = Stack()
    stack.push(1)
    stack.push(2)
    assert (stack.pop(), stack.pop()) == (2, 1)


@pytest.mark.parametrize("pushed", [1, 2, 3])
def test_an_empty_stack_complains(pushed):
    stack = Stack()
    for item in range(pushed):
        stack.push(item)
    for _ in range(pushed):
        stack.pop()
    with pytest.raises(IndexError):
        stack.pop()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "tests").mkdir()
    (folder / "stack.py").write_text(STACK)
    (folder / "tests" / "test_stack.py").write_text(TESTS)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sandbox", ["auto", "seccomp"])
def test_the_controls_score_one_and_zero(
    folder: Path, sandbox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICCM_SANDBOX", sandbox)
    iccm = Iccm(tmp_path / "home")
    rates = {}
    for control in ("positive", "negative"):
        out = tmp_path / f"{control}.json"
        iccm.run("run", "start", "--apps", str(folder), "--control", control, "--json", str(out))
        (point,) = json.loads(out.read_text())["baseline"]
        rates[control] = point["held_out_pass_rate"]
    assert rates == {"positive": 1.0, "negative": 0.0}
    assert survivors(iccm.home) == []


@pytest.mark.timeout(120)
def test_adding_an_application_leaves_it_on_the_log_and_no_process(folder: Path, tmp_path: Path) -> None:
    iccm = Iccm(tmp_path / "home")
    assert "4 tests" in iccm.run("apps", "add", str(folder)).stdout
    assert survivors(iccm.home) == []
    (row,) = json.loads(iccm.run("apps", "list", "--json").stdout)
    assert (row["state"], row["tests"]) == ("verified", "4")
    assert survivors(iccm.home) == []
