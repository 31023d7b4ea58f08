"""Table suites, outside the box: what is asked of the candidate, and what its answers are worth.

tests/cases.json: {"module": ..., "function": ..., "cases": [{"id": ..., "args": [...], "expected": ...}, ...]}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from infra.sandbox import wire
from infra.sandbox.judge import Unusable
from infra.sandbox.wire import Malformed, Plain
from schemas.events import File, Outcome, TestResult

CASES = "tests/cases.json"
_SHOWN = 200


class BadSuite(ValueError):
    """The suite itself cannot be used: nobody's rebuild is to blame."""


@dataclass(frozen=True, slots=True)
class Table:
    """One function's calls, with what they should return."""

    module: str
    function: str
    test_ids: tuple[str, ...]
    arguments: tuple[bytes, ...]
    expected: tuple[object, ...]

    @property
    def task(self) -> tuple[object, ...]:
        """What enters the box: no id, no expected value."""
        return (self.module, self.function, *self.arguments)

    def results(self, told: Sequence[Plain]) -> tuple[TestResult, ...]:
        """A result per case, in order. Unusable where the function cannot be had, Malformed unless every case was told
        of once, in order, and nothing else."""
        match told:
            case [("unusable", str(why))]:
                raise Unusable(why)
        if len(told) != len(self.test_ids):
            raise Malformed(f"{len(told)} results for {len(self.test_ids)} tests")
        return tuple(self._result(index, word) for index, word in enumerate(told))

    def _result(self, index: int, word: Plain) -> TestResult:
        match word:
            case (str(how), int(told), float(seconds), bytes() | str() as said) if told == index:
                outcome, message = self._outcome(index, how, said)
                return TestResult(test_id=self.test_ids[index], outcome=outcome, seconds=seconds, message=message)
        raise Malformed(f"result {index} is no result")

    def _outcome(self, index: int, how: str, said: bytes | str) -> tuple[Outcome, str]:
        match how, said:
            case "returned", bytes():
                return self._compared(wire.decode(said), self.expected[index])
            case "raised", str():
                return Outcome.ERROR, said
            case "unplain", str():
                return Outcome.FAILED, f"returned what cannot be compared: {said}"
        raise Malformed(f"result {index} is no result")

    def _compared(self, value: Plain, expected: object) -> tuple[Outcome, str]:
        if wire.same(value, expected):
            return Outcome.PASSED, ""
        return Outcome.FAILED, f"returned {_shown(value)}, expected {_shown(expected)}"


def table(tests: Sequence[File], expected_test_ids: Sequence[str]) -> Table:
    """The table among these files. BadSuite unless its ids are those expected."""
    texts = [file.content for file in tests if file.path == CASES]
    if not texts:
        raise BadSuite(f"a table suite needs {CASES}")
    try:
        found = _table(json.loads(texts[0]))
    except (ValueError, KeyError, TypeError) as problem:
        raise BadSuite(f"{CASES} cannot be read: {problem!r}") from problem
    if found.test_ids != tuple(expected_test_ids) or len(set(found.test_ids)) != len(found.test_ids):
        raise BadSuite(f"the ids in {CASES} are not those expected of this suite")
    return found


def _table(content: dict[str, object]) -> Table:
    cases = content["cases"]
    if not isinstance(cases, list) or not all(isinstance(case["args"], list) for case in cases):
        raise TypeError("cases and args are lists")
    return Table(
        module=str(content["module"]),
        function=str(content["function"]),
        test_ids=tuple(str(case["id"]) for case in cases),
        arguments=tuple(wire.encode(case["args"]) for case in cases),
        expected=tuple(case["expected"] for case in cases),
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes out
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
