"""The lab's programs as applications: generated, licensed, judged by a table of hidden calls.

Pure: the same split and count give the same facts on every machine, clocks aside, and a larger pool begins with the
smaller one, so growing it registers nothing twice.
"""

import json
from collections.abc import Mapping
from datetime import datetime

from infra.lab import programs
from infra.lab.programs import Program
from schemas.events import ApplicationRegistered, File, Split, SuiteKind
from schemas.identity import event_id, files_digest

FAMILY = "lab"
SIZES = {Split.TRAIN: 480, Split.VALIDATE: 120, Split.TEST: 300}


def lab_family(recorded_at: datetime, *, sizes: Mapping[Split, int] = SIZES) -> list[ApplicationRegistered]:
    """The first applications of each split, in the pools' order, as many as `sizes` says."""
    return [
        _application(program, number, split, recorded_at)
        for split, count in sizes.items()
        for number, program in enumerate(programs.pool(split, count))
    ]


def _application(program: Program, number: int, split: Split, recorded_at: datetime) -> ApplicationRegistered:
    source = (File(path="app.py", content=programs.source(program).encode()),)
    case_ids, tests = _table(program)
    application_id = files_digest(source, tests)
    return ApplicationRegistered(
        event_id=event_id(None, application_id, "register"),
        recorded_at=recorded_at,
        application_id=application_id,
        name=f"{FAMILY}/{split.value}/{number:04d}",
        family=FAMILY,
        split=split,
        origin="generated",
        licence="Apache-2.0",
        source=source,
        tests=tests,
        suite=SuiteKind.TABLE,
        expected_test_ids=case_ids,
    )


def _table(program: Program) -> tuple[tuple[str, ...], tuple[File, ...]]:
    """The ids of the hidden calls, and the file that holds them."""
    arguments = programs.arguments(program)
    case_ids = tuple(f"call-{i:02d}" for i in range(len(arguments)))
    cases = [
        {"id": case_id, "args": [list(xs)], "expected": expected}
        for case_id, xs, expected in zip(case_ids, arguments, programs.behaviour(program, arguments), strict=True)
    ]
    content = json.dumps({"module": "app", "function": "f", "cases": cases}, separators=(",", ":"), sort_keys=True)
    return case_ids, (File(path="tests/cases.json", content=content.encode()),)
