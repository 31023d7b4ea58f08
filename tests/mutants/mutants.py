"""Faults that a replay must find, one sentence each, named before anything was written to find them.

caught when the code has changed since the run: a run of the true code, replayed by the mutant
  sum_instead_of_fsum        rewards are added up from left to right, in floats
  sums_backwards             rewards are added up in the other order
  rate_in_float32            a pass rate goes through 32 bits
  variance_of_a_sample       the variance divides by n - 1
  reward_not_clipped         a reward may be less than 0
  broken_machine_scores_0    a rebuild that no machine could judge has a pass rate of 0
  watched_model_is_rewarded  a validation's mean counts the model that is only watched
  spread_of_a_sample         a validation's spread divides by n - 1
  rows_in_another_order      a validation's rows do not come in the round's order
  advantage_over_deviation   advantages are divided by their group's standard deviation
  baseline_with_own_reward   a draft is compared with the mean of all, itself among them
  invalid_counts_as_0        a draft without a reward counts as one with the reward 0
  kl_per_token               the KL is averaged over tokens, and not added up over them
  kl_backwards               the KL runs from the base model to the policy
  logits_in_bfloat16         logits go through 16 bits
  learning_rate_off_by_one   the learning rate is that of the round before
  no_warmup                  the first rounds learn at the full rate
  gradient_not_clipped       the gradient is not clipped
  weight_decay               weights decay by one per cent of the rate
  two_threads                torch computes on two threads
  not_deterministic          torch may choose algorithms that are not deterministic
caught when a replay goes on from a checkpoint, in a policy that was something else before
  moments_not_restored       AdamW's moments begin at nothing
  adam_step_not_restored     AdamW's moments are restored, their age is not
  step_not_restored          the count of updates begins at 0
  random_state_not_restored  the generator's state is not restored
  adapter_not_restored       lora_A is restored, lora_B is not
caught because the same code, at another time or with facts arriving in another order, says something else
  clock_in_the_reward        a reward shrinks as time goes by
  unseeded_reward            a reward has a little noise from the machine's entropy
  suites_by_arrival          a draft's verdicts come in the order in which they arrived
  id_of_the_last_suite       a reward takes its id from the verdict that arrived last
  drafts_by_arrival          a round's drafts and rewards come in the order in which they arrived
  rewards_keyed_by_arrival   a round's rewards are dealt to its drafts in the order in which they arrived
  batches_in_random_order    gradients are added up in an order that nobody seeded
  lora_from_global_random    lora_A is drawn from torch's global generator
  fresh_random_state         every update leaves a random state of its own
  unseeded_shuffle           the control deals rewards by an unseeded shuffle
  metadata_in_any_order      an adapter's metadata are written in the order of a hash table
  epochs_by_the_clock        applications are dealt by the time of day
caught by comparing two runs, since the fault is in what a run decides and is the same in its replay
  seeds_from_the_run_id      drafts are sampled from seeds that know the run's id
  policy_from_the_run_id     lora_A is drawn from a seed that knows the run's id
caught by a second process, whose strings have other hashes
  suites_in_a_set            a draft's verdicts come in the order of a set
"""

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import ModuleType
from typing import Any

import pytest
import torch

import streams.gathering
import streams.rewards
import trainer.advantage
import trainer.policy
import trainer.replay
import trainer.rounds
from schemas.events import (
    ApplicationDrawn,
    Event,
    Learning,
    PassRate,
    Purpose,
    RewardScored,
    RewardTerm,
    RewardWeights,
    RunStarted,
    Specification,
    SuiteRan,
    ValidationCompleted,
)
from schemas.identity import event_id, seed
from streams.gathering import Gathering
from streams.rewards import Reward
from tests.mutants.elsewhere import suites_in_a_set
from tests.played import SPECIFICATION
from trainer.losses import Terms
from trainer.policy import Draft, Policy
from trainer.rounds import CompleteRound, Course, Place, State

ROOMS = ("schemas", "streams", "trainer", "tests.played")
Plant = Callable[[pytest.MonkeyPatch], None]


