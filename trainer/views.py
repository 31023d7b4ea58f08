"""Runs as a person looks at them: `iccm run list`, `iccm run show`, `iccm diff`. Nothing here changes anything."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from infra import settings
from infra.opening import running_log
from infra.problems import BadInput, RunsDiffer
from infra.runs import Run, facts_of, history_of, lineage, named, rounds_behind, runs_on
from schemas.equality import Slot, first_difference_of, slots
from schemas.events import ImplementationWritten, RequirementsDrafted, RunStarted, SuiteRan, ValidationCompleted
from trainer import reports


def listing(options: argparse.Namespace) -> int:
    """Every run on the log, the newest last."""
    with running_log(settings.read()) as log:
        found = runs_on(log)
    rows = [_row(run, found) for run in found]
    if options.json:
        print(json.dumps(rows, indent=1))
    for row in rows if not options.json else ():
        print(_line(row))
    return 0


def _row(run: Run, found: list[Run]) -> dict[str, object]:
    started, spec = run.started, run.started.specification
    return {
        "run_id": run.run_id,
        "label": started.label,
        "started": started.recorded_at.isoformat(timespec="seconds"),
        "seed": spec.seed,
        "rounds": _rounds(run, found),
        "of": spec.rounds,
        "state": str(run.ended.outcome) if run.ended else "open",
        "policy_digest": run.policy_digest,
        "parent_run_id": started.parent_run_id,
        "parent_step": started.parent_step,
        "scoring": started.scoring,
    }


def _rounds(run: Run, found: list[Run]) -> int:
    """Train rounds closed or shared. Of a fork whose parent is not on this log what it shares is not known."""
    try:
        return rounds_behind(lineage(found, run))
    except BadInput:
        return run.rounds


def _line(row: dict[str, object]) -> str:
    words = "{run_id}  {started}  seed {seed:<6} round {rounds}/{of}  {state}".format(**row)
    return "  ".join([words, *(each for each in (str(row["label"]), _origin(row)) if each)])


def _origin(row: dict[str, object]) -> str:
    """Where a run comes from, in words; "" of one that comes from no other."""
    parent, step = row["parent_run_id"], row["parent_step"]
    if parent is None:
        return ""
    short = str(parent)[:8]
    return f"scores {short} again" if step is None else f"forked from {short} at step {step}"


def show(options: argparse.Namespace) -> int:
    """The curve of one run, with what it shares with its parent, and what its own answers cost."""
    with running_log(settings.read()) as log:
        found = runs_on(log)
        run = named(found, options.run)
        points = reports.curve(history_of(log, lineage(found, run), (RunStarted, ValidationCompleted)))
        told = reports.answers(facts_of(log, run, (RequirementsDrafted, ImplementationWritten, SuiteRan)))
    row = _row(run, found)
    if options.json:
        costs = {role: asdict(each) for role, each in told.items()}
        print(json.dumps({**row, "curve": reports.as_plain(points), "answers": costs}, indent=1))
        return 0
    print(f"{_line(row)}\n{reports.chart(points)}")
    for point in points:
        print(reports.summary(point))
    print(reports.answer_table(told))
    return 0


def diff(options: argparse.Namespace) -> int:
    """Whether two runs are equal; a fork is told with all that it shares."""
    left, right = (_canonical(name) for name in options.runs)
    difference = first_difference_of(left, right)
    if difference is not None:
        raise RunsDiffer(f"the runs differ: {difference}")
    print(f"equal: {len(left)} facts, decided field by decided field")
    return 0


def _canonical(name: str) -> dict[Slot, bytes]:
    """The facts of `RUN` here, or of `HOME:RUN` under another home; its services are started if they are not up."""
    home, colon, run = name.rpartition(":")
    chosen = replace(settings.read(), home=Path(home).absolute(), kafka="", postgres="") if colon else settings.read()
    with running_log(chosen) as log:
        found = runs_on(log)
        line = lineage(found, named(found, run))
        return slots(history_of(log, line), [each.run_id for each in line])
