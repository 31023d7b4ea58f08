"""Nothing is lost and nothing happens twice, wherever a process dies: the harness's own scenarios, the short ones.

`make crash` runs all of them: a death at every place of every role, deaths at random, more faults of the world.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from infra.failpoints import PLACES
from schemas.equality import first_difference
from schemas.events import Event
from tests.crash import controls, scenarios
from tests.crash.controls import Control
from tests.crash.runs import LIMIT_SECONDS, Running, Verdict, play
from tests.crash.world import World, world


@dataclass(frozen=True, slots=True)
class Played:
    """Two runs that were played at once: one undisturbed, one whose processes died."""

    undisturbed: tuple[Verdict, list[Event]]
    deadly: tuple[Verdict, list[Event]]


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("crash")) as made:
        yield made


@pytest.fixture(scope="module")
def played(around: World) -> Played:
    """Once the undisturbed run has ended and the other is in its midst, broker and database die as well."""
    midst, items = threading.Event(), scenarios.in_short()

    def disturb(running: Running) -> None:
        running.marked("implement", len(items["implement"]) - 1)
        midst.set()

    with ThreadPoolExecutor(2) as pool:
        undisturbed = pool.submit(play, around, "undisturbed", {}, ())
        deadly = pool.submit(play, around, "deadly", items, (), disturb=disturb, broker_dies=True)
        undisturbed.result()
        assert midst.wait(LIMIT_SECONDS)
        around.kafka.kill()
        around.postgres.kill()
        around.kafka.start()
        around.postgres.start()
        return Played(undisturbed.result(), deadly.result())


@pytest.mark.timeout(1800)
def test_an_undisturbed_run_passes_every_registered_place_and_no_other(played: Played) -> None:
    verdict, _ = played.undisturbed
    assert verdict.good, verdict
    lines = [line for lines in verdict.plan.histories().values() for line in lines]
    assert {(line["role"], line["place"]) for line in lines} == {
        (role, place) for role, places in PLACES.items() for place in places
    }


@pytest.mark.timeout(1800)
def test_a_run_whose_processes_and_services_die_ends_equal_with_a_clean_history(played: Played) -> None:
    (reference, facts), (verdict, again) = played.undisturbed, played.deadly
    assert verdict.good, verdict
    assert [role for role, line in verdict.undone.items() if line] == []
    assert first_difference(facts, again) is None
    assert verdict.policy_digest == reference.policy_digest


@pytest.fixture(scope="module")
def controlled(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Control]:
    """All controls at once: they wait more than they work."""
    play_one = partial(_played, kafka, tmp_path_factory.mktemp("controls"))
    with ThreadPoolExecutor(len(controls.CONTROLS)) as pool:
        return dict(pool.map(play_one, controls.CONTROLS))


def _played(kafka: str, folder: Path, make: controls.Make) -> tuple[str, Control]:
    return make.__name__, make(kafka, folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [each.__name__ for each in controls.CONTROLS])
def test_a_law_broken_on_purpose_is_found_and_the_product_is_not_accused(
    controlled: dict[str, Control], name: str
) -> None:
    came = controlled[name]
    assert [str(fault) for fault in came.product] == []
    assert came.law in {fault.law for fault in came.broken}
