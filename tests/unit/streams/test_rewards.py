"""What a draft is worth."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Implementer, Outcome, RewardTerm, RewardWeights, SuiteRan, TestResult, Verdict
from streams.rewards import FUNCTION, pass_rate, score
from tests.histories import application, drafted, drawn, suite_ran

THREE = tuple(Implementer(name=name, digest=name * 64) for name in "abc")
WATCHED = (*THREE, Implementer(name="d", digest="d" * 64, rewarded=False))

passes = st.integers(0, 12)
shares = st.lists(passes, min_size=1, max_size=6)


def suites(*passed: int, implementers: tuple[Implementer, ...] = THREE, tests: int = 12) -> list[SuiteRan]:
    draft = drafted(drawn(application(), implementers=implementers[: len(passed)]))
    return [
        suite_ran(draft, i, Verdict.PASSED if count == tests else Verdict.FAILED, passed=count, tests=tests)
        for i, count in enumerate(passed)
    ]


def value(judged: list[SuiteRan]) -> float:
    reward = score(judged).value
    assert reward is not None
    return reward


def test_everybody_passing_is_worth_one_and_nobody_nothing() -> None:
    assert value(suites(12, 12, 12)) == 1.0
    assert value(suites(0, 0, 0)) == 0.0


def test_disagreement_costs_its_population_variance() -> None:
    agreed, split = value(suites(6, 6, 6)), value(suites(12, 6, 0))
    assert agreed == 0.5
    assert split == pytest.approx(0.5 - 1 / 6)


def test_the_terms_are_weighted_and_add_up_to_the_reward() -> None:
    judged = [replace(suite, reward=RewardWeights(mean=0.5, variance=2.0)) for suite in suites(12, 9, 6)]
    reward = score(judged)
    assert reward.terms == (RewardTerm(name="mean", value=0.375), RewardTerm(name="variance", value=-1 / 12))
    assert reward.value == math.fsum(term.value for term in reward.terms)
    assert reward.function == FUNCTION


@given(shares, st.floats(0, 10), st.floats(0, 10))
def test_a_reward_stays_between_zero_and_one(counts: list[int], mean: float, variance: float) -> None:
    implementers = tuple(Implementer(name=str(i), digest="") for i in range(len(counts)))
    judged = suites(*counts, implementers=implementers)
    assert 0.0 <= value([replace(suite, reward=RewardWeights(mean=mean, variance=variance)) for suite in judged]) <= 1.0


@given(st.permutations(range(4)), st.tuples(passes, passes, passes, passes))
def test_the_order_of_arrival_moves_no_bit(order: list[int], counts: tuple[int, int, int, int]) -> None:
    judged = suites(*counts, implementers=WATCHED)
    assert score([judged[i] for i in order]) == score(judged)


@given(passes, passes)
def test_a_model_that_is_only_watched_is_recorded_and_never_counts(one: int, other: int) -> None:
    left, right = (suites(12, 6, 3, count, implementers=WATCHED) for count in (one, other))
    assert value(left) == value(right)
    assert [each.model for each in score(left).rates] == ["a", "b", "c", "d"]
    assert score(left).rates[3].rate == pass_rate(left[3])


def test_a_broken_machine_is_not_a_bad_grade() -> None:
    judged = suites(12, 6, 0)
    judged[1] = replace(judged[1], verdict=Verdict.INVALID_INFRA, results=(), cause="the engine was away")
    reward = score(judged)
    assert (reward.value, reward.cause, reward.terms) == (None, "b: the engine was away", ())
    assert [each.rate for each in reward.rates] == [1.0, None, 0.0]


def test_every_broken_machine_is_named_in_the_order_of_the_implementers() -> None:
    judged = [replace(suite, verdict=Verdict.INVALID_INFRA) for suite in suites(12, 6, 0)]
    assert score(judged[::-1]).cause == "a: invalid_infra; b: invalid_infra; c: invalid_infra"


def test_a_machine_broken_under_a_watched_model_leaves_the_reward() -> None:
    judged = suites(12, 12, 12, 12, implementers=WATCHED)
    judged[3] = replace(judged[3], verdict=Verdict.INVALID_INFRA)
    assert score(judged).value == 1.0
    assert score(judged).rates[3].rate is None


def test_with_nobody_rewarded_there_is_no_reward() -> None:
    alone = (Implementer(name="a", digest="", rewarded=False),)
    reward = score(suites(12, implementers=alone))
    assert (reward.value, reward.cause) == (None, "no implementer is rewarded")


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.TIMEOUT, Verdict.OOM, Verdict.TAMPERED, Verdict.KILLED])
def test_a_suite_that_did_not_come_to_its_end_scores_nothing_for_the_tests_it_passed(verdict: Verdict) -> None:
    assert pass_rate(replace(suites(9)[0], verdict=verdict)) == 0.0


def test_only_a_failed_suite_scores_a_share() -> None:
    suite = suites(9)[0]
    assert pass_rate(suite) == 0.75
    assert pass_rate(replace(suite, verdict=Verdict.PASSED)) == 1.0
    assert pass_rate(replace(suite, results=())) == 0.0


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED, Outcome.NOT_RUN])
def test_a_test_counts_only_when_it_passed(outcome: Outcome) -> None:
    results = (TestResult(test_id="t0", outcome=Outcome.PASSED), TestResult(test_id="t1", outcome=outcome))
    assert pass_rate(replace(suites(9)[0], results=results)) == 0.5
