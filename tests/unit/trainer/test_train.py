"""The trainer on a real log with a real policy, beside a workshop: killed anywhere, equal in the end."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from infra.blobs import Blobs
from infra.memory import MemoryLog
from infra.problems import BadInput, Fenced, RunsDiffer
from schemas.equality import first_difference
from schemas.events import (
    ApplicationDrawn,
    Author,
    Event,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunOutcome,
    RunStarted,
    ValidationCompleted,
)
from schemas.topics import KINDS
from tests.histories import run_ended
from tests.unit.trainer.workshop import (
    JOB,
    SPECIFICATION,
    Killed,
    MortalLog,
    among,
    applications,
    facts_of,
    of_kind,
    play,
    reward_of,
    started,
)
from trainer.policy import numerics

TRAINED = [("train", each) for each in (1, 2, 3, 4)]
HELD_OUT = [("validate", each) for each in (0, 2, 4)] + [("test", 0), ("test", 4)]


@pytest.fixture(scope="module")
def straight(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Event]:
    """Every fact of a run that nothing disturbed."""
    log = MemoryLog()
    ended = play(log, Blobs(str(tmp_path_factory.mktemp("straight"))), small_base)
    assert ended is not None
    return facts_of(log)


def test_a_run_plays_its_plan_and_ends(straight: dict[str, Event]) -> None:
    rounds = among(straight, RoundOpened)
    assert sorted((str(each.purpose), each.round) for each in rounds) == sorted(TRAINED + HELD_OUT)
    updates = among(straight, PolicyUpdated)
    assert [each.step for each in sorted(updates, key=lambda each: each.round)] == [1, 2, 3, 4]
    (ended,) = among(straight, RunEnded)
    assert (ended.outcome, ended.rounds) == (RunOutcome.FINISHED, 4)
    assert len(among(straight, ValidationCompleted)) == 5
    assert len(among(straight, RunStarted)) == 1


def test_each_update_names_its_rewards_and_follows_from_the_one_before(straight: dict[str, Event]) -> None:
    updates = sorted(
        (each for each in straight.values() if isinstance(each, PolicyUpdated)), key=lambda each: each.round
    )
    rounds = {
        each.round: each for each in straight.values() if isinstance(each, RoundOpened) if each.purpose == "train"
    }
    for update, after in zip(updates, [*updates[1:], None], strict=True):
        assert update.parent_policy_digest == rounds[update.round].policy_digest
        assert update.policy_digest != update.parent_policy_digest
        rewards = [straight[each] for each in update.reward_ids]
        assert all(isinstance(each, RewardScored) and each.round == update.round for each in rewards)
        assert len(rewards) == len(update.advantages) == 6
        assert after is None or after.parent_policy_digest == update.policy_digest


def test_training_work_stands_before_validation_work_on_the_log(small_base: Path, tmp_path: Path) -> None:
    log = MemoryLog(partitions=1)
    play(log, Blobs(str(tmp_path)), small_base)
    draws = [record.event for record in log.replay([ApplicationDrawn]) if isinstance(record.event, ApplicationDrawn)]
    order = list(dict.fromkeys((str(each.purpose), each.round) for each in draws))
    assert order.index(("train", 1)) < order.index(("validate", 0))
    assert order.index(("train", 3)) < order.index(("validate", 2))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_arrival_changes_no_fact(
    small_base: Path, tmp_path: Path, straight: dict[str, Event], seed: int
) -> None:
    log = MemoryLog(partitions=seed + 1, seed=seed)
    play(log, Blobs(str(tmp_path)), small_base)
    assert facts_of(log) == straight


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("transaction", range(1, 12))
def test_killed_at_any_transaction_the_run_ends_with_the_same_facts(
    small_base: Path, tmp_path: Path, straight: dict[str, Event], transaction: int, moment: str
) -> None:
    log, blobs = MortalLog(), Blobs(str(tmp_path))
    log.dies_at = transaction, moment
    with pytest.raises(Killed):
        play(log, blobs, small_base)
    play(log, blobs, small_base)
    assert facts_of(log) == straight


def test_stopped_after_every_look_the_run_ends_with_the_same_facts(
    small_base: Path, tmp_path: Path, straight: dict[str, Event]
) -> None:
    log, blobs = MemoryLog(), Blobs(str(tmp_path))

    def one_batch() -> Callable[[], bool]:
        looks = iter(range(100))
        return lambda: next(looks) >= 2

    lives = 1
    while play(log, blobs, small_base, stop=one_batch()) is None:
        lives += 1
    assert lives > 3
    assert facts_of(log) == straight


def test_transactions_with_unknown_outcomes_change_no_fact(
    small_base: Path, tmp_path: Path, straight: dict[str, Event]
) -> None:
    log, heard = MemoryLog(seed=3, mishaps=0.4), list[str]()
    play(log, Blobs(str(tmp_path)), small_base, heard=heard)
    assert any("does not know" in each for each in heard)
    assert facts_of(log) == straight


@pytest.mark.parametrize("what", ["all of it", "the newest adapter", "one byte"])
def test_a_lost_checkpoint_is_learnt_again_from_the_log(
    small_base: Path, tmp_path: Path, straight: dict[str, Event], what: str
) -> None:
    log, heard = MortalLog(), list[str]()
    log.dies_at = 6, "after"
    with pytest.raises(Killed):
        play(log, Blobs(str(tmp_path)), small_base)
    newest = max(of_kind(log, PolicyUpdated), key=lambda each: each.round)
    (place,) = tmp_path.rglob(newest.policy_digest)
    match what:
        case "one byte":
            place.write_bytes(place.read_bytes()[:-1] + b"?")
        case "the newest adapter":
            place.unlink()
        case "all of it":
            shutil.rmtree(tmp_path)
    play(log, Blobs(str(tmp_path)), small_base, heard=heard)
    assert any("is lost" in each for each in heard)
    assert facts_of(log) == straight


@pytest.mark.parametrize(("seed", "is_equal"), [(5, True), (6, False)])
def test_two_runs_of_one_seed_are_equal_and_two_seeds_are_not(
    small_base: Path, tmp_path: Path, straight: dict[str, Event], seed: int, is_equal: bool
) -> None:
    log, run = MemoryLog(seed=9), started(replace(SPECIFICATION, seed=seed))
    play(log, Blobs(str(tmp_path)), small_base, replace(run, run_id="another", event_id="another start"))
    ours = [each for each in straight.values() if not isinstance(each, RunStarted)]
    theirs = [record.event for record in log.replay(KINDS) if record.event is not None]
    difference = first_difference(ours, [each for each in theirs if not isinstance(each, RunStarted)])
    assert (difference is None) is is_equal


def test_a_fact_that_comes_twice_teaches_once(small_base: Path, tmp_path: Path, straight: dict[str, Event]) -> None:
    log, blobs = MemoryLog(), Blobs(str(tmp_path))

    def again() -> bool:
        rewards = [record.event for record in log.replay([RewardScored, RequirementsDrafted]) if record.event]
        log.publish([replace(each, value=0.5) for each in rewards if isinstance(each, RewardScored)][:40])
        return False

    play(log, blobs, small_base, stop=again)
    assert facts_of(log) == straight


def test_another_trainer_of_the_run_fences_this_one(small_base: Path, tmp_path: Path) -> None:
    log = MemoryLog()

    def intrude() -> bool:
        with log.writer("iccm.run.trainer"):
            return False

    with pytest.raises(Fenced):
        play(log, Blobs(str(tmp_path)), small_base, stop=intrude)


def test_a_run_that_was_abandoned_gets_no_further_fact(small_base: Path, tmp_path: Path) -> None:
    log, looks = MemoryLog(), iter(range(100))

    def abandon() -> bool:
        if next(looks) == 2:
            log.publish([run_ended(outcome=RunOutcome.ABANDONED)])
        return False

    ended = play(log, Blobs(str(tmp_path)), small_base, stop=abandon)
    assert ended is not None
    assert ended.outcome is RunOutcome.ABANDONED
    before = log.end_offsets()
    assert play(log, Blobs(str(tmp_path)), small_base) == ended
    assert log.end_offsets() == before


def test_a_run_on_the_log_is_not_started_twice(small_base: Path, tmp_path: Path) -> None:
    log, run = MemoryLog(), started()
    log.publish([run])
    play(log, Blobs(str(tmp_path)), small_base, run)
    assert sum(isinstance(record.event, RunStarted) for record in log.replay([RunStarted])) == 1


def test_a_control_trains_nothing_and_is_measured(small_base: Path, tmp_path: Path) -> None:
    log = MemoryLog()
    run = started(replace(SPECIFICATION, rounds=0, author=Author.POSITIVE))
    ended = play(log, Blobs(str(tmp_path)), small_base, run)
    assert ended is not None
    assert of_kind(log, PolicyUpdated) == []
    assert {each.purpose for each in of_kind(log, ValidationCompleted)} == {Purpose.VALIDATE, Purpose.TEST}


def test_a_round_that_teaches_nothing_keeps_the_policy_and_the_run_goes_on(small_base: Path, tmp_path: Path) -> None:
    def flat(events: Sequence[Event]) -> list[Event]:
        made = list(JOB.step(events))
        drafts = {each.event_id: each for each in made if isinstance(each, RequirementsDrafted)}
        return [
            reward_of(drafts[each.requirements_id], 0.5) if isinstance(each, RewardScored) and each.round == 2 else each
            for each in made
        ]

    log, job = MemoryLog(), replace(JOB, step=flat, role="flat")
    play(log, Blobs(str(tmp_path)), small_base, job=job)
    updates = {each.round: each for each in of_kind(log, PolicyUpdated)}
    assert updates[2].skipped == "every application's drafts were worth the same"
    assert updates[2].policy_digest == updates[2].parent_policy_digest == updates[1].policy_digest
    assert [updates[number].step for number in (1, 2, 3, 4)] == [1, 1, 2, 3]


def test_an_application_nobody_registered_is_named(small_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ghost"):
        play(MemoryLog(), Blobs(str(tmp_path)), small_base, replace(started(), application_ids=("ghost",)))


def test_rounds_without_anything_to_train_on_are_refused(small_base: Path, tmp_path: Path) -> None:
    held_out = tuple(each.application_id for each in applications()[5:])
    with pytest.raises(BadInput, match="no application to train on"):
        play(MemoryLog(), Blobs(str(tmp_path)), small_base, replace(started(), application_ids=held_out))


def test_a_record_that_cannot_be_read_is_said_and_stops_nothing(
    small_base: Path, tmp_path: Path, straight: dict[str, Event]
) -> None:
    log, heard = MemoryLog(), list[str]()
    log.publish_bytes("rewards", "nobody", b"not a fact")
    play(log, Blobs(str(tmp_path)), small_base, heard=heard)
    assert any("cannot be read" in each for each in heard)
    assert [each for each in among(straight, PolicyUpdated) if each not in of_kind(log, PolicyUpdated)] == []


def test_other_numerics_are_refused_by_name(small_base: Path, tmp_path: Path) -> None:
    elsewhere = replace(started(), numerics=replace(numerics(), threads=64))
    with pytest.raises(RunsDiffer, match="threads 64"):
        play(MemoryLog(), Blobs(str(tmp_path)), small_base, elsewhere)
