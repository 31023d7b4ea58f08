"""What the client and its fork servers say to each other: one Opening, then a Request and a Report per run."""

from typing import NamedTuple


class Opening(NamedTuple):
    """What a fork server is to be, said once."""

    isolation: str  # "namespaces" or "seccomp"
    runner: str  # "table" or "pytest"
    readable: tuple[str, ...]  # all of the host's files that candidates may read
    packages: tuple[str, ...]  # folders put on sys.path after the standard library
    folder: str  # where runs write when there is no private tmpfs
    uid: int | None  # candidates become this user; None: they stay the caller


class Request(NamedTuple):
    """One run."""

    files: tuple[tuple[str, bytes], ...]
    tests: tuple[tuple[str, bytes], ...]  # written last, read-only
    task: tuple[object, ...]  # what the runner does with them
    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    processes: int
    file_bytes: int
    disk_bytes: int
    output_bytes: int


class Report(NamedTuple):
    """What was seen of one run. `stream` is what the candidate's process wrote: nothing in it is believed unread."""

    fault: str  # the host's, "" if none
    out_of_wall: bool
    out_of_memory: bool  # all processes together were over the limit and were ended for it
    host_out_of_memory: bool  # the kernel ended a process somewhere on this host meanwhile
    exit_code: int | None
    signal: int | None
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    stream: bytes
    stream_cut: bool
    output: bytes
