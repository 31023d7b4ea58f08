"""What another reward changes: before and after, draft by draft. Pure arithmetic.

A group is what a policy learns from: the drafts of one application in one round. Ranks are fractional, equal rewards
share the mean of their places; a correlation is Spearman's, and there is none of fewer than two drafts or equal ones.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.events import Purpose, RewardScored

MOST = 10  # drafts that moved most are named up to this many


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One draft's reward before and after. None: it has none."""

    purpose: Purpose
    round: int
    application_id: str
    draft: int
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The rewards of one purpose. A mean is over the drafts that have a reward."""

    purpose: Purpose
    drafts: int
    mean_before: float | None
    mean_after: float | None
    invalid_before: int
    invalid_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A draft that changed its place among all drafts; place 1 is the highest reward."""

    pair: Pair
    place_before: float
    place_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What became of the order of the drafts that have a reward both before and after."""

    totals: tuple[Totals, ...]
    compared: int
    correlation: float | None
    groups: int  # with two compared drafts or more
    ranked_groups: int  # whose drafts are not all equal, neither before nor after
    group_correlation: float | None  # the mean over those
    best_changed: int  # groups in which no draft that was best before is best after
    moved: int
    moved_most: tuple[Move, ...]


def pairs(before: Mapping[str, float | None], after: Iterable[RewardScored]) -> list[Pair]:
    """Each draft scored both before, by the id of its requirements, and after; in the order of the run."""
    found = [
        Pair(
            purpose=reward.purpose,
            round=reward.round,
            application_id=reward.application_id,
            draft=reward.draft,
            before=before[reward.requirements_id],
            after=reward.value,
        )
        for reward in after
        if reward.requirements_id in before
    ]
    return sorted(found, key=lambda pair: (pair.round, pair.purpose, pair.application_id, pair.draft))


def compare(drafts: Sequence[Pair]) -> Comparison:
    """The comparison of these drafts."""
    valid = [pair for pair in drafts if pair.before is not None and pair.after is not None]
    groups = [group for group in _groups(valid) if len(group) > 1]
    within = [each for each in (_correlation(group) for group in groups) if each is not None]
    moves = _moves(valid)
    return Comparison(
        totals=tuple(_totals(purpose, drafts) for purpose in Purpose if any(p.purpose is purpose for p in drafts)),
        compared=len(valid),
        correlation=_correlation(valid),
        groups=len(groups),
        ranked_groups=len(within),
        group_correlation=_mean(within),
        best_changed=sum(not _best(_befores(group)) & _best(_afters(group)) for group in groups),
        moved=len(moves),
        moved_most=tuple(moves[:MOST]),
    )


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """The correlation of the ranks of two columns; None where one of them is constant or shorter than two."""
    return _pearson(places(left), places(right))


def places(values: Sequence[float]) -> list[float]:
    """The place of each value, the highest first; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    found = [0.0] * len(values)
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or values[order[end]] != values[order[begin]]:
            for i in order[begin:end]:
                found[i] = (begin + 1 + end) / 2
            begin = end
    return found


def _totals(purpose: Purpose, drafts: Sequence[Pair]) -> Totals:
    ours = [pair for pair in drafts if pair.purpose is purpose]
    before = [pair.before for pair in ours if pair.before is not None]
    after = [pair.after for pair in ours if pair.after is not None]
    return Totals(
        purpose=purpose,
        drafts=len(ours),
        mean_before=_mean(before),
        mean_after=_mean(after),
        invalid_before=len(ours) - len(before),
        invalid_after=len(ours) - len(after),
    )


def _groups(drafts: Iterable[Pair]) -> Iterable[Sequence[Pair]]:
    found: dict[tuple[Purpose, int, str], list[Pair]] = defaultdict(list)
    for pair in drafts:
        found[pair.purpose, pair.round, pair.application_id].append(pair)
    return found.values()


def _moves(drafts: Sequence[Pair]) -> list[Move]:
    """Every draft that changed its place, the farthest first."""
    before, after = places(_befores(drafts)), places(_afters(drafts))
    moves = [
        Move(pair=pair, place_before=old, place_after=new)
        for pair, old, new in zip(drafts, before, after, strict=True)
        if old != new
    ]
    return sorted(moves, key=lambda move: -abs(move.place_after - move.place_before))


def _befores(drafts: Sequence[Pair]) -> list[float]:
    return [pair.before for pair in drafts if pair.before is not None]


def _afters(drafts: Sequence[Pair]) -> list[float]:
    return [pair.after for pair in drafts if pair.after is not None]


def _best(values: Sequence[float]) -> set[int]:
    highest = max(values)
    return {i for i, value in enumerate(values) if value == highest}


def _correlation(drafts: Sequence[Pair]) -> float | None:
    return spearman(_befores(drafts), _afters(drafts))


def _pearson(left: Sequence[float], right: Sequence[float]) -> float | None:
    if len(left) < 2:
        return None
    lefts, rights = _centred(left), _centred(right)
    spread = math.sqrt(math.fsum(x * x for x in lefts) * math.fsum(y * y for y in rights))
    if not spread:
        return None
    return math.fsum(x * y for x, y in zip(lefts, rights, strict=True)) / spread


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
