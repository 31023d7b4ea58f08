"""A dead letter's record, what its stage owed for it, and having it worked on again. What is on the log stays there.

What a replay can bring depends on why the record was buried:

- It could not be read, and a newer version of this program can read it: nothing was owed yet, as nobody knew what. The
  stage's step runs on it now, and what it owes is written; the round goes on. A verdict is also put on the log once
  more, since a rewards worker that holds the draft's other verdicts never saw this one.
- It could not be read and never will be: where its header names a slot, the stage filled that with a failure fact when
  it buried the record, and nothing is left to do. Where it names none it was no fact of ours.
- The step raised on it: requirements, implement and run_tests wrote the failure facts they owed together with the dead
  letter. They stand in their slots and stay; a replay says so, calls no model and runs no test. Rewards write nothing
  when they cannot score, so a draft whose scoring raised is scored by a replay once the cause is mended.
- The tables refused it (stage project): it is applied to them, and nothing is written but that this was done.

A record of a run that has ended is refused, since nobody waits for its facts; the tables take it all the same.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumers import implement, requirements, run_tests
from consumers.dlq.letters import Letter
from infra.ledger import MAX_CAUSE, StepBroken, framed
from infra.log import Job, Log, Record
from infra.problems import BadInput, Problem
from schemas.events import DeadLetterReplayed, Event, Offset, RewardScored, RunEnded, SuiteRan
from schemas.identity import event_id
from schemas.topics import KINDS, topic_of

PROJECT, REWARDS = "project", "rewards"


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage answers, with what, and which ids it owes for an input."""

    reads: tuple[type[Event], ...]
    writes: tuple[type[Event], ...]
    owes: Callable[[Event], Sequence[str]]


def _reward_of(event: Event) -> list[str]:
    assert isinstance(event, SuiteRan)
    return [event_id(event.run_id, event.requirements_id, "reward")]


def _nothing(_: Event) -> list[str]:
    return []


