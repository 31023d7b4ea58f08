"""Learning is a replay: the same facts in any order give the same weights, and other facts are found out."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.blobs import Blobs
from infra.memory import MemoryLog
from infra.problems import BadInput, RunsDiffer
from schemas.events import Event, PolicyUpdated, RequirementsDrafted, RewardScored
from tests.unit.trainer.workshop import (
    LEARNING,
    SPECIFICATION,
    applications,
    blanked,
    facts_of,
    failed_instead_of,
    of_kind,
    play,
    started,
    ticking,
)
from trainer import checkpoint
from trainer.policy import Policy
from trainer.replay import rebuild, relearn, require_equal, train_rounds
from trainer.rounds import course

RUN = course(started(), {each.application_id: each.split for each in applications()})


@pytest.fixture(scope="module")
def past(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryLog, Blobs]:
    """A finished run, and where its checkpoints lie."""
    log, blobs = MemoryLog(), Blobs(str(tmp_path_factory.mktemp("past")))
    play(log, blobs, small_base)
    return log, blobs


def updates(log: MemoryLog) -> list[PolicyUpdated]:
    return sorted(of_kind(log, PolicyUpdated), key=lambda each: each.round)


def fresh(base: Path) -> Policy:
    return Policy(base, learning=LEARNING, seed=SPECIFICATION.seed)


def again(policy: Policy, facts: list[Event], folder: Path, first: int = 1) -> Iterator[PolicyUpdated]:
    return relearn(policy, RUN, facts, Blobs(str(folder)), ticking(), first=first)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_the_facts_of_a_run_in_any_order_teach_the_same(
    small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs], chance: random.Random
) -> None:
    facts = list(facts_of(past[0]).values())
    chance.shuffle(facts)
    assert [blanked(each) for each in again(fresh(small_base), facts, tmp_path)] == updates(past[0])


def test_replay_begins_at_any_checkpoint(small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs]) -> None:
    log, blobs = past
    for update in updates(log)[:-1]:
        policy = fresh(small_base)
        checkpoint.restore(blobs, update.checkpoint_digest, policy)
        rest = again(policy, list(facts_of(log).values()), tmp_path, first=update.round + 1)
        assert [blanked(each) for each in rest] == updates(log)[update.round :]


def test_another_reward_is_another_policy_and_is_found_out(
    small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs]
) -> None:
    changed = dict(facts_of(past[0]))
    reward = next(each for each in changed.values() if isinstance(each, RewardScored) and each.round == 2)
    changed[reward.event_id] = replace(reward, value=0.987)
    first, second, *_ = again(fresh(small_base), list(changed.values()), tmp_path)
    require_equal(updates(past[0])[0], first)
    with pytest.raises(RunsDiffer, match="round 2"):
        require_equal(updates(past[0])[1], second)


def test_a_rebuilt_policy_is_the_newest_and_its_checkpoints_are_back(
    small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs]
) -> None:
    log, blobs = past
    policy, restored = fresh(small_base), Blobs(str(tmp_path))
    rebuild(policy, log, started(), restored, ticking())
    assert policy.digest == updates(log)[-1].policy_digest
    assert restored.digests() == blobs.digests()


def test_a_log_that_lost_a_round_cannot_give_its_policy_back(
    small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs]
) -> None:
    log = MemoryLog()
    log.publish(record.event for record in past[0].replay([RewardScored, PolicyUpdated]) if record.event is not None)
    with pytest.raises(BadInput, match="rounds 1 to 4"):
        rebuild(fresh(small_base), log, started(), Blobs(str(tmp_path)), ticking())


def test_rounds_come_by_number_and_other_runs_are_not_heard(past: tuple[MemoryLog, Blobs]) -> None:
    facts = list(facts_of(past[0]).values())
    strangers = [replace(each, run_id="stranger") for each in facts]
    rounds = list(train_rounds(RUN, [*strangers, *reversed(facts)]))
    assert [each.opened.round for each in rounds] == [1, 2, 3, 4]
    assert list(train_rounds(RUN, strangers)) == []


def test_a_gradient_that_is_not_finite_is_a_round_that_taught_nothing(
    small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs]
) -> None:
    facts = dict(facts_of(past[0]))
    for each in [each for each in facts.values() if isinstance(each, RewardScored) and each.round == 2]:
        facts[each.event_id] = replace(each, value=1e300 * each.draft)
    second = [*again(fresh(small_base), list(facts.values()), tmp_path)][1]
    assert second.skipped.startswith("the gradient norm of round 2")
    assert (second.policy_digest, second.step) == (second.parent_policy_digest, 1)


def test_a_draft_that_failed_lowers_nobody_and_lifts_the_others(
    small_base: Path, tmp_path: Path, past: tuple[MemoryLog, Blobs]
) -> None:
    facts = dict(facts_of(past[0]))
    draft = next(each for each in facts.values() if isinstance(each, RequirementsDrafted) and each.round == 1)
    facts[draft.event_id] = failed_instead_of(draft)
    first = next(again(fresh(small_base), list(facts.values()), tmp_path))
    assert first.skipped == ""
    assert (first.advantages, first.reward_ids) == (updates(past[0])[0].advantages, updates(past[0])[0].reward_ids)
    assert first.policy_digest != updates(past[0])[0].policy_digest
