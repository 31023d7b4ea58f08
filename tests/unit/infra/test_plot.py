"""Pictures are written where they were asked for, or not at all with a reason."""

from pathlib import Path

import pytest

from infra.plot import before_and_after, drawable, learning_curve
from infra.problems import BadInput


def test_a_curve_is_drawn_with_all_its_lines(tmp_path: Path) -> None:
    file, line = tmp_path / "curve.svg", [(0.0, 0.2), (2.0, 0.6)]
    learning_curve(file, line, each={"impl-0": line}, watched=line, shuffled=line, ceiling=0.5)
    said = file.read_text()
    for label in ("rewarded implementers, mean", "impl-0", "never rewarded", "ceiling", "shuffled"):
        assert label in said


def test_a_scatter_names_its_axes_and_kinds(tmp_path: Path) -> None:
    file = tmp_path / "scatter.png"
    before_and_after(file, {"train": [(0.1, 0.2)], "validate": []}, before="old", after="new", title="both")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused_before_any_work(tmp_path: Path) -> None:
    assert drawable(tmp_path / "a.png") == tmp_path / "a.png"
    with pytest.raises(BadInput, match="no picture that can be drawn"):
        drawable(tmp_path / "a.txt")
    with pytest.raises(BadInput, match="no folder"):
        drawable(tmp_path / "gone" / "a.png")


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(BadInput, match="cannot write"):
        before_and_after(tmp_path / "taken.png", {}, before="", after="", title="")
