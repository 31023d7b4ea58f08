"""The checker is silent about good histories, and names every fault that is sown into one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crash.history import Entry, Read, Standing, Wrote, check, entries

OWED = {f"in-{i}": (f"out-{i}",) for i in range(6)}


@dataclass
class Past:
    """Two workers that share two partitions, and the log they leave."""

    histories: dict[str, list[Entry]] = field(default_factory=dict)
    log: list[Standing] = field(default_factory=list)

    def faults(self, repeatable: tuple[str, ...] = ()) -> list[str]:
        return [fault.law for fault in check(self.histories, self.log, OWED, repeatable)]


def taken(*numbers: int) -> tuple[Read, ...]:
    """Inputs stand in turn on partition 0 and partition 1."""
    return tuple(Read("inputs", number % 2, number // 2, f"in-{number}") for number in numbers)


def wrote(*numbers: int) -> tuple[Wrote, ...]:
    return tuple(Wrote(f"out-{number}", "said") for number in numbers)


def committed(*numbers: int) -> list[Entry]:
    return [
        Entry(place="transaction_begun", facts=wrote(*numbers)),
        Entry(place="produced", facts=wrote(*numbers)),
        Entry(place="offsets_sent"),
        Entry(place="committed", facts=wrote(*numbers)),
    ]


def refused(*numbers: int) -> list[Entry]:
    return committed(*numbers)[:-1]


def inputs() -> list[Standing]:
    reads = taken(*range(6))
    return [Standing(topic=r.topic, partition=r.partition, offset=r.offset, id=r.id, kind="Input") for r in reads]


def outputs() -> list[Standing]:
    return [
        Standing(
            topic="outputs", partition=0, offset=i, id=f"out-{i}", digest="said", kind="Output", slot=f"answer to {i}"
        )
        for i in range(6)
    ]


def good() -> Past:
    """One worker dies in its transaction; another takes all over and is refused once."""
    first = [Entry(place="joined"), Entry(place="polled", reads=taken(0, 1, 2, 3)), *committed(0, 1), *refused(2, 3)]
    second = [
        Entry(place="joined"),
        Entry(place="polled", reads=taken(2, 3, 4)),
        *refused(2, 3),
        Entry(place="polled", reads=taken(2, 3, 4, 5)),
        *committed(2, 3),
        *committed(4, 5),
    ]
    return Past({"first": first, "second": second}, [*inputs(), *outputs()])


def test_a_good_history_has_no_fault() -> None:
    assert good().faults() == []


def lose_an_answer(past: Past) -> None:
    past.log.remove(outputs()[3])
    past.histories["second"] = []


def lose_what_was_acknowledged(past: Past) -> None:
    past.histories["third"] = committed(7)


def lose_a_record_the_broker_confirmed(past: Past) -> None:
    past.histories["third"] = [Entry(place="acknowledged", offsets=(("outputs", 0, 99),))]


def answer_twice_under_two_ids(past: Past) -> None:
    past.log.append(replace(outputs()[2], offset=6, id="out-2-again"))


def answer_twice_otherwise(past: Past) -> None:
    past.log.append(replace(outputs()[2], offset=6, digest="said otherwise"))


def answer_twice_alike(past: Past) -> None:
    past.log.append(replace(outputs()[2], offset=6))


def read_what_was_aborted(past: Past) -> None:
    past.histories["third"] = [Entry(place="polled", reads=(Read("inputs", 0, 7, "in-9"),))]


def read_another_fact_than_stands_there(past: Past) -> None:
    past.histories["third"] = [Entry(place="taken", reads=(Read("inputs", 0, 0, "in-2"),))]


def read_backwards_in_one_batch(past: Past) -> None:
    past.histories["third"] = [Entry(place="polled", reads=taken(2, 0))]


def read_backwards_after_a_commit(past: Past) -> None:
    past.histories["third"] = [
        Entry(place="polled", reads=taken(0, 2)),
        *committed(0, 2),
        Entry(place="polled", reads=taken(2)),
    ]


def read_backwards_without_a_transaction(past: Past) -> None:
    past.histories["third"] = [Entry(place="taken", reads=taken(2)), Entry(place="taken", reads=taken(0))]


@pytest.mark.parametrize(
    ("sow", "law"),
    [
        (lose_an_answer, "lost"),
        (lose_what_was_acknowledged, "lost"),
        (lose_a_record_the_broker_confirmed, "lost"),
        (answer_twice_under_two_ids, "duplicated"),
        (answer_twice_otherwise, "duplicated"),
        (answer_twice_alike, "duplicated"),
        (read_what_was_aborted, "aborted but read"),
        (read_another_fact_than_stands_there, "aborted but read"),
        (read_backwards_in_one_batch, "reordered"),
        (read_backwards_after_a_commit, "reordered"),
        (read_backwards_without_a_transaction, "reordered"),
    ],
)
def test_a_fault_is_named_by_its_law(sow: Callable[[Past], None], law: str) -> None:
    past = good()
    sow(past)
    assert set(past.faults()) == {law}


def test_a_fact_that_may_stand_twice_may_do_so_only_if_both_say_the_same() -> None:
    alike, otherwise = good(), good()
    answer_twice_alike(alike)
    answer_twice_otherwise(otherwise)
    assert alike.faults(repeatable=("Output",)) == []
    assert otherwise.faults(repeatable=("Output",)) == ["duplicated"]


def test_a_new_assignment_reads_again_from_where_it_was_committed() -> None:
    again = [Entry(place="joined"), Entry(place="polled", reads=taken(2, 4))]
    past = Past({"worker": again + again}, [*inputs(), *outputs()])
    assert past.faults() == []


def test_assignments_that_a_process_counts_itself_are_told_apart() -> None:
    lived = [Entry(place="taken", reads=taken(4), assignment=1), Entry(place="taken", reads=taken(0), assignment=2)]
    assert Past({"worker": lived}, [*inputs(), *outputs()]).faults() == []
    late = Entry(place="taken", reads=taken(2), assignment=1)
    assert Past({"worker": [*lived, late]}, [*inputs(), *outputs()]).faults() == ["reordered"]


@given(st.lists(st.sampled_from(range(6)), max_size=8), st.booleans())
def test_without_a_refusal_a_partition_is_read_upwards_or_the_checker_says_so(order: list[int], settle: bool) -> None:
    lived = [Entry(place="joined")]
    for number in order:
        lived += [Entry(place="polled", reads=taken(number)), *(committed() if settle else [])]
    lines = {place: [each // 2 for each in order if each % 2 == place] for place in (0, 1)}
    upwards = all(line == sorted(set(line)) for line in lines.values())
    assert (Past({"worker": lived}, [*inputs(), *outputs()]).faults() == []) is upwards


def test_entries_are_read_from_what_a_process_noted() -> None:
    lines = [
        {"role": "r", "place": "polled", "reads": [["inputs", 0, 3, "in-6"]]},
        {"role": "r", "place": "committed", "facts": [["out-6", "said"]], "offsets": [["inputs", 0, 4]]},
        {"role": "r", "place": "joined"},
    ]
    assert entries(lines) == [
        Entry(place="polled", reads=(Read("inputs", 0, 3, "in-6"),)),
        Entry(place="committed", facts=(Wrote("out-6", "said"),), offsets=(("inputs", 0, 4),)),
        Entry(place="joined"),
    ]
