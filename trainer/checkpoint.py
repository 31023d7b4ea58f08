"""Checkpoints: an adapter, its moments and its random state as blobs, and a manifest that names the three.

A checkpoint is written before the fact that names it. One that no PolicyUpdated names is garbage; one that is lost can
be learnt again from the log (`replay.py`).
"""

import json
from dataclasses import dataclass

from infra.blobs import Blobs
from infra.failpoints import reached
from trainer.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The digests of a policy's whole state. Equal states have equal checkpoints."""

    digest: str  # of the manifest
    policy_digest: str
    optimizer_digest: str
    random_digest: str


def save(blobs: Blobs, policy: Policy) -> Checkpoint:
    """Everything the next update depends on, stored; saving an equal policy again changes nothing."""
    parts = {
        "adapter": blobs.put(policy.adapter()),
        "optimizer": blobs.put(policy.moments()),
        "random": blobs.put(policy.random()),
    }
    reached("trainer", "parts_written", parts)
    return Checkpoint(
        digest=blobs.put(json.dumps(parts, sort_keys=True).encode()),
        policy_digest=parts["adapter"],
        optimizer_digest=parts["optimizer"],
        random_digest=parts["random"],
    )


def restore(blobs: Blobs, digest: str, policy: Policy) -> None:
    """The policy becomes the one saved under `digest`. Raises BlobMissing or BlobCorrupt, and then changes nothing."""
    parts = json.loads(blobs.get(digest))
    policy.restore(*(blobs.get(parts[name]) for name in ("adapter", "optimizer", "random")))
