"""The reward of one draft: high when every rewarded model's rebuild passes, lower when models disagree about it.

    reward = mean weight x mean(pass rates) - variance weight x population variance(pass rates), clipped to [0, 1]

A broken machine is not a bad grade: one rewarded rebuild that says nothing leaves the draft without a reward, with the
cause. Models that are only watched are recorded and never count. The arithmetic sees the suites in the order of the
implementers, so the order in which they arrived cannot move a bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.events import Outcome, PassRate, RewardTerm, RewardWeights, SuiteRan, Verdict

FUNCTION = "iccm.rewards/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A draft's reward, or None with a cause, and every term it is made of."""

    value: float | None
    cause: str
    terms: tuple[RewardTerm, ...]
    rates: tuple[PassRate, ...]
    function: str = FUNCTION


def score(suites: Sequence[SuiteRan]) -> Reward:
    """The reward of a draft from one suite per implementer, in any order, by the weights that the draft carries."""
    return weighed(suites, suites[0].reward)


def weighed(suites: Sequence[SuiteRan], weights: RewardWeights) -> Reward:
    """The reward of a draft by these weights."""
    judged = in_order(suites)
    rates = pass_rates(judged)
    counted = [each.rate for each in rates if each.rewarded and each.rate is not None]
    if (cause := machine_fault(judged, rates)) or not counted:
        return Reward(value=None, cause=cause or "no implementer is rewarded", terms=(), rates=rates)
    terms = _terms(counted, weights)
    return Reward(value=clipped(math.fsum(term.value for term in terms)), cause="", terms=terms, rates=rates)


def in_order(suites: Sequence[SuiteRan]) -> list[SuiteRan]:
    """The suites in the canonical order: that of the implementers."""
    by_model = {suite.model: suite for suite in suites}
    return [by_model[implementer.name] for implementer in suites[0].implementers]


def pass_rates(judged: Sequence[SuiteRan]) -> tuple[PassRate, ...]:
    """What each implementer's rebuild passed. The suites come in the order of the implementers."""
    return tuple(
        PassRate(model=model.name, rate=pass_rate(suite), rewarded=model.rewarded)
        for model, suite in zip(judged[0].implementers, judged, strict=True)
    )


def machine_fault(judged: Sequence[SuiteRan], rates: Sequence[PassRate]) -> str:
    """Why those rewarded rebuilds that have no rate have none; "" where all of them have one."""
    pairs = zip(judged, rates, strict=True)
    return "; ".join(_cause(suite) for suite, each in pairs if each.rewarded and each.rate is None)


def pass_rate(suite: SuiteRan) -> float | None:
    """How much of the suite passed. Only failed scores a share; None where the machine is to blame."""
    match suite.verdict:
        case Verdict.PASSED:
            return 1.0
        case Verdict.FAILED:
            passed = sum(result.outcome is Outcome.PASSED for result in suite.results)
            return passed / len(suite.results) if suite.results else 0.0
        case Verdict.INVALID_INFRA:
            return None
        case _:
            return 0.0


def _terms(rates: Sequence[float], weights: RewardWeights) -> tuple[RewardTerm, ...]:
    mean = math.fsum(rates) / len(rates)
    variance = math.fsum((rate - mean) ** 2 for rate in rates) / len(rates)
    return (
        RewardTerm(name="mean", value=weights.mean * mean),
        RewardTerm(name="variance", value=-weights.variance * variance),
    )


def clipped(value: float) -> float:
    """Rewards lie between 0 and 1."""
    return max(0.0, min(1.0, value))


def _cause(suite: SuiteRan) -> str:
    return f"{suite.model}: {suite.cause or suite.verdict}"
