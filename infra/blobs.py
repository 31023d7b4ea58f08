"""Bytes named by their SHA-256, in a local folder or any other place fsspec knows (`s3://...`, `memory://...`).

A digest that `put` returned can be read back whole, or reading it says what is wrong: never other bytes.
"""

import hashlib
import os
import re
import uuid

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.problems import Problem, ServiceUnavailable

DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobMissing(Problem):
    """No bytes stand under this digest."""

    def __init__(self, digest: str, place: str) -> None:
        super().__init__(
            f"blob {digest} is not in {place}", "replay the run that made it, or set ICCM_BLOBS to where it lies"
        )


class BlobCorrupt(Problem):
    """The bytes under this digest are not the ones that were put."""

    def __init__(self, digest: str, found: str, place: str) -> None:
        super().__init__(
            f"blob {digest} in {place} has been damaged: its bytes have SHA-256 {found}",
            "replay the run that made it; the damaged copy is then replaced",
        )


class Blobs:
    """A store of immutable bytes under their own digests."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._root = self._root.rstrip("/")

    def put(self, content: bytes) -> str:
        """The digest of the content, which is then stored durably: whole under its name, or not at all.

        What stands there already is left alone if it is equal, so putting twice is putting once. Raises
        ServiceUnavailable when a local folder does not take it.
        """
        digest = hashlib.sha256(content).hexdigest()
        if not self._holds(digest, content):
            self._write(self._place(digest), content)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes with this digest. Raises BlobMissing, or BlobCorrupt when they are no longer those."""
        try:
            content: bytes = self._files.cat_file(self._place(digest))
        except FileNotFoundError:
            raise BlobMissing(digest, self._root) from None
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BlobCorrupt(digest, found, self._root)
        return content

    def has(self, digest: str) -> bool:
        """Whether something stands under this digest; only `get` says that it is intact."""
        return bool(self._files.exists(self._place(digest)))

    def digests(self) -> list[str]:
        """Every digest that is here, sorted. Leftovers of interrupted writes are none."""
        if not self._files.exists(self._root):
            return []
        names = (str(path).rsplit("/", 1)[1] for path in self._files.find(self._root))
        return sorted(name for name in names if DIGEST.fullmatch(name))

    def _place(self, digest: str) -> str:
        if not DIGEST.fullmatch(digest):
            raise BlobMissing(digest, self._root)
        return f"{self._root}/{digest[:2]}/{digest}"

    def _holds(self, digest: str, content: bytes) -> bool:
        place = self._place(digest)
        return bool(self._files.exists(place)) and self._files.cat_file(place) == content

    def _write(self, place: str, content: bytes) -> None:
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(place, content)  # object stores show an object only when it is complete
            return
        try:
            _write_durably(place, content)
        except OSError as failure:
            raise ServiceUnavailable(
                f"{len(content)} bytes could not be stored in {self._root}: {failure.strerror}",
                "make room there, or set ICCM_BLOBS to another place; nothing is lost, the same work is done again",
            ) from failure


def _write_durably(place: str, content: bytes) -> None:
    folder = os.path.dirname(place)
    os.makedirs(folder, exist_ok=True)
    arriving = f"{folder}/.{uuid.uuid4().hex}"
    try:
        with open(arriving, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(arriving, place)
    except BaseException:
        if os.path.exists(arriving):
            os.unlink(arriving)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
