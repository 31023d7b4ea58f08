"""One run in one file, so that a stranger can verify it at home: no log, no network, nothing believed unchecked.

The file holds every fact of a run as it stands on Kafka, with its place there, and the facts that those refer to. The
same facts give the same file, in whatever order the partitions were read. Numbers are big-endian:

    magic   16 bytes, the version among them; they end as lines do on Windows, which no text tool leaves alone
    header  4 bytes: its length; the ids of the runs, one a line, those descended from first; digest
    block   head; the packed entries; digest                                                           (many)
    end     a head that packs nothing; digest

A digest is the SHA-256 of the digest before it and of all bytes since, so the last one seals the whole file. A head is
a tag, the block's number, the index of its first event, how many events it holds, its length packed and unpacked, and
the first 8 bytes of their SHA-256: a length is not believed before it is known to be whole. Entries are packed with
LZMA2. An entry is a partition (4 bytes), an offset (8), a length (4) and a Confluent frame, whose kind names the topic.

Facts come in the order of their times, each partition's own order kept. What a file says is data from outside: sizes
are bounded before memory is taken, and nothing is yielded before the whole file has been checked.
"""

import hashlib
import lzma
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO

from infra.log import MAX_EVENT_BYTES, Record
from infra.problems import ArchiveDamaged, BadInput
from schemas.avro import Undecodable, decode, encode
from schemas.events import Event, RunStarted
from schemas.topics import topic_of

MAGIC = b"iccm archive 1\r\n"
DIGEST_BYTES = 32
SEAL_BYTES = 8
MAX_HEADER_BYTES = 64 * 1024
BLOCK_BYTES = 4 * 1024 * 1024  # smaller blocks pack worse, and name a place better
MAX_BLOCK_BYTES = BLOCK_BYTES + MAX_EVENT_BYTES + 1024  # what a block may unpack to; packing never doubles it
MAX_UNPACKED_BYTES = 16 * 1024**3  # of a whole file
DICTIONARY_BYTES = 8 * 1024 * 1024
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": DICTIONARY_BYTES}]

LENGTH = struct.Struct(">I")
ENTRY = struct.Struct(">IQI")
HEAD = struct.Struct(">4sIQIII")
BLOCK, END = b"BLCK", b"DONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a whole file holds."""

    runs: tuple[str, ...]  # ids; those the last one descends from come first
    events: int
    blocks: int
    size_bytes: int
    digest: str  # the last of the chain: it names the file's content

    @property
    def run_id(self) -> str:
        """The run that was exported."""
        return self.runs[-1]


def read(file: Path) -> Iterator[Event]:
    """Every fact of a file, in an order that keeps each partition's. All is checked before the first is yielded.

    RunStarted.offsets come empty: they name places on the log that the run was exported from, and on no other."""
    return (placeless(record.event) for block in blocks(file) for record in block if record.event is not None)


def blocks(file: Path) -> Iterator[Sequence[Record]]:
    """The facts of a file with their places on the log they come from, as they are packed; checked as in `read`."""
    check(file)
    return _blocks(file)


def check(file: Path, see: Callable[[Record], None] = lambda _: None) -> Contents:
    """Read a whole file and say what it holds; ArchiveDamaged, naming the place, unless it is as it was written.

    `see` meets every record before what follows it has been checked: it may take notes, nothing more."""
    with _opened(file) as source:
        for record in chain.from_iterable(source.blocks()):
            see(record)
        return source.contents()


def write(file: Path, runs: Sequence[str], facts: Iterable[Record], *, block_bytes: int = BLOCK_BYTES) -> Contents:
    """These runs, the exported one last, and all their facts. Of facts with one id the first stays. The file appears
    under its name when it is whole; a block is closed when its entries are `block_bytes` long."""
    with _spooled(file.parent, facts) as entries, _replacing(file) as stream:
        target = _Target(stream)
        target.header(runs)
        for part in _cut(entries, block_bytes):
            target.block(part)
        return target.end(runs)


def placeless(event: Event) -> Event:
    """The fact without what is true on one log alone."""
    return replace(event, offsets=()) if isinstance(event, RunStarted) else event


def _blocks(file: Path) -> Iterator[Sequence[Record]]:
    with _opened(file) as source:
        yield from source.blocks()


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    tag: bytes
    number: int
    first: int
    events: int
    packed: int
    unpacked: int

    def __bytes__(self) -> bytes:
        told = HEAD.pack(self.tag, self.number, self.first, self.events, self.packed, self.unpacked)
        return told + hashlib.sha256(told).digest()[:SEAL_BYTES]

    @property
    def part(self) -> str:
        """What this is the head of, for a person. Event indices count from 0."""
        return f"block {self.number} (events {self.first} to {self.first + self.events - 1})"


