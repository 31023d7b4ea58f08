"""Negative controls: four laws broken on purpose, on real Kafka, each beside the product's own way.

The checker must name the fault of the broken worker and none of the product's.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from infra.children import leashed
from infra.kafka import KafkaLog
from schemas.events import (
    ApplicationDrawn,
    DraftFailed,
    Event,
    ImplementationFailed,
    ImplementationWritten,
    RequirementsDrafted,
    RewardScored,
    SuiteRan,
)
from schemas.topics import KINDS, broker_name
from tests import histories as past
from tests.crash.actors import LIFE, PARTITIONS
from tests.crash.history import Fault
from tests.crash.plan import VARIABLE, Item, Plan
from tests.crash.runs import ROOT, faults
from tests.laws.drafting import draws
from tests.whole_run import written

PATIENCE_SECONDS = 120.0
DRAFTED = (RequirementsDrafted, DraftFailed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One broken law, and what the checker said."""

    name: str
    law: str  # that the checker must name
    broken: tuple[Fault, ...]
    product: tuple[Fault, ...]

    @property
    def holds(self) -> bool:
        """The broken one is caught, the product is not accused."""
        return any(fault.law == self.law for fault in self.broken) and not self.product


@dataclass(slots=True)
class Stage:
    """One namespace, one plan, and the actors at work there."""

    kafka: str
    namespace: str
    home: Path
    plan: Plan
    log: KafkaLog
    actors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, actor: str, life: str = "first") -> subprocess.Popen[bytes]:
        """A worker as a process of its own."""
        command = [sys.executable, "-m", "tests.crash.actors", actor, self.kafka, self.namespace, str(self.home)]
        settings = {"KAFKA": self.kafka, "NAMESPACE": self.namespace, "HOME": str(self.home), "POSTGRES": "unused"}
        environment = {**os.environ, **{f"ICCM_{name}": value for name, value in settings.items()}}
        environment |= {"ICCM_PARTITIONS": str(PARTITIONS), VARIABLE: str(self.plan.folder), LIFE: life}
        with (self.home / "actors.log").open("ab") as output:
            process = subprocess.Popen(leashed(command), cwd=ROOT, env=environment, stdout=output, stderr=output)
        self.actors.append(process)
        return process

    def killed(self, actor: str, life: str = "first") -> None:
        """A worker that meets the end its plan has for it."""
        code = self.start(actor, life).wait(PATIENCE_SECONDS)
        assert code == -signal.SIGKILL, f"{actor} ended with {code}: {(self.home / 'actors.log').read_text()[-2000:]}"

    def facts(self, *kinds: type[Event]) -> list[Event]:
        """What is committed of these kinds."""
        return [record.event for record in self.log.replay(kinds) if record.event is not None]

    def until(self, true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
        """Wait for a state of the world, a bounded time; whether it came."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def committed(self, role: str, topic: str) -> int:
        """How many records the group of a role has behind it, counted by offsets."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": f"{self.namespace}.{role}"})
        places = [TopicPartition(broker_name(self.namespace, topic), each) for each in range(PARTITIONS)]
        try:
            return sum(max(0, each.offset) for each in consumer.committed(places, 10))
        finally:
            consumer.close()

    def history(self, *asking: type[Event]) -> list[Fault]:
        """What the checker says, once every actor has ended. `asking`: the facts that should have been answered."""
        for actor in self.actors:
            if actor.poll() is None:
                actor.terminate()
                actor.wait(PATIENCE_SECONDS)
        return faults(self.plan, list(self.log.replay(KINDS)), asking)


@contextmanager
def stage(kafka: str, folder: Path, name: str, items: dict[str, list[Item]]) -> Iterator[Stage]:
    """A stage for one scenario; nothing of it outlives the block."""
    home = folder / name
    home.mkdir(parents=True)
    log = KafkaLog(kafka, name, PARTITIONS, home)
    staged = Stage(kafka, name, home, Plan.written(home / "plan", items), log)
    try:
        yield staged
    finally:
        for actor in staged.actors:
            if actor.poll() is None:
                actor.kill()
            actor.wait()
        log.close()


# ---- offsets committed before effects --------------------------------------------------------------------------------


def offsets_before_effects(kafka: str, folder: Path) -> Control:
    """A worker dies between its effect and whatever comes next."""
    return Control(
        name="offsets committed before effects",
        law="lost",
        broken=_killed_after_the_effect(kafka, folder, "offsets-first", "drafting, offsets first"),
        product=_killed_after_the_effect(kafka, folder, "offsets-product", "drafting"),
    )


def _killed_after_the_effect(kafka: str, folder: Path, name: str, actor: str) -> tuple[Fault, ...]:
    with stage(kafka, folder, name, {"requirements": [Item("effect_done", 2)]}) as staged:
        staged.log.publish([past.run_started(), *draws(20)])
        staged.killed(actor)
        late = draws(12, first=20)  # behind what was in its hands, in every partition
        staged.log.publish(late)
        staged.start(actor, "second")
        assert staged.until(lambda: _answered(staged) >= {each.application_id for each in late})
        return tuple(staged.history(ApplicationDrawn))


def _answered(staged: Stage) -> set[str]:
    facts = staged.facts(*DRAFTED)
    return {fact.application_id for fact in facts if isinstance(fact, RequirementsDrafted | DraftFailed)}


