"""Each fault that was named is found: a replay, or a comparison of two runs, names a fact that tells of it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.problems import RunsDiffer
from schemas.equality import first_difference
from tests.mutants import mutants
from tests.mutants.elsewhere import write
from tests.mutants.mutants import MUTANTS, Caught, Mutant
from tests.played import SPECIFICATION, Again, Played, played, replayed
from trainer.policy import make_deterministic

AGAIN = Again(arrival=3)
RESUMED = [Again(arrival=number, resume=number, policy_seed=100 + number) for number in (1, 2, 3)]
Play = Callable[..., Played]


@pytest.fixture(scope="module")
def run(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A run of the true code."""
    return played(small_base, tmp_path_factory.mktemp("true"))


@pytest.fixture
def planted() -> Iterator[pytest.MonkeyPatch]:
    """What undoes a mutant."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    make_deterministic()


@pytest.fixture
def play(small_base: Path, tmp_path: Path) -> Play:
    """Plays a run in a folder of its own."""
    return lambda name="run", spec=SPECIFICATION, **how: played(small_base, tmp_path / name, spec, **how)


def of(caught: Caught) -> pytest.MarkDecorator:
    """A test for every mutant that is caught so."""
    those = [mutant for mutant in MUTANTS if mutant.caught is caught]
    return pytest.mark.parametrize("mutant", those, ids=[mutant.name for mutant in those])


def named_by(act: Callable[[], object]) -> str:
    """The difference that stops a replay."""
    with pytest.raises(RunsDiffer) as differs:
        act()
    return differs.value.message


# ---- the list ------------------------------------------------------------------------------------------------------


def test_each_mutant_was_named_before_it_was_written_and_there_are_twenty_at_least() -> None:
    said = (mutants.__doc__ or "").splitlines()
    listed = [line.split()[0] for line in said if re.match(r" +[a-z0-9_]+  ", line)]
    assert [mutant.name for mutant in MUTANTS] == listed
    assert len(set(listed)) == len(listed) >= 20


# ---- the true code passes where mutants are caught -----------------------------------------------------------------


@pytest.mark.parametrize("how", [Again(), AGAIN, *RESUMED], ids=repr)
def test_the_true_code_gives_the_run_again(small_base: Path, run: Played, how: Again) -> None:
    assert replayed(small_base, run, how).equal["PolicyUpdated"] == SPECIFICATION.rounds


def test_the_true_code_plays_the_same_run_under_another_id(run: Played, play: Play) -> None:
    assert first_difference(run.facts, play(run_id="another", arrival=4).facts) is None


def test_the_true_code_gives_the_same_control_again(small_base: Path, play: Play) -> None:
    replayed(small_base, play(spec=mutants.SHUFFLED), AGAIN)


# ---- mutants -------------------------------------------------------------------------------------------------------


@of(Caught.LATER)
def test_code_that_has_changed_since_the_run_is_found_out(
    small_base: Path, run: Played, planted: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant.plant(planted)
    assert named_by(lambda: replayed(small_base, run, AGAIN)).startswith(mutant.tells)


@of(Caught.RESUMED)
def test_what_a_checkpoint_must_bring_back_is_missed(
    small_base: Path, run: Played, planted: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant.plant(planted)
    for how in RESUMED:
        told = named_by(lambda how=how: replayed(small_base, run, how))  # type: ignore[misc]
        assert told.startswith(f"{mutant.tells}round {(how.resume or 0) + 1}: ")


@of(Caught.AGAIN)
def test_code_that_depends_on_the_moment_is_found_out_by_itself(
    small_base: Path, play: Play, planted: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant.plant(planted)
    run = play(spec=mutant.specification)
    assert named_by(lambda: replayed(small_base, run, AGAIN)).startswith(mutant.tells)


@of(Caught.TWO_RUNS)
def test_a_run_that_depends_on_its_id_is_another_run_under_another_id(
    small_base: Path, play: Play, planted: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant.plant(planted)
    first, second = (play(name, run_id=name) for name in ("first", "second"))
    replayed(small_base, first, AGAIN)
    assert str(first_difference(first.facts, second.facts)).startswith(mutant.tells)


@pytest.mark.parametrize(("which", "code"), [("true", 0), ("mutant", 5)])
@of(Caught.TWO_PROCESSES)
def test_code_that_depends_on_hashes_is_found_out_by_another_process(
    run: Played, tmp_path: Path, mutant: Mutant, which: str, code: int
) -> None:
    file = tmp_path / "facts"
    write(file, run.facts)
    assert elsewhere("play", which, file, hashes="1").returncode == 0
    done = elsewhere("replay", which, file, hashes="2")
    assert done.returncode == code, done.stderr
    assert code == 0 or done.stderr.startswith(f"iccm: {mutant.tells}")


def elsewhere(what: str, which: str, file: Path, hashes: str) -> subprocess.CompletedProcess[str]:
    """The same code in another process, whose strings have these hashes."""
    return subprocess.run(
        [sys.executable, "-m", "tests.mutants.elsewhere", what, which, str(file)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hashes},
    )