class Caught(StrEnum):
    """How a mutant is tried."""

    LATER = "the code has changed since the run"
    RESUMED = "learning goes on from a checkpoint"
    AGAIN = "the same code at another time and in another order"
    TWO_RUNS = "two runs are compared"
    TWO_PROCESSES = "another process, other hashes"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault, how it is put into the product, how it is tried, and the fact that tells."""

    name: str
    plant: Plant
    caught: Caught
    tells: str  # how the named difference begins
    specification: Specification = SPECIFICATION


def everywhere(planted: pytest.MonkeyPatch, true: object, false: object) -> None:
    """Under every name that one of our modules has for it."""
    for module in [module for name, module in list(sys.modules.items()) if name.startswith(ROOMS)]:
        _rename(planted, module, true, false)


def _rename(planted: pytest.MonkeyPatch, module: ModuleType, true: object, false: object) -> None:
    for name, value in list(vars(module).items()):
        if value is true:
            planted.setattr(module, name, false)


def instead_of(true: Any, false: Any) -> Plant:
    """A plant that puts one function in the place of another."""
    return lambda planted: everywhere(planted, true, false)


def method(owner: type, name: str, false: Any) -> Plant:
    """A plant that puts a function in the place of a method."""
    return lambda planted: planted.setattr(owner, name, false)


# ---- rewards -------------------------------------------------------------------------------------------------------

TRUE_TERMS = streams.rewards._terms
TRUE_RATE = streams.rewards.pass_rate
TRUE_SCORE = streams.rewards.score
TRUE_COMPLETED = streams.gathering.completed
TRUE_SCORED = streams.gathering.scored


def _terms_of(mean: float, variance: float, weights: RewardWeights) -> tuple[RewardTerm, ...]:
    return (
        RewardTerm(name="mean", value=weights.mean * mean),
        RewardTerm(name="variance", value=-weights.variance * variance),
    )


def sum_instead_of_fsum(rates: Sequence[float], weights: RewardWeights) -> tuple[RewardTerm, ...]:
    mean = _added(rates) / len(rates)
    return _terms_of(mean, _added([(rate - mean) ** 2 for rate in rates]) / len(rates), weights)


def sums_backwards(rates: Sequence[float], weights: RewardWeights) -> tuple[RewardTerm, ...]:
    return sum_instead_of_fsum(rates[::-1], weights)


def _added(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def variance_of_a_sample(rates: Sequence[float], weights: RewardWeights) -> tuple[RewardTerm, ...]:
    spread = statistics.variance(rates) if len(rates) > 1 else 0.0
    return _terms_of(math.fsum(rates) / len(rates), spread, weights)


def rate_in_float32(suite: SuiteRan) -> float | None:
    rate = TRUE_RATE(suite)
    return None if rate is None else torch.tensor(rate, dtype=torch.float32).item()


def broken_machine_scores_0(suite: SuiteRan) -> float | None:
    return TRUE_RATE(suite) or 0.0


def clock_in_the_reward(suites: Sequence[SuiteRan]) -> Reward:
    reward = TRUE_SCORE(suites)
    return reward if not reward.value else replace(reward, value=reward.value * (1 - time.time_ns() * 1e-20))


def unseeded_reward(suites: Sequence[SuiteRan]) -> Reward:
    reward = TRUE_SCORE(suites)
    noise = random.SystemRandom().random() * 1e-6
    return reward if reward.value is None else replace(reward, value=reward.value + noise)


def suites_by_arrival(suites: Sequence[SuiteRan]) -> list[SuiteRan]:
    return list({suite.model: suite for suite in suites}.values())


def id_of_the_last_suite(planted: pytest.MonkeyPatch) -> None:
    last: list[str] = []

    def completed(state: Gathering, event: Event) -> Sequence[SuiteRan]:
        last[:] = [event.event_id]
        return TRUE_COMPLETED(state, event)

    def scored(suites: Sequence[SuiteRan], reward: Reward, **rest: Any) -> RewardScored:
        return replace(TRUE_SCORED(suites, reward, **rest), event_id=event_id(None, last[0], "reward"))

    everywhere(planted, TRUE_COMPLETED, completed)
    everywhere(planted, TRUE_SCORED, scored)


# ---- what a round comes to -----------------------------------------------------------------------------------------

TRUE_COMPLETE = trainer.rounds.complete
TRUE_VALIDATION = trainer.rounds.validation
TRUE_RLOO = trainer.advantage.rloo
TRUE_APPLICATIONS = trainer.rounds.applications_of
TRUE_DRAW = trainer.rounds._draw


def watched_model_is_rewarded(rates: Sequence[PassRate]) -> list[float]:
    return [each.rate for each in rates if each.rate is not None]


def rows_in_another_order(played: CompleteRound, now: Any) -> ValidationCompleted:
    table = TRUE_VALIDATION(played, now)
    return replace(table, rows=table.rows[::-1])


def advantage_over_deviation(rewards: Sequence[float | None]) -> list[float | None]:
    values = TRUE_RLOO(rewards)
    spread = statistics.pstdev([each for each in rewards if each is not None] or [0.0]) or 1.0
    return [None if value is None else value / spread for value in values]


def baseline_with_own_reward(own: float, valid: Sequence[float]) -> float:
    return math.fsum([*valid, 0 * own]) / len(valid)


def invalid_counts_as_0(rewards: Sequence[float | None]) -> list[float | None]:
    return TRUE_RLOO([reward or 0.0 for reward in rewards])


def drafts_by_arrival(run: Course, state: State, place: Place) -> CompleteRound | None:
    played = TRUE_COMPLETE(run, state, place)
    if played is None or place[0] is not Purpose.TRAIN:
        return played
    slots = list(state.gathered[place].rewards)
    drafts, rewards = state.gathered[place].drafts, state.gathered[place].rewards
    return replace(
        played,
        drafts=tuple(drafts[slot] for slot in slots if slot in drafts),
        rewards=tuple(rewards[slot] for slot in slots),
    )


def rewards_keyed_by_arrival(run: Course, state: State, place: Place) -> CompleteRound | None:
    played = TRUE_COMPLETE(run, state, place)
    if played is None or place[0] is not Purpose.TRAIN:
        return played
    return replace(played, rewards=tuple(state.gathered[place].rewards.values()))


def unseeded_shuffle(rewards: Sequence[float | None], _seed: int) -> list[float | None]:
    return trainer.advantage.shuffled(rewards, random.SystemRandom().getrandbits(62))


def epochs_by_the_clock(run: Course, place: Place) -> tuple[str, ...]:
    dealt = TRUE_APPLICATIONS(run, place)
    if place[0] is not Purpose.TRAIN:
        return dealt
    return tuple(random.Random(time.time_ns()).sample(run.pools[Purpose.TRAIN], len(dealt)))


def seeds_from_the_run_id(run: Course, opened: Any, ordinal: int, now: Any) -> ApplicationDrawn:
    draw = TRUE_DRAW(run, opened, ordinal, now)
    return replace(draw, draft_seeds=tuple(seed(run.run_id, each) for each in draw.draft_seeds))


# ---- learning ------------------------------------------------------------------------------------------------------

TRUE_TOKEN_TERMS = trainer.policy.token_terms
TRUE_LOGITS = Policy._logits
TRUE_RATE_OF = trainer.policy.learning_rate
TRUE_CLIP = torch.nn.utils.clip_grad_norm_
TRUE_RESTORE = Policy.restore
TRUE_UPDATE = Policy.update
TRUE_BATCHED = trainer.policy.batched
TRUE_NUMERICS = trainer.policy.numerics
TRUE_RESET = Policy.reset
TRUE_SAVE = trainer.policy.save
TRUE_START = trainer.replay.starting_policy


def kl_per_token(logits: Any, base: Any, tokens: Any, advantages: Any, said: Any, kl_weight: float) -> Terms:
    return TRUE_TOKEN_TERMS(logits, base, tokens, advantages, said, kl_weight / len(tokens))


def kl_backwards(logits: Any, base: Any, tokens: Any, advantages: Any, said: Any, kl_weight: float) -> Terms:
    terms = TRUE_TOKEN_TERMS(logits, base, tokens, advantages, said, 0.0)
    log_pi, log_base = torch.log_softmax(logits, -1), torch.log_softmax(base.detach(), -1)
    backwards = (log_base.exp() * (log_base - log_pi)).sum()
    return replace(terms, loss=terms.loss + kl_weight * backwards)


def logits_in_bfloat16(policy: Policy, batch: Any) -> Any:
    return TRUE_LOGITS(policy, batch).bfloat16().float()


def learning_rate_off_by_one(learning: Learning, round: int, rounds: int) -> float:
    return TRUE_RATE_OF(learning, round - 1, rounds)


def no_warmup(learning: Learning, round: int, rounds: int) -> float:
    return TRUE_RATE_OF(replace(learning, warmup_rounds=0), round, rounds)


def gradient_not_clipped(planted: pytest.MonkeyPatch) -> None:
    planted.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, _norm: TRUE_CLIP(weights, math.inf))


def weight_decay(policy: Policy) -> None:
    policy._optimizer = torch.optim.AdamW(policy._weights.values(), weight_decay=0.01)


def two_threads(planted: pytest.MonkeyPatch) -> None:
    def numerics() -> Any:
        TRUE_NUMERICS()
        return replace(TRUE_NUMERICS(), threads=_on_two_threads())

    everywhere(planted, TRUE_NUMERICS, numerics)


def _on_two_threads() -> int:
    torch.set_num_threads(2)
    return torch.get_num_threads()


def not_deterministic(planted: pytest.MonkeyPatch) -> None:
    planted.setattr(trainer.policy, "make_deterministic", lambda _threads=1: torch.use_deterministic_algorithms(False))


def moments_not_restored(policy: Policy, adapter: bytes, moments: bytes, random: bytes) -> None:
    TRUE_RESTORE(policy, adapter, moments, random)
    policy._forget_moments()


def adam_step_not_restored(policy: Policy, adapter: bytes, moments: bytes, random: bytes) -> None:
    TRUE_RESTORE(policy, adapter, moments, random)
    for state in policy._optimizer.state.values():
        state["step"] = torch.tensor(0.0)


def step_not_restored(policy: Policy, adapter: bytes, moments: bytes, random: bytes) -> None:
    TRUE_RESTORE(policy, adapter, moments, random)
    policy.step = 0


def random_state_not_restored(policy: Policy, adapter: bytes, moments: bytes, random: bytes) -> None:
    before = policy._random
    TRUE_RESTORE(policy, adapter, moments, random)
    policy._random = before


def adapter_not_restored(policy: Policy, adapter: bytes, moments: bytes, random: bytes) -> None:
    TRUE_RESTORE(policy, adapter, moments, random)
    for name, weight in policy._weights.items():
        if ".lora_B." in name:
            torch.nn.init.zeros_(weight)


def batches_in_random_order(drafts: Sequence[Draft], advantages: Sequence[float]) -> Any:
    order = list(range(len(drafts)))
    random.SystemRandom().shuffle(order)
    return TRUE_BATCHED([drafts[place] for place in order], [advantages[place] for place in order])


def lora_from_global_random(policy: Policy, _seed: int | None = None) -> None:
    TRUE_RESET(policy, torch.seed())


def fresh_random_state(policy: Policy, *arguments: Any) -> Any:
    result = TRUE_UPDATE(policy, *arguments)
    generator = torch.Generator()
    generator.seed()
    policy._random = generator.get_state()
    return result


def metadata_in_any_order(tensors: Any, metadata: dict[str, str]) -> bytes:
    return TRUE_SAVE(tensors, metadata | {f"key {place}": "" for place in range(8)})


def policy_from_the_run_id(policy: Policy, log: Any, started: RunStarted, *rest: Any) -> None:
    TRUE_START(policy, log, started, *rest)
    policy.reset(seed(started.run_id or ""))


SHUFFLED = replace(SPECIFICATION, learning=replace(SPECIFICATION.learning, shuffled_rewards=True))
REWARD, UPDATE, TABLE = "RewardScored ", "PolicyUpdated ", "ValidationCompleted "

MUTANTS = [
    Mutant("sum_instead_of_fsum", instead_of(TRUE_TERMS, sum_instead_of_fsum), Caught.LATER, REWARD),
    Mutant("sums_backwards", instead_of(TRUE_TERMS, sums_backwards), Caught.LATER, REWARD),
    Mutant("rate_in_float32", instead_of(TRUE_RATE, rate_in_float32), Caught.LATER, REWARD),
    Mutant("variance_of_a_sample", instead_of(TRUE_TERMS, variance_of_a_sample), Caught.LATER, REWARD),
    Mutant("reward_not_clipped", instead_of(streams.rewards.clipped, float), Caught.LATER, REWARD),
    Mutant("broken_machine_scores_0", instead_of(TRUE_RATE, broken_machine_scores_0), Caught.LATER, REWARD),
    Mutant(
        "watched_model_is_rewarded", instead_of(trainer.rounds._known, watched_model_is_rewarded), Caught.LATER, TABLE
    ),
    Mutant("spread_of_a_sample", instead_of(statistics.pstdev, statistics.stdev), Caught.LATER, TABLE),
    Mutant("rows_in_another_order", instead_of(TRUE_VALIDATION, rows_in_another_order), Caught.LATER, TABLE),
    Mutant("advantage_over_deviation", instead_of(TRUE_RLOO, advantage_over_deviation), Caught.LATER, UPDATE),
    Mutant(
        "baseline_with_own_reward",
        instead_of(trainer.advantage._mean_of_others, baseline_with_own_reward),
        Caught.LATER,
        UPDATE,
    ),
    Mutant("invalid_counts_as_0", instead_of(TRUE_RLOO, invalid_counts_as_0), Caught.LATER, UPDATE),
    Mutant("kl_per_token", instead_of(TRUE_TOKEN_TERMS, kl_per_token), Caught.LATER, UPDATE),
    Mutant("kl_backwards", instead_of(TRUE_TOKEN_TERMS, kl_backwards), Caught.LATER, UPDATE),
    Mutant("logits_in_bfloat16", method(Policy, "_logits", logits_in_bfloat16), Caught.LATER, UPDATE),
    Mutant("learning_rate_off_by_one", instead_of(TRUE_RATE_OF, learning_rate_off_by_one), Caught.LATER, UPDATE),
    Mutant("no_warmup", instead_of(TRUE_RATE_OF, no_warmup), Caught.LATER, UPDATE),
    Mutant("gradient_not_clipped", gradient_not_clipped, Caught.LATER, UPDATE),
    Mutant("weight_decay", method(Policy, "_forget_moments", weight_decay), Caught.LATER, UPDATE),
    Mutant("two_threads", two_threads, Caught.LATER, "the run was started with threads 1, this process has 2"),
    Mutant("not_deterministic", not_deterministic, Caught.LATER, "the run was started with deterministic True"),
    Mutant("moments_not_restored", method(Policy, "restore", moments_not_restored), Caught.RESUMED, UPDATE),
    Mutant("adam_step_not_restored", method(Policy, "restore", adam_step_not_restored), Caught.RESUMED, UPDATE),
    Mutant("step_not_restored", method(Policy, "restore", step_not_restored), Caught.RESUMED, UPDATE),
    Mutant("random_state_not_restored", method(Policy, "restore", random_state_not_restored), Caught.RESUMED, UPDATE),
    Mutant("adapter_not_restored", method(Policy, "restore", adapter_not_restored), Caught.RESUMED, UPDATE),
    Mutant("clock_in_the_reward", instead_of(TRUE_SCORE, clock_in_the_reward), Caught.AGAIN, REWARD),
    Mutant("unseeded_reward", instead_of(TRUE_SCORE, unseeded_reward), Caught.AGAIN, REWARD),
    Mutant("suites_by_arrival", instead_of(streams.rewards.in_order, suites_by_arrival), Caught.AGAIN, REWARD),
    Mutant("id_of_the_last_suite", id_of_the_last_suite, Caught.AGAIN, REWARD),
    Mutant("drafts_by_arrival", instead_of(TRUE_COMPLETE, drafts_by_arrival), Caught.AGAIN, UPDATE),
    Mutant("rewards_keyed_by_arrival", instead_of(TRUE_COMPLETE, rewards_keyed_by_arrival), Caught.AGAIN, UPDATE),
    Mutant("batches_in_random_order", instead_of(TRUE_BATCHED, batches_in_random_order), Caught.AGAIN, UPDATE),
    Mutant("lora_from_global_random", method(Policy, "reset", lora_from_global_random), Caught.AGAIN, "RoundOpened "),
    Mutant("fresh_random_state", method(Policy, "update", fresh_random_state), Caught.AGAIN, UPDATE),
    Mutant(
        "unseeded_shuffle",
        lambda planted: planted.setattr(trainer.rounds, "shuffled", unseeded_shuffle),
        Caught.AGAIN,
        UPDATE,
        SHUFFLED,
    ),
    Mutant("metadata_in_any_order", instead_of(TRUE_SAVE, metadata_in_any_order), Caught.AGAIN, "RoundOpened "),
    Mutant("epochs_by_the_clock", instead_of(TRUE_APPLICATIONS, epochs_by_the_clock), Caught.AGAIN, "RoundOpened "),
    Mutant("seeds_from_the_run_id", instead_of(TRUE_DRAW, seeds_from_the_run_id), Caught.TWO_RUNS, "ApplicationDrawn "),
    Mutant("policy_from_the_run_id", instead_of(TRUE_START, policy_from_the_run_id), Caught.TWO_RUNS, "RoundOpened "),
    Mutant("suites_in_a_set", instead_of(streams.rewards.in_order, suites_in_a_set), Caught.TWO_PROCESSES, REWARD),
]
