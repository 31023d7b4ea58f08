"""What is said of a re-scoring: a table for people, plain values for programs, points for the picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from streams.rescore.comparison import Comparison, Move, Pair, Totals
from streams.rescore.rescoring import Plan, Rescored, how

HEAD = f"{'purpose':<10}{'drafts':>8}{'mean before':>13}{'after':>8}{'no reward before':>18}{'after':>7}"


def text(plan: Plan, done: Rescored, comparison: Comparison) -> str:
    """The table that people read."""
    return "\n".join(_lines(plan, done, comparison))


def plain(plan: Plan, done: Rescored, comparison: Comparison) -> dict[str, object]:
    """The same as plain values, for JSON."""
    return {
        "run_id": plan.started.run_id,
        "label": plan.started.label,
        "parent_run_id": plan.parent.run_id,
        "scored_before_by": how(plan.parent.started),
        "scored_by": done.rewards[0].function,
        "weights": asdict(plan.started.specification.reward),
        "drafts": len(done.rewards),
        "left_out": done.left_out,
        "written": len(done.missing),
        **asdict(comparison),
    }


def points(drafts: Sequence[Pair]) -> dict[str, list[tuple[float, float]]]:
    """Reward before and after of each draft that has both, by purpose."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for pair in drafts:
        if pair.before is not None and pair.after is not None:
            found[str(pair.purpose)].append((pair.before, pair.after))
    return found


def _lines(plan: Plan, done: Rescored, comparison: Comparison) -> Iterator[str]:
    yield f"run {plan.parent.run_id} scored again as {plan.started.label}, run {plan.started.run_id}"
    yield f"before: {how(plan.parent.started)}; after: {how(plan.started)}"
    yield f"{len(done.rewards)} drafts, {len(done.missing)} facts written; no model was asked, no test was run"
    if done.left_out:
        yield f"{done.left_out} drafts left out: not all of their tests have been run"
    yield f"\n{HEAD}"
    yield from map(_row, comparison.totals)
    yield f"\nrank correlation (Spearman) over {comparison.compared} drafts  {_number(comparison.correlation)}"
    yield (
        f"within the drafts of one application, mean of {comparison.ranked_groups} groups  "
        f"{_number(comparison.group_correlation)}"
    )
    yield f"another best draft in {comparison.best_changed} of {comparison.groups} groups"
    yield f"{comparison.moved} drafts changed their place"
    yield from map(_move, comparison.moved_most)


def _row(totals: Totals) -> str:
    return (
        f"{totals.purpose:<10}{totals.drafts:>8}{_number(totals.mean_before):>13}{_number(totals.mean_after):>8}"
        f"{totals.invalid_before:>18}{totals.invalid_after:>7}"
    )


def _move(move: Move) -> str:
    pair = move.pair
    return (
        f"  {pair.purpose} round {pair.round} application {pair.application_id[:12]} draft {pair.draft}: "
        f"{_number(pair.before)} -> {_number(pair.after)}, place {move.place_before:g} -> {move.place_after:g}"
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
