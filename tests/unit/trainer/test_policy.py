"""Laws of the learner, on a real transformer with a real LoRA adapter."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load, save_file
from transformers import AutoModelForCausalLM

from infra.blobs import Blobs
from infra.lab.models import WEIGHTS, LabModel
from infra.lab.programs import sample, source
from infra.models import Answer, Prompt
from infra.problems import BadInput
from schemas.events import Learning, Sampling, Split
from trainer import checkpoint
from trainer import policy as learner
from trainer.policy import Diverged, Draft, Policy, UpdateResult, batched, learning_rate

LEARNING = Learning(lora_rank=4, lora_alpha=8, warmup_rounds=0)
ROUNDS = 20


def some_drafts(count: int, seed: int = 0) -> list[Draft]:
    chance = random.Random(seed)
    return [a_draft(chance, chance.randint(2, 9), chance.randint(1, 12)) for _ in range(count)]


def a_draft(chance: random.Random, asked: int, said: int) -> Draft:
    ids = [chance.randrange(40) for _ in range(asked + said)]
    return Draft(prompt_token_ids=ids[:asked], token_ids=ids[asked:], log_probs=[-3.5] * said)


def some_advantages(count: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.uniform(-0.5, 0.5) for _ in range(count)]


def log_likelihood(policy: Policy, draft: Draft) -> float:
    """What the policy gives this draft, read off an update that is thrown away."""
    return -update_of(policy, [draft], [1.0], replace(LEARNING, kl_weight=0.0)).loss


def update_of(
    policy: Policy, drafts: list[Draft], advantages: list[float], learning: Learning = LEARNING
) -> UpdateResult:
    state = policy.adapter(), policy.moments(), policy.random()
    result = policy.update(drafts, advantages, learning, 1, ROUNDS)
    policy.restore(*state)
    return result


def fresh(folder: Path, seed: int = 1) -> Policy:
    return Policy(folder, learning=LEARNING, seed=seed)


def test_the_first_policy_speaks_as_the_base_model_does(small_base: Path) -> None:
    result = update_of(fresh(small_base), some_drafts(8), some_advantages(8))
    assert result.kl_to_base == 0.0
    assert result.gradient_norm > 0


def test_a_first_policy_is_its_seed_and_nothing_else(small_base: Path) -> None:
    torch.manual_seed(11)
    one = fresh(small_base, seed=1)
    torch.manual_seed(12)
    assert fresh(small_base, seed=1).digest == one.digest
    assert fresh(small_base, seed=2).digest != one.digest


def test_learning_makes_the_better_drafts_likelier(small_base: Path) -> None:
    policy, drafts = fresh(small_base), some_drafts(4)
    before = [log_likelihood(policy, draft) for draft in drafts]
    for _ in range(5):
        policy.update(drafts, [0.5, -0.5, 0.5, -0.5], LEARNING, 1, ROUNDS)
    gains = [log_likelihood(policy, draft) - old for draft, old in zip(drafts, before, strict=True)]
    assert gains[0] > 0 > gains[1]
    assert gains[2] > 0 > gains[3]


def test_equal_inputs_give_equal_bits(small_base: Path) -> None:
    drafts, advantages = some_drafts(40), some_advantages(40)
    runs = []
    for _ in range(2):
        policy = fresh(small_base)
        results = [policy.update(drafts, advantages, LEARNING, number, ROUNDS) for number in (1, 2, 3)]
        runs.append((policy.digest, policy.moments(), policy.random(), results))
    assert runs[0] == runs[1]


def test_a_restored_policy_goes_on_bit_for_bit(small_base: Path) -> None:
    drafts, advantages = some_drafts(12), some_advantages(12)
    straight, resumed = fresh(small_base), fresh(small_base, seed=99)
    straight.update(drafts, advantages, LEARNING, 1, ROUNDS)
    resumed.restore(straight.adapter(), straight.moments(), straight.random())
    for number in (2, 3):
        assert straight.update(drafts, advantages, LEARNING, number, ROUNDS) == resumed.update(
            drafts, advantages, LEARNING, number, ROUNDS
        )
    assert (resumed.digest, resumed.moments(), resumed.step) == (straight.digest, straight.moments(), 3)


def test_reset_is_the_first_policy_again(small_base: Path) -> None:
    policy = fresh(small_base)
    first = policy.adapter(), policy.moments(), policy.random()
    policy.update(some_drafts(4), some_advantages(4), LEARNING, 1, ROUNDS)
    assert policy.adapter() != first[0]
    policy.reset()
    assert (policy.adapter(), policy.moments(), policy.random()) == first


def test_what_shares_a_batch_changes_nothing_beyond_float_noise(
    small_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts, advantages = some_drafts(40), some_advantages(40)
    whole = update_of(fresh(small_base), drafts, advantages)
    monkeypatch.setattr(learner, "ROWS", 1)
    alone = update_of(fresh(small_base), drafts, advantages)
    for name in ("loss", "gradient_norm", "kl_to_base", "entropy", "sampler_kl"):
        assert getattr(alone, name) == pytest.approx(getattr(whole, name), rel=1e-4, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70))
def test_batches_hold_every_sampled_token_at_the_place_that_predicts_it(seed: int, count: int) -> None:
    drafts, advantages = some_drafts(count, seed), some_advantages(count, seed)
    seen = []
    for batch in batched(drafts, advantages):
        assert len(batch.input_ids) <= learner.ROWS
        for row, column, token, value in zip(
            *(each.tolist() for each in (batch.rows, batch.columns, batch.token_ids, batch.advantages)), strict=True
        ):
            seen.append((tuple(batch.input_ids[row, : column + 1].tolist()), token, value))
    expected = [
        ((*draft.prompt_token_ids, *draft.token_ids[:place]), token, torch.tensor(value).item())
        for draft, value in zip(drafts, advantages, strict=True)
        for place, token in enumerate(draft.token_ids)
    ]
    assert sorted(seen) == sorted(expected)


def test_a_draft_without_a_token_counts_in_the_divisor_alone(small_base: Path) -> None:
    drafts, silent = some_drafts(3), Draft(prompt_token_ids=[1], token_ids=[], log_probs=[])
    heard = update_of(fresh(small_base), drafts, [0.1, 0.2, 0.3])
    with_silent = update_of(fresh(small_base), [*drafts, silent], [0.1, 0.2, 0.3, -0.6])
    assert with_silent.loss == pytest.approx(heard.loss * 3 / 4)
    assert with_silent.entropy == heard.entropy


def test_the_rate_warms_up_and_then_falls_to_its_share() -> None:
    learning = Learning(learning_rate=1.0, warmup_rounds=5, final_rate_share=0.2)
    assert learning_rate(learning, 1, 100) == pytest.approx(0.2 * (1 - 0.8 / 100))
    assert learning_rate(learning, 50, 100) == pytest.approx(0.6)
    assert learning_rate(learning, 100, 100) == pytest.approx(0.2)


def test_a_gradient_that_is_not_finite_changes_nothing(small_base: Path) -> None:
    policy = fresh(small_base)
    before = policy.adapter(), policy.moments(), policy.random(), policy.step
    with pytest.raises(Diverged, match="round 4"):
        policy.update(some_drafts(2), [float("inf"), 0.0], LEARNING, 4, ROUNDS)
    assert (policy.adapter(), policy.moments(), policy.random(), policy.step) == before


def test_the_adapter_is_a_file_that_peft_reads(small_base: Path, tmp_path: Path) -> None:
    policy, drafts = fresh(small_base), some_drafts(6)
    policy.update(drafts, some_advantages(6), LEARNING, 1, ROUNDS)
    assert hashlib.sha256(policy.adapter()).hexdigest() == policy.digest
    policy._model.peft_config["default"].save_pretrained(str(tmp_path))
    save_file(load(policy.adapter()), tmp_path / "adapter_model.safetensors")
    served = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_base), str(tmp_path))
    draft = drafts[0]
    ids = torch.tensor([[*draft.prompt_token_ids, *draft.token_ids]])
    with torch.no_grad():
        log_probs = torch.log_softmax(served(input_ids=ids).logits[0, :-1], -1)
    places = range(len(draft.prompt_token_ids) - 1, ids.shape[1] - 1)
    told = sum(log_probs[place, ids[0, place + 1]].item() for place in places)
    assert log_likelihood(policy, draft) == pytest.approx(told, abs=1e-4)


def test_an_adapter_of_another_shape_is_refused(small_base: Path) -> None:
    other = Policy(small_base, learning=replace(LEARNING, lora_rank=2), seed=1)
    with pytest.raises(BadInput, match="does not fit"):
        fresh(small_base).restore(other.adapter(), other.moments(), other.random())


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        fresh(tmp_path)


def test_the_labs_sampler_and_the_learner_give_a_text_the_same_probability(tmp_path: Path) -> None:
    blobs, policy = Blobs(str(tmp_path)), Policy(WEIGHTS / "cet-d", learning=Learning(), seed=1)
    sampler = LabModel("cet-d", adapters=blobs.get)
    chance = random.Random(4)
    sources = [source(sample(chance, Split.TRAIN)) for _ in range(6)]
    for number in (1, 2, 3):
        adapter = checkpoint.save(blobs, policy).policy_digest
        prompts = [
            Prompt(text=text, sampling=Sampling(max_tokens=32), seed=place, adapter=adapter)
            for place, text in enumerate(sources)
        ]
        answers = [each for each in sampler.answer(prompts) if isinstance(each, Answer)]
        drafts = [
            Draft(prompt_token_ids=each.prompt_token_ids, token_ids=each.token_ids, log_probs=each.log_probs)
            for each in answers
        ]
        assert len(drafts) == len(sources)
        result = policy.update(drafts, some_advantages(len(drafts)), Learning(warmup_rounds=1), number, ROUNDS)
        assert abs(result.sampler_kl) < 1e-5
        assert result.kl_to_base > 0 or number == 1
