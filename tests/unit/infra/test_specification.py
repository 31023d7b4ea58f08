"""A specification says exactly what it was given, and refuses the rest by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.problems import BadInput
from infra.specification import as_text, changed, specification
from schemas.events import Author, RewardWeights, Specification


def test_nothing_given_is_the_default() -> None:
    assert specification() == Specification()


def test_changes_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 4\nreward:\n  variance: 0.5\n")
    spec = specification(file, ["seed=5", "learning.learning_rate=1e-3", "author=positive"])
    assert (spec.seed, spec.reward.variance, spec.learning.learning_rate) == (5, 0.5, 0.001)
    assert spec.author is Author.POSITIVE


def test_the_text_of_a_specification_reads_back_equal(tmp_path: Path) -> None:
    spec = specification(changes=["seed=7", "applications=[a, b]", "reward.variance=0"])
    file = tmp_path / "run.yaml"
    file.write_text(as_text(spec))
    assert specification(file) == spec


def test_a_changed_specification_differs_where_it_was_told_to_and_is_checked_like_any_other() -> None:
    spec = specification(changes=["seed=7", "applications=[a, b]", "reward.variance=0"])
    assert changed(spec, []) == spec
    assert changed(spec, ["reward.mean=2"]) == replace(spec, reward=RewardWeights(mean=2.0, variance=0.0))
    assert changed(replace(spec, policy_digest="d"), []).policy_digest == ""
    with pytest.raises(BadInput, match="rounds is -1"):
        changed(spec, ["rounds=-1"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("sed=1", "did you mean seed?"),
        ("reward.varience=1", "did you mean reward.variance?"),
        ("rounds=-1", "rounds is -1"),
        ("rounds=many", "rounds is 'many'"),
        ("rounds=true", "rounds is True"),
        ("learning.learning_rate=fast", "must be a number"),
        ("learning.estimator=ppo", "rloo is the one"),
        ("author=nobody", "one of orchestra, positive, negative"),
        ("reward=1", "needs keys and values"),
        ("policy_digest=abc", "unknown key policy_digest"),
        ("nothing", "is not a.b=c"),
    ],
)
def test_a_wrong_change_is_named_with_its_remedy(change: str, named: str) -> None:
    with pytest.raises(BadInput, match=named.replace("?", r"\?")):
        specification(changes=[change])


@pytest.mark.parametrize(
    ("text", "named"),
    [("a: [", "is not YAML"), ("- 1", "holds a list"), ("seed: 1\ncolour: red\n", "unknown key colour")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=named):
        specification(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        specification(tmp_path / "none.yaml")
