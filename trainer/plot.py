"""The learning curve as a PNG, with its controls on the same axes. The only file that draws with matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from trainer.reports import Point


def draw(file: Path, points: Sequence[Point], *, ceiling: float, shuffled: Sequence[tuple[int, float]]) -> None:
    """Write the curve to `file`: each implementer, the ceiling, and what training on shuffled rewards gave."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # the backend must be chosen first

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    rounds = [point.round for point in points]
    axes.plot(rounds, [point.held_out_pass_rate for point in points], "o-", label="rewarded implementers, mean")
    for name in points[0].per_model if points else ():
        axes.plot(rounds, [point.per_model[name] for point in points], linewidth=0.7, alpha=0.6, label=name)
    watched = [(point.round, point.unseen_model) for point in points if point.unseen_model is not None]
    if watched:
        axes.plot(*zip(*watched, strict=True), "s--", markersize=4, label="the implementer never rewarded")
    axes.axhline(ceiling, linestyle="--", color="grey", label="ceiling: common words only")
    if shuffled:
        axes.plot(*zip(*shuffled, strict=True), "x:", color="black", label="control: rewards shuffled (recorded)")
    axes.set(xlabel="training rounds", ylabel="held-out pass rate (greedy)", ylim=(0, 1.03))
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
