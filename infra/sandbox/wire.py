"""Plain values as bytes, exact in their types: True is not 1, 1.0 is not 1, a tuple is no list. Nothing here runs code.

Both ends of every pipe of the sandbox speak this. What a candidate wrote is decoded outside by rules that cannot be
talked out of: unknown tags, wrong lengths, deep nesting, repeated keys and trailing bytes are Malformed.
"""

import struct
from collections.abc import Callable
from typing import TypeAlias

Plain: TypeAlias = "bool | int | float | str | bytes | list[Plain] | tuple[Plain, ...] | dict[Plain, Plain] | None"

MAX_DEPTH = 64
_SIZE = struct.Struct(">I")
_FLOAT = struct.Struct(">d")


class NotPlain(ValueError):
    """A value that has no plain encoding: another type, or nested too deep."""


class Malformed(ValueError):
    """Bytes that are no encoding of anything."""


def encode(value: object) -> bytes:
    """The value's bytes. Dictionaries keep their order. Raises NotPlain."""
    parts: list[bytes] = []
    _put(value, parts, 0, canonical=False)
    return b"".join(parts)


def decode(data: bytes) -> Plain:
    """The value these bytes encode, built afresh at every call. Raises Malformed."""
    value, end = _take(data, 0, 0)
    if end != len(data):
        raise Malformed(f"{len(data) - end} bytes after the value")
    return value


def same(one: object, other: object) -> bool:
    """Equal in value and in every type within. Dictionaries have no order, zero has no sign, nan equals nan."""
    return _canonical(one) == _canonical(other)


def frame(value: object) -> bytes:
    """One length-prefixed value, as it stands on a pipe."""
    data = encode(value)
    return _SIZE.pack(len(data)) + data


def unframe(stream: bytes) -> list[Plain]:
    """All the values of a stream that ends after a whole frame. Raises Malformed."""
    values, at = [], 0
    while at < len(stream):
        size, at = _number(stream, at)
        if at + size > len(stream):
            raise Malformed("the stream ends inside a frame")
        values.append(decode(stream[at : at + size]))
        at += size
    return values


def receive(read: Callable[[int], bytes]) -> Plain:
    """The next framed value. EOFError where the stream ends."""
    (size,) = _SIZE.unpack(_exactly(read, _SIZE.size))
    return decode(_exactly(read, size))


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = read(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _canonical(value: object) -> bytes:
    parts: list[bytes] = []
    _put(value, parts, 0, canonical=True)
    return b"".join(parts)


def _put(value: object, parts: list[bytes], depth: int, *, canonical: bool) -> None:
    if depth > MAX_DEPTH:
        raise NotPlain(f"nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if value is None or kind is bool:
        parts.append(b"N" if value is None else b"T" if value else b"F")
    elif kind is list or kind is tuple:
        assert isinstance(value, list | tuple)
        parts.append((b"l" if kind is list else b"t") + _SIZE.pack(len(value)))
        for each in value:
            _put(each, parts, depth + 1, canonical=canonical)
    elif kind is dict:
        assert isinstance(value, dict)
        parts.append(b"m" + _SIZE.pack(len(value)))
        parts.extend(_entries(value, depth + 1, canonical=canonical))
    else:
        parts.append(_scalar(value, canonical=canonical))


def _entries(value: dict[object, object], depth: int, *, canonical: bool) -> list[bytes]:
    entries = []
    for key, each in value.items():
        parts: list[bytes] = []
        _put(key, parts, depth, canonical=canonical)
        _put(each, parts, depth, canonical=canonical)
        entries.append(b"".join(parts))
    return sorted(entries) if canonical else entries


def _scalar(value: object, *, canonical: bool) -> bytes:
    if type(value) is int:
        digits = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
        return b"i" + _SIZE.pack(len(digits)) + digits
    if type(value) is float:
        return b"d" + _FLOAT.pack(_ordinary(value) if canonical else value)
    if type(value) is str:
        text = value.encode("utf-8", "surrogatepass")
        return b"s" + _SIZE.pack(len(text)) + text
    if type(value) is bytes:
        return b"b" + _SIZE.pack(len(value)) + value
    raise NotPlain(f"{type(value).__name__} is no plain value")


def _ordinary(value: float) -> float:
    if value != value:
        return float("nan")
    return value or 0.0


def _take(data: bytes, at: int, depth: int) -> tuple[Plain, int]:
    if depth > MAX_DEPTH:
        raise Malformed(f"nested deeper than {MAX_DEPTH}")
    tag, at = data[at : at + 1], at + 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"d":
        return _FLOAT.unpack(_slice(data, at, 8))[0], at + 8
    size, at = _number(data, at)
    if tag in _SIZED:
        return _SIZED[tag](_slice(data, at, size)), at + size
    if tag == b"m":
        return _mapping(data, at, size, depth)
    if tag not in (b"l", b"t"):
        raise Malformed(f"unknown tag {tag!r}")
    items, at = _items(data, at, size, depth)
    return items if tag == b"l" else tuple(items), at


def _items(data: bytes, at: int, count: int, depth: int) -> tuple[list[Plain], int]:
    items: list[Plain] = []
    for _ in range(count):
        item, at = _take(data, at, depth + 1)
        items.append(item)
    return items, at


def _mapping(data: bytes, at: int, count: int, depth: int) -> tuple[dict[Plain, Plain], int]:
    items, at = _items(data, at, 2 * count, depth)
    try:
        mapping = dict(zip(items[::2], items[1::2], strict=True))
    except TypeError as problem:
        raise Malformed("a key that cannot be one") from problem
    if len(mapping) != count:
        raise Malformed("a key stands twice")
    return mapping, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    return _SIZE.unpack(_slice(data, at, _SIZE.size))[0], at + _SIZE.size


def _slice(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise Malformed("the data ends inside a value")
    return data[at : at + size]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as problem:
        raise Malformed("text that is not UTF-8") from problem


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


_CONSTANTS: dict[bytes, Plain] = {b"N": None, b"T": True, b"F": False}
_SIZED: dict[bytes, Callable[[bytes], Plain]] = {b"i": _integer, b"s": _text, b"b": bytes}
