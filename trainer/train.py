"""The trainer: follows one run on the log, learns from each complete round, opens the next.

    checkpoint  ->  one transaction: PolicyUpdated, the next RoundOpened, its ApplicationDrawns, then validations

Its place is a fold over the log, never a consumer offset, and the transaction is the only commit point: killed
anywhere, it opens the writer (which fences and aborts its predecessor), reads to the end, and decides as if nothing had
happened.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from infra.blobs import Blobs
from infra.failpoints import reached
from infra.log import Log, OutcomeUnknown, Record, Writer
from infra.problems import BadInput
from infra.runs import Run, cut_of, lineage, runs_on
from schemas.events import ApplicationRegistered, Event, PolicyUpdated, Purpose, RunEnded, RunStarted
from trainer.policy import Policy, numerics
from trainer.replay import Clock, Say, learn, rebuild, require_numerics, starting_policy
from trainer.rounds import (
    DRAFT_FACTS,
    ROUND_FACTS,
    CompleteRound,
    Course,
    State,
    complete,
    course,
    ended,
    finished,
    fold,
    open_places,
    open_round,
    rounds_after,
    validation,
)


@dataclass(slots=True, kw_only=True)
class _Trainer:
    """One life of the trainer: from an open writer to the end of the run, to `stop()`, or to an unknown outcome."""

    log: Log
    blobs: Blobs
    started: RunStarted
    run: Course
    policy: Policy
    writer: Writer
    clock: Clock
    say: Say
    state: State = field(default_factory=State)


def train(
    log: Log,
    blobs: Blobs,
    started: RunStarted,
    applications: Iterable[ApplicationRegistered],
    policy: Policy,
    *,
    writer: str,
    clock: Clock,
    stop: Callable[[], bool],
    say: Say,
) -> RunEnded | None:
    """Play the run to its end, or until `stop()`: then None, and the next call goes on from the log.

    `started` is published with the first rounds unless it is on the log already; if it names a parent and a step, the
    run begins with that policy, after that round. `policy` is any fresh Policy of the run's base model and learning;
    its weights are set from the log. Raises Fenced when another trainer has the run, BadInput or RunsDiffer when this
    process cannot play it.
    """
    require_numerics(started, numerics())
    run = _course(log, started, applications)
    while not stop():
        try:
            with log.writer(writer) as opened:
                life = _Trainer(
                    log=log, blobs=blobs, started=started, run=run, policy=policy, writer=opened, clock=clock, say=say
                )
                return _live(life, stop)
        except OutcomeUnknown as unknown:
            say(f"the trainer does not know whether it was heard ({unknown}) and reads the log again")
    return None


def _course(log: Log, started: RunStarted, applications: Iterable[ApplicationRegistered]) -> Course:
    splits = {each.application_id: each.split for each in applications}
    unknown = [each for each in started.application_ids if each not in splits]
    if unknown:
        raise BadInput(f"application {unknown[0]} of the run is not registered", "register it with `iccm apps add`")
    cut = cut_of(lineage(runs_on(log), Run(started=started))) if started.parent_step else None
    run = course(started, splits, cut.round, cut.event_id) if cut else course(started, splits)
    if run.specification.rounds > 0 and not run.pools[Purpose.TRAIN]:
        raise BadInput("the run has rounds to train and no application to train on", "add one with split train")
    return run


def _live(life: _Trainer, stop: Callable[[], bool]) -> RunEnded | None:
    """Read to the end, become the policy the log names, then decide after every batch of facts."""
    end = life.log.end_offsets()
    for kinds in (ROUND_FACTS, DRAFT_FACTS):  # closed rounds first, so that what they gathered is never kept
        _take(life, life.log.replay(kinds, start=life.started.offsets, until=end))
    reached("trainer", "read_to_end")
    _become(life)
    reached("trainer", "restored")
    _decide(life)
    for batch in life.log.follow((*ROUND_FACTS, *DRAFT_FACTS), start=end, stop=stop):
        if life.state.ended is not None:
            break
        if batch:
            reached("trainer", "taken", batch)
        _take(life, batch)
        _decide(life)
    return life.state.ended


def _take(life: _Trainer, records: Iterable[Record]) -> None:
    for record in records:
        if record.event is None:
            life.say(f"{record.topic}/{record.partition}@{record.offset} cannot be read: {record.error}")
        elif record.event.run_id == life.run.run_id:
            fold(life.state, record.event)


def _become(life: _Trainer) -> None:
    """The policy of the newest PolicyUpdated, else the one that the run begins with."""
    become = starting_policy if life.state.last_update is None else rebuild
    become(life.policy, life.log, life.started, life.blobs, life.clock, life.say)


def _decide(life: _Trainer) -> None:
    """Publish all that the facts so far owe: the first rounds, what complete rounds come to, the end."""
    if life.state.ended is not None:
        return
    if not life.state.opened:
        begun = [] if life.state.started else [life.started]
        _publish(life, [*begun, *_openings(life, life.run.after, life.run.cause)])
    for place in open_places(life.state):
        played = complete(life.run, life.state, place)
        if played is not None:
            _publish(life, _conclusion(life, played))
    if finished(life.run, life.state):
        _publish(life, [ended(life.run, life.state.last_update, life.policy.digest, life.clock())])


def _conclusion(life: _Trainer, played: CompleteRound) -> list[Event]:
    if played.opened.purpose is not Purpose.TRAIN:
        return [validation(played, life.clock())]
    updated = learn(life.policy, life.run, played, life.blobs, life.clock)
    return [updated, *_openings(life, updated.round, updated.event_id)]


def _openings(life: _Trainer, number: int, cause: str) -> list[Event]:
    digest, now = life.policy.digest, life.clock()
    places = rounds_after(life.run, number)
    return [fact for place in places for fact in open_round(life.run, place, digest, cause, now)]


def _publish(life: _Trainer, facts: Sequence[Event]) -> None:
    if not facts:
        return
    life.writer.publish(facts)
    if isinstance(facts[0], PolicyUpdated):
        reached("trainer", "update_published", facts[0])
    for fact in facts:
        fold(life.state, fact)
