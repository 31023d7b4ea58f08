"""The learner: a frozen base model, a LoRA adapter on all of its linear layers, and AdamW over that adapter.

An update is a function of (adapter, moments, random state, drafts, advantages, round): on one machine, with one torch
build and one thread count, equal inputs in equal order give equal bits. What it leaves out: gradient checkpointing,
accelerators, and models that bend their logits after the output layer.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load, save
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from infra.problems import BadInput
from schemas.events import Learning, Numerics
from trainer.losses import Terms, token_terms

THREADS = 1
ROWS = 32  # drafts in one forward pass


class Diverged(ArithmeticError):
    """The gradient of a round is not finite. The policy was left as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What was asked and what was sampled. Every token id has the sampler's log-probability."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    log_probs: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What one update saw and did."""

    loss: float
    gradient_norm: float  # before clipping
    kl_to_base: float  # nats per draft, before the update
    entropy: float  # nats per sampled token, before the update
    sampler_kl: float  # nats per sampled token; near 0 when sampler and trainer are the same model
    learning_rate: float


@dataclass(slots=True)
class _Batch:
    """Drafts of similar length, padded on the right: causal attention never looks there."""

    input_ids: Tensor  # (B, T) everything but each draft's last token
    rows: Tensor  # (R,) and
    columns: Tensor  # (R,) where the next token is a sampled one
    token_ids: Tensor  # (R,)
    advantages: Tensor  # (R,)
    log_probs: Tensor  # (R,)


