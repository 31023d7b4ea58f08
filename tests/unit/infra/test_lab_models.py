"""Laws of the lab's models: the law of batches, the block against transformers, adapters, refusals."""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from transformers import Qwen2ForCausalLM

from infra.blobs import Blobs
from infra.lab import models, orchestra, programs
from infra.lab.models import WEIGHTS, LabModel
from infra.lab.programs import IMPLEMENTERS, SEPARATOR, Program
from infra.models import Answer, EngineUnavailable, Prompt, PromptRefused
from schemas.events import Sampling, Split

DRAWN = Sampling(temperature=1.0, max_tokens=32)
GREEDY = Sampling(temperature=0.0, max_tokens=48)


@cache
def _programs() -> list[Program]:
    return programs.pool(Split.VALIDATE, 24)


def _prompts(sampling: Sampling = DRAWN, adapter: str | None = None) -> list[Prompt]:
    return [
        Prompt(text=programs.source(program), sampling=sampling, seed=1000 * i + draft, adapter=adapter)
        for i, program in enumerate(_programs())
        for draft in range(3)
    ]


@cache
def _cet_d() -> LabModel:
    return LabModel("cet-d")


@cache
def _answers() -> list[Answer | PromptRefused]:
    return _cet_d().answer(_prompts())


def test_log_probs_are_bit_equal_in_any_order() -> None:
    order = list(range(len(_prompts())))
    random.Random(7).shuffle(order)
    answers = _cet_d().answer([_prompts()[i] for i in order])
    assert answers == [_answers()[i] for i in order]


@pytest.mark.parametrize("size", [1, 5, 17, 32])
def test_log_probs_are_bit_equal_in_any_chunks(size: int) -> None:
    prompts = _prompts()[:36]
    chunked = [each for i in range(0, len(prompts), size) for each in _cet_d().answer(prompts[i : i + size])]
    assert chunked == _answers()[: len(prompts)]


def test_what_shares_a_batch_changes_nothing() -> None:
    long = Prompt(text="- evens survive", sampling=Sampling(temperature=2.0, top_p=0.5, max_tokens=60), seed=4)
    assert _cet_d().answer([long, *_prompts()[:20], long])[1:-1] == _answers()[:20]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, Sampling(temperature=0.7, top_p=0.9, max_tokens=32)])
def test_a_fresh_model_answers_the_same(sampling: Sampling) -> None:
    prompts = _prompts(sampling)[:20]
    assert LabModel("cet-d").answer(prompts) == _cet_d().answer(prompts)


def test_seeds_decide_what_is_drawn() -> None:
    prompt = _prompts()[0]
    seeds = [Prompt(text=prompt.text, sampling=DRAWN, seed=seed) for seed in range(30)]
    assert len({answer.text for answer in _cet_d().answer(seeds) if isinstance(answer, Answer)}) > 5


def test_log_probs_are_those_of_transformers() -> None:
    reference = Qwen2ForCausalLM.from_pretrained(WEIGHTS / "cet-d")
    for answer in _answers()[:12]:
        assert isinstance(answer, Answer)
        expected = _reference_log_probs(reference, answer)
        assert answer.log_probs == pytest.approx(expected, abs=1e-5)


def _reference_log_probs(reference: Qwen2ForCausalLM, answer: Answer) -> list[float]:
    ids = torch.tensor([answer.prompt_token_ids + answer.token_ids])
    with torch.no_grad():
        table = reference(input_ids=ids).logits[0].double().log_softmax(-1)
    start = len(answer.prompt_token_ids) - 1
    return [table[start + i, word].item() for i, word in enumerate(answer.token_ids)]


def test_a_greedy_answer_is_certain_of_itself() -> None:
    answer = _cet_d().answer(_prompts(GREEDY)[:1])[0]
    assert isinstance(answer, Answer)
    assert set(answer.log_probs) == {0.0}


def test_a_nucleus_leaves_out_what_is_improbable_and_renormalises() -> None:
    table = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    kept = models._nucleus(table, torch.tensor([[0.7]], dtype=torch.float64)).exp()
    assert kept.tolist()[0] == pytest.approx([0.625, 0.375, 0.0, 0.0])


def test_drawn_words_follow_the_distribution() -> None:
    prompt, draws = _prompts()[0], 640
    answers = _cet_d().answer([Prompt(text=prompt.text, sampling=Sampling(max_tokens=2), seed=i) for i in range(draws)])
    pairs = Counter((a.token_ids, a.log_probs) for a in answers if isinstance(a, Answer))
    assert len(pairs) > 3
    for (_, log_probs), count in pairs.items():
        probability = math.exp(sum(log_probs))
        assert count == pytest.approx(draws * probability, abs=2 + 4 * math.sqrt(draws * probability))


def test_the_answer_is_the_text_of_its_tokens() -> None:
    for answer in _answers():
        assert isinstance(answer, Answer)
        assert answer.prompt_token_ids[-1] == SEPARATOR
        assert len(answer.token_ids) == len(answer.log_probs)
        assert (answer.token_ids[-1] == programs.END) == (answer.finish_reason == "stop")


