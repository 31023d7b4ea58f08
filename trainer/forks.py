"""Forks: a run that begins at an update of another's weights, under a changed specification and a name of its own.

Only the command that began a fork goes on with it, and it leaves all other runs as they are. Pure: from the runs on the
log to a decision.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

from infra.problems import BadInput
from infra.runs import Run, label, updates_of
from schemas.events import RunStarted, Specification

# The restored weights, moments and random state are of this base model, in this shape.
SHAPE = ("policy", "policy_digest", "learning.lora_rank", "learning.lora_alpha")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a fork begins: a run and the newest update of its weights that both share. `label` is the fork's name."""

    run_id: str
    step: int
    label: str


def origin(line: Sequence[Run], step: int, name: str) -> Origin:
    """The last run of this lineage after update `step`, to be gone on from under this name."""
    parent = line[-1]
    if parent.rescores:
        scored = parent.started.parent_run_id
        raise BadInput(
            f"run {parent.run_id} only re-scores and has no policy", f"fork run {scored}, with --set reward..."
        )
    known = {0, *updates_of(line)}
    if step not in known:
        raise BadInput(
            f"--at {step}: run {parent.run_id} has made {max(known)} updates of its weights",
            f"a step from 0, its beginning, to {max(known)}",
        )
    return Origin(run_id=parent.run_id, step=step, label=label(name))


def require_forkable(parent: Specification, fork: Specification, after: int) -> None:
    """Raises BadInput where a change would make the policy after train round `after` meaningless."""
    for name, before, now in changes(parent, fork):
        if name in SHAPE:
            raise BadInput(f"a fork cannot change {name} (from {before} to {now})", "start another run with it")
    if fork.rounds < after:
        raise BadInput(f"rounds is {fork.rounds}, but the fork begins after round {after}", f"at least {after}")


def changes(before: object, now: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Where two specifications differ: the name, the value before, the value now."""
    for each in fields(before) if is_dataclass(before) and is_dataclass(now) else ():
        name, one, other = f"{path}{each.name}", getattr(before, each.name), getattr(now, each.name)
        if is_dataclass(one):
            yield from changes(one, other, f"{name}.")
        elif one != other:
            yield name, one, other


def begun(started: RunStarted, of: Origin, parent: RunStarted) -> RunStarted:
    """The start of a fork. It draws from its parent's applications unless it was given others, whatever was registered
    since."""
    unchanged = started.specification.applications == parent.specification.applications
    ids = parent.application_ids if unchanged else started.application_ids
    return replace(started, application_ids=ids, parent_run_id=of.run_id, parent_step=of.step, label=of.label)


def choose_fork(found: Iterable[Run], of: Origin, specification: Specification) -> Run | None:
    """The open run that this very fork began, to be gone on with; None when the name is free. Else BadInput."""
    for run in found:
        if run.started.label == of.label:
            if run.ended is None and _is_begun_by(run.started, of) and run.started.specification == specification:
                return run
            raise BadInput(f"run {run.run_id} is called {of.label} already", "give --into another name")
    return None


def _is_begun_by(started: RunStarted, of: Origin) -> bool:
    return (started.parent_run_id, started.parent_step) == (of.run_id, of.step)
