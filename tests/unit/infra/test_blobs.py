"""What a store of blobs promises, in a folder and in memory."""

import hashlib
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.blobs import BlobCorrupt, BlobMissing, Blobs
from infra.problems import ServiceUnavailable


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "blobs") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def place(folder: Path, digest: str) -> Path:
    [found] = folder.rglob(digest)
    return found


@given(content=st.binary(max_size=2_000))
def test_what_was_put_is_got_under_its_sha256(content: bytes) -> None:
    blobs = Blobs(f"memory://{uuid.uuid4().hex}")
    digest = blobs.put(content)
    assert digest == hashlib.sha256(content).hexdigest()
    assert blobs.get(digest) == content


def test_a_store_lists_what_it_holds(blobs: Blobs) -> None:
    assert blobs.digests() == []
    digests = [blobs.put(content) for content in (b"one", b"two", b"")]
    assert blobs.digests() == sorted(digests)
    assert all(blobs.has(digest) for digest in digests)
    assert not blobs.has("0" * 64)


@pytest.mark.parametrize("digest", ["0" * 64, "not a digest", "../../etc/passwd"])
def test_a_digest_that_is_not_there_is_named(blobs: Blobs, digest: str) -> None:
    with pytest.raises(BlobMissing, match=digest):
        blobs.get(digest)


def test_putting_again_writes_nothing(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    before = place(tmp_path, blobs.put(b"content")).stat()
    after = place(tmp_path, blobs.put(b"content")).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_damaged_bytes_are_never_returned_and_putting_them_again_mends_them(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    digest = blobs.put(b"content")
    place(tmp_path, digest).write_bytes(b"cintent")
    with pytest.raises(BlobCorrupt, match=digest):
        blobs.get(digest)
    blobs.put(b"content")
    assert blobs.get(digest) == b"content"


def test_an_interrupted_write_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    dies_before_the_disk_is_asked = (
        "import os, sys; from infra.blobs import Blobs; os.fsync = lambda _: os._exit(9); "
        "Blobs(sys.argv[1]).put(b'content')"
    )
    command = [sys.executable, "-c", dies_before_the_disk_is_asked, str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == 9
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    blobs = Blobs(str(tmp_path))
    assert blobs.digests() == []
    assert blobs.get(blobs.put(b"content")) == b"content"


def test_a_store_can_be_opened_before_its_folder_exists(tmp_path: Path) -> None:
    assert Blobs(str(tmp_path / "not" / "yet")).digests() == []
    assert not (tmp_path / "not").exists()


def test_a_folder_that_takes_nothing_is_named_with_its_reason(tmp_path: Path) -> None:
    """As a full disk would: the process may come again when there is room."""
    (tmp_path / "blobs").write_text("a file stands where the folder should be")
    with pytest.raises(ServiceUnavailable, match=rf"3 bytes could not be stored in {tmp_path}/blobs: .*\n  remedy"):
        Blobs(str(tmp_path / "blobs")).put(b"one")
