"""What the harness does to small runs: kills at every place, kills at random, and faults of the world around them."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.failpoints import PLACES
from infra.ports import ports
from infra.supervisor import Supervisor
from schemas.events import Event
from tests.crash.plan import Item
from tests.crash.proxy import Proxy, proxied
from tests.crash.runs import ROLES, Disturb, Running, Verdict, play
from tests.crash.world import World, behind, fill, small_disk, world

# Places that every process passes once, or that a small run passes hardly oftener.
ONCE = frozenset(
    {"opened", "joined", "elected", "read_to_end", "restored", "judged", "registered", "chosen", "end_seen"}
)
IN_SHORT = {
    "requirements": ("joined", "offsets_sent"),
    "implement": ("effect_done", "produced", "committed"),
    "trainer": ("parts_written", "produced", "committed"),
    "conductor": ("registered", "update_seen"),
}
# In one run at random: more of those that are back soon.
DEATHS = {"requirements": 4, "implement": 4, "run_tests": 7, "rewards": 7, "trainer": 3, "project": 8, "conductor": 1}
SLOT_ROLES = ("requirements", "implement", "run_tests")
MARK = "mark"
FROZEN_SECONDS = 30.0

Plans = dict[str, list[Item]]


def everywhere() -> Plans:
    """Every process dies at the first place it has not died at yet."""
    return {role: [Item(place) for place in places] for role, places in PLACES.items()}


def in_short() -> Plans:
    """Every place of the roles that are back soon, and some places of those that load models first."""
    return {role: [Item(place) for place in IN_SHORT.get(role, places)] for role, places in PLACES.items()}


def at_random(rng: random.Random) -> Plans:
    """So many deaths of each role as DEATHS says, wherever chance will have them."""
    return {role: [_random_item(rng, role) for _ in range(count)] for role, count in DEATHS.items()}


def _random_item(rng: random.Random, role: str) -> Item:
    place = rng.choice(PLACES[role])
    return Item(place, 1 if place in ONCE else rng.choice((1, 1, 2)))


def marks(role: str, *places: str) -> Plans:
    """Nobody dies: the harness hears when a role has come to these places, one after another."""
    return {role: [Item(place, act=MARK) for place in places]}


# ---- what happens meanwhile ------------------------------------------------------------------------------------------


def kills_at_random_times(rng: random.Random, count: int) -> Disturb:
    """So many deaths of roles by the clock."""

    def disturb(running: Running) -> None:
        for _ in range(count):
            _pause(running, rng.uniform(1.0, 5.0))
            running.kill(rng.choice(ROLES))

    return disturb


def second_workers(then: Disturb = Running.left_alone) -> Disturb:
    """Another worker of each role of the pipeline, kept alive beside the run's own."""
    python = [sys.executable, "-m", "tests.crash.build"]
    commands = {role: [*python, "consumers", role] for role in SLOT_ROLES} | {"rewards": [*python, "streams"]}

    def disturb(running: Running) -> None:
        beside = Supervisor(commands, running.home / "logs beside", running.environment)
        try:
            then(running)
            while running.code is None:
                beside.poll()
                time.sleep(0.05)
        finally:
            beside.stop()

    return disturb


def broker_killed(around: World, role: str, times: int) -> Disturb:
    """The broker dies as soon as the role has come to each of its marked places, and comes back after two seconds."""

    def disturb(running: Running) -> None:
        for number in range(times):
            running.marked(role, number)
            around.kafka.kill()
            running.deeds.append("broker killed")
            _pause(running, 2.0)
            around.kafka.start()

    return disturb


def database_killed(around: World, times: int) -> Disturb:
    """The same for PostgreSQL."""

    def disturb(running: Running) -> None:
        for number in range(times):
            running.marked("project", number)
            around.postgres.kill()
            running.deeds.append("database killed")
            _pause(running, 2.0)
            around.postgres.start()

    return disturb


def blobs_full(disk: Path) -> Disturb:
    """From the first update on there is no room for a checkpoint, until the trainer has died of it twice."""

    def disturb(running: Running) -> None:
        running.marked("trainer")
        filler = fill(disk)
        running.deeds.append("disk filled")
        said = running.home / "command.log"
        while running.code is None and said.read_text(errors="replace").count("trainer died") < 2:
            time.sleep(0.1)
        filler.unlink()

    return disturb


def kafkas_disk_full(around: World, disk: Path) -> Disturb:
    """From the first update on there is no room for a fact. The broker ends; it is started when there is room."""

    def disturb(running: Running) -> None:
        running.marked("trainer")
        filler = fill(disk)
        running.deeds.append("disk filled")
        while running.code is None and around.kafka.child is not None and around.kafka.child.poll() is None:
            time.sleep(0.1)
        filler.unlink()
        around.kafka.kill()
        around.kafka.start()

    return disturb


