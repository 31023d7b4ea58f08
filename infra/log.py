"""The log as everything above it sees it. `infra/kafka/` is the real one; `infra/memory.py` the same in lists.

    Step   answers facts and remembers nothing.   step(a + b) == step(a) + step(b)
    Fold   remembers.   Duplicates, and any interleaving that keeps each partition's order, give the same outputs.

A log is partitioned by each event's key; order holds within a partition and nowhere else. Delivery is at least once,
and an event's id makes that harmless: the first fact with an id wins, later ones change nothing.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from schemas.events import Event, Offset

Step = Callable[[Sequence[Event]], Iterable[Event]]

MAX_EVENT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One place on the log and what stands there. `event` is None where the bytes cannot be read; `error` says why.

    Topics are called by their entity everywhere above the log; the namespace is the log's own affair.
    """

    topic: str
    partition: int
    offset: int
    event: Event | None
    error: str = ""
    said_id: str = ""  # of a record that cannot be read: the event id its header names, worth what its writer is worth
    head: bytes = b""  # and its first bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A step, and all that binds it to the log."""

    role: str  # names the consumer group, the slot and the stage of its dead letters
    step: Step
    reads: tuple[type[Event], ...]
    writes: tuple[type[Event], ...]
    owes: Callable[[Event], Sequence[str]]  # ids of the facts that complete this input: the step writes just these
    fails: Callable[[Event, str], Iterable[Event]]  # the failure facts owed when the step raised on this input
    batch: int = 96  # inputs gathered before work begins, at most
    slice: int = 32  # facts owed per call of the step and per transaction: what one batch of the effect holds
    gather_seconds: float = 0.02  # work begins when the topics have been idle this long


class Writer(Protocol):
    """A transactional writer under a fixed name: opening it fences its predecessor and aborts what that left open."""

    def publish(self, events: Sequence[Event]) -> None:
        """All of these or none. Raises Fenced when another took the name, OutcomeUnknown when nobody can say."""


class OutcomeUnknown(Exception):
    """A transaction timed out: throw the writer away, open a new one, read to the end, only then decide."""


class References(Protocol):
    """Reference facts by their key, read in full without a group and followed as they grow."""

    def __call__(self, key: str) -> Event:
        """The first fact with this key. Waits a bounded time for one not yet seen, then raises ReferenceMissing."""


class Answers(Protocol):
    """Paid answers of one kind by their work key, complete as of its opening and followed as they grow."""

    def __call__(self, keys: Collection[str]) -> dict[str, Event]:
        """The visible answer to each of these keys that has one: of several the one with the smallest event id, for
        ever after. It is an original (paid for, not itself answered from another) and names the key."""


class ReferenceMissing(Exception):
    """A fact refers to another that never came. The fact is dead-lettered."""


class Log(Protocol):
    """Facts go in; facts come out in partition order, at least once, only when committed."""

    def publish(self, events: Iterable[Event]) -> None:
        """Write events, return when all are acknowledged. One over MAX_EVENT_BYTES is BadInput, before any is sent."""

    def writer(self, name: str) -> AbstractContextManager[Writer]:
        """A transactional writer."""

    def work(self, job: Job, *, stop: Callable[[], bool]) -> None:
        """Answer every fact of `job.reads` until `stop()`. Outputs and input offsets commit together, the slow effect
        before the transaction. Facts of ended runs are skipped, and so are inputs whose owed facts are all on the log.
        An input on which the step raises gets its failure facts and a DeadLettered in one transaction, and the rest
        goes on; so does a record that cannot be decoded, and the slot that its header names gets its failure fact."""

    def refer(self, kind: type[Event]) -> References:
        """Reference facts of one type, by the key of their topic."""

    def answers(self, kind: type[Event]) -> Answers:
        """Paid answers of one type, by their work keys."""

    def replay(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
    ) -> Iterator[Record]:
        """Every record of these kinds from `start` (else the beginning) to `until` (else the end as it is now).
        Records of other kinds on the same topics are left out; unreadable ones are not."""

    def follow(
        self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), stop: Callable[[], bool]
    ) -> Iterator[Sequence[Record]]:
        """As replay, but ends only at `stop()`: batches as they come, an empty one about every 100 ms of silence."""

    def end_offsets(self) -> tuple[Offset, ...]:
        """Where the log ends now: one per topic and partition."""

    def close(self) -> None:
        """Flush, leave groups, stop threads. The log is not used again."""
