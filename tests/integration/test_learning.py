"""The loop learns: real models, real sandbox, the production update; the log in memory so that it stays short."""

import json
from pathlib import Path

import pytest

from tests.commands import Iccm

ROUNDS = 30


@pytest.mark.timeout(900)
def test_thirty_rounds_teach_words_that_builders_understand(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    changes = ["--set", f"rounds={ROUNDS}", "--set", f"validate_every={ROUNDS}"]
    Iccm(tmp_path / "home").run("run", "start", "--in-memory", *changes, "--json", str(out))
    story = json.loads(out.read_text())
    (before, after), (test_before, test_after) = story["curve"], story["test"]
    assert before["held_out_pass_rate"] < 0.35
    assert after["held_out_pass_rate"] > before["held_out_pass_rate"] + 0.2
    assert test_after["held_out_pass_rate"] > test_before["held_out_pass_rate"] + 0.2
    assert before["policy_digest"] != after["policy_digest"]
