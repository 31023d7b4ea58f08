"""The trainer dies at each of its own places, on a log in memory: the next life ends with the same facts.

The places of its transactions belong to the log on Kafka; there processes are killed for real.
"""

from collections import Counter
from pathlib import Path

import pytest

from infra import failpoints
from infra.blobs import Blobs
from infra.failpoints import PLACES
from infra.memory import MemoryLog
from schemas.events import Event
from tests.unit.trainer.workshop import Killed, facts_of, play

OF_THE_LOG = {"opened", "transaction_begun", "produced", "committed"}
OWN = [place for place in PLACES["trainer"] if place not in OF_THE_LOG]


@pytest.fixture(scope="module")
def straight(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Event]:
    """Every fact of a run in which nobody died."""
    log = MemoryLog()
    play(log, Blobs(str(tmp_path_factory.mktemp("straight"))), small_base)
    return facts_of(log)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each place was reached."""
    counts: Counter[str] = Counter()
    monkeypatch.setattr(failpoints, "_hooks", [])
    failpoints.arm(lambda role, place, about: counts.update([place] if role == "trainer" else []))  # noqa: ARG005
    return counts


def test_a_whole_run_passes_each_of_the_trainers_own_places(
    small_base: Path, tmp_path: Path, passed: Counter[str]
) -> None:
    play(MemoryLog(), Blobs(str(tmp_path)), small_base)
    assert set(passed) == set(OWN)


@pytest.mark.parametrize("place", OWN)
def test_dead_at_any_place_of_its_own_the_run_ends_with_the_same_facts(
    small_base: Path, tmp_path: Path, straight: dict[str, Event], passed: Counter[str], place: str
) -> None:
    """Two lives end there: the first time it is reached, and the first time the next life reaches it."""
    log, blobs = MemoryLog(), Blobs(str(tmp_path))

    def die(role: str, reached: str, about: object) -> None:  # noqa: ARG001 - the shape hooks have
        if reached == place and passed[place] <= 2:
            raise Killed

    failpoints.arm(die)
    for _ in range(2):
        with pytest.raises(Killed):
            play(log, blobs, small_base)
    play(log, blobs, small_base)
    assert facts_of(log) == straight
