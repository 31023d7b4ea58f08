"""Every kind of fact has one place on the log."""

from dataclasses import fields, replace
from inspect import getmembers, isclass

import pytest

from schemas import events
from schemas.events import ApplicationRejected, DeadLettered, DraftEvent, Event, RunEnded, SuiteRan
from schemas.topics import CONFIG, KINDS, MAX_MESSAGE_BYTES, TOPICS, broker_name, key_of, topic_of
from tests.histories import RUN, application, drafted, drawn, run_ended, suite_ran


def test_every_event_class_is_in_the_vocabulary_and_on_exactly_one_topic() -> None:
    declared = {kind for _, kind in getmembers(events, isclass) if issubclass(kind, Event)} - {Event, DraftEvent}
    assert set(KINDS) == declared
    assert sorted(kind.__name__ for topic in TOPICS for kind in topic.kinds) == sorted(k.__name__ for k in KINDS)


def test_every_event_has_the_key_of_its_topic() -> None:
    assert [(t.entity, kind) for t in TOPICS for kind in t.kinds if t.key not in {f.name for f in fields(kind)}] == []


def test_a_key_is_the_value_of_the_topics_key_field() -> None:
    app = application()
    assert key_of(suite_ran(drafted(drawn(app)))) == app.application_id
    assert key_of(run_ended()) == RUN
    assert (topic_of(SuiteRan), topic_of(RunEnded)) == ("tests", "runs")
    assert (topic_of(ApplicationRejected), topic_of(DeadLettered)) == ("applications", "deadletters")
    assert broker_name("iccm", "tests") == "iccm.tests.v1"


def test_a_fact_without_its_key_or_without_a_topic_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"RunEnded .* has no run_id, which is its key"):
        key_of(replace(run_ended(), run_id=None))
    with pytest.raises(ValueError, match="DraftEvent has no topic"):
        topic_of(DraftEvent)


def test_nothing_expires_and_the_largest_event_fits() -> None:
    assert (CONFIG["retention.ms"], CONFIG["retention.bytes"], CONFIG["cleanup.policy"]) == ("-1", "-1", "delete")
    assert int(CONFIG["max.message.bytes"]) == MAX_MESSAGE_BYTES > 8 * 1024 * 1024
