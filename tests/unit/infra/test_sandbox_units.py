"""A suite in units: what a test file can import is in its box and in its key, and nothing else is."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.sandbox.forked import ForkedSandbox
from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Judgement, Limits
from infra.sandbox.table import BadSuite
from infra.sandbox.units import WORST_FIRST, Unit, merged, units
from schemas.events import ApplicationRegistered, Evidence, File, Outcome, SuiteKind, TestResult, Verdict
from tests.histories import application

TABLE = application()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ForkedSandbox]:
    box = open_sandbox()
    yield box
    box.close()


def app(tests: dict[str, str], *ids: str, source: str = "x = 1\n") -> ApplicationRegistered:
    """An application with these test files; where no ids are named, each module has one test called `test`."""
    files = tuple(File(path=path, content=text.encode()) for path, text in tests.items())
    named = ids or tuple(f"{path}::test" for path in tests if path.rpartition("/")[2].startswith("test_"))
    rebuild = (File(path="app.py", content=source.encode()),)
    return replace(TABLE, source=rebuild, tests=files, suite=SuiteKind.PYTEST, expected_test_ids=named)


def in_the_box(application: ApplicationRegistered) -> dict[str, set[str]]:
    return {unit.path: {file.path for file in unit.files} for unit in units(application)}


def keys(application: ApplicationRegistered, environment: str = "here") -> dict[str, str]:
    return {unit.path: unit.work_key(application.source, environment) for unit in units(application)}


def changed(application: ApplicationRegistered, path: str) -> set[str]:
    """The units that are no longer what they were once this file of the suite has changed."""
    tests = tuple(
        replace(file, content=file.content + b"\n# changed\n") if file.path == path else file
        for file in application.tests
    )
    before, after = keys(application), keys(replace(application, tests=tests))
    return {unit for unit in before if before[unit] != after[unit]}


PACKAGE = app(
    {
        "tests/__init__.py": "",
        "tests/conftest.py": "import json\n",
        "tests/data.json": "[]",
        "tests/helpers.py": "def one():\n    return 1\n",
        "tests/test_alone.py": "def test(): pass\n",
        "tests/test_base.py": "class Base: pass\ndef test(): pass\n",
        "tests/test_child.py": "from .test_base import Base\ndef test(): pass\n",
        "tests/test_grandchild.py": "import tests.test_child\ndef test(): pass\n",
        "tests/test_named.py": "import importlib\ndef test(): importlib.import_module('tests.test_alone')\n",
        "tests/test_reads.py": "def test(): open('tests/test_alone.py')\n",
        "tests/test_from_package.py": "from . import test_alone\ndef test(): pass\n",
    }
)
SUPPORT = {"tests/__init__.py", "tests/conftest.py", "tests/data.json", "tests/helpers.py"}


def test_a_unit_holds_its_file_all_support_and_the_modules_it_mentions_through_any_number_of_others() -> None:
    boxes = {path.removeprefix("tests/test_")[:-3]: files - SUPPORT for path, files in in_the_box(PACKAGE).items()}
    assert all(files >= SUPPORT for files in in_the_box(PACKAGE).values())
    assert {name: sorted(path[11:-3] for path in files) for name, files in boxes.items()} == {
        "alone": ["alone"],
        "base": ["base"],
        "child": ["base", "child"],
        "grandchild": ["base", "child", "grandchild"],
        "named": ["alone", "named"],
        "reads": ["alone", "reads"],
        "from_package": ["alone", "from_package"],
    }


def test_a_changed_file_changes_the_keys_of_the_units_that_hold_it_and_no_others() -> None:
    everything = set(in_the_box(PACKAGE))
    for file in PACKAGE.tests:
        holding = {unit for unit, files in in_the_box(PACKAGE).items() if file.path in files}
        assert changed(PACKAGE, file.path) == holding
    assert changed(PACKAGE, "tests/helpers.py") == everything
    assert changed(PACKAGE, "tests/test_alone.py") < everything


def test_what_support_imports_is_everybodys() -> None:
    shared = app({"conftest.py": "from test_a import x\n", "test_a.py": "x = 1\n", "test_b.py": "", "test_c.py": ""})
    assert in_the_box(shared)["test_b.py"] == {"conftest.py", "test_a.py", "test_b.py"}


def test_a_file_that_is_no_python_may_import_anything() -> None:
    broken = app({"helper.py": "def (", "test_a.py": "", "test_b.py": ""})
    assert in_the_box(broken)["test_b.py"] == {"helper.py", "test_a.py", "test_b.py"}


def test_all_that_a_verdict_depends_on_is_in_the_key() -> None:
    (unit, *_) = units(PACKAGE)
    files = (File(path="app.py", content=b"x = 1\n"),)
    key = unit.work_key(files, "here")
    others = [
        unit.work_key((replace(files[0], content=b"x = 2\n"),), "here"),
        unit.work_key((replace(files[0], path="other.py"),), "here"),
        unit.work_key(files, "there"),
        replace(unit, test_ids=("another",)).work_key(files, "here"),
        replace(unit, path="another").work_key(files, "here"),
    ]
    assert unit.work_key(tuple(reversed(files)), "here") == key
    assert len({key, *others}) == 6


def test_a_rebuild_lays_nothing_where_the_suite_has_a_file_even_one_of_another_unit() -> None:
    (unit, *_) = units(PACKAGE)
    honest = (File(path="app.py", content=b"x = 1\n"),)
    sly = (*honest, File(path="tests/test_base.py", content=b"import os\n"))
    assert unit.suite(sly) == unit.suite(honest)
    assert unit.work_key(sly, "here") == unit.work_key(honest, "here")


def test_each_test_belongs_to_one_unit_and_keeps_its_order() -> None:
    ids = ("test_b.py::test_2", "test_a.py::T::test_1", "test_b.py::test_1", "test_a.py::test_1[x::y]")
    found = {unit.path: unit.test_ids for unit in units(app({"test_a.py": "", "test_b.py": ""}, *ids))}
    assert found == {"test_a.py": (ids[1], ids[3]), "test_b.py": (ids[0], ids[2])}


def test_a_module_without_tests_is_no_unit() -> None:
    assert list(in_the_box(app({"test_a.py": "", "test_tools.py": ""}, "test_a.py::test"))) == ["test_a.py"]


@pytest.mark.parametrize("ids", [("tests/test_9.py::test",), ("helpers.py::test",), ("",)])
def test_a_test_of_no_file_is_a_bad_suite(ids: tuple[str, ...]) -> None:
    with pytest.raises(BadSuite, match="it expects tests of"):
        units(app({"test_a.py": "", "helpers.py": ""}, *ids))
    with pytest.raises(BadSuite, match="no file"):
        units(replace(PACKAGE, expected_test_ids=()))


def test_a_table_is_one_unit_that_leaves_the_rebuild_as_it_is() -> None:
    (unit,) = units(TABLE)
    suite = unit.suite(TABLE.source)
    assert (suite.files, suite.tests, suite.played) == (TABLE.source, TABLE.tests, ())
    assert (unit.path, unit.test_ids) == ("tests/cases.json", TABLE.expected_test_ids)


# ---- Merging ---------------------------------------------------------------------------------------------------------


def judgement(verdict: Verdict, name: str, seconds: float = 1.0) -> Judgement:
    told = verdict in (Verdict.PASSED, Verdict.FAILED)
    results = (TestResult(test_id=name, outcome=Outcome(verdict.value)),) if told else ()
    evidence = Evidence(cpu_seconds=seconds, wall_seconds=2 * seconds, peak_memory_bytes=int(seconds), exit_code=1)
    return Judgement(verdict=verdict, results=results, cause="" if told else f"{name}: {verdict}", evidence=evidence)


def test_every_verdict_has_its_place_and_the_worst_unit_speaks_for_the_suite() -> None:
    assert set(WORST_FIRST) == set(Verdict)
    for one, other in permutations(Verdict, 2):
        worst = min(one, other, key=WORST_FIRST.index)
        whole = merged([judgement(one, "one"), judgement(other, "other")], ["one", "other"])
        assert whole.verdict is worst
        assert whole.cause == judgement(worst, "one" if worst is one else "other").cause
        assert bool(whole.results) == ({one, other} == {Verdict.PASSED, Verdict.FAILED})


def test_what_units_used_is_added_up_and_their_peak_is_the_highest() -> None:
    whole = merged([judgement(Verdict.PASSED, "a", 2.0), judgement(Verdict.PASSED, "b", 3.0)], ["b", "a"])
    evidence = whole.evidence
    assert (evidence.cpu_seconds, evidence.wall_seconds, evidence.peak_memory_bytes) == (5.0, 10.0, 3)
    assert [result.test_id for result in whole.results] == ["b", "a"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(Verdict), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_units_changes_neither_verdict_nor_results(verdicts: list[Verdict], mixer: random.Random) -> None:
    parts = [judgement(verdict, f"t{i}") for i, verdict in enumerate(verdicts)]
    ids = [f"t{i}" for i in range(len(parts))]
    whole = merged(parts, ids)
    mixer.shuffle(parts)
    again = merged(parts, ids)
    assert (again.verdict, again.results) == (whole.verdict, whole.results)


# ---- In the box ------------------------------------------------------------------------------------------------------


def played(box: ForkedSandbox, application: ApplicationRegistered, rebuild: Sequence[File] = ()) -> list[Judgement]:
    found: tuple[Unit, ...] = units(application)
    return box.run([unit.suite(rebuild or application.source) for unit in found])


def test_a_unit_runs_its_own_tests_and_not_those_it_imports(sandbox: ForkedSandbox) -> None:
    base = "class TestBase:\n    value = 1\n    def test(self):\n        assert self.value\n"
    child = "from test_base import TestBase\nfrom app import x\n\n\nclass TestChild(TestBase):\n    value = x\n"
    suite = app({"tests/test_base.py": base, "tests/test_child.py": child})
    found = sandbox.collect(suite.source, suite.tests, Limits())
    assert found == [
        "tests/test_base.py::TestBase::test",
        "tests/test_child.py::TestBase::test",
        "tests/test_child.py::TestChild::test",
    ]
    whole = merged(played(sandbox, replace(suite, expected_test_ids=tuple(found))), found)
    assert whole.verdict is Verdict.PASSED
    assert [each.test_id for each in whole.results] == found


def test_whole_and_in_units_a_suite_says_the_same_of_every_test(sandbox: ForkedSandbox) -> None:
    tests = {f"tests/test_{i}.py": f"from app import x\n\n\ndef test():\n    assert x != {i}\n" for i in range(3)}
    suite = app({"tests/conftest.py": "import pytest\n", **tests})
    merged_units = merged(played(sandbox, suite), suite.expected_test_ids)
    whole_suite = replace(units(suite)[0].suite(suite.source), tests=suite.tests, played=())
    (at_once,) = sandbox.run([replace(whole_suite, expected_test_ids=suite.expected_test_ids)])
    outcomes = [Outcome.PASSED, Outcome.FAILED, Outcome.PASSED]
    assert [each.outcome for each in merged_units.results] == [each.outcome for each in at_once.results] == outcomes
    assert merged_units.verdict is at_once.verdict is Verdict.FAILED
