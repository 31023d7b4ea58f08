"""What is wrong is said in one clear error with a remedy and a stable exit code, before anything is started or lost."""

from pathlib import Path

import pytest

from tests.commands import Iccm, survivors


@pytest.fixture
def iccm(tmp_path: Path) -> Iccm:
    return Iccm(tmp_path / "home")


def said(iccm: Iccm, *arguments: str, code: int) -> str:
    """The one complaint of a command that started nothing."""
    done = iccm.run(*arguments, code=code)
    assert survivors(iccm.home) == []
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_directory_without_tests_is_refused(iccm: Iccm, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("x = 1\n")
    assert "has no tests" in said(iccm, "apps", "add", str(tmp_path), code=6)


def test_a_directory_of_ones_own_is_not_for_the_labs_models(iccm: Iccm, tmp_path: Path) -> None:
    text = said(iccm, "run", "start", "--apps", str(tmp_path), code=2)
    assert "--control positive" in text


def test_a_broken_specification_is_named(iccm: Iccm, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rounds: [1\n")
    assert "is not YAML" in said(iccm, "run", "start", "--specification", str(file), code=2)
    assert "did you mean rounds?" in said(iccm, "run", "start", "--set", "round=3", code=2)


def test_an_unknown_setting_is_named(iccm: Iccm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICCM_COLOUR", "red")
    assert "unknown setting ICCM_COLOUR" in said(iccm, "status", code=2)


def test_a_broker_that_is_away_is_named(iccm: Iccm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICCM_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("ICCM_POSTGRES", "postgresql://nobody@127.0.0.1:1/none")
    assert "127.0.0.1:1" in said(iccm, "run", "list", code=3)


def test_a_worker_without_services_says_how_to_start_them(iccm: Iccm) -> None:
    assert "iccm up" in said(iccm, "work", "run_tests", code=3)


@pytest.mark.parametrize("name", ["work", "run", "apps"])
def test_a_command_left_unfinished_shows_its_usage(iccm: Iccm, name: str) -> None:
    assert "usage:" in said(iccm, name, code=2)
