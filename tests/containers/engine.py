"""The container engine: the one that answers here, or a private one that lives as long as a block.

A private engine keeps all it has in a folder that goes with it, and ends with the process that started it.
"""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

from infra import daemons
from infra.daemons import Daemon, fresh_log
from infra.problems import ServiceUnavailable

READY = "API listen on"


def answers() -> bool:
    """Whether an engine answers where DOCKER_HOST says, else in its usual place."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if address.startswith("unix://") and not _listens(address.removeprefix("unix://")):
        return False
    try:
        docker.from_env().close()
    except DockerException:
        return False
    return True


def _listens(path: str) -> bool:
    """Asked before the library is, which leaves a socket open where nobody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


@contextmanager
def private() -> Iterator[str]:
    """The address of an engine of our own, fit for DOCKER_HOST. Needs root and dockerd."""
    program = shutil.which("dockerd")
    if program is None or os.geteuid() != 0:
        raise ServiceUnavailable("no container engine can be started", "as root: apt-get install docker.io")
    folder = Path(tempfile.mkdtemp(prefix="iccm-engine-"))
    try:
        with daemons.running(_daemon(program, folder)) as address:
            yield address
    finally:
        shutil.rmtree(folder)


def _daemon(program: str, folder: Path) -> Daemon:
    address = f"unix://{folder}/engine.sock"
    places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "engine.pid"}
    options = [word for option, name in places.items() for word in (option, str(folder / name))]
    return Daemon(
        name="the container engine",
        command=(program, "--host", address, *options),
        folder=folder,
        log=fresh_log(folder, "engine"),
        ready=READY,
        address=address,
        stopped_by=signal.SIGTERM,
    )
