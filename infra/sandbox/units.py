"""A suite as units: one per test file, each run alone in a box with all it can import. Pure.

A unit's box holds the rebuild, the test file, every file of the suite that is no test module (conftest, helpers, data)
and the test modules that any of these mention, directly or through others. What is not part of a unit's key is not in
its box, so the key is sound by construction, and a module that is imported in a way nobody can see is simply missing
there: such an application fails its verification, which goes through the same units. The search for imports errs on the
side of more. Each unit has the limits of a suite to itself. Table suites have one unit, the table.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from infra.sandbox import pytest_suite, table
from infra.sandbox.suite import Judgement, Limits, Suite
from infra.sandbox.table import BadSuite
from schemas.events import ApplicationRegistered, Evidence, File, SuiteKind, Verdict
from schemas.identity import files_digest

# The worst unit speaks for the suite; where the machine is to blame, nothing can be said at all.
WORST_FIRST = (
    Verdict.INVALID_INFRA,
    Verdict.TAMPERED,
    Verdict.KILLED,
    Verdict.OOM,
    Verdict.TIMEOUT,
    Verdict.ERROR,
    Verdict.FAILED,
    Verdict.PASSED,
)
KEPT_SUITES = 64


@dataclass(frozen=True, slots=True)
class Unit:
    """One test file of a suite, and what is in its box besides the rebuild."""

    path: str
    kind: SuiteKind
    files: tuple[File, ...]
    files_digest: str
    test_ids: tuple[str, ...]  # in the order in which the suite expects them
    taken: frozenset[str]  # paths that belong to the suite: nothing of a rebuild lies there

    def suite(self, rebuild: Sequence[File]) -> Suite:
        """What is run to judge a rebuild by this unit."""
        return Suite(
            files=self._left(rebuild),
            tests=self.files,
            kind=self.kind,
            expected_test_ids=self.test_ids,
            played=(self.path,) if self.kind is SuiteKind.PYTEST else (),
        )

    def work_key(self, rebuild: Sequence[File], environment: str) -> str:
        """Equal keys mean equal work: all that is in the box, what is expected of it, and what the box itself is."""
        files = files_digest(self._left(rebuild))
        question = (files, self.files_digest, self.kind.value, self.path, self.test_ids, environment, Limits())
        return hashlib.sha256(repr(question).encode()).hexdigest()

    def _left(self, rebuild: Sequence[File]) -> tuple[File, ...]:
        return tuple(file for file in rebuild if file.path not in self.taken)


@lru_cache(KEPT_SUITES)
def units(application: ApplicationRegistered) -> tuple[Unit, ...]:
    """The suite's units, in the order of their paths. BadSuite where an expected test belongs to none."""
    if application.suite is SuiteKind.TABLE:
        return (_table(application),)
    modules = {file.path: file for file in application.tests if pytest_suite.is_module(file.path)}
    ids: dict[str, list[str]] = defaultdict(list)
    for test_id in application.expected_test_ids:
        ids[test_id.split("::", 1)[0]].append(test_id)
    if strange := sorted(ids.keys() - modules.keys()) or ([] if ids else [""]):
        raise BadSuite(f"it expects tests of {strange[0] or 'no file'}, which is none of its {len(modules)} test files")
    support = [file for file in application.tests if file.path not in modules]
    imports = _imports(application.tests, modules)
    everywhere = frozenset[str]().union(*(imports[file.path] for file in support))
    taken = frozenset(file.path for file in application.tests)
    return tuple(
        _unit(path, [*support, *(modules[each] for each in _reached({path} | everywhere, imports))], ids[path], taken)
        for path in sorted(ids)
    )


def merged(judgements: Sequence[Judgement], expected_test_ids: Sequence[str]) -> Judgement:
    """A suite's judgement from those of its units: the worst verdict with its cause, and every result in the suite's
    order, or none where a unit has none. A suite of one unit is judged as that unit is."""
    if len(judgements) == 1:
        return judgements[0]
    worst = min(judgements, key=lambda each: WORST_FIRST.index(each.verdict))
    by_id = {result.test_id: result for each in judgements for result in each.results}
    complete = all(each.results for each in judgements)
    results = tuple(by_id[test_id] for test_id in expected_test_ids) if complete else ()
    return Judgement(
        verdict=worst.verdict, results=results, cause=worst.cause, evidence=_evidence(worst.evidence, judgements)
    )


def _evidence(worst: Evidence, judgements: Sequence[Judgement]) -> Evidence:
    """What all units used together, and how the worst one ended."""
    return Evidence(
        cpu_seconds=sum(each.evidence.cpu_seconds for each in judgements),
        wall_seconds=sum(each.evidence.wall_seconds for each in judgements),
        peak_memory_bytes=max(each.evidence.peak_memory_bytes for each in judgements),
        exit_code=worst.exit_code,
        signal=worst.signal,
        output_tail=worst.output_tail,
    )


def _table(application: ApplicationRegistered) -> Unit:
    files = tuple(file for file in application.tests if file.path == table.CASES)
    return Unit(table.CASES, SuiteKind.TABLE, files, files_digest(files), application.expected_test_ids, frozenset())


def _unit(path: str, files: Sequence[File], test_ids: Sequence[str], taken: frozenset[str]) -> Unit:
    ordered = tuple(sorted(files, key=lambda each: each.path))
    return Unit(path, SuiteKind.PYTEST, ordered, files_digest(ordered), tuple(test_ids), taken)


# ---- What a file can import ------------------------------------------------------------------------------------------


def _imports(tests: Sequence[File], modules: Mapping[str, File]) -> dict[str, frozenset[str]]:
    """For each file of the suite, the test modules that it may import."""
    called: dict[tuple[str, ...], set[str]] = defaultdict(set)  # a module answers to every ending of its path
    for path in modules:
        parts = PurePosixPath(path).with_suffix("").parts
        for begin in range(len(parts)):
            called[parts[begin:]].add(path)
    return {file.path: _mentioned(file, called, frozenset(modules)) for file in tests}


def _mentioned(file: File, called: Mapping[tuple[str, ...], set[str]], modules: frozenset[str]) -> frozenset[str]:
    if not file.path.endswith(".py"):
        return frozenset()
    try:
        tree = ast.parse(file.content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # nobody can say what it imports
        return modules
    names = (parts[:end] for parts in _names(tree) for end in range(1, len(parts) + 1))
    return frozenset(path for name in names for path in called.get(name, ()))


def _names(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Every name that an import or a text spells out. Relative imports lose their dots: endings are compared."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from (tuple(alias.name.split(".")) for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases):
                base = tuple(module.split(".")) if module else ()
                yield from ((*base, alias.name) for alias in aliases)
            case ast.Constant(value=str(text)) if len(text) < 1000:
                yield tuple(text.removesuffix(".py").replace("/", ".").split("."))


def _reached(paths: set[str], imports: Mapping[str, frozenset[str]]) -> set[str]:
    """These modules and all they import, through any number of others."""
    reached, new = set(paths), set(paths)
    while new:
        new = {found for path in new for found in imports[path]} - reached
        reached |= new
    return reached
