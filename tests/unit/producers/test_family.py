"""Laws of the generated applications."""

import json
from datetime import UTC, datetime
from hashlib import sha256

from producers.family import lab_family
from schemas.events import ApplicationRegistered, Split

THEN = datetime(2026, 1, 1, tzinfo=UTC)


def _validate(count: int = 24) -> list[ApplicationRegistered]:
    return lab_family(THEN, sizes={Split.VALIDATE: count})


def test_every_application_passes_its_own_table() -> None:
    for app in _validate():
        namespace: dict[str, object] = {}
        exec(app.source[0].content.decode(), namespace)
        table = json.loads(app.tests[0].content)
        function = namespace[table["function"]]
        assert callable(function)
        assert [function(*case["args"]) for case in table["cases"]] == [case["expected"] for case in table["cases"]]
        assert tuple(case["id"] for case in table["cases"]) == app.expected_test_ids


def test_identities_derive_from_content_alone() -> None:
    later = lab_family(datetime(2027, 1, 1, tzinfo=UTC), sizes={Split.VALIDATE: 24})
    assert [(app.application_id, app.event_id, app.name) for app in later] == [
        (app.application_id, app.event_id, app.name) for app in _validate()
    ]


def test_a_larger_family_begins_with_the_smaller_one() -> None:
    assert _validate(24)[:9] == _validate(9)


def test_no_two_applications_are_the_same() -> None:
    assert len({app.application_id for app in _validate(60)}) == 60


def test_the_family_is_the_same_on_every_machine() -> None:
    ids = "".join(app.application_id for app in _validate())
    assert sha256(ids.encode()).hexdigest() == "126502d596fce2d5337254c0a4c69d613fa6577b50de064195f40cece05797aa"
