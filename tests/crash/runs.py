"""Small runs of the test build under a plan, and what is to be said of each: did it end equal, with a clean history?"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from consumers import implement, project, requirements, run_tests
from infra.children import leashed
from infra.kafka import KafkaLog
from infra.log import Record
from infra.postgres import Database
from schemas.equality import first_difference, slot_of
from schemas.events import (
    DeadLettered,
    DeadLetterReplayed,
    Event,
    Purpose,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunStarted,
    SuiteRan,
)
from schemas.identity import event_id
from schemas.topics import KINDS
from tests.commands import SMALL, pids_of, survivors
from tests.crash import history
from tests.crash.plan import VARIABLE, Item, Plan, digest
from tests.crash.world import PARTITIONS, World

ROOT = Path(__file__).parents[2]
ROUNDS = 3
RUN = ["run", "start", *SMALL, "--set", f"rounds={ROUNDS}"]
ROLES = ("requirements", "implement", "run_tests", "rewards", "trainer", "project")
LIMIT_SECONDS = 1200.0  # of one run, on a machine that is busy with other things
OWES = ((requirements.READS, requirements.owes), (implement.READS, implement.owes), (run_tests.READS, run_tests.owes))
# What is written at least once by design. A broker that was killed may, while it starts, complete the abort of an
# unfinished transaction without a marker in the partitions it had reached (seen with Kafka 4.3.1, one node); the next
# commit of the same producer brings those records to light. So there any fact may stand twice, if both say the same.
REPEATABLE = ("RewardScored", "ApplicationRegistered", "ApplicationVerified", "ApplicationRejected", "DeadLettered")


@dataclass(slots=True)
class Running:
    """One command that is started again whenever it is killed, until it ends otherwise."""

    home: Path
    namespace: str
    plan: Plan
    environment: dict[str, str]
    code: int | None = None
    deeds: list[str] = field(default_factory=list)  # what was done to it, beside the plan
    child: subprocess.Popen[bytes] | None = None
    over: bool = False

    def drive(self) -> None:
        """Until the command has ended by itself."""
        command = leashed([sys.executable, "-m", "tests.crash.build", "infra", *RUN])
        while not self.over:
            with (self.home / "command.log").open("ab") as output:
                self.child = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=output)
            code = self.child.wait()
            if code != -signal.SIGKILL:
                self.code = code
                return
            if self._has_seen_the_end():  # started again, the same command would begin another run
                self.code = 0
                return

    def _has_seen_the_end(self) -> bool:
        return any(item.place == "end_seen" for item in self.plan.done().get("conductor", ()))

    def marked(self, role: str, number: int = 0) -> None:
        """Wait until an item of the plan has come to pass."""
        mark, deadline = self.plan.mark(role, number), time.monotonic() + LIMIT_SECONDS
        while not mark.exists() and self.code is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def left_alone(self) -> None:
        """What a run is that nothing disturbs."""

    def kill(self, role: str) -> None:
        """SIGKILL to the processes of a role; what they have started dies with them."""
        for pid in pids_of(self.home, role):
            if _leads_its_group(pid):
                os.kill(pid, signal.SIGKILL)
                self.deeds.append(f"{role} killed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one run."""

    name: str
    seconds: float
    code: int | None  # of the command; None: it did not end in time
    difference: str  # the first one from the undisturbed run; "" when equal
    policy_digest: str
    faults: tuple[str, ...]  # of its history
    repeats: int  # records of a fact that stood on the log already, rewards left out
    tables: bool  # whether the tables equal those folded anew from the log
    plan: Plan
    done: dict[str, list[Item]]
    undone: dict[str, list[Item]]
    deeds: tuple[str, ...]  # beside the plan
    said: str = ""

    @property
    def equal(self) -> bool:
        """Ended as if nothing had happened."""
        return self.code == 0 and not self.difference

    @property
    def good(self) -> bool:
        """Equal, with a clean history and tables that are the log's."""
        return self.equal and not self.faults and self.tables


Disturb = Callable[[Running], None]


def play(
    world: World,
    name: str,
    items: dict[str, list[Item]],
    reference: Sequence[Event],
    *,
    disturb: Disturb = Running.left_alone,
    kafka: str = "",
    blobs: str = "",
    broker_dies: bool = False,
) -> tuple[Verdict, list[Event]]:
    """One run under a plan, and under what `disturb` does to the world meanwhile."""
    began = time.monotonic()
    with _running(world, items, kafka, blobs) as running:
        driver = threading.Thread(target=running.drive)
        driver.start()
        try:
            disturb(running)
            driver.join(max(1.0, LIMIT_SECONDS - (time.monotonic() - began)))
        finally:
            _end(running)
            driver.join()
    repeatable = tuple(kind.__name__ for kind in KINDS) if broker_dies else REPEATABLE
    return judged(world, name, running, reference, time.monotonic() - began, repeatable)


