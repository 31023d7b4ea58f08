"""A small worker for the laws of the log: two drafts per draw, written without a model."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from infra.log import Job, Log
from schemas.events import ApplicationDrawn, DraftFailed, Event, Fault, RequirementsDrafted
from schemas.identity import event_id
from tests.histories import application, drafted, drawn

WRITES: tuple[type[Event], ...] = (RequirementsDrafted, DraftFailed)


def draws(count: int, first: int = 0) -> list[ApplicationDrawn]:
    """Draws of different applications, so that they spread over partitions."""
    return [drawn(application(f"x = {i}\n"), index=i) for i in range(first, first + count)]


def owes(event: Event) -> list[str]:
    """One fact per draft seed."""
    assert isinstance(event, ApplicationDrawn)
    return [event_id(event.run_id, event.event_id, "requirements", draft) for draft in range(len(event.draft_seeds))]


def owed(events: Sequence[Event]) -> list[str]:
    """The ids owed for all of these, sorted."""
    return sorted(each for event in events for each in owes(event))


def draft(events: Sequence[Event]) -> Iterator[Event]:
    """The step."""
    for event in events:
        assert isinstance(event, ApplicationDrawn)
        yield from (_drafted(event, number) for number in range(len(event.draft_seeds)))


def _drafted(draw: ApplicationDrawn, number: int) -> RequirementsDrafted:
    return replace(drafted(draw, number), event_id=owes(draw)[number], run_id=draw.run_id)


def fails(event: Event, cause: str) -> list[Event]:
    """Every draft of a draw, failed."""
    assert isinstance(event, ApplicationDrawn)
    return [_failed(event, number, cause) for number in range(len(event.draft_seeds))]


def _failed(draw: ApplicationDrawn, number: int, cause: str) -> DraftFailed:
    fact = _drafted(draw, number)
    shared = {name: getattr(fact, name) for name in DraftFailed.__dataclass_fields__ if hasattr(fact, name)}
    return DraftFailed(**shared, fault=Fault.MACHINE, cause=cause)


def drafting_job(**changes: Any) -> Job:
    """The worker, with small slices so that a batch is several transactions."""
    job = Job(
        role="requirements",
        step=draft,
        reads=(ApplicationDrawn,),
        writes=WRITES,
        owes=owes,
        fails=fails,
        slice=8,
    )
    return replace(job, **changes)


@dataclass(frozen=True, slots=True)
class Working:
    """A worker that runs while the block does."""

    log: Log
    ended: Callable[[], bool]

    def until(self, count: int, kinds: Collection[type[Event]] = WRITES) -> list[Event]:
        """Follow until `count` facts of these kinds stand on the log, or the worker ended."""
        seen: list[Event] = []
        enough = lambda: len(seen) >= count or self.ended()  # noqa: E731
        for records in self.log.follow(kinds, stop=enough):
            seen.extend(record.event for record in records if record.event)
        return seen


def work_until(log: Log, job: Job, count: int, kinds: Collection[type[Event]] = WRITES) -> list[Event]:
    """Work until `count` facts of these kinds stand on the log; what the worker raised is raised here."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(log.work, job, stop=done.is_set)
        try:
            return Working(log, worker.done).until(count, kinds)
        finally:
            done.set()
            worker.result()


def on_the_log(log: Log, *kinds: type[Event]) -> list[Event]:
    """Every readable fact of these kinds."""
    return [record.event for record in log.replay(kinds) if record.event is not None]


def ids_on_the_log(log: Log, *kinds: type[Event]) -> list[str]:
    """Their ids, sorted, repetitions kept."""
    return sorted(event.event_id for event in on_the_log(log, *kinds))
