"""How much better each draft was than its group: REINFORCE leave-one-out, and the control that must teach nothing.

A group is the drafts of one application in one round. Left out on purpose: division by the group's standard deviation
(it inflates noise where drafts hardly differ) and by a draft's own length (it favours long bad drafts).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Advantages:
    """One value per draft, group after group; None where a draft is invalid or has nobody to be compared with."""

    values: tuple[float | None, ...]
    small_groups: int  # fewer than two valid drafts
    flat_groups: int  # two or more valid drafts, all with one reward


def advantages(groups: Sequence[Sequence[float | None]]) -> Advantages:
    """Each group judged on its own."""
    valid = [[reward for reward in group if reward is not None] for group in groups]
    return Advantages(
        values=tuple(value for group in groups for value in rloo(group)),
        small_groups=sum(len(rewards) < 2 for rewards in valid),
        flat_groups=sum(len(rewards) > 1 and len(set(rewards)) == 1 for rewards in valid),
    )


def rloo(rewards_G: Sequence[float | None]) -> list[float | None]:  # noqa: N803 - the axis is part of the name
    """r_i - mean of the *other valid* rewards. An invalid member changes nothing for the others, to the last bit."""
    valid = [reward for reward in rewards_G if reward is not None]
    if len(valid) < 2:
        return [None] * len(rewards_G)
    return [None if reward is None else reward - _mean_of_others(reward, valid) for reward in rewards_G]


def shuffled(rewards: Sequence[float | None], seed: int) -> list[float | None]:
    """The control: the valid rewards of a round dealt again over its valid drafts. Same numbers, nothing to learn."""
    valid = [reward for reward in rewards if reward is not None]
    Random(seed).shuffle(valid)
    dealt = iter(valid)
    return [None if reward is None else next(dealt) for reward in rewards]


def _mean_of_others(own: float, valid: Sequence[float]) -> float:
    # fsum rounds once, so neither the order of the drafts nor the removal of an invalid one can reach the last bit.
    return math.fsum([*valid, -own]) / (len(valid) - 1)
