"""Pytest suites, outside the box: what is asked of the candidate, and what its word is worth."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from infra.sandbox.judge import Unusable
from infra.sandbox.wire import Malformed, Plain
from schemas.events import File, Outcome, TestResult

_ALL_PASSED, _SOME_FAILED, _NONE_COLLECTED = 0, 1, 5


def task(tests: Sequence[File]) -> tuple[str, ...]:
    """The test modules among these files, as pytest would find them."""
    return tuple(sorted(file.path for file in tests if is_module(file.path)))


def collecting(tests: Sequence[File]) -> tuple[str, ...]:
    """As `task`, without running a test."""
    return ("--collect-only", *task(tests))


def results(told: Sequence[Plain], expected_test_ids: Sequence[str]) -> tuple[TestResult, ...]:
    """A result per expected id, in that order. Unusable where nothing could be collected, Malformed where the word
    does not hold together: ids missing, foreign or told twice, or another exit status than the results have."""
    *words, closing = told or [None]
    status = _status(closing, words)
    collected, found = ids(told), [_result(word) for word in words if _kind(word) == "test"]
    by_id = {each.test_id: each for each in found}
    if len(by_id) != len(found) or set(by_id) != set(expected_test_ids) or len(collected) != len(found):
        raise Malformed(f"told of {len(found)} tests, {len(by_id)} distinct; {len(expected_test_ids)} were expected")
    bad = any(each.outcome in (Outcome.FAILED, Outcome.ERROR) for each in found)
    if status != (_SOME_FAILED if bad else _ALL_PASSED):
        raise Malformed(f"exit status {status} contradicts what was told")
    return tuple(by_id[test_id] for test_id in expected_test_ids)


def ids(told: Sequence[Plain]) -> list[str]:
    """The collected ids. Unusable where a module could not be imported."""
    for word in told:
        match word:
            case ("uncollected", str(where), str(why)):
                raise Unusable(f"{where} cannot be collected: {why}")
    lists = [word[1] for word in told if isinstance(word, tuple) and len(word) == 2 and word[0] == "collected"]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise Malformed("what was collected is not told once")
    return [str(each) for each in lists[0]]


def _status(closing: Plain, words: Sequence[Plain]) -> int:
    match closing:
        case ("closed", int(status)) if status in (_ALL_PASSED, _SOME_FAILED, _NONE_COLLECTED):
            return status
        case ("closed", int(status)):
            ids(words)  # says which module could not be imported, if that is why
            raise Unusable(f"pytest ended with status {status}")
    raise Malformed("the session never closed")


def _result(word: Plain) -> TestResult:
    match word:
        case ("test", str(test_id), "passed" | "failed" | "error" | "skipped" as outcome, float(seconds), str(message)):
            return TestResult(test_id=test_id, outcome=Outcome(outcome), seconds=seconds, message=message)
    raise Malformed("a result that is none")


def _kind(word: Plain) -> Plain:
    return word[0] if isinstance(word, tuple) and word else None


def is_module(path: str) -> bool:
    """Whether pytest takes a file for a test module."""
    name = PurePosixPath(path).name
    return name.endswith("_test.py") or (name.startswith("test_") and name.endswith(".py"))
