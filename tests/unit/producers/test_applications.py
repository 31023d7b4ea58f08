"""A directory becomes an application, or is refused with the reason; nothing of it runs out here."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.problems import ApplicationRefused
from producers.applications import MAX_BYTES, from_directory, is_test, read_directory
from schemas.events import File, Split
from tests.histories import DAWN


def listed(_: Sequence[File], tests: Sequence[File]) -> list[str]:
    return [f"{file.path}::test_one" for file in tests if file.path.endswith(".py")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "adder.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "tests" / "test_adder.py").write_text(
        "from adder import add\ndef test_one():\n    assert add(1, 1) == 2\n"
    )
    return tmp_path


def test_source_and_tests_are_told_apart(folder: Path) -> None:
    source, tests = read_directory(folder)
    assert [file.path for file in source] == ["adder.py"]
    assert [file.path for file in tests] == ["tests/test_adder.py"]


def test_an_application_is_named_by_its_content_alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    twin = tmp_path_factory.mktemp("elsewhere")
    for path in folder.rglob("*.py"):
        (twin / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        (twin / path.relative_to(folder)).write_bytes(path.read_bytes())
    first = from_directory(folder, split=Split.TRAIN, collect=listed, now=DAWN)
    second = from_directory(twin, split=Split.TRAIN, collect=listed, now=DAWN)
    assert (first.application_id, first.event_id) == (second.application_id, second.event_id)
    assert first.expected_test_ids == ("tests/test_adder.py::test_one",)


def test_caches_and_hidden_files_are_left_out(folder: Path) -> None:
    for name in (".git/config", "__pycache__/adder.pyc", ".env"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    source, _ = read_directory(folder)
    assert [file.path for file in source] == ["adder.py"]


def test_a_directory_without_tests_is_refused(folder: Path) -> None:
    (folder / "tests" / "test_adder.py").unlink()
    with pytest.raises(ApplicationRefused, match=r"has no tests\n.*tests/test_\*\.py"):
        read_directory(folder)


def test_a_directory_without_source_is_refused(folder: Path) -> None:
    (folder / "adder.py").unlink()
    with pytest.raises(ApplicationRefused, match="no Python source"):
        read_directory(folder)


def test_a_suite_of_no_test_is_refused(folder: Path) -> None:
    with pytest.raises(ApplicationRefused, match="collects no test"):
        from_directory(folder, split=Split.TRAIN, collect=lambda *_: [], now=DAWN)


def test_a_link_is_refused_by_name(folder: Path) -> None:
    (folder / "secrets.py").symlink_to("/etc/passwd")
    with pytest.raises(ApplicationRefused, match=r"secrets\.py is a link"):
        read_directory(folder)


def test_an_application_over_the_size_limit_is_refused(folder: Path) -> None:
    with (folder / "data.bin").open("wb") as data:
        data.truncate(MAX_BYTES + 1)
    with pytest.raises(ApplicationRefused, match=r"data\.bin is larger than"):
        read_directory(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApplicationRefused, match="is not a directory"):
        read_directory(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("tests/data.json", True),
        ("test_a.py", True),
        ("pkg/tests/x.py", True),
        ("conftest.py", True),
        ("contest.py", False),
        ("testing.py", False),
    ],
)
def test_what_belongs_to_the_suite(path: str, test: bool) -> None:
    assert is_test(path) is test
