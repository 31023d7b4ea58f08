"""One command for everything: each is listed, and each explains itself without starting anything."""

import pytest

from infra.__main__ import COMMANDS, main


def test_help_names_every_command_in_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("    iccm ")]
    assert [name for name in COMMANDS if not any(name in words for words in lines)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ")
    assert "--help" in said


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reply"]) == 2
    assert "'reply'" in capsys.readouterr().err