# ---- fresh group metadata at commit ----------------------------------------------------------------------------------


def fresh_metadata(kafka: str, folder: Path) -> Control:
    """A slow worker commits what another has been given and has answered meanwhile."""
    return Control(
        name="fresh group metadata at commit",
        law="duplicated",
        broken=_overtaken(kafka, folder, "metadata-fresh", "slow drafting, fresh metadata"),
        product=(
            *_overtaken(kafka, folder, "metadata-product", "slow drafting"),
            *_overtaken(kafka, folder, "metadata-unguarded", "slow drafting, unguarded"),
        ),
    )


def _overtaken(kafka: str, folder: Path, name: str, actor: str) -> tuple[Fault, ...]:
    with stage(kafka, folder, name, {}) as staged:
        staged.log.publish([past.run_started(), *draws(30)])
        staged.start(actor, "first")
        assert staged.until((staged.home / "begun-first").exists)
        (staged.home / "go-second").touch()
        staged.start("slow drafting", "second")
        assert staged.until(lambda: bool(staged.facts(*DRAFTED)))
        (staged.home / "go-first").touch()
        assert staged.until(lambda: len({fact.event_id for fact in staged.facts(*DRAFTED)}) == 60)
        return tuple(staged.history(ApplicationDrawn))


# ---- an aborted verdict, read uncommitted ----------------------------------------------------------------------------


def aborted_read_uncommitted(kafka: str, folder: Path) -> Control:
    """A judge dies in its transaction; its successor's verdicts are others. Rewards come of what was committed."""
    return Control(
        name="an aborted SuiteRan with another outcome than its retry, read uncommitted",
        law="aborted but read",
        broken=_judged_twice(kafka, folder, "aborted-uncommitted", "rewards, uncommitted"),
        product=_judged_twice(kafka, folder, "aborted-product", "rewards"),
    )


def _judged_twice(kafka: str, folder: Path, name: str, actor: str) -> tuple[Fault, ...]:
    with stage(kafka, folder, name, {"run_tests": [Item("offsets_sent")]}) as staged:
        drafts = [past.drafted(each) for each in draws(6)]
        staged.log.publish([past.run_started(), *drafts])
        staged.log.publish([written(each, ordinal) for each in drafts for ordinal in range(len(past.ORCHESTRA))])
        staged.killed("judging", "first")
        staged.start("judging", "second")
        assert staged.until(lambda: len(staged.facts(SuiteRan)) == 6 * len(past.ORCHESTRA))
        staged.start(actor)
        assert staged.until(lambda: len({fact.event_id for fact in staged.facts(RewardScored)}) == 6)
        judged_so = {reward.event_id: _rates(reward) for reward in staged.facts(RewardScored)}
        found = staged.history(ImplementationWritten, ImplementationFailed, SuiteRan)
        if any(rates == {0.0} for rates in judged_so.values()):
            found.append(Fault("aborted but read", "rewards say what nobody committed: every suite timed out"))
        return tuple(found)


def _rates(reward: Event) -> set[float | None]:
    assert isinstance(reward, RewardScored)
    return {each.rate for each in reward.rates}


# ---- held acks on the stock transport --------------------------------------------------------------------------------


def held_acks_on_the_stock_transport(kafka: str, folder: Path) -> Control:
    """A rewards worker dies with drafts open, whose first verdicts it has read."""
    return Control(
        name="held acks on the stock Faust transport",
        law="lost",
        broken=_killed_with_open_drafts(kafka, folder, "acks-stock", "rewards, stock transport"),
        product=_killed_with_open_drafts(kafka, folder, "acks-product", "rewards"),
    )


def _killed_with_open_drafts(kafka: str, folder: Path, name: str, actor: str) -> tuple[Fault, ...]:
    """Four drafts of one application, model by model: eight verdicts are read, the ninth kills."""
    verdicts = [past.suite_ran(each, ordinal) for ordinal in range(len(past.ORCHESTRA)) for each in _four_drafts()]
    with stage(kafka, folder, name, {"rewards": [Item("taken", 9)]}) as staged:
        staged.log.publish([past.run_started(), *verdicts[:8]])
        dying = staged.start(actor)
        assert staged.until(lambda: _taken(staged) == 8)
        staged.until(lambda: staged.committed("rewards", "tests") > 0, seconds=3)  # the product never comes to it
        staged.log.publish(verdicts[8:9])
        assert dying.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        staged.log.publish(verdicts[9:])
        staged.start(actor, "second")
        staged.until(lambda: staged.committed("rewards", "tests") >= len(verdicts))
        return tuple(staged.history(SuiteRan))


def _four_drafts() -> Sequence[RequirementsDrafted]:
    [draw] = draws(1)
    seeds = past.drawn(past.application("x = 0\n"), drafts=4)
    assert seeds.application_id == draw.application_id
    return [past.drafted(seeds, number) for number in range(4)]


def _taken(staged: Stage) -> int:
    return sum(line["place"] == "taken" for lines in staged.plan.histories().values() for line in lines)


Make = Callable[[str, Path], Control]

CONTROLS: tuple[Make, ...] = (
    held_acks_on_the_stock_transport,
    offsets_before_effects,
    fresh_metadata,
    aborted_read_uncommitted,
)
