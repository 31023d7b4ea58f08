"""Laws of the recipe that makes the lab's models."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from infra.lab import programs
from infra.lab.models import WEIGHTS, LabModel
from infra.lab.programs import DIALECTS, END, IMPLEMENTERS, SEPARATOR, Tokenizer
from schemas.events import Split
from trainer.pretrain import IGNORED, RECIPES, Recipe, batched, lessons, pretrain, rate, tokenized

SMALL = Recipe(seed=3, steps=25, layers=1, width=32, heads=2, batch=8, warmup_steps=5)


def _made(name: str, folder: Path) -> list[float]:
    losses: list[float] = []
    pretrain(name, folder=folder, progress=lambda _, loss: losses.append(loss), recipe=SMALL)
    return losses


def test_one_recipe_gives_one_file_byte_for_byte(tmp_path: Path) -> None:
    _made("impl-0", tmp_path / "first")
    _made("impl-0", tmp_path / "second")
    paths = ["vocabulary.json", "impl-0/model.safetensors", "impl-0/config.json", "impl-0/recipe.json"]
    for path in paths:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


@pytest.mark.parametrize("name", ["cet-d", "impl-3"])
def test_the_recipe_teaches_and_says_what_came_out(name: str, tmp_path: Path) -> None:
    losses = _made(name, tmp_path)
    record = json.loads((tmp_path / name / "recipe.json").read_text())
    assert losses[-1] < 0.95 * losses[0]
    assert record["digest"] == LabModel(name, folder=tmp_path).digest
    assert all(0 <= share <= 1 for share in record["held_out"].values())


@pytest.mark.parametrize("name", list(RECIPES))
def test_no_lesson_shows_a_held_out_program(name: str) -> None:
    held = {programs.source(p) for wanted in (Split.VALIDATE, Split.TEST) for p in programs.pool(wanted, 60)}
    assert not held & {text for lesson in islice(lessons(name, 1), 400) for text in lesson}


@pytest.mark.parametrize("name", IMPLEMENTERS)
def test_an_implementer_reads_only_the_phrasings_it_knows(name: str) -> None:
    known = {
        word
        for step, wording in programs.WORDINGS.items()
        for i in DIALECTS[name][step]
        for k in wording.numbers
        for word in programs.pieces("\n- " + wording.phrasings[i].format(k=k))
    }
    read = {word for prompt, _ in islice(lessons(name, 1), 400) for word in programs.pieces("\n" + prompt)}
    assert read <= known


def test_only_the_answer_is_learnt() -> None:
    tokenizer = Tokenizer(programs.vocabulary())
    rows = [tokenized(tokenizer, lesson) for lesson in islice(lessons("cet-d", 2), 6)]
    ids, labels = batched(rows)
    for (prompt, answer), row, label in zip(rows, ids, labels, strict=True):
        assert prompt[-1] == SEPARATOR
        assert answer[-1] == END
        assert row[: len(prompt) + len(answer)].tolist() == prompt + answer
        assert label[label != IGNORED].tolist() == answer
        assert torch.all(label[: len(prompt)] == IGNORED)


def test_the_rate_warms_up_and_ends_at_its_floor() -> None:
    rates = [rate(SMALL, step) for step in range(SMALL.steps)]
    assert max(rates) <= SMALL.learning_rate + SMALL.final_rate
    assert rates.index(max(rates)) == SMALL.warmup_steps - 1
    assert rates[-1] < 0.02 * SMALL.learning_rate + SMALL.final_rate


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_committed_weights_name_their_recipe_and_digest(name: str) -> None:
    record = json.loads((WEIGHTS / name / "recipe.json").read_text())
    assert Recipe(**record["recipe"]) == RECIPES[name]
    assert record["digest"] == LabModel(name).digest
    assert min(record["held_out"].values()) >= 0.95


def test_the_committed_vocabulary_is_that_of_the_language() -> None:
    assert tuple(json.loads((WEIGHTS / "vocabulary.json").read_text())) == programs.vocabulary()
