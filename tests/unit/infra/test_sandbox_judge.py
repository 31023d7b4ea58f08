"""Laws of the verdict: it follows from what was seen of a run, whatever the candidate says."""

import signal
from collections.abc import Sequence

import pytest

from infra.sandbox import judge, layout, pytest_suite, table, wire
from infra.sandbox.messages import Report, Request
from infra.sandbox.suite import Limits
from schemas.events import File, Outcome, Verdict

CASES = b"""{"module": "app", "function": "f", "cases": [
    {"id": "a", "args": [1], "expected": 2}, {"id": "b", "args": [2], "expected": [3]}]}"""
TABLE = table.table((File(path=table.CASES, content=CASES),), ("a", "b"))
REQUEST: Request = layout.request((), (), TABLE.task, Limits(cpu_seconds=2, memory_bytes=1000))
RIGHT = (("returned", 0, 0.1, wire.encode(2)), ("returned", 1, 0.1, wire.encode([3])))
END = ("end",)


def seen(*told: object, **facts: object) -> Report:
    usual: dict[str, object] = {
        "fault": "",
        "out_of_wall": False,
        "out_of_memory": False,
        "host_out_of_memory": False,
        "exit_code": 0,
        "signal": None,
        "cpu_seconds": 0.5,
        "wall_seconds": 1.0,
        "peak_bytes": 100,
        "stream": b"".join(wire.frame(each) for each in told),
        "stream_cut": False,
        "output": b"said",
    }
    return Report(**(usual | facts))  # type: ignore[arg-type]


def verdict(report: Report) -> Verdict:
    return judge.judge(REQUEST, report, TABLE.results).verdict


def by_signal(number: int, **facts: object) -> Report:
    return seen(exit_code=None, signal=number, **facts)


def test_all_that_was_expected_is_a_pass_with_a_result_per_id_in_order() -> None:
    judgement = judge.judge(REQUEST, seen(*RIGHT, END), TABLE.results)
    assert judgement.verdict is Verdict.PASSED
    assert [each.test_id for each in judgement.results] == ["a", "b"]
    assert judgement.evidence.output_tail == "said"


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        (("returned", 0, 0.1, wire.encode(2.0)), Outcome.FAILED),
        (("unplain", 0, 0.1, "Agreeable is no plain value"), Outcome.FAILED),
        (("raised", 0, 0.1, "KeyError: 1"), Outcome.ERROR),
    ],
)
def test_one_wrong_answer_fails_that_test_alone(word: tuple[object, ...], outcome: Outcome) -> None:
    judgement = judge.judge(REQUEST, seen(word, RIGHT[1], END), TABLE.results)
    assert judgement.verdict is Verdict.FAILED
    assert [each.outcome for each in judgement.results] == [outcome, Outcome.PASSED]


@pytest.mark.parametrize(
    "told",
    [
        (),
        (END,),
        RIGHT,
        (RIGHT[0], END),
        (*RIGHT, RIGHT[1], END),
        (RIGHT[0], RIGHT[0], END),
        (RIGHT[1], RIGHT[0], END),
        (*RIGHT, END, "more"),
        (*RIGHT, END, END),
        (("returned", 0, 0.1, b"?"), RIGHT[1], END),
        (("passed", 0, 0.1, ""), RIGHT[1], END),
    ],
    ids=str,
)
def test_a_word_that_does_not_hold_together_is_tampered(told: Sequence[object]) -> None:
    assert verdict(seen(*told)) is Verdict.TAMPERED


def test_neither_ids_nor_expected_values_enter_the_box() -> None:
    content = CASES.replace(b"[3]", b'"the answer"').replace(b'"a"', b'"the id"')
    asked = table.table((File(path=table.CASES, content=content),), ("the id", "b")).task
    assert b"the" not in wire.encode(asked)


def test_results_and_then_another_exit_code_are_tampered() -> None:
    assert verdict(seen(*RIGHT, END, exit_code=3)) is Verdict.TAMPERED


def test_bytes_that_are_no_words_are_tampered() -> None:
    assert verdict(seen(stream=b"passed!")) is Verdict.TAMPERED
    assert verdict(seen(*RIGHT, END, stream_cut=True)) is Verdict.TAMPERED


def test_leaving_early_with_an_error_code_is_an_error() -> None:
    assert verdict(seen(exit_code=3)) is Verdict.ERROR


