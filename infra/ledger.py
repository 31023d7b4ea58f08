"""What a worker knows and decides, whatever carries its facts: which inputs are due, and what answers them.

A step writes exactly what its inputs owe. Everything here is lost with the process and rebuilt from the log.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.log import MAX_EVENT_BYTES, Job, Record
from infra.problems import BadInput, Problem
from schemas.avro import encode
from schemas.events import ApplicationDrawn, DeadLettered, DraftEvent, Event, Purpose, RunEnded
from schemas.identity import event_id
from schemas.topics import key_of

MAX_CAUSE = 2_000  # characters of an exception that go into a fact


@dataclass(frozen=True, slots=True)
class Framed:
    """A fact as it is written: its place and its bytes are already known to be right."""

    event: Event
    key: str
    content: bytes


def framed(event: Event) -> Framed:
    """The fact with its key and bytes. One over MAX_EVENT_BYTES is BadInput."""
    content = encode(event)
    if len(content) > MAX_EVENT_BYTES:
        raise BadInput(
            f"{type(event).__name__} {event.event_id} is {len(content) / 2**20:.1f} MiB, an event holds 8 MiB at most",
            "leave out files its suite does not need",
        )
    return Framed(event, key_of(event), content)


StandIns = Callable[[Record], Sequence[Event]]


def _nothing(_: Record) -> Sequence[Event]:
    return ()


class Ledger:
    """One worker's memory: runs that ended, owed facts already on the log, answers paid for but not yet on it.

    `stand_ins` says which facts fill the slot that an unreadable record leaves empty.
    """

    def __init__(self, job: Job, clock: Callable[[], datetime], stand_ins: StandIns = _nothing) -> None:
        self._job = job
        self._clock = clock
        self._stand_ins = stand_ins
        self._ended: set[str | None] = set()
        self._written: dict[str | None, set[str]] = defaultdict(set)
        self._paid: dict[str, tuple[Framed, ...]] = {}

    def see(self, event: Event) -> None:
        """Take in a fact that is on the log: an ended run's inputs are never due again, nor are answered ones."""
        if isinstance(event, RunEnded):
            self._ended.add(event.run_id)
            self._written.pop(event.run_id, None)
        elif event.run_id not in self._ended:
            self._written[event.run_id].add(event.event_id)

    def is_due(self, record: Record) -> bool:
        """Whether anything is still owed for this record. An unreadable one owes a dead letter."""
        event = record.event
        if event is None:
            return self._dead_letter_id(record) not in self._written[None]
        if not isinstance(event, self._job.reads) or event.run_id in self._ended:
            return False
        return not self._written[event.run_id].issuperset(self._job.owes(event))

    def slices(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """The records, training first, cut as soon as a slice owes `job.slice` facts."""
        records = training_first(records)
        begin = owed = 0
        for end, record in enumerate(records, 1):
            owed += self._owed(record)
            if owed >= self._job.slice:
                yield records[begin:end]
                begin, owed = end, 0
        if begin < len(records):
            yield records[begin:]

    def _owed(self, record: Record) -> int:
        if not self.is_due(record):
            return 0
        return len(self._job.owes(record.event)) if record.event else 1

    def answer(self, records: Sequence[Record]) -> list[Framed]:
        """The facts still owed for these records. The slow effect happens here; its answers are kept until written."""
        due = [record for record in records if self.is_due(record)]
        self._pay([record for record in due if record.event and record.event.event_id not in self._paid], attempt=1)
        facts: dict[str, Framed] = {}
        for record in due:
            for fact in self._answers(record):
                facts.setdefault(fact.event.event_id, fact)
        return [fact for key, fact in facts.items() if key not in self._written[fact.event.run_id]]

    def wrote(self, records: Sequence[Record], facts: Sequence[Framed]) -> None:
        """These facts, which answer these records, are on the log."""
        for fact in facts:
            self.see(fact.event)
        for record in records:
            if record.event:
                self._paid.pop(record.event.event_id, None)

    def _answers(self, record: Record) -> tuple[Framed, ...]:
        if record.event is None:
            return tuple(map(framed, (*self._stand_ins(record), self._dead_letter(record, record.error, attempt=1))))
        return self._paid[record.event.event_id]

    def _pay(self, records: Sequence[Record], attempt: int) -> None:
        """Run the step on all of them; if it raises, on each alone; if it still raises, the failure is the answer."""
        if not records:
            return
        inputs = {record.event.event_id: record.event for record in records if record.event}
        try:
            self._keep(list(inputs.values()), list(self._job.step(list(inputs.values()))))
        except Problem:
            raise
        except Exception as error:
            if len(inputs) > 1:
                for record in records:
                    self._pay([record], attempt + 1)
            else:
                self._fail(records[0], error, attempt)

    def _keep(self, inputs: Sequence[Event], facts: Sequence[Event]) -> None:
        by_id = {fact.event_id: _writable(fact) for fact in facts}
        owed = {event.event_id: tuple(self._job.owes(event)) for event in inputs}
        asked = {each for ids in owed.values() for each in ids}
        if missing := asked - by_id.keys():
            raise StepBroken(f"{self._job.role} left out {len(missing)} owed facts, for example {min(missing)}")
        if extra := by_id.keys() - asked:
            raise StepBroken(f"{self._job.role} wrote {len(extra)} facts nobody owes, for example {min(extra)}")
        self._paid.update({key: tuple(by_id[each] for each in ids) for key, ids in owed.items()})
        self._forget_oldest()

    def _fail(self, record: Record, error: Exception, attempt: int) -> None:
        assert record.event is not None
        cause = f"{type(error).__name__}: {error}"[:MAX_CAUSE]
        failures = tuple(self._job.fails(record.event, cause))
        letter = self._dead_letter(record, cause, attempt)
        self._paid[record.event.event_id] = tuple(framed(fact) for fact in (*failures, letter))

    def _forget_oldest(self) -> None:
        """Answers to inputs that went to another worker are never fetched: the oldest make room."""
        while len(self._paid) > 8 * self._job.batch:
            del self._paid[next(iter(self._paid))]

    def _dead_letter(self, record: Record, cause: str, attempt: int) -> DeadLettered:
        cause_id = record.event.event_id if record.event else record.said_id
        return DeadLettered(
            event_id=self._dead_letter_id(record),
            recorded_at=self._clock(),
            run_id=record.event.run_id if record.event else None,
            caused_by=(cause_id,) if cause_id else (),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            stage=self._job.role,
            exception=cause,
            attempts=attempt,
        )

    def _dead_letter_id(self, record: Record) -> str:
        run_id = record.event.run_id if record.event else None
        return event_id(run_id, f"{record.topic}/{record.partition}/{record.offset}", f"dead_letter/{self._job.role}")


def training_first(records: Sequence[Record]) -> list[Record]:
    """Another interleaving of the same partitions, each in its own order: what trains comes as early as it can."""
    lines: dict[tuple[str, int], deque[Record]] = defaultdict(deque)
    for record in records:
        lines[record.topic, record.partition].append(record)
    ordered: list[Record] = []
    while lines:
        place = next((each for each, line in lines.items() if _trains(line[0])), next(iter(lines)))
        ordered.append(lines[place].popleft())
        if not lines[place]:
            del lines[place]
    return ordered


def _trains(record: Record) -> bool:
    return isinstance(record.event, ApplicationDrawn | DraftEvent) and record.event.purpose is Purpose.TRAIN


class StepBroken(Exception):
    """A step did not write exactly what its inputs owe, or wrote what the log cannot hold."""


def _writable(fact: Event) -> Framed:
    """A step's fact that is too large is the step's failure, not the worker's end."""
    try:
        return framed(fact)
    except BadInput as refused:
        raise StepBroken(refused.message) from refused
