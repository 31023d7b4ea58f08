"""Laws of the encoding that candidates' values travel in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.sandbox import wire

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers()), inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_the_same_in_every_type(value: object) -> None:
    assert wire.same(wire.decode(wire.encode(value)), value)


@given(VALUES, VALUES)
def test_same_is_equality_of_values_and_types(one: object, other: object) -> None:
    def typed(value: object) -> str:
        if isinstance(value, dict):
            return f"{{{','.join(sorted(f'{typed(k)}:{typed(v)}' for k, v in value.items()))}}}"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}({','.join(map(typed, value))})"
        if isinstance(value, float) and (math.isnan(value) or value == 0):
            return "float nan" if math.isnan(value) else "float zero"
        return f"{type(value).__name__} {value!r}"

    assert wire.same(one, other) == (typed(one) == typed(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [(True, 1), (1.0, 1), (False, 0), ([1], (1,)), ({1: "a"}, {1.0: "a"}), ({True: 0}, {1: 0}), ("a", b"a"), (None, 0)],
)
def test_equal_values_of_other_types_are_not_the_same(one: object, other: object) -> None:
    assert not wire.same(one, other)
    assert not wire.same([one], [other])


def test_dictionaries_have_no_order_when_compared_and_keep_it_when_sent() -> None:
    assert wire.same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    sent = wire.decode(wire.encode({"b": 2, "a": 1}))
    assert isinstance(sent, dict)
    assert list(sent) == ["b", "a"]


class Agreeable:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Whole(int):
    pass


@pytest.mark.parametrize("value", [Agreeable(), Whole(3), {1, 2}, [Agreeable()], {"a": object()}, 1j])
def test_other_types_subclasses_too_are_not_plain(value: object) -> None:
    with pytest.raises(wire.NotPlain):
        wire.encode(value)


def test_a_list_that_holds_itself_is_not_plain() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(wire.NotPlain):
        wire.encode(endless)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    try:
        value = wire.decode(data)
    except wire.Malformed:
        return
    assert wire.same(wire.decode(wire.encode(value)), value)


@given(VALUES, st.data())
def test_a_cut_stream_is_malformed(value: object, data: st.DataObject) -> None:
    stream = wire.frame(value)
    kept = data.draw(st.integers(1, len(stream) - 1))
    with pytest.raises(wire.Malformed):
        wire.unframe(stream[:kept])


@pytest.mark.parametrize(
    "data",
    [wire.encode(1) + b"x", b"l" + b"\xff" * 4, b"m\0\0\0\1l\0\0\0\0N", b"m\0\0\0\2NNNN", b"s\0\0\0\1\xff", b"?"],
)
def test_what_is_no_encoding_is_malformed(data: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(data)


def test_nesting_without_end_is_malformed() -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(b"l\0\0\0\1" * 100_000)
