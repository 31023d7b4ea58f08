"""The index of paid answers: a fold over headers that believes none of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.answers import KEPT_ANSWERS, KEPT_BYTES, Index, Lookup, Paid
from schemas.avro import encode
from schemas.events import ImplementationWritten, SuiteRan
from schemas.topics import ID_HEADER, MAX_WORK_KEYS, WORK_HEADER, record_headers
from tests.histories import application, drafted, drawn, suite_ran
from tests.laws.test_log_laws import rebuilt, work_key

Said = tuple[str, tuple[int, ...], int, int]  # id, keys by number, partition, offset


@dataclass
class Shelf:
    """A log reduced to what a lookup needs of it, and how often it was read."""

    values: dict[int, bytes] = field(default_factory=dict)
    index: Index = field(default_factory=Index)
    read: list[int] = field(default_factory=list)
    silent: bool = False

    def put(self, fact: ImplementationWritten | SuiteRan) -> None:
        offset = len(self.values)
        self.values[offset] = encode(fact)
        self.index.learn(record_headers(fact, "shelf"), 0, offset)

    def fetch(self, places: Collection[Paid]) -> dict[Paid, bytes]:
        self.read += [paid.offset for paid in places]
        return {} if self.silent else {paid: self.values[paid.offset] for paid in places}

    def lookup(self) -> Lookup:
        return Lookup(ImplementationWritten, self.index, self.fetch)


def headers(said: Said) -> list[tuple[str, str | bytes | None]]:
    return [(ID_HEADER, said[0]), (WORK_HEADER, " ".join(work_key(str(number)) for number in said[1]))]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=3), st.tuples(st.integers(0, 4)), st.integers(0, 9), st.integers(0, 2**40)
        ),
        max_size=12,
        unique_by=lambda said: said[0],
    ),
    st.data(),
)
def test_any_order_and_any_repetition_of_records_give_one_index(records: list[Said], data: st.DataObject) -> None:
    again = data.draw(st.permutations([*records, *records[: len(records) // 2]]))
    indexes = Index(), Index()
    for index, line in zip(indexes, (records, again), strict=True):
        for said in line:
            index.learn(headers(said), said[2], said[3])
    for number in range(5):
        key = work_key(str(number))
        assert indexes[0].find(key) == indexes[1].find(key) == smallest(records, number)
    assert len(indexes[0]) == len({number for said in records for number in said[1]})


def smallest(records: Sequence[Said], number: int) -> Paid | None:
    return min((Paid(i, p, o) for i, numbers, p, o in records if number in numbers), default=None)


def test_a_key_that_is_not_in_the_index_costs_no_reading() -> None:
    shelf = Shelf()
    shelf.put(rebuilt(work_key("known")))
    assert shelf.lookup()([work_key("unknown"), "no key"]) == {}
    assert shelf.read == []


def test_an_answer_is_read_once_while_it_is_among_the_newest() -> None:
    shelf = Shelf()
    facts = [rebuilt(work_key(f"{number}"), number=number) for number in range(KEPT_ANSWERS + 1)]
    for fact in facts:
        shelf.put(fact)
    lookup = shelf.lookup()
    assert lookup([fact.work_key for fact in facts]) == {fact.work_key: fact for fact in facts}
    shelf.read.clear()
    assert lookup([fact.work_key for fact in facts]) == {fact.work_key: fact for fact in facts}
    assert len(shelf.read) == 1


def test_a_large_answer_is_not_kept() -> None:
    shelf, fact = Shelf(), rebuilt(work_key("large"), answer="x" * KEPT_BYTES)
    shelf.put(fact)
    lookup = shelf.lookup()
    assert [lookup([fact.work_key])[fact.work_key] for _ in range(2)] == [fact, fact]
    assert shelf.read == [0, 0]


def test_what_cannot_be_read_now_is_unknown_and_found_later() -> None:
    shelf, fact = Shelf(silent=True), rebuilt(work_key("known"))
    shelf.put(fact)
    lookup = shelf.lookup()
    assert lookup([fact.work_key]) == {}
    shelf.silent = False
    assert lookup([fact.work_key]) == {fact.work_key: fact}


def test_what_is_no_answer_is_read_once_and_makes_room_for_one_that_is() -> None:
    shelf, fact = Shelf(), rebuilt(work_key("known"), "z")
    shelf.values[0] = b"spoilt"
    shelf.index.learn(record_headers(replace(fact, event_id="a"), "shelf"), 0, 0)
    lookup = shelf.lookup()
    assert [lookup([fact.work_key]) for _ in range(2)] == [{}, {}]
    assert shelf.read == [0]
    shelf.put(fact)
    assert lookup([fact.work_key]) == {fact.work_key: fact}


def test_a_kind_is_not_answered_by_another_kind() -> None:
    shelf, key = Shelf(), work_key("known")
    ran = suite_ran(drafted(drawn(application())))
    shelf.values[0] = encode(ran)
    shelf.index.learn([(ID_HEADER, ran.event_id), (WORK_HEADER, key)], 0, 0)
    assert shelf.lookup()([key]) == {}


def test_a_header_has_room_for_so_many_keys_and_an_original_alone_has_one() -> None:
    fact = rebuilt(work_key("known"))
    assert dict(record_headers(fact, "here"))[WORK_HEADER] == fact.work_key
    assert WORK_HEADER not in dict(record_headers(replace(fact, answered_from="another"), "here"))
    assert MAX_WORK_KEYS * 65 < 64 * 1024
