"""Score a run again from the test results it has on the log. No model is asked and nothing is run.

    iccm rescore latest --set reward.variance=0.5 --into softer
    iccm rescore latest --reward mine:reward --into mine

The new rewards are a run of their own that names its parent; the parent is left as it is. Repeating the command
completes what was interrupted and writes nothing twice.

A reward function is called with one draft's suites (schemas.events.SuiteRan), one per implementer in their order. It
answers a number, None (the draft has no reward) or a mapping of named terms whose sum is the reward; rewards are
clipped to [0, 1]. Drafts in which a machine failed have no reward, and no function is asked about them. It is found in
the current folder or among what is installed, runs in this process and may do what you may: name only functions you
trust. Its name and the SHA-256 of its file are recorded.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from infra import process, settings
from infra.log import Log
from infra.opening import running_log
from infra.plot import before_and_after, drawable
from infra.problems import BadInput
from infra.runs import runs_on
from infra.settings import Settings
from infra.specification import changed
from streams.rescore.comparison import compare, pairs
from streams.rescore.functions import RewardFunction, load
from streams.rescore.report import plain, points, text
from streams.rescore.rescoring import Plan, Rescored, how, parent_of, plan, rescore, write

PROGRESS_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Score one run again."""
    options = _parser().parse_args(arguments)
    return process.run(lambda: _rescore(options, settings.read()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iccm rescore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run id, the beginning of one, a label, or latest")
    scoring = parser.add_mutually_exclusive_group(required=True)
    scoring.add_argument(
        "--set", action="append", default=[], metavar="REWARD.B=C", help="another weight of the reward"
    )
    scoring.add_argument("--reward", metavar="PACKAGE.MODULE:FUNCTION", help="a reward function of your own")
    parser.add_argument("--into", required=True, metavar="NAME", help="what the new run is called")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the picture; by default in the home's folder runs")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


def _rescore(options: argparse.Namespace, chosen: Settings) -> int:
    function = load(options.reward) if options.reward else None
    picture = drawable(options.plot) if options.plot else None
    _require_reward_keys(options.set)
    with running_log(chosen) as log:
        planned = _planned(log, options, function)
        done = rescore(log, planned, clock=process.clock, progress=_Progress())
        stop = process.stop_on_signals()
        if not write(log, f"{chosen.namespace}.{planned.started.run_id}.rescore", done.missing, stop=stop):
            process.say("stopped; the same command goes on from here")
            return process.INTERRUPTED
    return _report(planned, done, picture or _default_picture(chosen, planned), as_json=options.json)


def _planned(log: Log, options: argparse.Namespace, function: RewardFunction | None) -> Plan:
    found = runs_on(log)
    parent = parent_of(found, options.run)
    return plan(
        found,
        parent,
        options.into,
        weights=changed(parent.started.specification, options.set).reward,
        function=function,
        offsets=log.end_offsets,
        now=process.clock(),
        code_version=version("iccm"),
    )


def _require_reward_keys(changes: list[str]) -> None:
    for change in changes:
        if not change.startswith("reward."):
            raise BadInput(
                f"--set {change}: scoring again changes the reward alone",
                "reward.mean or reward.variance; to change anything else, `iccm fork RUN --at STEP --set ...`",
            )


def _default_picture(chosen: Settings, planned: Plan) -> Path:
    folder = chosen.home / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{planned.started.run_id}.png"


class _Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, drafts: int) -> None:
        """So many drafts are scored."""
        if time.monotonic() - self._said > PROGRESS_SECONDS:
            self._said = time.monotonic()
            process.say(f"{drafts} drafts scored")


def _report(planned: Plan, done: Rescored, picture: Path, *, as_json: bool) -> int:
    drafts = pairs(done.before, done.rewards)
    comparison = compare(drafts)
    before_and_after(
        picture,
        points(drafts),
        before=f"reward by {how(planned.parent.started)}",
        after=f"reward by {how(planned.started)}",
        title=f"{planned.started.label}: {comparison.compared} drafts with a reward before and after",
    )
    if as_json:
        print(json.dumps({**plain(planned, done, comparison), "picture": str(picture)}, indent=1))
    else:
        print(f"{text(planned, done, comparison)}\n\npicture  {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