def test_a_module_that_cannot_be_imported_is_an_error_with_its_reason() -> None:
    judgement = judge.judge(REQUEST, seen(("unusable", "SyntaxError: x"), END), TABLE.results)
    assert (judgement.verdict, judgement.cause, judgement.results) == (Verdict.ERROR, "SyntaxError: x", ())


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (by_signal(signal.SIGSEGV), Verdict.KILLED),
        (by_signal(signal.SIGSYS), Verdict.KILLED),
        (by_signal(signal.SIGKILL), Verdict.KILLED),
        (by_signal(signal.SIGXCPU, cpu_seconds=1.9), Verdict.TIMEOUT),
        (by_signal(signal.SIGKILL, cpu_seconds=2.9), Verdict.TIMEOUT),
        (by_signal(signal.SIGKILL, host_out_of_memory=True), Verdict.INVALID_INFRA),
        (by_signal(signal.SIGKILL, out_of_wall=True), Verdict.INVALID_INFRA),
        (by_signal(signal.SIGKILL, out_of_wall=True, cpu_seconds=2.5), Verdict.TIMEOUT),
        (by_signal(signal.SIGKILL, out_of_memory=True), Verdict.OOM),
        (seen(("exhausted",), END), Verdict.OOM),
        (seen(*RIGHT, END, fault="no pipe"), Verdict.INVALID_INFRA),
    ],
)
def test_how_a_process_ended_decides_first(report: Report, expected: Verdict) -> None:
    judgement = judge.judge(REQUEST, report, TABLE.results)
    assert judgement.verdict is expected
    assert judgement.results == ()
    assert judgement.cause


IDS = ("tests/test_x.py::test_a", "tests/test_x.py::test_b")
COLLECTED = ("collected", list(IDS))


def told(first: str = "passed", second: str = "passed", status: int = 0) -> list[object]:
    rows = [("test", test_id, how, 0.1, "") for test_id, how in zip(IDS, (first, second), strict=True)]
    return [COLLECTED, *rows, ("closed", status), END]


def session(words: Sequence[object]) -> Verdict:
    return judge.judge(REQUEST, seen(*words), lambda each: pytest_suite.results(each, IDS)).verdict


def test_a_session_passes_when_every_expected_test_passed() -> None:
    assert session(told()) is Verdict.PASSED
    assert session(told("failed", status=1)) is Verdict.FAILED
    assert session(told("skipped")) is Verdict.FAILED


@pytest.mark.parametrize(
    "words",
    [
        told("failed", status=0),
        told(status=1),
        [COLLECTED, ("test", IDS[0], "passed", 0.1, ""), ("closed", 0), END],
        [("collected", [*IDS, "z"]), *told()[1:3], ("test", "z", "passed", 0.1, ""), ("closed", 0), END],
        [*told()[:2], told()[1], ("closed", 0), END],
        [*told()[:3], told()[2], ("closed", 0), END],
        [COLLECTED, *told()],
        told()[1:],
        [*told()[:3], END],
    ],
    ids=str,
)
def test_a_session_that_contradicts_itself_is_tampered(words: list[object]) -> None:
    assert session(words) is Verdict.TAMPERED


def test_a_session_that_could_not_import_its_tests_is_an_error() -> None:
    words = [("uncollected", "tests/test_x.py", "ModuleNotFoundError"), ("collected", []), ("closed", 2), END]
    assert session(words) is Verdict.ERROR


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"module": "a"}', CASES.replace(b'"b"', b'"a"'), b"\xff"])
def test_a_suite_that_cannot_be_read_is_named(content: bytes) -> None:
    with pytest.raises(table.BadSuite, match=r"cases\.json"):
        table.table((File(path=table.CASES, content=content),), ("a", "b"))


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "a//b", "./x", "", ".", "a\0b", "x" * 300, "a/" * 600])
def test_a_path_that_leaves_its_folder_is_refused_by_name(path: str) -> None:
    with pytest.raises(layout.BadFile):
        layout.check((File(path=path, content=b""),), Limits())


def test_a_file_that_is_also_a_folder_is_refused() -> None:
    with pytest.raises(layout.BadFile):
        layout.check((File(path="a", content=b""), File(path="a/b", content=b"")), Limits())


def test_tests_win_over_a_rebuild_and_files_that_steer_pytest_are_left_out() -> None:
    files = tuple(File(path=path, content=b"") for path in ("a.py", "tests/test_a.py", "conftest.py", "x/pytest.ini"))
    request = layout.request(files, (File(path="tests/test_a.py", content=b"1"),), (), Limits())
    assert request.files == (("a.py", b""),)