@contextmanager
def _running(world: World, items: dict[str, list[Item]], kafka: str, blobs: str) -> Iterator[Running]:
    home, namespace = world.home()
    plan = Plan.written(home / "plan", items)
    environment = {
        **os.environ,
        "ICCM_HOME": str(home),
        "ICCM_NAMESPACE": namespace,
        "ICCM_PARTITIONS": str(PARTITIONS),
        "ICCM_KAFKA": kafka or world.kafka.address,
        "ICCM_POSTGRES": world.postgres.address,
        VARIABLE: str(plan.folder),
    }
    yield Running(home, namespace, plan, environment | ({"ICCM_BLOBS": blobs} if blobs else {}))


def _end(running: Running) -> None:
    """Nothing of a run outlives it."""
    running.over = True
    if running.child is not None and running.child.poll() is None:
        running.child.kill()
    for pid in survivors(running.home):
        os.kill(pid, signal.SIGKILL)


def judged(
    world: World,
    name: str,
    running: Running,
    reference: Sequence[Event],
    seconds: float,
    repeatable: Collection[str] = REPEATABLE,
) -> tuple[Verdict, list[Event]]:
    """The run against the undisturbed one, its history against the log, its tables against a rebuild."""
    log = KafkaLog(world.kafka.address, running.namespace, PARTITIONS, running.home)
    try:
        records = list(log.replay(KINDS))
        tables = _tables_equal(log, Database(world.postgres.address, schema=running.namespace), world.postgres.address)
    finally:
        log.close()
    facts = [record.event for record in records if record.event is not None and record.event.run_id is not None]
    done = running.plan.done()
    verdict = Verdict(
        name=name,
        seconds=round(seconds, 1),
        code=running.code,
        difference=_difference(reference, facts),
        policy_digest=next((fact.policy_digest for fact in facts if isinstance(fact, RunEnded)), ""),
        faults=tuple(str(fault) for fault in faults(running.plan, records, repeatable=repeatable)),
        repeats=_repeats(facts),
        tables=tables,
        plan=running.plan,
        done=done,
        undone={role: line[len(done[role]) :] for role, line in running.plan.items().items()},
        deeds=tuple(running.deeds),
        said="" if running.code == 0 else (running.home / "command.log").read_text(errors="replace")[-2000:],
    )
    return verdict, facts


def _repeats(facts: Sequence[Event]) -> int:
    ids = [fact.event_id for fact in facts if not isinstance(fact, RewardScored)]
    return len(ids) - len(set(ids))


def _difference(reference: Sequence[Event], facts: Sequence[Event]) -> str:
    """The first place where the one run on the log parts from the undisturbed one."""
    if (runs := len({fact.run_id for fact in facts})) != 1:
        return f"there are {runs} runs on the log"
    return str(first_difference(reference or facts, facts) or "")


def faults(
    plan: Plan,
    records: Sequence[Record],
    asking: tuple[type[Event], ...] = KINDS,
    repeatable: Collection[str] = REPEATABLE,
) -> list[history.Fault]:
    """What the history checker says of a plan's processes and the log they left. `asking`: what must be answered."""
    histories = {f"{lines[0]['role']} {name}": lines for name, lines in plan.histories().items() if lines}
    return history.check(
        {name: history.entries(lines) for name, lines in histories.items()},
        [standing(record) for record in records],
        {record.event.event_id: owed(record.event) for record in records if isinstance(record.event, asking)},
        repeatable,
    )


def standing(record: Record) -> history.Standing:
    """A record as the checker sees it."""
    event = record.event
    at = partial(history.Standing, topic=record.topic, partition=record.partition, offset=record.offset)
    if event is None:
        return at(id="", kind="unreadable")
    apart = event.run_id is None or isinstance(event, DeadLettered | DeadLetterReplayed)
    slot = "" if apart else f"{event.run_id} {slot_of(event)}"
    return at(id=event.event_id, digest=digest(event), kind=type(event).__name__, slot=slot)


def owed(event: Event) -> list[str]:
    """The ids of the facts that must answer this one."""
    for reads, owes in OWES:
        if isinstance(event, reads):
            return owes(event)
    match event:
        case SuiteRan():
            return [event_id(event.run_id, event.requirements_id, "reward")]
        case RoundOpened():
            step = "update" if event.purpose is Purpose.TRAIN else "validation"
            return [event_id(event.run_id, event.event_id, step)]
        case RunStarted():
            return [event_id(event.run_id, "run", "end")]
    return []


def _tables_equal(log: KafkaLog, live: Database, address: str) -> bool:
    project.catch_up(log, live)
    again = Database(address, schema=f"{live.schema}-again")
    project.rebuild(log, again)
    return project.fingerprint(again) == project.fingerprint(live)


def _leads_its_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False
