"""A reward function of one's own: what it may answer, and what is said of one that answers something else."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy
import pytest

from infra.problems import BadInput
from schemas.events import Implementer, RewardTerm, SuiteRan, Verdict
from streams.rescore.functions import RewardFunction, load
from streams.rewards import Reward
from tests.histories import application, drafted, drawn, suite_ran

TWO = (Implementer(name="a", digest="a"), Implementer(name="b", digest="b", rewarded=False))
SUITES = [suite_ran(drafted(drawn(application(), implementers=TWO)), i) for i in range(2)]


def answered(function: Callable[[Sequence[SuiteRan]], object], suites: Sequence[SuiteRan] = SUITES) -> Reward:
    return RewardFunction("mine:reward", "v", function)(suites)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, for modules that are gone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("number", [0.25, Fraction(1, 4), numpy.float32(0.25)])
def test_a_number_is_the_reward(number: object) -> None:
    reward = answered(lambda _: number)
    assert (reward.value, reward.cause, reward.function) == (0.25, "", "mine:reward@v")
    assert reward.terms == (RewardTerm(name="value", value=0.25),)


def test_none_is_no_reward() -> None:
    reward = answered(lambda _: None)
    assert (reward.value, reward.cause, reward.terms) == (None, "mine:reward answered None", ())


def test_named_terms_are_recorded_as_answered_and_their_sum_is_the_reward() -> None:
    reward = answered(lambda _: {"passed": 0.5, "short": 0.25})
    assert reward.value == 0.75
    assert reward.terms == (RewardTerm(name="passed", value=0.5), RewardTerm(name="short", value=0.25))


@pytest.mark.parametrize(("answer", "value"), [(7, 1.0), (-7, 0.0), ({"one": 3, "other": -2.5}, 0.5)])
def test_a_reward_is_clipped_and_its_terms_are_not(answer: int | Mapping[str, float], value: float) -> None:
    reward = answered(lambda _: answer)
    assert reward.value == value
    assert math.fsum(term.value for term in reward.terms) == (0.5 if isinstance(answer, Mapping) else answer)


def test_it_is_given_the_suites_in_the_order_of_the_implementers() -> None:
    seen: list[Sequence[SuiteRan]] = []
    answered(lambda suites: seen.append(suites), SUITES[::-1])
    assert seen == [tuple(SUITES)]


def test_it_never_hears_of_a_draft_in_which_a_machine_failed_under_a_rewarded_model() -> None:
    broken = replace(SUITES[0], verdict=Verdict.INVALID_INFRA, results=(), cause="out of disk")
    reward = answered(lambda _: pytest.fail("it was asked"), [broken, SUITES[1]])
    assert (reward.value, reward.cause) == (None, "a: out of disk")


def test_it_is_asked_where_only_a_watched_model_has_no_result() -> None:
    broken = replace(SUITES[1], verdict=Verdict.INVALID_INFRA, results=())
    assert answered(lambda _: 1.0, [SUITES[0], broken]).value == 1.0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (math.nan, "answered nan"),
        (-math.inf, "answered -inf"),
        (10**400, "answered inf"),
        (True, "answered True of type bool"),
        ("0.5", "answered '0.5' of type str"),
        ([0.5], "of type list"),
        ({}, "whose terms have no names"),
        ({"": 0.5}, "whose terms have no names"),
        ({"a": None}, "answered None of type NoneType"),
        ({"a": 1e308, "b": 1e308}, "beyond any number"),
    ],
)
def test_another_answer_is_an_error_that_names_function_and_draft(answer: object, told: str) -> None:
    with pytest.raises(BadInput, match="finite number, None, or a mapping") as refused:
        answered(lambda _: answer)
    assert told in refused.value.message
    draft = f"train round 1 application {SUITES[0].application_id[:12]} draft 0"
    assert refused.value.message.startswith("mine:reward ")
    assert refused.value.message.endswith(f"for {draft}")


def test_a_function_is_found_in_the_current_folder_and_versioned_by_its_source(folder: Path) -> None:
    content = b"def reward(suites):\n    return len(suites) / 4\n"
    (folder / "found_here.py").write_bytes(content)
    function = load("found_here:reward")
    assert function.recorded == f"found_here:reward@{sha256(content).hexdigest()[:12]}"
    assert function(SUITES).value == 0.5


def test_an_exception_is_told_with_its_place(folder: Path) -> None:
    (folder / "raising.py").write_text("def reward(suites):\n    return {}['missing']\n")
    with pytest.raises(BadInput, match=r"raising:reward raised KeyError: 'missing' \(raising.py:2\) for train round 1"):
        load("raising:reward")(SUITES)


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        ("", "gone:reward", "there is no module 'gone'"),
        ("import nothing_like_it", "mine_a:reward", "mine_a cannot be imported: there is no module 'nothing_like_it'"),
        ("1 / 0", "mine_b:reward", "mine_b cannot be imported: ZeroDivisionError"),
        ("reward = 3", "mine_c:reward", "mine_c has no function 'reward'"),
        ("", "mine_d:reward", "mine_d has no function 'reward'"),
        ("", "mine_e", "'mine_e' is not package.module:function"),
        ("", "mine/e:reward", "is not package.module:function"),
        ("", "math:fsum", "math has no function 'fsum'"),
    ],
)
def test_a_function_that_cannot_be_had_is_bad_input(folder: Path, content: str, name: str, told: str) -> None:
    module = name.partition(":")[0]
    if module.startswith("mine_"):
        (folder / f"{module}.py").write_text(content)
    with pytest.raises(BadInput) as refused:
        load(name)
    assert told in refused.value.message
