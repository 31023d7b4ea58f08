"""The sandbox of this host: the strongest isolation it allows, or the one asked for."""

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from infra.problems import ApplicationRefused, BadInput, ServiceUnavailable
from infra.sandbox import kernel, seccomp
from infra.sandbox.forked import ForkedSandbox
from infra.sandbox.judge import Unusable
from infra.sandbox.layout import BadFile
from infra.sandbox.messages import Opening
from infra.sandbox.suite import Limits, Suite
from schemas.events import File, SuiteKind, Verdict

KINDS = ("auto", "namespaces", "seccomp")
NOBODY = 65534  # what candidates become where the caller is root
_PACKAGES = ("iniconfig", "packaging", "pluggy", "pygments", "pytest")
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache")
_REMEDY = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns), or use a kernel with Landlock (5.13 or newer)"
)


def open_sandbox(kind: str = "auto", servers: int | None = None) -> ForkedSandbox:
    """A sandbox proven by one run. "auto" falls back from namespaces to seccomp; ServiceUnavailable if neither works.

    `servers` runs go on side by side; by default one per usable core.
    """
    if kind not in KINDS:
        raise BadInput(f"sandbox {kind!r} is not known", f"one of {', '.join(KINDS)}")
    if sys.platform != "linux" or platform.machine() not in seccomp.ARCHITECTURES:
        raise ServiceUnavailable("no sandbox for this machine", "run on Linux, x86_64 or aarch64")
    wanted = ("namespaces", "seccomp") if kind == "auto" else (kind,)
    causes = []
    for name in wanted:
        try:
            return _proven(name, servers or len(os.sched_getaffinity(0)))
        except ServiceUnavailable as problem:
            causes.append(f"{name}: {problem.message}")
    raise ServiceUnavailable(f"this host can hold no sandbox ({'; '.join(causes)})", _REMEDY)


def collect(box: ForkedSandbox, files: Sequence[File], tests: Sequence[File]) -> list[str]:
    """The ids of an application's tests, found by pytest inside the sandbox, or ApplicationRefused with the reason."""
    try:
        return box.collect(files, tests, Limits())
    except (BadFile, Unusable) as problem:
        raise ApplicationRefused(str(problem), "its tests must run offline with pytest alone") from problem


def environment() -> str:
    """Digest of what a verdict may depend on besides the files: Python, the packages in reach, this code."""
    here = Path(__file__).parent
    parts = [sys.version, platform.machine(), *(f"{name} {metadata.version(name)}" for name in _PACKAGES)]
    parts += [path.read_text() for path in sorted(here.glob("*.py"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _proven(name: str, servers: int) -> ForkedSandbox:
    if name == "seccomp" and os.geteuid() != 0 and not kernel.landlock_version():
        raise ServiceUnavailable("without Landlock, a candidate could change every file of this user")
    folder = _folder() if name == "seccomp" else ""
    box = ForkedSandbox(name, partial(_opening, name, folder), servers, environment(), folder)
    proof = box.run([_proof()])[0]
    if proof.verdict is not Verdict.PASSED:
        box.close()
        raise ServiceUnavailable(f"a first run ended as {proof.verdict}: {proof.cause}")
    return box


def _folder() -> str:
    """In memory if possible. Candidates pass through it to their own, and list nothing."""
    memory = "/dev/shm"
    folder = tempfile.mkdtemp(prefix="iccm-sandbox-", dir=memory if os.access(memory, os.W_OK) else None)
    os.chmod(folder, 0o711)
    return folder


def _proof() -> Suite:
    cases = b'{"module": "app", "function": "f", "cases": [{"id": "one", "args": [1], "expected": 2}]}'
    return Suite(
        files=(File(path="app.py", content=b"def f(x):\n    return x + 1\n"),),
        tests=(File(path="tests/cases.json", content=cases),),
        kind=SuiteKind.TABLE,
        expected_test_ids=("one",),
    )


def _opening(name: str, folder: str, kind: SuiteKind) -> Opening:
    packages = _package_paths() if kind is SuiteKind.PYTEST else ()
    return Opening(
        isolation=name,
        runner=str(kind),
        readable=(*_SYSTEM, *_python_paths(), *packages),
        packages=tuple(sorted({os.path.dirname(path) for path in packages})),
        folder=folder,
        uid=NOBODY if os.geteuid() == 0 else None,
    )


def _python_paths() -> tuple[str, ...]:
    """This interpreter and its standard library."""
    root = os.path.realpath(sys.base_prefix)
    return (os.path.realpath(sys.executable), f"{root}/lib", f"{root}/lib64")


def _package_paths() -> tuple[str, ...]:
    """Pytest and what it needs, folder by folder, so that no other package comes into reach."""
    found = set()
    for name in _PACKAGES:
        for file in metadata.files(name) or ():
            top = file.parts[0]
            if top != ".." and not top.endswith((".dist-info", ".pth")) and top != "__pycache__":
                found.add(str(Path(str(metadata.distribution(name).locate_file(top))).resolve()))
    return tuple(sorted(found))
