"""What every engine answers to: a prompt goes in, a text with its tokens comes out.

The lab's small in-process models and any served engine speak this protocol; it knows nothing of applications.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.events import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question. The answer is a function of these fields alone, never of what else shares its batch."""

    text: str
    sampling: Sampling
    seed: int
    adapter: str | None = None  # digest of the LoRA adapter to answer with; None is the bare model


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said, with what a trainer needs to learn from it."""

    text: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # ends with the end-of-sequence token when finish_reason is "stop"
    log_probs: tuple[float, ...]  # one per token id, of the distribution that was sampled from
    finish_reason: str  # "stop" or "length"


class EngineUnavailable(Exception):
    """The machine's fault: the engine could not answer. Never a bad grade for the model."""


class PromptRefused(Exception):
    """The prompt cannot be answered by this model (unknown words, too long): the asker's fault, named."""


class Model(Protocol):
    """A named, frozen model."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """SHA-256 over the weights (or the served identity): two models with one digest answer alike."""

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer | PromptRefused]:
        """One answer per prompt, in order. Raises EngineUnavailable when the engine cannot be used at all."""