class _Source:
    """A file read from its first byte to its last, and nothing taken for true that its digests do not cover."""

    def __init__(self, file: Path, stream: IO[bytes]) -> None:
        self._file, self._stream = file, stream
        self._position = self._begin = 0  # of what is read next; of the part that is being read
        self._digest = b""
        self._pending = hashlib.sha256()
        self._blocks = self._events = self._unpacked_bytes = 0
        self._runs: tuple[str, ...] = ()

    def blocks(self) -> Iterator[Sequence[Record]]:
        """Block by block, each checked before it comes."""
        self._read_header()
        while (head := self._read_head()).tag == BLOCK:
            yield list(self._entries(head, self._unpacked(head, self._packed(head))))
            self._blocks, self._events = head.number + 1, head.first + head.events
            self._unpacked_bytes += head.unpacked
        self._read_end()

    def contents(self) -> Contents:
        """What the file holds, once all of it was read."""
        return Contents(
            runs=self._runs,
            events=self._events,
            blocks=self._blocks,
            size_bytes=self._position,
            digest=self._digest.hex(),
        )

    def _read_header(self) -> None:
        if self._take(len(MAGIC), "its first line") != MAGIC:
            raise self._damaged("its first line", "it does not begin an archive of this version")
        self._begin = self._position
        (length,) = LENGTH.unpack(self._take(LENGTH.size, "its header"))
        if length > MAX_HEADER_BYTES:
            raise self._damaged("its header", f"it claims {length} bytes")
        text = self._take(length, "its header")
        self._require_digest("its header")
        self._runs = tuple(text.decode(errors="replace").split("\n"))

    def _read_head(self) -> _Head:
        self._begin = self._position
        part = f"the head of block {self._blocks} or of the end (events from {self._events} on)"
        content = self._take(HEAD.size + SEAL_BYTES, part)
        head = _Head(*HEAD.unpack_from(content))
        if bytes(head) != content or head.tag not in (BLOCK, END):
            raise self._damaged(part, "it is not as it was sealed")
        if (head.number, head.first) != (self._blocks, self._events):
            raise self._damaged(part, f"{head.part} stands there" if head.tag == BLOCK else "the end stands there")
        if head.packed > 2 * MAX_BLOCK_BYTES or head.unpacked > MAX_BLOCK_BYTES or head.events > head.unpacked:
            raise self._damaged(part, f"it claims {head.packed} bytes that unpack to {head.unpacked}")
        if self._unpacked_bytes + head.unpacked > MAX_UNPACKED_BYTES:
            raise self._damaged(part, f"with it the file unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        return head

    def _packed(self, head: _Head) -> bytes:
        packed = self._take(head.packed, head.part)
        self._require_digest(head.part)
        return packed

    def _unpacked(self, head: _Head, packed: bytes) -> bytes:
        try:
            unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=FILTERS)
            content = unpacker.decompress(packed, max_length=head.unpacked + 1)
        except lzma.LZMAError as error:
            raise self._damaged(head.part, f"it cannot be unpacked: {error}") from error
        if len(content) != head.unpacked or not unpacker.eof or unpacker.unused_data:
            raise self._damaged(head.part, f"it does not unpack to its {head.unpacked} bytes")
        return content

    def _entries(self, head: _Head, content: bytes) -> Iterator[Record]:
        at = 0
        for index in range(head.first, head.first + head.events):
            if len(content) - at < ENTRY.size:
                raise self._damaged(head.part, f"event {index} is not in it")
            partition, offset, length = ENTRY.unpack_from(content, at)
            at += ENTRY.size + length
            yield self._record(head, index, partition, offset, content[at - length : at])
        if at != len(content):
            raise self._damaged(head.part, "it is not of the length of its events")

    def _record(self, head: _Head, index: int, partition: int, offset: int, frame: bytes) -> Record:
        try:
            event = decode(frame)
        except Undecodable as error:
            raise self._damaged(head.part, f"event {index} cannot be read: {error}") from error
        return Record(topic=topic_of(type(event)), partition=partition, offset=offset, event=event)

    def _read_end(self) -> None:
        self._require_digest("its end")
        self._begin = self._position
        if self._stream.read(1):
            self._position += 1
            raise self._damaged("what follows its end", "nothing may follow")

    def _take(self, count: int, part: str) -> bytes:
        content = self._stream.read(count)
        self._position += len(content)
        if len(content) < count:
            raise self._damaged(part, "the file ends there")
        self._pending.update(content)
        return content

    def _require_digest(self, part: str) -> None:
        expected = self._pending.digest()
        if self._take(DIGEST_BYTES, part) != expected:
            raise self._damaged(part, "its digest is not that of its bytes and all before them")
        self._digest, self._pending = expected, hashlib.sha256(expected)

    def _damaged(self, part: str, what: str) -> ArchiveDamaged:
        last = max(self._begin, self._position - 1)
        return ArchiveDamaged(
            f"{self._file} is damaged in {part}, bytes {self._begin} to {last}: {what}",
            "get the file again; nothing of it was used",
            first_byte=self._begin,
            last_byte=last,
        )


