"""Laws of the loss: the gradient exists, points the right way, and does not see how drafts were batched."""

import torch
from torch import Tensor

from trainer.losses import Terms, token_terms

WORDS = 11


def some_tokens(count: int, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(count, WORDS, generator=chance),
        "base_logits": torch.randn(count, WORDS, generator=chance),
        "token_ids": torch.randint(0, WORDS, (count,), generator=chance),
        "advantages": torch.randn(count, generator=chance),
        "sampler_log_probs": -torch.rand(count, generator=chance),
    }


def terms_of(tokens: dict[str, Tensor], kl_weight: float = 0.1, part: slice = slice(None)) -> Terms:
    return token_terms(**{name: value[part] for name, value in tokens.items()}, kl_weight=kl_weight)


def test_the_loss_is_the_definition_written_out() -> None:
    tokens = some_tokens(7)
    expected = 0.0
    for place in range(7):
        pi = torch.softmax(tokens["logits"][place].double(), -1)
        base = torch.softmax(tokens["base_logits"][place].double(), -1)
        chosen = tokens["token_ids"][place]
        expected += float(-tokens["advantages"][place] * pi[chosen].log() + 0.1 * (pi * (pi / base).log()).sum())
    assert abs(terms_of(tokens).loss.item() - expected) < 1e-4


def test_the_log_probability_carries_the_gradient_and_the_advantage_none() -> None:
    tokens = some_tokens(7)
    for name in ("logits", "base_logits", "advantages"):
        tokens[name].requires_grad_()
    terms_of(tokens, kl_weight=0.0).loss.backward()  # type: ignore[no-untyped-call]
    gradient = tokens["logits"].grad
    assert gradient is not None
    assert gradient.norm() > 0.1
    assert tokens["advantages"].grad is None
    assert tokens["base_logits"].grad is None


def test_a_step_raises_what_was_better_and_lowers_what_was_worse() -> None:
    tokens = some_tokens(2)
    tokens["advantages"] = torch.tensor([0.5, -0.5])
    logits = tokens["logits"].requires_grad_()
    terms_of(tokens, kl_weight=0.0).loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    chosen = tokens["token_ids"].unsqueeze(-1)
    before, after = (
        torch.log_softmax(each, -1).gather(-1, chosen).squeeze(-1) for each in (logits, logits - 0.1 * logits.grad)
    )
    better, worse = (after - before).tolist()
    assert better > 0 > worse


def test_without_advantage_the_loss_only_pulls_towards_the_base_model() -> None:
    tokens = some_tokens(5)
    tokens["advantages"] = torch.zeros(5)
    terms = terms_of(tokens, kl_weight=0.3)
    assert abs(terms.loss.item() - 0.3 * terms.kl) < 1e-6
    assert terms.kl > 0
    tokens["base_logits"] = tokens["logits"]
    assert abs(terms_of(tokens).loss.item()) < 1e-6


def test_batches_add_up_to_the_round() -> None:
    tokens = some_tokens(40)
    whole = terms_of(tokens)
    parts = [terms_of(tokens, part=slice(start, start + 9)) for start in range(0, 40, 9)]
    for name in ("loss", "kl", "entropy", "sampler_gap"):
        total = sum(float(getattr(part, name)) for part in parts)
        assert abs(total - float(getattr(whole, name))) < 1e-4


def test_the_sampler_gap_is_zero_when_both_speak_alike() -> None:
    tokens = some_tokens(9)
    exact = torch.log_softmax(tokens["logits"], -1).gather(-1, tokens["token_ids"].unsqueeze(-1)).squeeze(-1)
    assert terms_of(tokens | {"sampler_log_probs": exact}).sampler_gap == 0.0
    assert abs(terms_of(tokens | {"sampler_log_probs": exact + 0.5}).sampler_gap - 4.5) < 1e-5
