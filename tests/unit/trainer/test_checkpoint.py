"""Laws of checkpoints: equal states have equal names, and what comes back goes on bit for bit."""

from pathlib import Path

import pytest

from infra.blobs import BlobCorrupt, BlobMissing, Blobs
from tests.unit.trainer.workshop import LEARNING
from trainer import checkpoint
from trainer.policy import Draft, Policy

DRAFTS = [Draft(prompt_token_ids=[1, 2], token_ids=[place, 4, 5], log_probs=[-3.0] * 3) for place in range(4)]


def learnt(folder: Path, updates: int, seed: int = 1) -> Policy:
    policy = Policy(folder, learning=LEARNING, seed=seed)
    for number in range(1, updates + 1):
        policy.update(DRAFTS, [0.5, -0.5, 0.25, -0.25], LEARNING, number, 10)
    return policy


@pytest.mark.parametrize("updates", [0, 2])
def test_a_restored_policy_is_the_saved_one(small_base: Path, tmp_path: Path, updates: int) -> None:
    blobs, policy, other = Blobs(str(tmp_path)), learnt(small_base, updates), learnt(small_base, 1, seed=9)
    saved = checkpoint.save(blobs, policy)
    checkpoint.restore(blobs, saved.digest, other)
    assert checkpoint.save(blobs, other) == saved
    assert (other.digest, other.step) == (saved.policy_digest, updates)
    for each in (policy, other):
        each.update(DRAFTS, [0.5, -0.5, 0.25, -0.25], LEARNING, updates + 1, 10)
    assert checkpoint.save(blobs, other) == checkpoint.save(blobs, policy)


def test_saving_an_equal_policy_again_stores_nothing_new(small_base: Path, tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    saved, stored = checkpoint.save(blobs, learnt(small_base, 2)), blobs.digests()
    assert checkpoint.save(blobs, learnt(small_base, 2)) == saved
    assert blobs.digests() == stored
    assert {saved.digest, saved.policy_digest, saved.optimizer_digest, saved.random_digest} == set(stored)


@pytest.mark.parametrize("part", ["digest", "policy_digest", "optimizer_digest", "random_digest"])
def test_a_checkpoint_with_a_part_lost_or_damaged_is_refused_whole(small_base: Path, tmp_path: Path, part: str) -> None:
    blobs, other = Blobs(str(tmp_path)), learnt(small_base, 1, seed=9)
    saved = checkpoint.save(blobs, learnt(small_base, 2))
    before = checkpoint.save(Blobs(str(tmp_path / "elsewhere")), other)
    (place,) = tmp_path.rglob(getattr(saved, part))
    for damage, problem in ((lambda: place.write_bytes(b"{}"), BlobCorrupt), (place.unlink, BlobMissing)):
        damage()
        with pytest.raises(problem, match=getattr(saved, part)):
            checkpoint.restore(blobs, saved.digest, other)
        assert checkpoint.save(Blobs(str(tmp_path / "elsewhere")), other) == before
