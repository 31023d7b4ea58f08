"""Runs as the log tells them: which there are, which one a person means, where one comes from, and the facts of one.

A fork shares what its parent did up to one update of the weights, the cut: train rounds up to that update's, and what
else was opened before it. It owns all that it opened itself. Step N is the update that made it, not a round after it
that taught nothing, so a cut stays where it is while its parent goes on; step 0 is the untrained policy.

Pure but for the functions that are given a log.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from infra.log import Log
from infra.problems import BadInput
from schemas.events import Event, PolicyUpdated, Purpose, RunEnded, RunStarted
from schemas.topics import KINDS

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of the weights, as another run may begin from it."""

    run_id: str
    round: int
    event_id: str
    policy_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as far as topic `runs` tells."""

    started: RunStarted
    ended: RunEnded | None = None
    rounds: int = 0  # train rounds closed so far
    policy_digest: str = ""
    updates: Mapping[int, Update] = field(default_factory=dict)  # by step; those that it shares are its parent's

    @property
    def run_id(self) -> str:
        """The id of its facts."""
        return self.started.run_id or ""

    @property
    def rescores(self) -> bool:
        """Whether it only gives another run's drafts new rewards: it plays no round and has no policy."""
        return self.started.parent_run_id is not None and self.started.parent_step is None


def runs(facts: Iterable[Event]) -> list[Run]:
    """Every run on the log, in the order they started; of facts with one id the first counts, whatever their order."""
    began: dict[str, RunStarted] = {}
    ends: dict[str, RunEnded] = {}
    newest: dict[str, PolicyUpdated] = {}
    updates: dict[str, dict[int, Update]] = defaultdict(dict)
    for fact in facts:
        run_id = fact.run_id or ""
        match fact:
            case RunStarted():
                began.setdefault(run_id, fact)
            case RunEnded():
                ends.setdefault(run_id, fact)
            case PolicyUpdated():
                if not fact.skipped:
                    updates[run_id].setdefault(fact.step, _update(fact))
                if run_id not in newest or fact.round > newest[run_id].round:
                    newest[run_id] = fact
    found = [_run(fact, ends.get(each), newest.get(each), updates[each]) for each, fact in began.items()]
    return sorted(found, key=lambda run: (run.started.recorded_at, run.started.event_id))


def _run(
    started: RunStarted, ended: RunEnded | None, newest: PolicyUpdated | None, updates: Mapping[int, Update]
) -> Run:
    if newest is None:
        return Run(started=started, ended=ended)
    return Run(started=started, ended=ended, rounds=newest.round, policy_digest=newest.policy_digest, updates=updates)


def _update(fact: PolicyUpdated) -> Update:
    return Update(run_id=fact.run_id or "", round=fact.round, event_id=fact.event_id, policy_digest=fact.policy_digest)


def named(found: list[Run], name: str) -> Run:
    """The run called `name`: its label, its id, the unambiguous beginning of an id, or `latest`, the newest started."""
    if not found:
        raise BadInput("there is no run on this log", "start one with `iccm demo`")
    if name == LATEST:
        return found[-1]
    matching = [run for run in found if name and run.started.label == name]
    matching = matching or [run for run in found if run.run_id.startswith(name)]
    if len(matching) != 1:
        many = "no run" if not matching else f"{len(matching)} runs"
        raise BadInput(f"{many} on this log begin with {name!r}", "`iccm run list` names them")
    return matching[0]


def label(name: str) -> str:
    """`name` as a run may be called: one that no other way of naming a run could mean. Else BadInput."""
    if name == LATEST or not LABEL.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a run", "letters, digits, dots, dashes, underscores, and not `latest`")
    return name


# ---- where a run comes from ----------------------------------------------------------------------------------------


def lineage(found: Iterable[Run], run: Run) -> list[Run]:
    """The runs whose facts `run` goes on from, the eldest first, itself last. A re-scoring goes on from none."""
    by_id = {each.run_id: each for each in found}
    line = [run]
    while line[0].started.parent_step is not None:
        child, parent_id = line[0], line[0].started.parent_run_id or ""
        if parent_id not in by_id:
            raise BadInput(
                f"run {child.run_id} comes from run {parent_id}, which is not on this log", "import it first"
            )
        if by_id[parent_id] in line:
            raise BadInput(f"run {parent_id} is said to come from itself")
        line.insert(0, by_id[parent_id])
    return line


def updates_of(line: Sequence[Run]) -> dict[int, Update]:
    """Every update behind the last run of a lineage, by step: those that it shares, then its own."""
    known: dict[int, Update] = {}
    for run in line:
        shared = run.started.parent_step or 0
        known = {step: update for step, update in known.items() if step <= shared} | dict(run.updates)
    return known


def cut_of(line: Sequence[Run]) -> Update | None:
    """The newest update that the last run of a lineage shares with its parent. None where it begins untrained."""
    step = line[-1].started.parent_step
    if not step:
        return None
    known = updates_of(line[:-1])
    if step not in known:
        raise BadInput(f"run {line[-1].run_id} begins at step {step} of its parent, which this log does not hold")
    return known[step]


def rounds_behind(line: Sequence[Run]) -> int:
    """How many train rounds the last run of a lineage has behind it: closed by itself, or shared."""
    cut = cut_of(line)
    return max(line[-1].rounds, cut.round if cut else 0)


# ---- the facts of a run --------------------------------------------------------------------------------------------


def runs_on(log: Log) -> list[Run]:
    """Every run on the log, in the order they started."""
    records = log.replay((RunStarted, PolicyUpdated, RunEnded))
    return runs(record.event for record in records if record.event is not None)


def facts_of(log: Log, run: Run, kinds: Collection[type[Event]] = KINDS) -> Iterator[Event]:
    """The facts of one run, of these kinds; those it shares with a parent are the parent's."""
    for record in log.replay(kinds, start=run.started.offsets):
        if record.event is not None and record.event.run_id == run.run_id:
            yield record.event


def history_of(log: Log, line: Sequence[Run], kinds: Collection[type[Event]] = KINDS) -> Iterator[Event]:
    """The whole past of the last run of a lineage: what it shares with the runs it comes from, and its own facts.

    Every RunStarted of the line is among them: `schemas.equality.slots` needs to know what they are called.
    """
    cuts = _cuts(line)
    for record in log.replay(kinds, start=line[0].started.offsets):
        event = record.event
        if event is not None and (event.run_id == line[-1].run_id or _is_shared(event, cuts)):
            yield event


def _cuts(line: Sequence[Run]) -> dict[str | None, int]:
    """Per forebear the last of its train rounds that the last run of the line shares."""
    cuts: dict[str | None, int] = {}
    for number in range(1, len(line)):
        cut = cut_of(line[: number + 1])
        last = cut.round if cut else 0
        cuts = {run_id: min(known, last) for run_id, known in cuts.items()} | {line[number - 1].run_id: last}
    return cuts


def _is_shared(event: Event, cuts: Mapping[str | None, int]) -> bool:
    """Whether a forebear's fact stands before the cut: train rounds up to its round, others opened before it."""
    if event.run_id not in cuts or isinstance(event, RunEnded):
        return False
    if isinstance(event, RunStarted):
        return True
    number, last = getattr(event, "round", None), cuts[event.run_id]
    trains = getattr(event, "purpose", Purpose.TRAIN) is Purpose.TRAIN
    return number is not None and (number <= last if trains else number < last)