def weather(proxy: Proxy, rng: random.Random) -> Disturb:
    """Between clients and broker: delays, connections that are cut, seconds in which everything is swallowed."""

    def disturb(running: Running) -> None:
        running.marked("trainer")  # a command that begins in it would say so and end
        while running.code is None:
            proxy.delay_seconds = rng.choice((0.0, 0.005, 0.03))
            _pause(running, rng.uniform(0.5, 4.0))
            running.deeds.append(deed := rng.choice(("cut", "cut", "drop", "refuse")))
            match deed:
                case "cut":
                    proxy.cut()
                case "drop":
                    proxy.dropping = True
                    _pause(running, rng.uniform(0.5, 3.0))
                    proxy.dropping = False
                    proxy.cut()  # what was swallowed never comes: as TCP would, the connections end
                case "refuse":
                    proxy.refusing = True
                    proxy.cut()
                    _pause(running, rng.uniform(0.5, 2.0))
                    proxy.refusing = False

    return disturb


def _pause(running: Running, seconds: float) -> None:
    until = time.monotonic() + seconds
    while running.code is None and time.monotonic() < until:
        time.sleep(0.02)


# ---- the faults, by name ---------------------------------------------------------------------------------------------

Fault = Callable[[World, Sequence[Event]], Verdict]


def frozen(around: World, reference: Sequence[Event]) -> Verdict:
    """Four workers are stopped for 30 s each, longer than any session or transaction lasts, and go on."""
    places = {"requirements": "polled", "implement": "offsets_sent", "run_tests": "produced", "rewards": "sent"}
    items = {role: [Item(place, 2, "freeze", FROZEN_SECONDS)] for role, place in places.items()}
    return play(around, "SIGSTOP for 30 s", items, reference)[0]


def concurrent(around: World, reference: Sequence[Event]) -> Verdict:
    """Two workers of each role, and deaths among them."""
    items = {role: [Item("effect_done", 2), Item("offsets_sent"), Item("polled", 2)] for role in SLOT_ROLES}
    name = "two workers of each role, nine deaths"
    return play(around, name, items, reference, disturb=second_workers())[0]


def broker(around: World, reference: Sequence[Event]) -> Verdict:
    """In a transaction, between two, and while rewards are in flight."""
    items = marks("implement", "offsets_sent", "produced", "polled")
    name, disturb = "broker SIGKILL and restart, three times", broker_killed(around, "implement", 3)
    return play(around, name, items, reference, disturb=disturb, broker_dies=True)[0]


def database(around: World, reference: Sequence[Event]) -> Verdict:
    """In a transaction, and between two."""
    items, disturb = marks("project", "rows_written", "sql_committed"), database_killed(around, 2)
    return play(around, "PostgreSQL SIGKILL and restart, twice", items, reference, disturb=disturb)[0]


def full_blobs(around: World, reference: Sequence[Event]) -> Verdict:
    """Checkpoints on a disk of 16 MB."""
    with small_disk(around.folder / "disk", 16) as disk:
        items, disturb = marks("trainer", "update_published"), blobs_full(disk)
        return play(around, "full disk: checkpoints", items, reference, disturb=disturb, blobs=str(disk))[0]


def full_kafka(around: World, reference: Sequence[Event]) -> Verdict:
    """Kafka on a disk of 512 MB."""
    home = around.folder / "small"
    with small_disk(home / "services" / "kafka", 512) as disk, world(home) as small:
        items, disturb = marks("trainer", "update_published"), kafkas_disk_full(small, disk)
        return play(small, "full disk: Kafka", items, reference, disturb=disturb, broker_dies=True)[0]


def network(around: World, reference: Sequence[Event]) -> Verdict:
    """All clients behind a proxy in bad weather."""
    with behind_a_proxy(around.folder / "behind") as (other, proxy, address):
        items, disturb = marks("trainer", "opened"), weather(proxy, random.Random(7))
        verdict, _ = play(other, "proxy that delays, cuts and drops", items, reference, disturb=disturb, kafka=address)
    return verdict


@contextmanager
def behind_a_proxy(folder: Path) -> Iterator[tuple[World, Proxy, str]]:
    """A world whose Kafka is also to be found behind a proxy, and where."""
    outside, listener = ports(2)
    with world(folder, behind(outside, listener)) as other, proxied(outside, listener) as proxy:
        yield other, proxy, f"127.0.0.1:{outside}"


FAULTS: tuple[Fault, ...] = (frozen, concurrent, broker, database, full_blobs, full_kafka, network)
