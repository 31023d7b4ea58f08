"""A worker takes up training before validation, and never turns a partition's order round."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from infra.ledger import training_first
from infra.log import Record
from schemas.events import Purpose
from tests.histories import application, drawn

APP = application()


def record(partition: int, offset: int, purpose: Purpose) -> Record:
    return Record(topic="draws", partition=partition, offset=offset, event=drawn(APP, purpose=purpose))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([Purpose.TRAIN, Purpose.VALIDATE, Purpose.TEST]))))
def test_no_record_is_lost_and_every_partition_keeps_its_order(facts: list[tuple[int, Purpose]]) -> None:
    records = [record(partition, offset, purpose) for offset, (partition, purpose) in enumerate(facts)]
    by_partition: dict[int, list[int]] = defaultdict(list)
    for each in training_first(records):
        by_partition[each.partition].append(each.offset)
    assert sum(map(len, by_partition.values())) == len(records)
    assert all(offsets == sorted(offsets) for offsets in by_partition.values())


def test_training_that_stands_at_the_head_of_any_partition_comes_first() -> None:
    kinds = [(p, n, Purpose.TRAIN if n == 0 else Purpose.VALIDATE) for p in range(3) for n in range(4)]
    purposes = [each.event.purpose for each in training_first([record(*kind) for kind in kinds]) if each.event]
    assert purposes == [Purpose.TRAIN] * 3 + [Purpose.VALIDATE] * 9


def test_a_record_that_cannot_be_read_keeps_its_place() -> None:
    broken = Record(topic="draws", partition=0, offset=0, event=None, error="not Avro")
    assert training_first([broken, record(0, 1, Purpose.TRAIN)])[0] is broken