STAGES = {
    "requirements": Stage(requirements.READS, requirements.WRITES, requirements.owes),
    "implement": Stage(implement.READS, implement.WRITES, implement.owes),
    "run_tests": Stage(run_tests.READS, run_tests.WRITES, run_tests.owes),
    REWARDS: Stage((SuiteRan,), (RewardScored,), _reward_of),
    PROJECT: Stage(KINDS, (), _nothing),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A letter, its record as it can be read today, and which of the facts it owes stand on the log."""

    letter: Letter
    record: Record | None
    owed: tuple[str, ...]
    standing: tuple[Record, ...]
    run_ended: bool

    @property
    def missing(self) -> set[str]:
        """What is owed and does not stand."""
        return set(self.owed) - {each.event.event_id for each in self.standing if each.event is not None}

    @property
    def unreadable(self) -> str:
        """Why the record cannot be worked on, whatever the stage; "" when it can be."""
        if self.record is None:
            return f"nothing stands at {self.letter.place} any more"
        if self.record.event is None:
            return f"still cannot be read: {self.record.error}"
        if not isinstance(self.record.event, STAGES[self.letter.dead.stage].reads):
            return f"{self.letter.dead.stage} does not work on {type(self.record.event).__name__}"
        return ""

    @property
    def was_unreadable(self) -> bool:
        """Whether it was buried because it could not be read, not because its stage failed on it."""
        return self.letter.dead.run_id is None

    @property
    def needs_work(self) -> bool:
        """Whether a replay has to do the stage's work: where nothing is missing there is nothing to pay for."""
        return not self.unreadable and (bool(self.missing) or self.letter.dead.stage == PROJECT)

    @property
    def is_settled(self) -> bool:
        """Whether a replay went well before and nothing is missing."""
        return not self.letter.is_open and not self.missing

    @property
    def is_refused(self) -> bool:
        """Whether its run has ended, so that nobody waits for what it owes."""
        return self.run_ended and self.letter.dead.stage != PROJECT


# What a stage writes for one case. Whatever it raises, but for a Problem, is why the replay failed.
Work = Callable[[Case], Iterable[Event]]


def nothing(_: Case) -> list[Event]:
    """The work where none is needed."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one replay ended."""

    letter_id: str
    stage: str
    place: str
    written: int
    stood: int  # facts that were on the log already, and stay
    exception: str = ""

    def as_text(self) -> str:
        """One line for a person."""
        said = f"{self.letter_id[:8]} {self.stage} {self.place}: "
        if self.exception:
            return f"{said}failed again: {self.exception.splitlines()[0]}"
        return f"{said}{counted(self.written)} written{stood(self.stood)}"


def counted(facts: int) -> str:
    """So many facts, in words."""
    return "1 fact" if facts == 1 else f"{facts} facts"


def stood(facts: int) -> str:
    """What is said of facts that were on the log before; nothing where there were none."""
    return f", {counted(facts)} stood there already and {'stays' if facts == 1 else 'stay'}" if facts else ""


def cases(log: Log, found: Sequence[Letter]) -> list[Case]:
    """These letters with their records and what stands on the log of what they owe: one reading of each topic."""
    for each in found:
        if each.dead.stage not in STAGES:
            raise BadInput(f"dead letter {each.dead.event_id} is of stage {each.dead.stage!r}, which is not known here")
    ended = {each.event.run_id for each in log.replay((RunEnded,)) if each.event is not None}
    records = [record_at(log, each.dead.topic, each.dead.partition, each.dead.offset) for each in found]
    owed = [_owed(each, record) for each, record in zip(found, records, strict=True)]
    kinds = {kind for each in found for kind in STAGES[each.dead.stage].writes}
    standing = _standing(log, {each for ids in owed for each in ids}, kinds)
    return [
        Case(
            letter=letter,
            record=record,
            owed=ids,
            standing=tuple(standing[each] for each in ids if each in standing),
            run_ended=_run(letter, record) in ended,
        )
        for letter, record, ids in zip(found, records, owed, strict=True)
    ]


def record_at(log: Log, topic: str, partition: int, offset: int) -> Record | None:
    """The record at one place; None where nothing stands there any more."""
    here, after = (partition, offset), Offset(topic=topic, partition=partition, offset=offset + 1)
    elsewhere, end = _ends_elsewhere(log, topic, partition)
    if offset >= end:
        return None
    start = [*elsewhere, Offset(topic=topic, partition=partition, offset=offset)]
    found = log.replay(_kinds(topic), start=start, until=[after])
    return next((each for each in found if (each.partition, each.offset) == here), None)


def facts_beside(log: Log, record: Record) -> Iterator[Event]:
    """The facts of the record's own kind on its own partition: all that there are with its key."""
    elsewhere, _ = _ends_elsewhere(log, record.topic, record.partition)
    for each in log.replay((type(record.event),), start=elsewhere) if record.event else ():
        if each.event is not None and each.partition == record.partition:
            yield each.event


def _ends_elsewhere(log: Log, topic: str, partition: int) -> tuple[list[Offset], int]:
    """Where the other partitions of a topic end, so that a reading leaves them out, and where this one does."""
    ends = [each for each in log.end_offsets() if each.topic == topic]
    own = [each.offset for each in ends if each.partition == partition]
    return [each for each in ends if each.partition != partition], max(own, default=0)


def _kinds(topic: str) -> list[type[Event]]:
    return [kind for kind in KINDS if topic_of(kind) == topic]


def _owed(letter: Letter, record: Record | None) -> tuple[str, ...]:
    stage = STAGES[letter.dead.stage]
    if record is None or not isinstance(record.event, stage.reads):
        return ()
    return tuple(stage.owes(record.event))


def _run(letter: Letter, record: Record | None) -> str | None:
    event = record.event if record is not None else None
    return event.run_id if event is not None else letter.dead.run_id


def _standing(log: Log, ids: Collection[str], kinds: Collection[type[Event]]) -> dict[str, Record]:
    """The first record with each of these ids."""
    found: dict[str, Record] = {}
    for record in log.replay(kinds) if ids else ():
        if record.event is not None and record.event.event_id in ids:
            found.setdefault(record.event.event_id, record)
    return found


def again(case: Case, work: Work, now: Callable[[], datetime]) -> tuple[list[Event], Outcome]:
    """What is to be written in one transaction, that this was done included, and how it ended."""
    facts, exception = _worked(case, work) if case.needs_work else ([], case.unreadable)
    dead = case.letter.dead
    done = DeadLetterReplayed(
        event_id=event_id(dead.run_id, dead.event_id, "replay", len(case.letter.replays)),
        recorded_at=now(),
        run_id=dead.run_id,
        caused_by=(dead.event_id,),
        dead_letter_id=dead.event_id,
        topic=dead.topic,
        partition=dead.partition,
        offset=dead.offset,
        stage=dead.stage,
        written=len(facts),
        exception=exception,
    )
    outcome = Outcome(
        letter_id=dead.event_id,
        stage=dead.stage,
        place=case.letter.place,
        written=len(facts),
        stood=len(case.standing),
        exception=exception,
    )
    return [*facts, done], outcome


def _worked(case: Case, work: Work) -> tuple[list[Event], str]:
    """What is new on the log by this work, and why it failed, if it did."""
    standing = set(case.owed) - case.missing
    try:
        facts = [fact for fact in work(case) if fact.event_id not in standing]
        for fact in facts:
            framed(fact)
    except BadInput as refused:
        return [], refused.message
    except Problem:
        raise
    except Exception as error:  # whatever it was, the log says it and the next letter is read
        return [], f"{type(error).__name__}: {error}"[:MAX_CAUSE]
    return facts, ""


def stepped(job: Job) -> Work:
    """The work of a stage that remembers nothing: its step on this record alone."""

    def work(case: Case) -> list[Event]:
        assert case.record is not None
        assert case.record.event is not None
        facts = list(job.step([case.record.event]))
        if left_out := set(case.owed) - {each.event_id for each in facts}:
            raise StepBroken(f"{job.role} left out {len(left_out)} owed facts, for example {min(left_out)}")
        return facts

    return work
