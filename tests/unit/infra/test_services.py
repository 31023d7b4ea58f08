"""What can be said of services without starting one."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra import services, settings
from infra.broker import COORDINATES, LOCK, Jar, read_lock, verify
from infra.children import Process, end, leashed, process
from infra.ports import RANGE, ports
from infra.problems import BadInput, ServiceUnavailable


def chosen(home: Path, **named: str) -> settings.Settings:
    return settings.read({"ICCM_HOME": str(home), **{f"ICCM_{name.upper()}": value for name, value in named.items()}})


def remembers(home: Path, process: Process) -> None:
    """Sets the scene: Kafka was started as this process."""
    kafka = {
        "address": "127.0.0.1:1",
        "version": "4",
        "process": {"pid": process.pid, "started": process.started},
    }
    (home / "services.json").write_text(json.dumps({"kafka": kafka}))


def one_that_ended() -> Process:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = process(child.pid)
    assert found is not None
    return found


def test_a_home_where_nothing_was_started_is_stopped_and_says_what_to_do(tmp_path: Path) -> None:
    assert [each.state for each in services.status(chosen(tmp_path)).services] == ["stopped", "stopped"]
    with pytest.raises(ServiceUnavailable, match="iccm up"):
        services.endpoints(chosen(tmp_path))


def test_addresses_in_the_settings_win_and_start_nothing(tmp_path: Path) -> None:
    outside = chosen(tmp_path, kafka="k:1", postgres="postgresql://u:secret@p/d")
    assert services.up(outside, say=print) == services.Endpoints("k:1", "postgresql://u:secret@p/d")
    assert services.endpoints(outside) == services.Endpoints("k:1", "postgresql://u:secret@p/d")
    assert [each.state for each in services.status(outside).services] == ["external", "external"]
    assert not (tmp_path / "services.json").exists()
    assert "secret" not in json.dumps([services.status(outside).as_plain(), services.status(outside).as_text()])


def test_a_service_that_died_is_seen_as_dead(tmp_path: Path) -> None:
    remembers(tmp_path, one_that_ended())
    assert services.status(chosen(tmp_path)).services[0].state == "died"
    with pytest.raises(ServiceUnavailable, match=r"kafka .* has died"):
        services.endpoints(chosen(tmp_path))


def test_a_pid_used_again_is_not_our_service_and_is_not_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        remembers(tmp_path, Process(stranger.pid, "another/moment"))
        assert services.status(chosen(tmp_path)).services[0].state == "died"
        services.down(chosen(tmp_path))
        assert stranger.poll() is None
    assert not (tmp_path / "services.json").exists()


def test_down_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    services.down(chosen(tmp_path))
    services.down(chosen(tmp_path))


def test_status_loads_nothing_heavy() -> None:
    program = "import infra.services, sys; print(*{'torch', 'jgo', 'faust', 'requests', 'psycopg'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True).stdout == b"\n"


def test_every_jar_is_locked_once_and_the_named_ones_at_their_versions() -> None:
    locked = [jar.coordinate for jar in read_lock(LOCK.read_text())]
    projects = [coordinate.rpartition(":")[0] for coordinate in locked]
    assert len(projects) == len(set(projects))
    assert set(COORDINATES) <= set(locked)


def test_a_jar_that_differs_from_its_lock_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jar").write_bytes(b"other bytes")
    with pytest.raises(BadInput, match=r"a\.jar .* org\.example:a:1") as refused:
        verify(Jar("org.example:a:1", "0" * 64, 11), tmp_path / "a.jar")
    assert "delete the file" in refused.value.remedy


def test_free_ports_are_kept_and_taken_ones_replaced() -> None:
    first = ports(2)
    assert len(set(first)) == 2
    assert set(first) <= set(RANGE)
    assert ports(2, first) == first
    with socket.create_server(("127.0.0.1", first[0])):
        assert first[0] not in ports(2, first)


def test_a_process_that_ignores_sigterm_is_killed_after_the_bound() -> None:
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = process(child.pid)
        assert found is not None
        assert found.alive()
        assert not end(found, signal.SIGTERM, within_seconds=0.1)
        assert not found.alive()
        assert end(found, signal.SIGTERM, within_seconds=0.1)


def test_a_leash_ends_what_it_holds_when_the_holder_is_gone() -> None:
    command = leashed([sys.executable, "-c", "print('alive')"])
    command[command.index(str(os.getpid()))] = "1"  # as if the holder had died before the leash closed
    assert subprocess.run(command, capture_output=True, check=False).stdout == b""
