"""Replay a run: make its rewards and its policy again from its facts alone, and compare them with what the log says.

    iccm replay latest
    iccm replay RUN --until 40            up to the update that made step 40
    iccm replay RUN --from-checkpoint 40  learn on from the checkpoint of step 40; what is before is taken from the log
    iccm replay --file run.iccm           a run that was exported, without Kafka

Rewards come again from the recorded test results and are compared byte for byte; weights, moments and random state come
again from the recorded drafts and those rewards, and are compared bit for bit. The first fact and field that differ are
named, and the exit code is 5. A run that is still open, or was abandoned, is verified as far as it goes.

No model is asked and no sandbox is started: this process cannot import either. It writes no fact; a checkpoint that was
lost is put back as it is learnt again, unless the run comes from a file.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from infra import archive, process, services, settings
from infra.blobs import Blobs
from infra.lab.orchestra import POLICY, WEIGHTS, digest
from infra.log import Log
from infra.memory import MemoryLog
from infra.opening import running_log
from infra.problems import BadInput, RunsDiffer
from infra.runs import Run, facts_of, named, runs_on
from infra.settings import Settings
from schemas.equality import Difference
from schemas.events import (
    ImplementationFailed,
    ImplementationWritten,
    PolicyUpdated,
    Purpose,
    RewardScored,
    RunEnded,
    SuiteRan,
)
from streams.gathering import Gathering, StrayFact, gather
from streams.rescore.rescoring import rescored, scorer_of
from trainer.rounds import Course
from trainer.verify import recorded as records
from trainer.verify.recorded import Recorded, plan_of, recorded, score_again
from trainer.verify.seal import seal
from trainer.verify.verification import NEVER, Learn, ReplayDiffers, Show, Verification, first_policy, on_trust, within

if TYPE_CHECKING:
    from trainer.policy import Policy

REWARDS = "replay where they are equal, or with --rewards-only to compare what does not depend on them"
CODE = Path(__file__).parents[2]
SEALED = "no model was asked, no sandbox was started: neither can be imported here"
UNREAD = (ImplementationWritten, ImplementationFailed)  # nothing that is compared follows from them


def main(arguments: list[str] | None = None) -> int:
    """Replay one run."""
    options = _parser().parse_args(arguments)
    seal()
    return process.run(lambda: _replay(options, settings.read()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iccm replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="latest", metavar="RUN", help="an id, the beginning of one, a label")
    parser.add_argument("--file", type=Path, metavar="FILE", help="read the run from a file of `iccm export`")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop after the update that made this step")
    parser.add_argument("--from-checkpoint", type=int, metavar="STEP", help="learn on from this step's checkpoint")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rewards-only", action="store_true", help="learn nothing: numbers of updates are not compared")
    how.add_argument("--tolerance", type=float, metavar="X", help="on other numerics: numbers of updates within X")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How far a run is to be replayed, and how."""

    until: int | None = None  # a step, like the next
    from_checkpoint: int | None = None
    rewards_only: bool = False
    tolerance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one replay compared."""

    run: Run
    verification: Verification
    asked: Asked
    learnt: str  # where the updates' numbers came from
    widest: dict[str, float]  # with a tolerance: the largest distance of each number
    seconds: float


def _replay(options: argparse.Namespace, chosen: Settings) -> int:
    with _opened(options.file, chosen) as (log, blobs):
        run = named(runs_on(log), options.run)
        try:
            report = verified(log, blobs, run, _asked(options))
        except ReplayDiffers as differs:
            if options.json:
                print(json.dumps(_difference_as_plain(run, differs.difference), indent=1))
            raise
    if options.json:
        print(json.dumps(_as_plain(report), indent=1))
    else:
        print("\n".join(_lines(report)))
    return 0


def _asked(options: argparse.Namespace) -> Asked:
    if options.rewards_only and options.from_checkpoint is not None:
        raise BadInput("--rewards-only learns nothing, so no checkpoint is needed", "leave --from-checkpoint out")
    return Asked(
        until=options.until,
        from_checkpoint=options.from_checkpoint,
        rewards_only=options.rewards_only,
        tolerance=options.tolerance,
    )


@contextmanager
def _opened(file: Path | None, chosen: Settings) -> Iterator[tuple[Log, Blobs | None]]:
    """The log to read, and where its checkpoints lie; those of a file lie nowhere."""
    if file is not None:
        log = MemoryLog()
        for fact in archive.read(file):
            if type(fact) not in UNREAD:
                log.publish([fact])
        yield log, None
        return
    with running_log(chosen) as kafka:
        yield kafka, Blobs(services.blobs_url(chosen))


# ---- verifying -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replay:
    """One run that is being replayed, and what the log says of it."""

    log: Log
    blobs: Blobs | None
    run: Run
    asked: Asked
    plan: Course
    recorded: Recorded
    widest: dict[str, float] = field(default_factory=dict)


def verified(log: Log, blobs: Blobs | None, run: Run, asked: Asked) -> Report:
    """The run made again and compared. Raises ReplayDiffers, or RunsDiffer where this process would round otherwise."""
    begun = time.monotonic()
    if run.rescores:
        verification, learnt, widest = _rescoring(log, run, asked), "", dict[str, float]()
    else:
        replay = _read(log, blobs, run, asked)
        verification, learnt, widest = _made_again(replay), _how(run, asked), replay.widest
    return Report(
        run=run,
        verification=verification,
        asked=asked,
        learnt=learnt,
        widest=widest,
        seconds=time.monotonic() - begun,
    )


def _read(log: Log, blobs: Blobs | None, run: Run, asked: Asked) -> _Replay:
    for option, step in (("--until", asked.until), ("--from-checkpoint", asked.from_checkpoint)):
        if step is not None:
            _round_of(run, step, option)
    found = recorded(facts_of(log, run, records.KINDS))
    score_again(found, (fact for fact in facts_of(log, run, (SuiteRan,)) if isinstance(fact, SuiteRan)), _score)
    return _Replay(log=log, blobs=blobs, run=run, asked=asked, plan=plan_of(log, run.started), recorded=found)


def _made_again(replay: _Replay) -> Verification:
    start, learn = _learner(replay)
    until = replay.asked.until
    with _progress() as show:
        verification = Verification(replay.plan, replay.recorded, learn, show)
        verification.verify(start, None if until is None else _round_of(replay.run, until, "--until"))
    return verification


def _round_of(run: Run, step: int, option: str) -> int:
    if step not in run.updates:
        known = f"has steps {min(run.updates)} to {max(run.updates)}" if run.updates else "has no update of its own"
        raise BadInput(f"{option} {step}: run {run.run_id} {known}", "name one of its own steps")
    return run.updates[step].round


def _score(suites: Iterable[SuiteRan]) -> Iterator[RewardScored]:
    """The fold of the rewards worker. What that refuses as a stray fact is no part of a reward here either."""
    state = Gathering()
    for suite in suites:
        try:
            state, rewards = gather(state, suite, clock=lambda: NEVER)
        except StrayFact:
            continue
        yield from rewards


def _learner(replay: _Replay) -> tuple[str, Learn]:
    """The policy that the run begins with, by its digest, and how its updates are made again."""
    asked, blobs = replay.asked, replay.blobs
    if asked.rewards_only:
        return first_policy(replay.recorded), on_trust(replay.plan)
    _lower_to(replay.run.started.numerics.capability)
    from trainer.verify.relearning import Unkept, from_checkpoint, from_the_start

    policy = _policy(replay)
    store = blobs if blobs is not None and asked.tolerance is None else Unkept(blobs)
    if asked.from_checkpoint is not None:
        start, learn = first_policy(replay.recorded), from_checkpoint(policy, replay.plan, _resumed(replay), store)
    else:
        learn = from_the_start(policy, replay.plan, replay.log, replay.run.started, store)
        start = policy.digest
    if asked.tolerance is None:
        return start, learn
    return first_policy(replay.recorded), within(asked.tolerance, learn, replay.widest)


def _resumed(replay: _Replay) -> PolicyUpdated:
    """The update whose checkpoint is learnt on from."""
    number = _round_of(replay.run, replay.asked.from_checkpoint or 0, "--from-checkpoint")
    facts = replay.recorded.rounds[Purpose.TRAIN, number].values()
    return next(fact for fact in facts if isinstance(fact, PolicyUpdated))


def _policy(replay: _Replay) -> "Policy":
    """A fresh policy of the run's base model. Raises RunsDiffer where its updates would come out otherwise."""
    from trainer.policy import Policy, numerics
    from trainer.replay import require_numerics

    spec = replay.run.started.specification
    if (here := digest(POLICY)) != spec.policy_digest:
        raise RunsDiffer(f"the run's base model is {spec.policy_digest[:12]}, {POLICY} is {here[:12]} here", REWARDS)
    try:
        require_numerics(replay.run.started, numerics())
    except RunsDiffer as elsewhere:
        if replay.asked.tolerance is None:
            raise RunsDiffer(elsewhere.message, f"{REWARDS}, or --tolerance X to let them") from elsewhere
    return Policy(WEIGHTS / POLICY.removeprefix("lab/"), learning=spec.learning, seed=spec.seed)


