"""A sandbox of fork servers: the same box and the same verdict rules for both kinds of suite."""

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from infra.problems import ServiceUnavailable
from infra.sandbox import judge, layout, pytest_suite, table
from infra.sandbox.judge import Unusable
from infra.sandbox.layout import BadFile
from infra.sandbox.messages import Opening, Report, Request
from infra.sandbox.servers import Servers
from infra.sandbox.suite import Judgement, Limits, Suite
from infra.sandbox.table import BadSuite
from infra.sandbox.wire import Plain
from schemas.events import File, SuiteKind, TestResult, Verdict


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A suite, ready to be played and judged."""

    kind: SuiteKind
    request: Request
    results: judge.Results


class ForkedSandbox:
    """Table suites run at once; the servers for pytest start with the first suite that needs them."""

    def __init__(
        self, name: str, opening: Callable[[SuiteKind], Opening], count: int, environment: str, folder: str
    ) -> None:
        self._name, self._opening, self._count, self._environment = name, opening, count, environment
        self._folder = folder
        self._one_at_a_time = threading.Lock()
        try:
            self._servers = {SuiteKind.TABLE: Servers(opening(SuiteKind.TABLE), count)}
        except ServiceUnavailable:
            self._remove_folder()
            raise
        protections = self._servers[SuiteKind.TABLE].protections
        self._assurance = f"{name}: {', '.join(map(str, protections))}"

    @property
    def name(self) -> str:
        """Of the isolation."""
        return self._name

    @property
    def assurance(self) -> str:
        """What holds, and what is absent."""
        return self._assurance

    @property
    def environment(self) -> str:
        """Part of the key under which a verdict may be used again."""
        return self._environment

    def run(self, suites: Sequence[Suite]) -> list[Judgement]:
        """One judgement per suite, in order."""
        prepared = [_prepare(suite) for suite in suites]
        judged = iter(self._judged([each for each in prepared if isinstance(each, _Prepared)]))
        return [each if isinstance(each, Judgement) else next(judged) for each in prepared]

    def collect(self, files: Sequence[File], tests: Sequence[File], limits: Limits) -> list[str]:
        """The ids of the tests that pytest finds. Raises BadFile, or Unusable with the reason."""
        layout.check((*files, *tests), limits)
        request = layout.request(files, tests, pytest_suite.collecting(tests), limits)
        found: list[str] = []

        def results(told: Sequence[Plain]) -> tuple[TestResult, ...]:
            found.extend(pytest_suite.ids(told))
            return ()

        (judgement,) = self._judged([_Prepared(SuiteKind.PYTEST, request, results)])
        if judgement.verdict is Verdict.INVALID_INFRA:
            raise ServiceUnavailable(judgement.cause)
        if judgement.verdict is not Verdict.PASSED:
            raise Unusable(judgement.cause)
        return found

    def close(self) -> None:
        """End every process of this sandbox."""
        for servers in self._servers.values():
            servers.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)  # the last server may have removed it

    def _judged(self, prepared: Sequence[_Prepared]) -> list[Judgement]:
        judgements: dict[int, Judgement] = {}
        with self._one_at_a_time:
            for kind in SuiteKind:
                chosen = [index for index, each in enumerate(prepared) if each.kind is kind]
                reports = self._play(kind, [prepared[index].request for index in chosen]) if chosen else []
                judgements |= {i: _judge(prepared[i], report) for i, report in zip(chosen, reports, strict=True)}
        return [judgements[index] for index in range(len(prepared))]

    def _play(self, kind: SuiteKind, requests: Sequence[Request]) -> list[Report | str]:
        if kind not in self._servers:
            try:
                self._servers[kind] = Servers(self._opening(kind), self._count)
            except ServiceUnavailable as problem:
                return [problem.message for _ in requests]
        return self._servers[kind].play(requests)


def _prepare(suite: Suite) -> _Prepared | Judgement:
    """The suite's own mistakes are nobody's bad grade; the rebuild's are errors."""
    try:
        layout.check(suite.tests, suite.limits)
        found = table.table(suite.tests, suite.expected_test_ids) if suite.kind is SuiteKind.TABLE else None
    except (BadSuite, BadFile) as problem:
        return judge.nobody(f"the suite cannot be used: {problem}")
    try:
        layout.check(suite.files, suite.limits)
    except BadFile as problem:
        return judge.refused(str(problem))
    if found is not None:
        return _Prepared(suite.kind, layout.request(suite.files, (), found.task, suite.limits), found.results)
    request = layout.request(suite.files, suite.tests, suite.played or pytest_suite.task(suite.tests), suite.limits)
    results = partial(pytest_suite.results, expected_test_ids=suite.expected_test_ids)
    return _Prepared(suite.kind, request, results)


def _judge(prepared: _Prepared, report: Report | str) -> Judgement:
    if isinstance(report, str):
        return judge.nobody(report)
    return judge.judge(prepared.request, report, prepared.results)
