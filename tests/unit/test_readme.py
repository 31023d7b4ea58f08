"""The README says what the product does: its commands exist, and what it shows is what they print."""

import re
from pathlib import Path

import pytest

from infra.__main__ import COMMANDS, main
from infra.problems import BadInput
from infra.settings import Settings, read
from infra.specification import as_text
from schemas.events import Specification, Verdict
from streams.rescore.functions import load
from tests.histories import ORCHESTRA, application, drafted, drawn, suite_ran

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_first_commands_are_the_two_that_matter() -> None:
    commands = re.findall(r"^\$ (.+?)(?: +#.*)?$", README, re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.split()[1] for command in commands if command.startswith("make")} <= set(targets)


def test_every_command_of_the_table_exists() -> None:
    named = {text.split()[1] for text in re.findall(r"^\| .*?`(iccm [a-z]+)", README, re.MULTILINE)}
    assert named <= set(COMMANDS)
    assert all(f"`iccm {command}" in README for command in COMMANDS)


def test_the_specification_it_prints_is_the_default_one() -> None:
    assert f"```yaml\n{as_text(Specification())}```" in README


def test_the_reward_function_it_shows_scores_a_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text(shown)
    monkeypatch.chdir(tmp_path)
    draft = drafted(drawn(application(), implementers=ORCHESTRA[:2]))
    scored = load("mine:reward")([suite_ran(draft, 0), suite_ran(draft, 1, Verdict.FAILED, passed=1)])
    assert [(term.name, term.value) for term in scored.terms] == [("worst", 0.25), ("length", -0.04)]
    assert scored.value == pytest.approx(0.21)


def test_every_setting_is_in_its_table() -> None:
    table = set(re.findall(r"^\| `(ICCM_[A-Z]+)`", README, re.MULTILINE))
    assert table == {f"ICCM_{name.upper()}" for name in Settings.__dataclass_fields__}


def test_no_placeholder_is_left_in_it() -> None:
    assert "@@" not in README


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"iccm {command}" in said or f"| {command}" in said for command in COMMANDS)


def test_an_unknown_command_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == BadInput.exit_code
    assert "iccm has no command 'fly'" in capsys.readouterr().err


def test_unknown_settings_are_refused_before_anything_starts() -> None:
    with pytest.raises(BadInput, match="ICCM_HOMES"):
        read({"ICCM_HOMES": "x"})
