"""A worker as a process of its own that dies, or is frozen, at a named point."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka

from infra import process
from infra.kafka import KafkaLog, transactions
from schemas.events import Event
from tests.laws.drafting import draft, drafting_job

calls = 0


def die() -> None:
    """As kill -9 would."""
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    """As a suspended machine would, until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def on_second_call(act: Callable[[], None]) -> None:
    """The first slice passes, the second meets its fate."""
    global calls
    calls += 1
    if calls == 2:
        act()


def drafts_and(act: Callable[[], None], events: Sequence[Event]) -> Iterator[Event]:
    """The step; the second time it acts with all answers in its hands."""
    yield from draft(events)
    on_second_call(act)


class DiesInTransaction(confluent_kafka.Producer):
    """Dies after outputs and offsets were sent and before the commit."""

    def commit_transaction(self, *arguments: Any) -> None:
        self.flush()
        on_second_call(die)
        super().commit_transaction(*arguments)


class DiesAfterCommit(confluent_kafka.Producer):
    """Dies once the transaction is committed, before anything in the process can know."""

    def commit_transaction(self, *arguments: Any) -> None:
        super().commit_transaction(*arguments)
        on_second_call(die)


class FreezesInTransaction(confluent_kafka.Producer):
    """Freezes after outputs and offsets were sent and before the commit."""

    def commit_transaction(self, *arguments: Any) -> None:
        self.flush()
        on_second_call(freeze)
        super().commit_transaction(*arguments)


PRODUCERS = {
    "dies in transaction": DiesInTransaction,
    "dies after commit": DiesAfterCommit,
    "freezes in transaction": FreezesInTransaction,
}
STEPS = {"dies in step": partial(drafts_and, die), "freezes in step": partial(drafts_and, freeze)}


def main(bootstrap: str, namespace: str, home: str, point: str) -> int:
    """Work until SIGTERM; what happens at `point` happens once."""
    vars(transactions)["Producer"] = PRODUCERS.get(point, confluent_kafka.Producer)
    stop = process.stop_on_signals()
    log = KafkaLog(bootstrap, namespace, 3, Path(home))
    log.work(drafting_job(step=STEPS.get(point, draft)), stop=stop)
    log.close()
    return 0


if __name__ == "__main__":
    sys.exit(process.run(lambda: main(*sys.argv[1:])))
