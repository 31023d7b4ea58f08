"""Every worker of a role has a number of its own, and a dead one's is free again."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from infra.problems import Busy
from infra.slots import held_slot


def test_the_first_free_slot_is_taken(tmp_path: Path) -> None:
    with held_slot(tmp_path, "n", "role") as first, held_slot(tmp_path, "n", "role") as second:
        assert (first, second) == (0, 1)
    with held_slot(tmp_path, "n", "role") as again:
        assert again == 0


def test_roles_and_namespaces_do_not_share_slots(tmp_path: Path) -> None:
    with (
        held_slot(tmp_path, "n", "role"),
        held_slot(tmp_path, "n", "other") as one,
        held_slot(tmp_path, "m", "role") as two,
    ):
        assert (one, two) == (0, 0)


def test_a_wanted_slot_that_is_taken_is_refused_by_name(tmp_path: Path) -> None:
    with (
        held_slot(tmp_path, "n", "role", 3),
        pytest.raises(Busy, match=r"slot 3 of n\.role"),
        held_slot(tmp_path, "n", "role", 3),
    ):
        pass


def hold(home: Path, told: Connection) -> None:
    with held_slot(home, "n", "role") as number:
        told.send(number)
        signal.pause()


def test_the_slot_of_a_killed_worker_is_free_at_once(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path, theirs))
    worker.start()
    assert ours.recv() == 0
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    with held_slot(tmp_path, "n", "role") as number:
        assert number == 0
