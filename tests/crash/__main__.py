"""The crash harness: `make crash`. Every failpoint, at least 100 random deaths, faults of the world, negative controls.

It prints what came of each, writes build/crash.json, and ends with 1 unless all of it came out as it must.
"""

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from infra.failpoints import PLACES
from infra.process import say
from schemas.events import Event
from tests.crash import scenarios
from tests.crash.controls import CONTROLS, Control
from tests.crash.plan import Item
from tests.crash.runs import Verdict, play
from tests.crash.world import World, world

PARTS = ("failpoints", "random", "faults", "controls")


@dataclass(slots=True)
class Report:
    """All that came out."""

    began: float = field(default_factory=time.monotonic)
    reference: Sequence[Event] = ()
    undisturbed: Verdict | None = None
    runs: dict[str, list[Verdict]] = field(default_factory=lambda: {part: [] for part in PARTS})
    not_run: dict[str, str] = field(default_factory=dict)
    controls: list[Control] = field(default_factory=list)

    def add(self, part: str, verdict: Verdict) -> None:
        """One more run, and a line about it."""
        self.runs[part].append(verdict)
        came = "good" if verdict.good else "BAD "
        say(f"{came:<5} {verdict.name:<45} {_acts(verdict):>3} acts  {verdict.seconds:>6.1f} s")
        for trouble in (verdict.difference, *verdict.faults[:5], verdict.said):
            if trouble:
                say(f"      {trouble}")

    def failpoints(self) -> list[dict[str, object]]:
        """Each registered place: was a process killed there, and how did those runs end?"""
        return [self._failpoint(role, place) for role, places in PLACES.items() for place in places]

    def _failpoint(self, role: str, place: str) -> dict[str, object]:
        every = [verdict for verdicts in self.runs.values() for verdict in verdicts]
        there = [each for each in every if any(_killed(item, place) for item in each.done.get(role, ()))]
        return {
            "role": role,
            "place": place,
            "kills": sum(_killed(item, place) for each in there for item in each.done[role]),
            "equal": bool(there) and all(each.equal for each in there),
            "clean": bool(there) and all(not each.faults for each in there),
        }

    def random_kills(self) -> int:
        """How many processes died at random."""
        return sum(map(_acts, self.runs["random"]))

    def troubles(self, parts: Sequence[str], kills: int) -> list[str]:
        """Why this report is not a good one."""
        verdicts = [
            *([self.undisturbed] if self.undisturbed else []),
            *(each for r in self.runs.values() for each in r),
        ]
        found = [f"{each.name} did not end well" for each in verdicts if not each.good]
        if "failpoints" in parts:
            found += [
                f"nobody died at {each['role']} {each['place']}" for each in self.failpoints() if not each["kills"]
            ]
        if "random" in parts and self.random_kills() < kills:
            found.append(f"{self.random_kills()} random deaths, {kills} were wanted")
        return found + [f"the control {each.name!r} was not told apart" for each in self.controls if not each.holds]


def _acts(verdict: Verdict) -> int:
    """How much was done to a run."""
    return sum(len(items) for items in verdict.done.values()) + len(verdict.deeds)


def _killed(item: Item, place: str) -> bool:
    return item.act == "kill" and item.place == place


