"""What a log promises holds on a broker that is not ours: Kafka's own defaults, in a container."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.kafka import KafkaLog

# The same tests and fixtures as for the other two logs, collected here once more.
from tests.laws.test_log_laws import (  # noqa: F401
    World,
    kafka_world,
    log,
    test_a_record_that_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on,
    test_a_replay_of_empty_topics_ends,
    test_a_replay_stops_at_the_cut_and_another_goes_on_from_it,
    test_a_transaction_is_read_whole,
    test_a_worker_that_dies_with_its_answers_unwritten_leaves_nothing_and_the_next_answers_all,
    test_a_writer_is_fenced_by_the_next_of_its_name_and_leaves_nothing,
    test_an_event_of_almost_eight_mib_is_carried,
    test_every_input_is_answered_exactly_once,
    test_two_workers_of_one_role_share_the_work_and_nothing_is_answered_twice,
    test_what_was_published_is_read_once_and_each_keys_facts_in_their_order,
)

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]


@pytest.fixture
def world(kafka: str, tmp_path: Path) -> Iterator[World]:
    """The broker in its container, in place of the embedded one and of the log in lists."""
    opened: list[KafkaLog] = []
    yield kafka_world(kafka, tmp_path, opened)
    for each in opened:
        each.close()