def _lower_to(capability: str) -> None:
    """A processor that can do more rounds as one that can do less, if PyTorch hears of it before it is loaded."""
    able = {"DEFAULT"} | ({"AVX2"} if " avx2 " in _processor() else set())
    if capability in able and "torch" not in sys.modules:
        os.environ.setdefault("ATEN_CPU_CAPABILITY", capability.lower())


def _processor() -> str:
    """What the processor says it can do; nothing where the system does not tell."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _rescoring(log: Log, run: Run, asked: Asked) -> Verification:
    """A re-scoring has rewards alone: its parent's test results give them again."""
    if asked.until is not None or asked.from_checkpoint is not None:
        raise BadInput(f"run {run.run_id} is a re-scoring and has no steps", "replay it without naming one")
    started, parent, scorer = run.started, _parent(log, run), scorer_of(run.started)
    until = started.offsets or None  # what its parent had on the log when it was scored again
    suites = (record.event for record in log.replay((SuiteRan,), start=parent.started.offsets, until=until))
    own = (fact for fact in suites if isinstance(fact, SuiteRan) and fact.run_id == parent.run_id)
    found = recorded(facts_of(log, run, (RewardScored, RunEnded)))
    score_again(found, own, lambda facts: rescored(Gathering(), facts, run.run_id, scorer, clock=lambda: NEVER))
    plan = Course(run.run_id, started.specification, {}, 0, started.event_id)
    verification = Verification(plan, found, on_trust(plan))
    verification.verify_rewards(strict=until is not None)
    return verification


