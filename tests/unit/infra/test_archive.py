"""A run in one file: what is written is read, and nothing else is."""

import hashlib
import lzma
import random
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import archive
from infra.log import Record
from infra.memory import MemoryLog
from infra.problems import ArchiveDamaged, BadInput
from schemas.avro import encode
from schemas.events import Event, Offset, RunStarted
from schemas.topics import KINDS
from tests.histories import RUN, run_started
from tests.unit.schemas.vocabulary import events
from tests.whole_run import whole_run

BLOCK_BYTES = 4_000  # several blocks of a small run


def records(seed: int, history: Iterable[Event] | None = None) -> list[Record]:
    log = MemoryLog(3, seed)
    log.publish(whole_run() if history is None else history)
    return list(log.replay(KINDS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run in a file of several blocks."""
    file = tmp_path_factory.mktemp("archive") / "run.iccm"
    assert archive.write(file, [RUN], records(1), block_bytes=BLOCK_BYTES).blocks > 4
    return file


def damaged(file: Path, content: bytes) -> ArchiveDamaged:
    """What is said about a file with this content; nothing of it may come out."""
    other = file.with_name("damaged.iccm")
    other.write_bytes(content)
    with pytest.raises(ArchiveDamaged) as caught:
        next(archive.read(other))
    assert str(other) in caught.value.message
    return caught.value


def blocks_of(content: bytes) -> list[tuple[int, int]]:
    """Where each block and the end lie, read as the format is described."""
    at = 16 + 4 + int.from_bytes(content[16:20], "big") + 32
    found = []
    while at < len(content):
        packed = int.from_bytes(content[at + 20 : at + 24], "big")
        found.append((at, at + 36 + packed + 32))
        at = found[-1][1]
    return found


# ---- what is written is read ---------------------------------------------------------------------------------------


def test_every_fact_comes_back_in_the_order_of_its_partition(whole: Path) -> None:
    written, read = defaultdict(list), defaultdict(list)
    for record in records(1):
        written[record.topic, record.partition].append(record)
    for block in archive.blocks(whole):
        for record in block:
            read[record.topic, record.partition].append(record)
    assert {place: list(map(encoded, found)) for place, found in read.items()} == {
        place: list(map(encoded, found)) for place, found in written.items()
    }


def encoded(record: Record) -> tuple[int, bytes]:
    assert record.event is not None
    return record.offset, encode(record.event)


@pytest.mark.parametrize("seed", [2, 3])
def test_however_the_partitions_were_read_the_file_is_the_same(whole: Path, tmp_path: Path, seed: int) -> None:
    arrived = records(seed)
    assert arrived != records(1)
    archive.write(tmp_path / "other.iccm", [RUN], [*arrived, *arrived[:20]], block_bytes=BLOCK_BYTES)
    assert (tmp_path / "other.iccm").read_bytes() == whole.read_bytes()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of([events(kind) for kind in KINDS]), unique_by=lambda event: event.event_id))
def test_any_facts_survive(tmp_path_factory: pytest.TempPathFactory, facts: list[Event]) -> None:
    file = tmp_path_factory.mktemp("any") / "run.iccm"
    given_records = [Record(topic="runs", partition=0, offset=i, event=fact) for i, fact in enumerate(facts)]
    assert archive.write(file, ["a", "b"], given_records, block_bytes=300).events == len(facts)
    assert [encode(fact) for fact in archive.read(file)] == [encode(archive.placeless(fact)) for fact in facts]


def test_a_start_says_nothing_of_offsets_of_another_log(tmp_path: Path) -> None:
    started = replace(run_started(), offsets=(Offset(topic="runs", partition=0, offset=7),))
    archive.write(tmp_path / "run.iccm", [RUN], records(1, [started]))
    (read,) = archive.read(tmp_path / "run.iccm")
    assert isinstance(read, RunStarted)
    assert read.offsets == ()


def test_what_is_said_of_the_contents_is_the_same_to_writer_and_reader(tmp_path: Path) -> None:
    written = archive.write(tmp_path / "run.iccm", ["parent", RUN], records(1))
    assert archive.check(tmp_path / "run.iccm") == written
    assert (written.run_id, written.size_bytes) == (RUN, (tmp_path / "run.iccm").stat().st_size)
    assert written.digest == (tmp_path / "run.iccm").read_bytes()[-32:].hex()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def breaking() -> Iterable[Record]:
        yield from records(1)[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.write(tmp_path / "run.iccm", [RUN], breaking())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        archive.check(tmp_path / "missing.iccm")
    with pytest.raises(BadInput, match="directory"):
        archive.check(tmp_path)
    with pytest.raises(BadInput, match="missing"):
        archive.write(tmp_path / "missing" / "run.iccm", [RUN], [])


# ---- nothing else is -----------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_flipped_anywhere_is_found_and_its_place_named(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    said = damaged(whole, bytes(content))
    assert said.first_byte <= place <= said.last_byte
    for number, (begin, end) in enumerate(blocks_of(whole.read_bytes())):
        if begin <= place < end:
            assert said.first_byte == begin
            assert said.last_byte < end
            assert f"block {number} " in said.message or "its end" in said.message


def test_damage_inside_a_block_names_its_events(whole: Path) -> None:
    content = bytearray(whole.read_bytes())
    begin, end = blocks_of(content)[1]
    first = int.from_bytes(content[begin + 8 : begin + 16], "big")
    count = int.from_bytes(content[begin + 16 : begin + 20], "big")
    content[end - 40] ^= 1
    said = damaged(whole, bytes(content)).message
    assert f"block 1 (events {first} to {first + count - 1}), bytes {begin} to {end - 1}" in said


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_ends_too_early_or_too_late_is_found(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    said = damaged(whole, content[:cut])
    assert "the file ends there" in said.message
    assert said.last_byte == max(cut - 1, said.first_byte)
    said = damaged(whole, content + data.draw(st.binary(min_size=1, max_size=40)))
    assert "what follows its end" in said.message
    assert said.first_byte == len(content)


def test_blocks_swapped_left_out_repeated_or_of_another_file_are_found(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    blocks = blocks_of(content)
    parts = [content[: blocks[0][0]], *(content[begin:end] for begin, end in blocks)]
    archive.write(tmp_path / "other.iccm", [RUN], records(1, list(whole_run(rounds=1))), block_bytes=BLOCK_BYTES)
    other = (tmp_path / "other.iccm").read_bytes()
    begin, end = blocks_of(other)[0]
    for order in (
        [0, 2, 1, *range(3, len(parts))],
        [0, 1, *range(3, len(parts))],
        [*range(len(parts) - 2), len(parts) - 1],
        [0, 1, 1, *range(2, len(parts))],
    ):
        assert "block" in damaged(whole, b"".join(parts[each] for each in order)).message
    assert "block" in damaged(whole, parts[0] + other[begin:end] + b"".join(parts[2:])).message


def test_a_file_of_something_else_is_refused(whole: Path) -> None:
    assert "its first line" in damaged(whole, b"PK\x03\x04" + bytes(100)).message
    assert "its first line" in damaged(whole, b"").message
    assert "its first line" in damaged(whole, whole.read_bytes().replace(b"\r\n", b"\n", 1)).message


# ---- files from outside, written by hand and rightly sealed --------------------------------------------------------


def by_hand(header: bytes, blocks: Sequence[tuple[bytes, int, int]], events: int) -> bytes:
    """A file as the format is described; each block is its packed content, and how much of what it claims to hold."""
    chain, content = b"", b""

    def sealed(*parts: bytes) -> None:
        nonlocal chain, content
        chain = hashlib.sha256(chain + b"".join(parts)).digest()
        content += b"".join(parts) + chain

    def head(tag: bytes, number: int, first: int, count: int, packed: int, unpacked: int) -> bytes:
        told = tag + struct.pack(">IQIII", number, first, count, packed, unpacked)
        return told + hashlib.sha256(told).digest()[:8]

    sealed(b"iccm archive 1\r\n", len(header).to_bytes(4, "big"), header)
    first = 0
    for number, (packed, count, unpacked) in enumerate(blocks):
        sealed(head(b"BLCK", number, first, count, len(packed), unpacked), packed)
        first += count
    sealed(head(b"DONE", len(blocks), events, 0, 0, 0))
    return content


def packed(content: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 8 * 1024 * 1024}]
    return lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters)


def entry(frame: bytes) -> bytes:
    return struct.pack(">IQI", 2, 5, len(frame)) + frame


def test_a_file_written_as_the_format_is_described_is_read(tmp_path: Path) -> None:
    content = entry(encode(run_started()))
    (tmp_path / "run.iccm").write_bytes(by_hand(RUN.encode(), [(packed(content), 1, len(content))], 1))
    ((record,),) = archive.blocks(tmp_path / "run.iccm")
    assert record == Record(topic="runs", partition=2, offset=5, event=run_started())


@pytest.mark.parametrize(
    ("content", "count", "claimed", "said"),
    [
        (bytes(20_000_000), 1, 20_000_000, "unpack to 20000000"),
        (bytes(20_000_000), 1, 1_000, "does not unpack to its 1000 bytes"),
        (entry(b"no event"), 1, None, "event 0 cannot be read"),
        (entry(encode(run_started())), 2, None, "event 1 is not in it"),
        (entry(encode(run_started())) + b"more", 1, None, "not of the length of its events"),
        (struct.pack(">IQI", 0, 0, 2**32 - 1), 1, None, "event 0 cannot be read"),
    ],
)
def test_what_a_hostile_file_claims_is_not_believed(
    tmp_path: Path, content: bytes, count: int, claimed: int | None, said: str
) -> None:
    size = len(content) if claimed is None else claimed
    file = tmp_path / "hostile.iccm"
    file.write_bytes(by_hand(b"a", [(packed(content), count, size)], count))
    with pytest.raises(ArchiveDamaged, match=said):
        next(archive.read(file))


def test_bytes_that_cannot_be_unpacked_are_no_bug(tmp_path: Path) -> None:
    for seed in range(50):
        noise = random.Random(seed).randbytes(200)
        (tmp_path / "hostile.iccm").write_bytes(by_hand(b"a", [(noise, 1, 300)], 1))
        with pytest.raises(ArchiveDamaged, match="block 0"):
            next(archive.read(tmp_path / "hostile.iccm"))


def test_a_header_too_long_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "hostile.iccm").write_bytes(b"iccm archive 1\r\n" + b"\xff" * 4 + bytes(100))
    with pytest.raises(ArchiveDamaged, match="claims 4294967295 bytes"):
        archive.check(tmp_path / "hostile.iccm")
