"""Pictures of plain numbers. The only file that draws with matplotlib."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

from infra.problems import BadInput

SUFFIXES = (".png", ".svg", ".pdf")
DOT = 12  # the area of one draft, in square points

Points = Sequence[tuple[float, float]]


def learning_curve(
    file: Path, rewarded: Points, *, each: Mapping[str, Points], watched: Points, shuffled: Points, ceiling: float
) -> None:
    """Pass rates over rounds: the rewarded implementers and each of them, the one only watched, the ceiling, and what
    training on shuffled rewards gave."""
    with _axes(file) as axes:
        axes.plot(*_columns(rewarded), "o-", label="rewarded implementers, mean")
        for name, points in each.items():
            axes.plot(*_columns(points), linewidth=0.7, alpha=0.6, label=name)
        if watched:
            axes.plot(*_columns(watched), "s--", markersize=4, label="the implementer never rewarded")
        axes.axhline(ceiling, linestyle="--", color="grey", label="ceiling: common words only")
        if shuffled:
            axes.plot(*_columns(shuffled), "x:", color="black", label="control: rewards shuffled (recorded)")
        axes.set(xlabel="training rounds", ylabel="held-out pass rate (greedy)", ylim=(0, 1.03))
        axes.legend(fontsize=8, loc="lower right")


def before_and_after(file: Path, pairs: Mapping[str, Points], *, before: str, after: str, title: str) -> None:
    """Drafts by reward, a colour per kind of draft, an area per number of drafts: on the diagonal nothing changed."""
    with _axes(file) as axes:
        for name, points in pairs.items():
            counted = Counter(points)
            areas = [DOT * count for count in counted.values()]
            axes.scatter(*_columns(list(counted)), s=areas, alpha=0.45, label=f"{name} ({len(points)})")
        axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="nothing changed")
        axes.set(xlabel=before, ylabel=after, title=title, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(fontsize=8, loc="upper left")


def drawable(file: Path) -> Path:
    """`file`, if a picture can be written there; else BadInput. Folders are not made."""
    if file.suffix not in SUFFIXES:
        raise BadInput(f"{file} is no picture that can be drawn", f"its name ends in {', '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        raise BadInput(f"there is no folder {file.parent} for a picture", "make it, or name another file")
    return file


@contextmanager
def _axes(file: Path) -> Iterator[Any]:
    """Axes to draw on; what was drawn is written to `file`."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # the backend must be chosen first

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    try:
        yield axes
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(file)
    except OSError as error:
        raise BadInput(f"cannot write {file}: {error.strerror}", "name a file that can be written") from error
    finally:
        pyplot.close(figure)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