def _parent(log: Log, run: Run) -> Run:
    found = [each for each in runs_on(log) if each.run_id == run.started.parent_run_id]
    if not found:
        raise BadInput(f"run {run.started.parent_run_id}, whose drafts were scored again, is not on this log")
    return found[0]


# ---- what is said --------------------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Show]:
    """On a terminal, one line that is rewritten for every round; elsewhere a line now and then."""
    live = sys.stderr.isatty()

    def show(number: int, rounds: int) -> None:
        if live:
            print(f"\r\x1b[Kround {number}/{rounds}", end="", file=sys.stderr, flush=True)
        elif number % 10 == 0:
            process.say(f"round {number}/{rounds}")

    try:
        yield show
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _how(run: Run, asked: Asked) -> str:
    if asked.rewards_only:
        return "nothing was learnt: numbers and digests of the updates are the log's"
    if asked.tolerance is not None:
        return f"learnt again, numbers within {asked.tolerance:g}; weights were not compared"
    if asked.from_checkpoint is not None:
        return f"learnt again from the checkpoint of step {asked.from_checkpoint}; before it, numbers are the log's"
    origin = f"its parent's policy of step {step}" if (step := run.started.parent_step) else "the start"
    return f"learnt again from {origin}: weights, moments, random state and checkpoints bit for bit"


def _lines(report: Report) -> Iterator[str]:
    run, verification = report.run, report.verification
    yield f"run {run.run_id}  {run.started.label}  {_what(run)}, {run.ended.outcome if run.ended else 'open'}"
    for kind, count in verification.equal.items():
        yield f"  {count:>7} {kind}"
    yield f"  {verification.recorded.verdicts:>7} SuiteRan, which gave the rewards"
    for kind, count in verification.owed.items():
        yield f"  {count:>7} {kind} not written yet, not compared"
    if report.asked.until is not None:
        yield f"up to step {report.asked.until}"
    if report.learnt:
        yield f"updates {report.learnt}"
    yield from (f"  {name} at most {apart:g} apart" for name, apart in report.widest.items())
    yield SEALED
    yield f"equal: {sum(verification.equal.values())} facts, in {report.seconds:.1f} s"


def _what(run: Run) -> str:
    spec, parent = run.started.specification, run.started.parent_run_id
    if run.rescores:
        return f"scores run {parent} again"
    origin = f", a fork of {parent} at step {run.started.parent_step}" if parent else ""
    return f"seed {spec.seed}  {run.rounds} of {spec.rounds} rounds{origin}"


def _as_plain(report: Report) -> dict[str, object]:
    run, verification = report.run, report.verification
    return {
        "run_id": run.run_id,
        "label": run.started.label,
        "state": run.ended.outcome if run.ended else "open",
        "equal": True,
        "compared": dict(verification.equal),
        "verdicts_scored": verification.recorded.verdicts,
        "not_written_yet": dict(verification.owed),
        "until_step": report.asked.until,
        "from_checkpoint": report.asked.from_checkpoint,
        "updates": report.learnt,
        "largest_distance": report.widest,
        "models_and_sandboxes": SEALED,
        "code": str(CODE),
        "made_by_version": run.started.code_version,
        "seconds": round(report.seconds, 3),
    }


def _difference_as_plain(run: Run, difference: Difference) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "equal": False,
        "difference": {**asdict(difference), "slot": str(difference.slot)},
        "code": str(CODE),
        "made_by_version": run.started.code_version,
    }


if __name__ == "__main__":
    sys.exit(main())
