"""Workers of the product, and the same workers with one law broken: `python -m tests.crash.actors NAME KAFKA NAMESPACE
HOME`, in the test build. What is broken is broken here, from outside: the product has no switch for it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import faust

from consumers import run_tests
from infra import failpoints, kafka, process
from infra.kafka import KafkaLog
from infra.log import Job, Record
from schemas.events import Event, ImplementationWritten, RequirementsDrafted, Verdict
from streams import __main__ as rewards
from streams import app, transport
from tests.crash.plan import VARIABLE, Fate, Plan
from tests.laws.drafting import draft, drafting_job
from tests.whole_run import ran

PARTITIONS = 3
LIFE = "CRASH_LIFE"  # which life of a worker this is; what it writes depends on it, as a clock or a coin would make it


def main(actor: str, bootstrap: str, namespace: str, home: str) -> int:
    """One worker, until SIGTERM."""
    failpoints.arm(Fate(Plan(Path(os.environ[VARIABLE]))).hook())
    ACTORS[actor](bootstrap, namespace, Path(home), process.stop_on_signals())
    return 0


Stop = Callable[[], bool]


def _work(job: Callable[[Path], Job], bootstrap: str, namespace: str, home: Path, stop: Stop) -> None:
    log = KafkaLog(bootstrap, namespace, PARTITIONS, home)
    log.work(job(home), stop=stop)
    log.close()


# ---- drafting: two drafts per draw, without a model ------------------------------------------------------------------


def _drafting(home: Path) -> Job:  # noqa: ARG001 - the shape of a job's maker
    return drafting_job()


def _slow_drafting(home: Path) -> Job:
    """All inputs in one slice; its effects last until somebody says go. Its drafts name the life that wrote them."""
    return drafting_job(step=partial(_drafts_when_told, home), slice=10_000)


def _drafts_when_told(home: Path, events: Sequence[Event]) -> Iterator[Event]:
    life = os.environ[LIFE]
    (home / f"begun-{life}").touch()
    while not (home / f"go-{life}").exists():
        time.sleep(0.01)
    for fact in draft(events):
        assert isinstance(fact, RequirementsDrafted)
        yield replace(fact, text=f"as {life} wrote it")


def _offsets_first(*arguments: Any) -> None:
    """Broken: what was read is booked as done before it is done."""

    def answer(worker: Any, part: Sequence[Record], batch: Any) -> bool:
        if not worker._commit([], part, batch):
            return False
        facts = worker._ledger.answer(part)
        failpoints.reached(worker._job.role, "effect_done", facts)
        worker._transactions.commit(facts)
        worker._ledger.wrote(part, facts)
        return True

    vars(kafka.worker)["Worker"]._answer = answer
    _work(_drafting, *arguments)


class Ageless:
    """A batch that is never void, whatever was dealt to whom since it was polled."""

    def __init__(self, worker: Any, batch: Any) -> None:
        self.worker, self.batch = worker, batch
        self.records = batch.records

    @property
    def assignment(self) -> int:
        return int(self.worker._assignment)

    @property
    def group(self) -> object:
        return self.batch.group


class Fresh(Ageless):
    """Broken: it asks what generation the group has now, not what it had when the batch was polled."""

    @property
    def group(self) -> object:
        return self.worker._consumer.consumer_group_metadata()


def _unguarded(kind: type[Ageless], *arguments: Any) -> None:
    """A worker that does not look whether its partitions were dealt anew: the broker alone is between it and harm."""
    worker = vars(kafka.worker)["Worker"]
    answered = worker._answer
    worker._answer = lambda self, part, batch: answered(self, part, kind(self, batch))
    _work(_slow_drafting, *arguments)


# ---- judging: a verdict that comes out otherwise in another life -----------------------------------------------------


class SendsBeforeOffsets(confluent_kafka.Producer):
    """Everything produced is with the broker before the offsets go there."""

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        self.flush()
        super().send_offsets_to_transaction(*arguments)


def _judging(*arguments: Any) -> None:
    vars(kafka.transactions)["Producer"] = SendsBeforeOffsets
    _work(_judging_job, *arguments)


def _judging_job(home: Path) -> Job:  # noqa: ARG001
    return Job(
        role="run_tests",
        step=_judge,
        reads=run_tests.READS,
        writes=run_tests.WRITES,
        owes=run_tests.owes,
        fails=partial(run_tests.fails, clock=process.clock),
    )


def _judge(events: Sequence[Event]) -> Iterator[Event]:
    verdict = Verdict.TIMEOUT if os.environ[LIFE] == "first" else Verdict.FAILED
    for event in events:
        assert isinstance(event, ImplementationWritten)
        fact = replace(ran(event, event), requirements_id=event.requirements_id, verdict=verdict)
        yield fact if verdict is Verdict.FAILED else replace(fact, results=())


# ---- rewards on Faust ------------------------------------------------------------------------------------------------


def _rewards(bootstrap: str, namespace: str, home: Path, stop: Stop) -> None:  # noqa: ARG001 - it asks the settings
    rewards.main(["--slot", "0"])


def _rewards_uncommitted(*arguments: Any) -> None:
    """Broken: what a transaction wrote is read before, or without, its commit."""
    stock = vars(transport)["stock"].AIOKafkaConsumerThread
    vars(transport)["ConsumerThread"]._create_worker_consumer = stock._create_worker_consumer
    _rewards(*arguments)


class StockApp(faust.App):
    """Faust as it is installed, but for the folders and tables that it would make."""

    def __init__(self, id: str, **settings: Any) -> None:
        super().__init__(id, store="memory://", TableManager=transport.NoTables, **settings)

    def _create_directories(self) -> None:
        """Nothing is stored beside the log."""


def _rewards_on_stock(*arguments: Any) -> None:
    """Broken: acks are held as in the product, on a transport that commits past them."""
    vars(app)["App"] = StockApp
    _rewards(*arguments)


ACTORS: dict[str, Callable[[str, str, Path, Stop], None]] = {
    "drafting": partial(_work, _drafting),
    "slow drafting": partial(_work, _slow_drafting),
    "drafting, offsets first": _offsets_first,
    "slow drafting, unguarded": partial(_unguarded, Ageless),
    "slow drafting, fresh metadata": partial(_unguarded, Fresh),
    "judging": _judging,
    "rewards": _rewards,
    "rewards, uncommitted": _rewards_uncommitted,
    "rewards, stock transport": _rewards_on_stock,
}

if __name__ == "__main__":
    sys.exit(process.run(lambda: main(*sys.argv[1:])))
