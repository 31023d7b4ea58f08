"""How the lab's models came to be: supervised, seeded, on one thread, so that anyone can make them again.

An implementer learns to write the source of programs told in the phrasings it knows. CET-D's base learns to describe
source in every phrasing alike, so it is faithful but does not know its readers. Held-out sequences of operations are
never seen here. What is left out on purpose: mixed precision, data loading, restarts; a recipe takes minutes.
"""

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import eq
from pathlib import Path
from statistics import fmean

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from infra.lab import programs
from infra.lab.models import LabModel
from infra.lab.programs import DIALECTS, END, IMPLEMENTERS, PAD, SEPARATOR, Program, Tokenizer
from infra.models import Answer, Prompt
from schemas.events import Sampling, Split

IGNORED = -100  # a label that costs nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number that shapes one model's weights."""

    seed: int
    steps: int
    layers: int
    width: int = 96
    heads: int = 4
    batch: int = 64
    learning_rate: float = 3e-3
    final_rate: float = 1e-5
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0


RECIPES: dict[str, Recipe] = {
    "cet-d": Recipe(seed=100, steps=1200, layers=4),
    **{name: Recipe(seed=i, steps=900, layers=3) for i, name in enumerate(IMPLEMENTERS)},
}

Lesson = tuple[str, str]  # prompt, answer
Progress = Callable[[int, float], None]  # step, loss


def pretrain(name: str, *, folder: Path, progress: Progress, recipe: Recipe | None = None) -> Path:
    """Make one model in `folder/name`, in Hugging Face layout, with its recipe and what it can do beside it.

    The same recipe on the same numerics gives the same bytes; models may be made in parallel processes.
    """
    chosen = recipe or RECIPES[name]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(chosen.seed)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = Tokenizer(programs.vocabulary())
    model = Qwen2ForCausalLM(configuration(chosen, len(tokenizer.words)))  # type: ignore[no-untyped-call]
    learn(model, (tokenized(tokenizer, lesson) for lesson in lessons(name, chosen.seed)), chosen, progress)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocabulary.json").write_text(json.dumps(tokenizer.words, indent=0) + "\n")
    model.save_pretrained(folder / name)
    made = LabModel(name, folder=folder)
    record = {"recipe": asdict(chosen), "digest": made.digest, "held_out": held_out(made)}
    (folder / name / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")
    return folder / name


def held_out(model: LabModel, count: int = 120) -> dict[str, float]:
    """The share of unseen programs on which a model is exactly right, greedily: in source, or in faithful words."""
    rng, unseen = random.Random(1), programs.pool(Split.VALIDATE, count)
    if model.name == "lab/cet-d":
        told = _greedy(model, [programs.source(program) for program in unseen])
        return {"faithful": _share(programs.faithful(*pair) for pair in zip(unseen, told, strict=True))}
    known = DIALECTS[model.name.removeprefix("lab/")]
    sources = [programs.source(program) for program in unseen]
    common = [programs.requirements(program, programs.common) for program in unseen]
    mixed = [programs.requirements(program, lambda step: rng.choice(known[step])) for program in unseen]
    return {
        "common_words": _share(map(eq, sources, _greedy(model, common))),
        "known_words": _share(map(eq, sources, _greedy(model, mixed))),
    }


def _greedy(model: LabModel, texts: Sequence[str]) -> list[str]:
    sampling = Sampling(temperature=0.0, max_tokens=64)
    answers = model.answer([Prompt(text=text, sampling=sampling, seed=0) for text in texts])
    return [answer.text if isinstance(answer, Answer) else "" for answer in answers]


def _share(hits: Iterable[bool]) -> float:
    return round(fmean(hits), 4)


def configuration(recipe: Recipe, words: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=words,
        hidden_size=recipe.width,
        intermediate_size=3 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=SEPARATOR,
    )


def lessons(name: str, seed: int) -> Iterator[Lesson]:
    """Endless (prompt, answer) pairs for one model, from programs of the train split."""
    rng = random.Random(seed)
    while True:
        program = programs.sample(rng, Split.TRAIN)
        yield _described(program, rng) if name == "cet-d" else _rebuilt(program, name, rng)


def _described(program: Program, rng: random.Random) -> Lesson:
    return programs.source(program), programs.requirements(program, lambda _: rng.randrange(4))


def _rebuilt(program: Program, name: str, rng: random.Random) -> Lesson:
    known = DIALECTS[name]
    return programs.requirements(program, lambda step: rng.choice(known[step])), programs.source(program)


def tokenized(tokenizer: Tokenizer, lesson: Lesson) -> tuple[list[int], list[int]]:
    """What is read and what must be written, the end included."""
    prompt, answer = lesson
    return [*tokenizer.encode(prompt), SEPARATOR], [*tokenizer.encode(answer), END]


def batched(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels; only the answer is learnt."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), PAD)  # (batch, token)
    labels = torch.full_like(ids, IGNORED)
    for i, (prompt, answer) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(answer)
        ids[i, :stop] = torch.tensor(prompt + answer)
        labels[i, start:stop] = torch.tensor(answer)
    return ids, labels


def rate(recipe: Recipe, step: int) -> float:
    """A short warm-up, then a cosine to zero, above a small floor."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) + recipe.final_rate


def learn(
    model: Qwen2ForCausalLM, rows: Iterator[tuple[list[int], list[int]]], recipe: Recipe, progress: Progress
) -> None:
    """Next-token cross-entropy on the answers, for as many steps as the recipe says."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step)
        ids, labels = batched([next(rows) for _ in range(recipe.batch)])
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        progress(step, loss.item())
