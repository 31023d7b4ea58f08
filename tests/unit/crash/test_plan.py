"""A process meets the fate its plan has for it, each item once, and what it noted outlives it."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from infra.ledger import framed
from infra.log import Record
from tests import histories as past
from tests.crash.plan import Fate, Item, Plan, digest, noted

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from pathlib import Path
from infra import failpoints
from tests.crash.plan import Fate, Plan
failpoints.arm(Fate(Plan(Path(sys.argv[1]))).hook())
for place in sys.argv[2:]:
    failpoints.reached("worker", place)
print("done")
"""


def live(plan: Plan, *places: str) -> int:
    """How a process ended that passed these places."""
    return subprocess.run([sys.executable, "-c", PROGRAM, str(plan.folder), *places], cwd=ROOT, timeout=60).returncode


def passed(plan: Plan) -> list[list[str]]:
    return [[line["place"] for line in lines] for lines in plan.histories().values()]


def test_a_process_dies_at_the_nth_time_and_its_successors_at_what_comes_next(tmp_path: Path) -> None:
    plan = Plan.written(tmp_path, {"worker": [Item("a"), Item("b", nth=2)], "other": [Item("a")]})
    assert live(plan, "b", "a", "b") == -signal.SIGKILL
    assert live(plan, "a", "b", "a", "b", "a") == -signal.SIGKILL
    assert live(plan, "a", "b", "b") == 0
    assert passed(plan) == [["b", "a", "kill"], ["a", "b", "a", "b", "kill"], ["a", "b", "b"]]
    assert plan.done() == {"worker": [Item("a"), Item("b", nth=2)], "other": []}


def test_a_frozen_process_goes_on_by_itself(tmp_path: Path) -> None:
    plan = Plan.written(tmp_path, {"worker": [Item("a", act="freeze", seconds=0.1)]})
    assert live(plan, "a", "b") == 0
    assert passed(plan) == [["a", "freeze", "b"]]


def test_a_marked_place_is_passed_and_the_mark_stays(tmp_path: Path) -> None:
    plan = Plan.written(tmp_path, {"worker": [Item("a", act="mark"), Item("a", act="mark")]})
    assert live(plan, "a", "b") == 0
    assert (plan.mark("worker", 0).exists(), plan.mark("worker", 1).exists()) == (True, False)


def test_two_processes_share_one_item(tmp_path: Path) -> None:
    plan = Plan.written(tmp_path, {"worker": [Item("a", act="mark")]})
    first, second = Fate(plan).hook(), Fate(plan).hook()
    first("worker", "a", None)
    second("worker", "a", None)
    assert plan.done() == {"worker": [Item("a", act="mark")]}


def test_a_line_that_its_writers_death_cut_short_is_left_out(tmp_path: Path) -> None:
    plan = Plan.written(tmp_path, {})
    (tmp_path / "history" / "x.jsonl").write_text('{"role": "r", "place": "a"}\n{"role": "r", "pl')
    assert passed(plan) == [["a"]]


def test_records_facts_and_places_are_noted_as_plain_data() -> None:
    fact = past.drafted(past.drawn(past.application()))
    read = Record(topic="requirements", partition=1, offset=7, event=fact)
    unreadable = Record(topic="requirements", partition=1, offset=8, event=None, error="no frame")
    assert noted([read, unreadable]) == {
        "reads": [["requirements", 1, 7, fact.event_id], ["requirements", 1, 8, ""]],
    }
    assert noted([framed(fact)]) == noted(fact) == {"facts": [[fact.event_id, digest(fact)]]}
    place = SimpleNamespace(topic="iccm.tests.v1", partition=2, offset=5)
    assert noted([place]) == noted({("tests", 2): 5}) == {"offsets": [["tests", 2, 5]]}
    assert noted(None) == noted("a name") == {}


def test_what_is_measured_does_not_change_a_digest_and_what_is_decided_or_referred_to_does() -> None:
    draft = past.drafted(past.drawn(past.application()))
    suite = past.suite_ran(draft)
    assert digest(suite) == digest(replace(suite, recorded_at=past.at(9), sandbox="another"))
    assert digest(suite) != digest(replace(suite, cause="another"))
    assert digest(suite) != digest(replace(suite, implementation_id="another"))