@contextmanager
def _opened(file: Path) -> Iterator[_Source]:
    try:
        with file.open("rb") as stream:
            yield _Source(file, stream)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", "name a file that `iccm export` wrote") from error


# ---- writing -------------------------------------------------------------------------------------------------------


class _Target:
    """A file written from its first byte to its last."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._pending = hashlib.sha256()
        self._digest = b""
        self._size = self._blocks = self._events = 0

    def header(self, runs: Sequence[str]) -> None:
        """What a reader must know first."""
        text = "\n".join(runs).encode()
        self._put(MAGIC, LENGTH.pack(len(text)), text)

    def block(self, entries: Sequence[bytes]) -> None:
        """Some entries, packed."""
        content = b"".join(entries)
        packed = lzma.compress(content, format=lzma.FORMAT_RAW, filters=FILTERS)
        head = _Head(BLOCK, self._blocks, self._events, len(entries), len(packed), len(content))
        self._put(bytes(head), packed)
        self._blocks, self._events = self._blocks + 1, self._events + len(entries)

    def end(self, runs: Sequence[str]) -> Contents:
        """How many there were; nothing comes after."""
        self._put(bytes(_Head(END, self._blocks, self._events, 0, 0, 0)))
        return Contents(
            runs=tuple(runs),
            events=self._events,
            blocks=self._blocks,
            size_bytes=self._size,
            digest=self._digest.hex(),
        )

    def _put(self, *parts: bytes) -> None:
        for part in parts:
            self._pending.update(part)
        self._digest = self._pending.digest()
        for part in (*parts, self._digest):
            self._size += self._stream.write(part)
        self._pending = hashlib.sha256(self._digest)


@dataclass(frozen=True, slots=True, order=True)
class _Spooled:
    """Where an entry lies while the order of all is not known yet; sorting these is that order."""

    time: datetime  # the latest so far in its partition
    topic: str
    partition: int
    offset: int
    begin: int
    length: int


@contextmanager
def _spooled(folder: Path, facts: Iterable[Record]) -> Iterator[Iterator[bytes]]:
    """The entries of these facts in their order, kept in a file of no name meanwhile."""
    try:
        with tempfile.TemporaryFile(dir=folder) as spool:
            places = sorted(_spool(spool, facts))
            yield (_at(spool, place) for place in places)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written to: {error.strerror}", "is there such a folder, and room?"
        ) from error


def _spool(spool: IO[bytes], facts: Iterable[Record]) -> Iterator[_Spooled]:
    latest: dict[tuple[str, int], datetime] = {}
    seen: set[str] = set()
    begin = 0
    for record in facts:
        if record.event is None or record.event.event_id in seen:
            continue
        seen.add(record.event.event_id)
        frame = encode(record.event)
        length = spool.write(ENTRY.pack(record.partition, record.offset, len(frame)) + frame)
        place = record.topic, record.partition
        latest[place] = max(record.event.recorded_at, latest.get(place, record.event.recorded_at))
        yield _Spooled(latest[place], record.topic, record.partition, record.offset, begin, length)
        begin += length


def _at(spool: IO[bytes], place: _Spooled) -> bytes:
    spool.seek(place.begin)
    return spool.read(place.length)


def _cut(entries: Iterable[bytes], enough: int) -> Iterator[list[bytes]]:
    """Parts that are at least so long, but for the last one."""
    part: list[bytes] = []
    size = 0
    for entry in entries:
        part.append(entry)
        size += len(entry)
        if size >= enough:
            yield part
            part, size = [], 0
    if part:
        yield part


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """A new file under another name, which takes its own when it is whole and on the disk."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}", "name a file in a folder with room") from error
    finally:
        partial.unlink(missing_ok=True)