class Policy:
    """One learner. At step 0 every lora_B is zero, so it speaks exactly as the base model does."""

    def __init__(self, folder: Path, *, learning: Learning, seed: int, threads: int = THREADS) -> None:
        make_deterministic(threads)
        self._seed = seed
        self._config = {"alpha": learning.lora_alpha, "rank": learning.lora_rank}
        self._model = _adapted(folder, learning)
        language_model: Any = self._model.get_base_model()
        self._decoder = language_model.get_decoder()
        self._output = language_model.get_output_embeddings()
        self._weights = {name: each for name, each in sorted(self._model.named_parameters()) if each.requires_grad}
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Back to step 0: lora_A drawn from this seed, else from the policy's own, lora_B zero, no moments."""
        generator = torch.Generator().manual_seed(self._seed if seed is None else seed)
        for name, weight in self._weights.items():
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            else:
                torch.nn.init.zeros_(weight)
        self.step = 0
        self._random = generator.get_state()
        self._forget_moments()

    @property
    def digest(self) -> str:
        """SHA-256 of the adapter's bytes: the name of this policy everywhere."""
        return hashlib.sha256(self.adapter()).hexdigest()

    def update(
        self, drafts: Sequence[Draft], advantages: Sequence[float], learning: Learning, round: int, rounds: int
    ) -> UpdateResult:
        """One step on the drafts that count. Raises Diverged, and changes nothing, if the gradient is not finite."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            batches = [self._accumulate(batch, learning, len(drafts)) for batch in batched(drafts, advantages)]
            random = torch.get_rng_state()
        norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), learning.clip_norm).item()
        if not math.isfinite(norm):
            raise Diverged(f"the gradient norm of round {round} is {norm}")
        rate = learning_rate(learning, round, rounds)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self._random = random
        self.step += 1
        tokens = sum(len(draft.token_ids) for draft in drafts)
        return UpdateResult(
            loss=sum(terms.loss.item() for terms in batches) / len(drafts),
            gradient_norm=norm,
            kl_to_base=sum(terms.kl for terms in batches) / len(drafts),
            entropy=sum(terms.entropy for terms in batches) / tokens,
            sampler_kl=sum(terms.sampler_gap for terms in batches) / tokens,
            learning_rate=rate,
        )

    def _accumulate(self, batch: _Batch, learning: Learning, count: int) -> Terms:
        """Adds the batch's part of the round's gradient; `count` is the one divisor."""
        with torch.no_grad(), self._model.disable_adapter():
            base_logits = self._logits(batch)  # (R, V)
        logits = self._logits(batch)  # (R, V)
        terms = token_terms(logits, base_logits, batch.token_ids, batch.advantages, batch.log_probs, learning.kl_weight)
        (terms.loss / count).backward()  # type: ignore[no-untyped-call]
        return replace(terms, loss=terms.loss.detach())

    def adapter(self) -> bytes:
        """The adapter under the names peft gives it on disk. Equal weights give equal bytes."""
        weights = {_on_disk(name): weight.detach() for name, weight in self._weights.items()}
        # safetensors writes several metadata keys in random order: one key keeps the bytes a function of the weights.
        return save(weights, {"lora": json.dumps(self._config, sort_keys=True)})

    def moments(self) -> bytes:
        """AdamW's two moments of every weight, and how many updates they have seen."""
        moments: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            if state := self._optimizer.state.get(weight):
                moments |= {f"{_on_disk(name)}.{each}": state[each] for each in ("exp_avg", "exp_avg_sq")}
        return save(moments, {"step": str(self.step)})

    def random(self) -> bytes:
        """The state of the generator that updates draw from."""
        return self._random.numpy().tobytes()

    def restore(self, adapter: bytes, moments: bytes, random: bytes) -> None:
        """Become the policy these bytes were taken from; the next update is then bit for bit the same."""
        stored, seen = load(adapter), load(moments)
        if {_on_disk(name): weight.shape for name, weight in self._weights.items()} != _shapes(stored):
            raise BadInput("the adapter does not fit this base model", "name the policy the run was started with")
        self.step = int(_metadata(moments)["step"])
        self._random = torch.frombuffer(bytearray(random), dtype=torch.uint8)
        self._forget_moments()
        for name, weight in self._weights.items():
            weight.data.copy_(stored[_on_disk(name)])
            if seen:
                state = {each: seen[f"{_on_disk(name)}.{each}"] for each in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[weight] = {"step": torch.tensor(float(self.step)), **state}

    def _forget_moments(self) -> None:
        self._optimizer = torch.optim.AdamW(self._weights.values(), weight_decay=0.0)

    def _logits(self, batch: _Batch) -> Tensor:
        """The output layer runs at sampled positions only: prompts and padding cost no vocabulary."""
        hidden = self._decoder(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        return cast(Tensor, self._output(hidden[batch.rows, batch.columns]).float())  # (R, V)


def batched(drafts: Sequence[Draft], advantages: Sequence[float]) -> Iterator[_Batch]:
    """Drafts by length, then by their given place, ROWS at a time: the input alone decides the order of summation."""
    ids = [[*draft.prompt_token_ids, *draft.token_ids] for draft in drafts]
    order = sorted((place for place, draft in enumerate(drafts) if draft.token_ids), key=lambda place: len(ids[place]))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        width = max(len(ids[place]) for place in chosen) - 1
        sampled = [(row, place) for row, place in enumerate(chosen) for _ in drafts[place].token_ids]
        first = [(len(drafts[place].prompt_token_ids) - 1, len(ids[place]) - 1) for place in chosen]
        yield _Batch(
            input_ids=torch.tensor(
                [ids[place][:-1] + [0] * (width + 1 - len(ids[place])) for place in chosen]
            ),  # (B, T)
            rows=torch.tensor([row for row, _ in sampled]),  # (R,)
            columns=torch.tensor([column for begin, end in first for column in range(begin, end)]),  # (R,)
            token_ids=torch.tensor([token for place in chosen for token in drafts[place].token_ids]),  # (R,)
            advantages=torch.tensor([advantages[place] for _, place in sampled]),  # (R,)
            log_probs=torch.tensor([value for place in chosen for value in drafts[place].log_probs]),  # (R,)
        )


def learning_rate(learning: Learning, round: int, rounds: int) -> float:
    """Warm-up, then linear decay to `final_rate_share` of the rate at the last round. Rounds count from 1."""
    warm = min(1.0, round / max(1, learning.warmup_rounds))
    return learning.learning_rate * warm * (1 - (1 - learning.final_rate_share) * round / rounds)


def make_deterministic(threads: int = THREADS) -> None:
    """For the whole process: deterministic algorithms only, and a fixed number of threads."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)


def numerics() -> Numerics:
    """What the last bits of an update depend on. Sets this process to it, then tells."""
    make_deterministic()
    return Numerics(
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _adapted(folder: Path, learning: Learning) -> PeftModel:
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds no model", "name a folder with config.json and model.safetensors")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    base = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    lora = LoraConfig(
        r=learning.lora_rank, lora_alpha=learning.lora_alpha, lora_dropout=0.0, bias="none", target_modules="all-linear"
    )
    return get_peft_model(base, lora)


def _padded(ids: list[int], width: int) -> list[int]:
    return ids + [0] * (width - len(ids))


def _on_disk(name: str) -> str:
    return name.replace(".default.", ".")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _metadata(data: bytes) -> dict[str, str]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return cast(dict[str, str], header["__metadata__"])
