"""Where pytest is installed does not matter: a checkout beneath /tmp judges as any other."""

import shutil
from pathlib import Path

import pytest

from infra.sandbox import open as opening
from infra.sandbox.suite import Suite
from schemas.events import File, SuiteKind, Verdict

TEST = File(path="tests/test_app.py", content=b"from app import x\n\n\ndef test_x():\n    assert x == 1\n")


@pytest.mark.parametrize("kind", ["namespaces", "seccomp"])
def test_packages_beneath_tmp_are_in_reach(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in map(Path, opening._package_paths()):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / source.name)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == Path.home().stat().st_uid and folder != Path("/tmp") and "pytest" in str(folder):
            folder.chmod(0o755)
    copies = tuple(sorted(str(path) for path in tmp_path.iterdir()))
    monkeypatch.setattr(opening, "_package_paths", lambda: copies)
    sandbox = opening.open_sandbox(kind, servers=1)
    try:
        suite = Suite(
            files=(File(path="app.py", content=b"x = 1\n"),),
            tests=(TEST,),
            kind=SuiteKind.PYTEST,
            expected_test_ids=("tests/test_app.py::test_x",),
        )
        assert [each.verdict for each in sandbox.run([suite, suite])] == [Verdict.PASSED] * 2
    finally:
        sandbox.close()
