"""The log in lists: seeded, honest about partitions, and unkind to transactions when asked to be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.log import OutcomeUnknown
from infra.memory import MemoryLog
from schemas.events import ApplicationDrawn, DeadLettered
from tests.histories import run_started
from tests.laws.drafting import WRITES, drafting_job, draws, ids_on_the_log, on_the_log, owed


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), partitions=st.integers(1, 5), count=st.integers(0, 30))
def test_settling_answers_every_input_exactly_once_whatever_goes_wrong(seed: int, partitions: int, count: int) -> None:
    log = MemoryLog(partitions, seed, mishaps=0.4)
    log.publish([run_started(), *draws(count)])
    log.publish_bytes("draws", "poison", b"no event")
    log.settle([drafting_job()])
    assert ids_on_the_log(log, *WRITES) == owed(draws(count))
    assert len(on_the_log(log, DeadLettered)) == 1


def test_an_aborted_transaction_leaves_only_a_gap_in_the_offsets() -> None:
    ends = set()
    for seed in range(10):
        log = MemoryLog(1, seed, mishaps=0.5)
        log.publish([run_started(), *draws(12)])
        log.settle([drafting_job()])
        assert ids_on_the_log(log, *WRITES) == owed(draws(12))
        ends |= {each.offset for each in log.end_offsets() if each.topic == "requirements"}
    assert min(ends) == 24 + 3, "three transactions have three markers"
    assert max(ends) > 24 + 3, "what was aborted has taken offsets"


def test_one_seed_gives_one_history() -> None:
    def history(seed: int) -> list[str]:
        log = MemoryLog(4, seed, mishaps=0.3)
        log.publish([run_started(), *draws(20)])
        log.settle([drafting_job()])
        return [record.event.event_id for record in log.replay(WRITES) if record.event]

    assert history(7) == history(7)
    assert history(7) != history(8)


def test_readers_meet_partitions_interleaved_by_seed() -> None:
    orders = set()
    for seed in range(5):
        log = MemoryLog(4, seed)
        log.publish(draws(12))
        orders.add(tuple(record.event.event_id for record in log.replay((ApplicationDrawn,)) if record.event))
    assert len(orders) == 5


def test_after_an_unknown_outcome_a_writer_is_of_no_more_use() -> None:
    log = MemoryLog(mishaps=1.0)
    with log.writer("writer") as writer:
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                writer.publish(draws(1))


def test_an_unknown_outcome_is_all_or_nothing() -> None:
    counts = set()
    for seed in range(20):
        log = MemoryLog(seed=seed, mishaps=1.0)
        with log.writer("writer") as writer, pytest.raises(OutcomeUnknown):
            writer.publish(draws(5))
        counts.add(len(ids_on_the_log(log, ApplicationDrawn)))
    assert counts == {0, 5}
