"""A base model small enough for a test: the policy's real architecture, never trained."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a Qwen2 of two layers and 40 words."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(7)
    shape = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("small-base")
    Qwen2ForCausalLM(shape).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder
