"""Failpoints do nothing in the product, and nothing in the product can arm them."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from infra import failpoints, settings
from infra.failpoints import PLACES, reached
from infra.problems import BadInput
from infra.settings import Settings

ROOT = Path(__file__).parents[3]
ROOMS = ("schemas", "infra", "producers", "consumers", "streams", "trainer")
WORKER_ROLES = {"requirements", "implement", "run_tests"}


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    """Every call of `name`, or of an attribute of that name, in the product."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name:
                yield path, node


def test_a_place_reached_in_the_product_does_nothing() -> None:
    assert failpoints._hooks == []
    reached("trainer", "learnt", object())


def test_an_armed_hook_hears_of_every_place_with_what_is_at_stake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_hooks", [])
    heard: list[tuple[str, str, object]] = []
    failpoints.arm(lambda role, place, about: heard.append((role, place, about)))
    reached("rewards", "taken", "a fact")
    reached("rewards", "scored")
    assert heard == [("rewards", "taken", "a fact"), ("rewards", "scored", None)]


def test_nothing_in_the_product_arms_a_hook() -> None:
    assert [path.name for path, _ in calls("arm")] == []
    assert [path.name for path in modules() if "_hooks" in path.read_text()] == ["failpoints.py"]


def test_no_setting_names_a_failpoint_and_an_unknown_one_is_refused() -> None:
    names = {each.name for each in fields(Settings)}
    assert not [name for name in names if "fail" in name or "crash" in name or "plan" in name]
    with pytest.raises(BadInput, match="unknown setting ICCM_FAILPOINTS"):
        settings.read({"ICCM_FAILPOINTS": "trainer.learnt"})


def test_the_variable_of_the_test_build_means_nothing_to_the_product(tmp_path: Path) -> None:
    """A plan that would kill at once: the command line lives, and notes nothing."""
    (tmp_path / "plan.json").write_text('{"conductor": [{"place": "judged"}]}')
    program = """
import sys
from infra import __main__, failpoints
code = __main__.main(["--help"])
assert failpoints._hooks == [], "armed"
failpoints.reached("conductor", "judged")
sys.exit(code)
"""
    environment = {**os.environ, "CRASH_PLAN": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["plan.json"]


def test_every_place_named_in_the_product_is_registered_and_every_registered_one_is_named() -> None:
    """Where the role is a variable, the place is any worker's or the trainer's."""
    named = {tuple(word(each) for each in call.args[:2]) for _, call in calls("reached") if len(call.args) >= 2}
    workers = {place for role, place in named if role is None}
    roles: dict[str, set[str | None]] = {}
    for role, place in named:
        if role is not None:
            roles.setdefault(role, set()).add(place)
    assert roles.keys() | WORKER_ROLES == PLACES.keys()
    for role, places in PLACES.items():
        assert set(places) <= roles.get(role, set()) | workers, role
        assert roles.get(role, set()) <= set(places), role
    assert workers <= set(failpoints.WORKER)


def word(node: ast.expr) -> str | None:
    """What a literal or the constant ROLE of the rewards says; None for what is known only when it runs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "rewards" if isinstance(node, ast.Name) and node.id == "ROLE" else None
