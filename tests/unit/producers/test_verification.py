"""An application is verified as its rebuilds will be judged: by its own suite, unit by unit, in the sandbox."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.sandbox.forked import ForkedSandbox
from infra.sandbox.open import open_sandbox
from producers.verification import verify
from schemas.events import ApplicationRegistered, ApplicationRejected, ApplicationVerified, File, SuiteKind
from tests.histories import DAWN, application

TEST = "from app import f\n\n\ndef test():\n    assert f([1]) == [1]\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ForkedSandbox]:
    box = open_sandbox()
    yield box
    box.close()


def app(tests: dict[str, str], *ids: str) -> ApplicationRegistered:
    files = tuple(File(path=path, content=text.encode()) for path, text in tests.items())
    return replace(application(), tests=files, suite=SuiteKind.PYTEST, expected_test_ids=ids)


def test_each_application_gets_its_answer_and_a_bad_one_spoils_no_other(sandbox: ForkedSandbox) -> None:
    ids = ("tests/test_a.py::test", "tests/test_b.py::test")
    hidden = "import importlib\n\nbase = importlib.import_module('test_' + 'a')\n\n\ndef test():\n    base.test()\n"
    fit = app({"tests/test_a.py": TEST, "tests/test_b.py": TEST}, *ids)
    wrong = app({"tests/test_a.py": TEST, "tests/test_b.py": TEST.replace("== [1]", "== []")}, *ids)
    hiding = app({"tests/test_a.py": TEST, "tests/test_b.py": hidden}, *ids)
    strange = app({"tests/test_a.py": TEST}, *ids)
    verified, *rejected = verify(
        [fit, wrong, hiding, strange, application()], sandbox=sandbox, runs=2, clock=lambda: DAWN
    )
    assert isinstance(verified, ApplicationVerified)
    assert isinstance(rejected.pop(), ApplicationVerified)
    assert all(isinstance(each, ApplicationRejected) for each in rejected)
    reasons = [each.reason for each in rejected if isinstance(each, ApplicationRejected)]
    assert reasons[0].endswith("in 2 of 2 runs: failed: tests/test_b.py::test")
    assert "No module named 'test_a'" in reasons[1]
    assert "its suite cannot be used: it expects tests of tests/test_b.py" in reasons[2]