def test_an_answer_that_runs_out_says_length() -> None:
    answer = _cet_d().answer([Prompt(text=_prompts()[0].text, sampling=Sampling(max_tokens=3), seed=0)])[0]
    assert isinstance(answer, Answer)
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 3)


@pytest.mark.parametrize("text", ["def g(y): pass", "- evens survive" * 20])
def test_a_prompt_outside_the_language_is_refused_alone(text: str) -> None:
    prompts = [_prompts()[0], Prompt(text=text, sampling=DRAWN, seed=0), _prompts()[1]]
    first, refused, last = _cet_d().answer(prompts)
    assert [first, last] == _answers()[:2]
    assert isinstance(refused, PromptRefused)


def test_an_answer_without_room_is_refused() -> None:
    prompt = Prompt(text=_prompts()[0].text, sampling=Sampling(max_tokens=0), seed=0)
    assert isinstance(_cet_d().answer([prompt])[0], PromptRefused)


# ---- Implementers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMPLEMENTERS)
def test_an_implementer_rebuilds_from_common_words_what_it_never_saw(name: str) -> None:
    told = [programs.requirements(program, programs.common) for program in _programs()]
    answers = LabModel(name).answer([Prompt(text=text, sampling=GREEDY, seed=0) for text in told])
    rebuilt = [a.text for a in answers if isinstance(a, Answer)]
    exact = sum(text == programs.source(program) for text, program in zip(rebuilt, _programs(), strict=True))
    assert exact >= 0.9 * len(_programs())


def test_every_model_has_a_digest_of_its_own() -> None:
    assert len({LabModel(name).digest for name in ("cet-d", *IMPLEMENTERS)}) == 5


@pytest.mark.parametrize("name", ["lab/cet-d", "lab/impl-2"])
def test_a_digest_can_be_had_without_loading_the_model(name: str) -> None:
    assert (orchestra.digest(name), name) == (LabModel(name).digest, LabModel(name).name)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineUnavailable, match="impl-9"):
        LabModel("impl-9")


# ---- Adapters ------------------------------------------------------------------------------------------------------


def _adapter(seed: int, size: float) -> bytes:
    """A LoRA adapter in peft's format for every query matrix; of size 0 it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for i in range(4):
        prefix = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, 96, generator=generator)
        tensors[f"{prefix}.lora_B.weight"] = size * torch.randn(96, 4, generator=generator)
    return save(tensors, metadata={"lora": json.dumps({"alpha": 8, "rank": 4})})


def _stored(*contents: bytes) -> tuple[list[str], Callable[[str], bytes], list[str]]:
    """Digests, a source of adapters, and the list of what was fetched from it."""
    store = {hashlib.sha256(content).hexdigest(): content for content in contents}
    fetched: list[str] = []

    def get(digest: str) -> bytes:
        fetched.append(digest)
        return store[digest]

    return list(store), get, fetched


def test_an_adapter_of_zeros_is_the_bare_model() -> None:
    (digest,), get, _ = _stored(_adapter(1, 0.0))
    assert LabModel("cet-d", adapters=get).answer(_prompts(adapter=digest)) == _answers()


def test_an_adapter_answers_as_its_weights_merged_by_hand() -> None:
    content = _adapter(1, 0.05)
    (digest,), get, _ = _stored(content)
    answer = LabModel("cet-d", adapters=get).answer(_prompts(adapter=digest)[:1])[0]
    reference = Qwen2ForCausalLM.from_pretrained(WEIGHTS / "cet-d")
    reference.load_state_dict(models.merged(reference.state_dict(), content))
    assert isinstance(answer, Answer)
    assert answer.log_probs == pytest.approx(_reference_log_probs(reference, answer), abs=1e-5)
    assert answer != _answers()[0]


def test_the_two_most_recent_adapters_are_kept() -> None:
    digests, get, fetched = _stored(*(_adapter(seed, 0.05) for seed in range(3)))
    model = LabModel("cet-d", adapters=get)
    for i in (0, 1, 0, 2, 0, 1):
        model.answer(_prompts(adapter=digests[i])[:1])
    assert fetched == [digests[0], digests[1], digests[2], digests[1]]


def test_adapters_do_not_leak_into_other_prompts() -> None:
    (digest,), get, _ = _stored(_adapter(1, 0.5))
    mixed = [prompt for pair in zip(_prompts(), _prompts(adapter=digest), strict=True) for prompt in pair]
    assert LabModel("cet-d", adapters=get).answer(mixed)[::2] == _answers()


def test_bytes_that_are_not_the_adapter_asked_for_are_the_machines_fault() -> None:
    with pytest.raises(EngineUnavailable, match="digest"):
        LabModel("cet-d", adapters=lambda _: _adapter(1, 0.1)).answer(_prompts(adapter="0" * 64)[:1])


def test_an_adapter_that_cannot_be_had_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="cannot be had"):
        LabModel("cet-d", adapters=Blobs(str(tmp_path)).get).answer(_prompts(adapter="0" * 64)[:1])


def test_a_model_without_a_source_of_adapters_says_so() -> None:
    with pytest.raises(EngineUnavailable, match="source of adapters"):
        _cet_d().answer(_prompts(adapter="0" * 64)[:1])
