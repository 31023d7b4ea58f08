"""Paid answers found again: an index from work keys to places on the log, folded from headers alone.

A header is a hint, never the truth: an answer counts only once its value has been read and names the key itself. Of
several answers to one key the one with the smallest event id is given, so every reader that sees them gives the same.
Both logs use this; they differ in how headers come and how values are fetched.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from schemas.avro import Undecodable, decode
from schemas.events import Event
from schemas.topics import ID_HEADER, WORK_HEADER, work_keys

KEY_DIGITS = 64  # a work key is a SHA-256 in hexadecimal; anything else is not indexed
MAX_ID_BYTES = 64
KEPT_ANSWERS = 256
KEPT_BYTES = 64 * 1024  # a larger answer is fetched anew each time

Headers = Iterable[tuple[str, str | bytes | None]]

_PLACE = struct.Struct(">Iq")  # partition, offset; the event id follows


@dataclass(frozen=True, slots=True, order=True)
class Paid:
    """Where an answer should stand, as a header says."""

    event_id: str
    partition: int
    offset: int


# What stands at these places: b"" where nothing does any more; a place that could not be read is left out.
Fetch = Callable[[Collection[Paid]], Mapping[Paid, bytes]]


class Index:
    """A fold over headers: where the answer to each key stands. Two small strings of bytes per entry."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, headers: Headers, partition: int, offset: int) -> None:
        """Take in the headers of one record; of two answers to a key the smaller event id stays."""
        said = {name: value for name, value in headers if name in (ID_HEADER, WORK_HEADER)}
        event_id, work = _text(said.get(ID_HEADER)), _text(said.get(WORK_HEADER))
        if not work or not event_id or len(event_id) > MAX_ID_BYTES:
            return
        entry = _PLACE.pack(partition, offset) + event_id
        for word in work.split(b" "):
            if (key := _key(word)) is not None:
                known = self._entries.get(key)
                if known is None or event_id < known[_PLACE.size :]:
                    self._entries[key] = entry

    def find(self, key: str) -> Paid | None:
        """Where the answer to this key stands."""
        entry = self._entries.get(_key(key.encode()) or b"")
        if entry is None:
            return None
        partition, offset = _PLACE.unpack_from(entry)
        return Paid(entry[_PLACE.size :].decode("utf-8", "replace"), partition, offset)

    def forget(self, key: str, paid: Paid) -> None:
        """What stands there is no answer to this key; another one may take the place."""
        if self.find(key) == paid:
            del self._entries[bytes.fromhex(key)]


class Lookup:
    """Looks keys up in an index, fetches what is found, and keeps the newest answers decoded."""

    def __init__(self, kind: type[Event], index: Index, fetch: Fetch) -> None:
        self._kind, self._index, self._fetch = kind, index, fetch
        self._kept: OrderedDict[Paid, Event] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def __call__(self, keys: Collection[str]) -> dict[str, Event]:
        """The answer to each key that has one. A key that is not in the index costs no reading."""
        found = {key: paid for key in keys if (paid := self._index.find(key)) is not None}
        with self._one_at_a_time:
            known = self._read(set(found.values()))
        answers: dict[str, Event] = {}
        for key, paid in found.items():
            answer = known.get(paid)
            if answer is not None and key in work_keys(answer):
                answers[key] = answer
            elif paid in known:
                self._index.forget(key, paid)
        return answers

    def _read(self, places: Set[Paid]) -> dict[Paid, Event | None]:
        """What stands at each of these places that could be read; None where it is not what its header claims."""
        known: dict[Paid, Event | None] = {paid: self._kept[paid] for paid in places if paid in self._kept}
        missing = places - known.keys()
        if missing:
            known |= {paid: self._believed(paid, content) for paid, content in self._fetch(missing).items()}
        for paid in places & self._kept.keys():
            self._kept.move_to_end(paid)
        while len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)
        return known

    def _believed(self, paid: Paid, content: bytes) -> Event | None:
        try:
            event = decode(content)
        except Undecodable:
            return None
        if not isinstance(event, self._kind) or event.event_id != paid.event_id:
            return None
        if len(content) <= KEPT_BYTES:
            self._kept[paid] = event
        return event


def _text(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _key(word: bytes) -> bytes | None:
    if len(word) != KEY_DIGITS:
        return None
    try:
        return bytes.fromhex(word.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        return None
