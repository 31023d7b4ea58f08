"""What goes into a sandbox and what comes out. The door every backend speaks.

The verdict is decided outside the box. Expected test ids never come from the candidate; for table suites the expected
values do not even enter the box: calls go in, returned values come out, and are compared out here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.events import Evidence, File, SuiteKind, TestResult, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """CPU seconds decide a grade; the wall limit, ten times that, is the machine's fault (invalid_infra)."""

    cpu_seconds: float = 5.0
    memory_bytes: int = 512 * 1024 * 1024
    processes: int = 32
    file_bytes: int = 16 * 1024 * 1024
    disk_bytes: int = 64 * 1024 * 1024
    output_bytes: int = 64 * 1024

    @property
    def wall_seconds(self) -> float:
        return 10 * self.cpu_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One rebuild and the tests that judge it."""

    files: tuple[File, ...]
    tests: tuple[File, ...]
    kind: SuiteKind
    expected_test_ids: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    played: tuple[str, ...] = ()  # the test modules that are run, the others are only there; empty: all are run


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One verdict, a result per expected test id in that order (empty when nothing ran), and what was seen."""

    verdict: Verdict
    results: tuple[TestResult, ...]
    cause: str
    evidence: Evidence


class Sandbox(Protocol):
    """A backend. Runs never see each other; a fault of the host is invalid_infra, never a failed test."""

    @property
    def name(self) -> str: ...

    @property
    def assurance(self) -> str:
        """Which protections hold on this host and which are absent, for example "seccomp+landlock; no namespaces"."""

    @property
    def environment(self) -> str:
        """Digest of what a verdict may depend on besides the files: Python, the packages in reach, this code."""

    def run(self, suites: Sequence[Suite]) -> list[Judgement]:
        """One judgement per suite, in order."""

    def close(self) -> None:
        """End every process of this sandbox."""