def main(arguments: list[str] | None = None) -> int:
    """The whole harness, or parts of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--faults", nargs="+", choices=[each.__name__ for each in scenarios.FAULTS], default=None)
    parser.add_argument("--kills", type=int, default=100, help="random deaths, at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=Path, default=Path("build/crash.json"))
    options = parser.parse_args(arguments)
    folder, report = Path(mkdtemp(prefix="iccm-crash-")), Report()
    with world(folder) as around:
        report.undisturbed, report.reference = play(around, "undisturbed", {}, ())
        say(f"the undisturbed run: {len(report.reference)} facts, {report.undisturbed.seconds:.1f} s")
        for part in options.only:
            PLAYED[part](around, report, options)
    troubles = report.troubles(options.only, options.kills)
    if troubles:
        say(f"what the runs left is in {folder}")
    else:
        shutil.rmtree(folder)
    _write(options.into, report, troubles)
    _print(report, options.only, troubles)
    return 1 if troubles else 0


def _failpoints(around: World, report: Report, _: argparse.Namespace) -> None:
    report.add("failpoints", play(around, "a death at every place", scenarios.everywhere(), report.reference)[0])


def _random(around: World, report: Report, options: argparse.Namespace) -> None:
    rng = random.Random(options.seed)
    for turn in range(1, 1 + options.kills // 10):
        if report.random_kills() >= options.kills:
            return
        items, disturb = scenarios.at_random(rng), scenarios.kills_at_random_times(rng, 8)
        report.add("random", play(around, f"deaths at random, {turn}", items, report.reference, disturb=disturb)[0])


def _faults(around: World, report: Report, options: argparse.Namespace) -> None:
    for fault in scenarios.FAULTS:
        if options.faults and fault.__name__ not in options.faults:
            continue
        try:
            report.add("faults", fault(around, report.reference))
        except PermissionError as refused:
            report.not_run[fault.__name__] = str(refused)
            say(f"not run: {fault.__name__}: {refused}")


def _controls(around: World, report: Report, _: argparse.Namespace) -> None:
    for control in CONTROLS:
        came = control(around.kafka.address, around.folder)
        report.controls.append(came)
        counts = f"{len(came.broken)} faults when broken, {len(came.product)} as it is"
        say(f"{'good' if came.holds else 'BAD ':<5} control: {came.name}: {counts}")


PLAYED: dict[str, Callable[[World, Report, argparse.Namespace], None]] = {
    "failpoints": _failpoints,
    "random": _random,
    "faults": _faults,
    "controls": _controls,
}


# ---- the report ------------------------------------------------------------------------------------------------------


def _write(into: Path, report: Report, troubles: Sequence[str]) -> None:
    into.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        "good": not troubles,
        "troubles": list(troubles),
        "seconds": round(time.monotonic() - report.began, 1),
        "undisturbed": _verdict(report.undisturbed) if report.undisturbed else None,
        "failpoints": report.failpoints(),
        "random_kills": report.random_kills(),
        "runs": {part: [_verdict(each) for each in runs] for part, runs in report.runs.items()},
        "not_run": report.not_run,
        "controls": [_plain(each) for each in report.controls],
    }
    into.write_text(json.dumps(plain, indent=1) + "\n")


def _verdict(verdict: Verdict) -> dict[str, object]:
    plain = {name: value for name, value in asdict(verdict).items() if name != "plan"}
    return plain | {"equal": verdict.equal, "good": verdict.good}


def _plain(control: Control) -> dict[str, object]:
    return {
        "name": control.name,
        "must_name": control.law,
        "holds": control.holds,
        "broken": [str(fault) for fault in control.broken],
        "product": [str(fault) for fault in control.product],
    }


def _print(report: Report, parts: Sequence[str], troubles: Sequence[str]) -> None:
    if "failpoints" in parts:
        print(f"{'role':<13} {'place':<19} {'killed':>6}  {'run ended equal':<15}  history clean")
        for each in report.failpoints():
            equal, clean = ("yes" if each[name] else "no" for name in ("equal", "clean"))
            print(f"{each['role']:<13} {each['place']:<19} {each['kills']:>6}  {equal:<15}  {clean}")
    for part, verdicts in report.runs.items():
        for verdict in verdicts:
            ended, tables = ("equal" if same else "NOT EQUAL" for same in (verdict.equal, verdict.tables))
            what = f"{_acts(verdict)} acts, ended {ended}, {len(verdict.faults)} faults, {verdict.repeats} repeats"
            print(f"{part:<11} {verdict.name:<45} {what}, tables {tables}, {verdict.seconds:.0f} s")
    for name, why in report.not_run.items():
        print(f"not run     {name}: {why}")
    for control in report.controls:
        first = next((str(fault) for fault in control.broken if fault.law == control.law), "nothing")
        print(f"control     {control.name}: {'told apart' if control.holds else 'NOT TOLD APART'}; {first[:120]}")
    print(f"{report.random_kills()} random deaths; {time.monotonic() - report.began:.0f} s")
    for trouble in troubles:
        print(f"TROUBLE     {trouble}")


if __name__ == "__main__":
    sys.exit(main())
