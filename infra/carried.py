"""What every fact about a draft hands on unchanged to the fact after it."""

from typing import TypedDict

from schemas.events import ApplicationDrawn, Author, DraftEvent, Implementer, Purpose, RewardWeights, Sampling


class Carried(TypedDict):
    """The fields of a DraftEvent that are the same from the draft to its verdicts."""

    run_id: str | None
    application_id: str
    round: int
    purpose: Purpose
    draft: int
    policy_digest: str
    implementers: tuple[Implementer, ...]
    rebuild_sampling: Sampling
    author: Author
    reward: RewardWeights


def from_draw(draw: ApplicationDrawn, draft: int) -> Carried:
    """One draft's part of an application's draw."""
    return Carried(
        run_id=draw.run_id,
        application_id=draw.application_id,
        round=draw.round,
        purpose=draw.purpose,
        draft=draft,
        policy_digest=draw.policy_digest,
        implementers=draw.implementers,
        rebuild_sampling=draw.rebuild_sampling,
        author=draw.author,
        reward=draw.reward,
    )


def from_fact(fact: DraftEvent) -> Carried:
    """The same part, from the fact before."""
    return Carried(
        run_id=fact.run_id,
        application_id=fact.application_id,
        round=fact.round,
        purpose=fact.purpose,
        draft=fact.draft,
        policy_digest=fact.policy_digest,
        implementers=fact.implementers,
        rebuild_sampling=fact.rebuild_sampling,
        author=fact.author,
        reward=fact.reward,
    )
