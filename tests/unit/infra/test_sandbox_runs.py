"""Laws of the box, held by every kind of isolation this host has: real processes, real limits, real attacks."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infra.problems import ApplicationRefused, BadInput, ServiceUnavailable
from infra.sandbox.forked import ForkedSandbox
from infra.sandbox.open import collect, open_sandbox
from infra.sandbox.suite import Judgement, Limits, Suite
from schemas.events import File, Outcome, SuiteKind, Verdict

ROOT = Path(__file__).parents[3]
SECOND = Limits(cpu_seconds=1)  # of CPU time, ten of the clock
QUICK = Limits(cpu_seconds=0.1)  # one second of CPU time, one of the clock


@pytest.fixture(scope="module", params=["namespaces", "seccomp"])
def box(request: pytest.FixtureRequest) -> Iterator[ForkedSandbox]:
    try:
        opened = open_sandbox(request.param, servers=1)
    except ServiceUnavailable as problem:
        pytest.skip(problem.message)
    with closing(opened):
        yield opened


def table(source: str, *cases: tuple[list[object], object], limits: Limits | None = None) -> Suite:
    rows = [{"id": f"call-{i}", "args": args, "expected": expected} for i, (args, expected) in enumerate(cases)]
    content = json.dumps({"module": "app", "function": "f", "cases": rows}).encode()
    return Suite(
        files=(File(path="app.py", content=source.encode()),),
        tests=(File(path="tests/cases.json", content=content),),
        kind=SuiteKind.TABLE,
        expected_test_ids=tuple(str(row["id"]) for row in rows),
        limits=limits or Limits(),
    )


def ask(box: ForkedSandbox, source: str, *args: object, limits: Limits | None = None) -> Judgement:
    """Passed when the source's f answers True to these arguments."""
    return box.run([table(source, (list(args), True), limits=limits)])[0]


def passes(box: ForkedSandbox, source: str, *args: object, limits: Limits | None = None) -> None:
    judgement = ask(box, source, *args, limits=limits)
    assert judgement.verdict is Verdict.PASSED, judgement


def family(client: int | None = None) -> set[int]:
    """Every process of this client's sandboxes that is alive, orphans of them too."""
    label = f"client={client or os.getpid()}\0".encode()
    return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if label in command(pid)}


def guards() -> set[int]:
    """The outermost process of each fork server of this client."""
    return {pid for pid in family() if parent(pid) == os.getpid()}


def command(pid: int) -> bytes:
    """Empty for a process that is over, zombies too."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def until(truth: Callable[[], bool], what: str) -> None:
    waited = threading.Event()
    for _ in range(2000):
        if truth():
            return
        waited.wait(0.01)
    pytest.fail(f"never happened: {what}")


# ---- Verdicts


def test_a_right_function_passes_every_call(box: ForkedSandbox) -> None:
    suite = table("def f(x):\n    return [x, x + 1]\n", ([1], [1, 2]), ([5], [5, 6]))
    (judgement,) = box.run([suite])
    assert judgement.verdict is Verdict.PASSED
    assert [each.outcome for each in judgement.results] == [Outcome.PASSED] * 2
    assert judgement.evidence.exit_code == 0
    assert judgement.evidence.peak_memory_bytes > 1_000_000


def test_a_wrong_answer_and_a_raised_one_fail_their_tests_alone(box: ForkedSandbox) -> None:
    source = "def f(x):\n    if x == 2:\n        raise KeyError('lost')\n    return x\n"
    (judgement,) = box.run([table(source, ([1], 1), ([2], 2), ([3], 4))])
    assert judgement.verdict is Verdict.FAILED
    assert [each.outcome for each in judgement.results] == [Outcome.PASSED, Outcome.ERROR, Outcome.FAILED]
    assert "KeyError: 'lost'" in judgement.results[1].message


def test_answers_of_many_suites_come_in_their_order(box: ForkedSandbox) -> None:
    suites = [table("def f(x):\n    return x\n", ([i], i if i % 2 else "no")) for i in range(20)]
    expected = [Verdict.PASSED if i % 2 else Verdict.FAILED for i in range(20)]
    assert [each.verdict for each in box.run(suites)] == expected


def test_each_call_gets_its_own_copy_of_its_arguments(box: ForkedSandbox) -> None:
    passes(box, "def f(xs):\n    xs.append(1)\n    return len(xs) == 1\n", [])


@pytest.mark.parametrize("source", ["def f(:", "import nothing_of_the_kind", "g = 1", "raise SystemExit(0)", "1 / 0"])
def test_what_cannot_be_imported_is_an_error_without_results(box: ForkedSandbox, source: str) -> None:
    judgement = ask(box, source)
    assert (judgement.verdict, judgement.results) == (Verdict.ERROR, ())
    assert judgement.cause


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("def f():\n    while True:\n        pass\n", Verdict.TIMEOUT),
        (
            "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\ndef f():\n    while 1: pass\n",
            Verdict.TIMEOUT,
        ),
        ("import time\ndef f():\n    time.sleep(1000)\n", Verdict.INVALID_INFRA),
        ("def f():\n    return 'x' * 10**10\n", Verdict.OOM),
        ("x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n", Verdict.OOM),
        ("import ctypes\ndef f():\n    ctypes.string_at(0)\n", Verdict.KILLED),
        ("import ctypes\ndef f():\n    ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n", Verdict.KILLED),
        ("import ctypes\ndef f():\n    ctypes.CDLL(None).unshare(0x10000000)\n", Verdict.KILLED),
        ("import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGKILL)\n", Verdict.KILLED),
        ("import os\ndef f():\n    os._exit(3)\n", Verdict.ERROR),
    ],
)
def test_each_way_to_end_has_its_verdict(box: ForkedSandbox, source: str, verdict: Verdict) -> None:
    judgement = ask(box, source, limits=QUICK if verdict is Verdict.INVALID_INFRA else SECOND)
    assert judgement.verdict is verdict, judgement
    assert judgement.results == ()
    assert judgement.cause


def test_memory_is_bounded_over_all_processes_of_a_run_together(box: ForkedSandbox) -> None:
    source = (
        "import os, time\ndef f():\n    for _ in range(4):\n        if os.fork() == 0:\n"
        "            kept = bytearray(b'x') * (120 << 20)\n            time.sleep(100)\n    time.sleep(100)\n"
    )
    limits = Limits(cpu_seconds=1, memory_bytes=256 << 20)
    assert ask(box, source, limits=limits).verdict is Verdict.OOM


def test_output_is_kept_as_evidence_to_its_bound(box: ForkedSandbox) -> None:
    source = "import os\ndef f():\n    for i in range(30000): print(i)\n    os.write(2, b'error')\n    return True\n"
    judgement = ask(box, source)
    assert judgement.verdict is Verdict.PASSED
    assert "29999" in judgement.evidence.output_tail
    assert "error" in judgement.evidence.output_tail
    assert len(judgement.evidence.output_tail) <= Limits().output_bytes


def test_a_suite_that_contradicts_itself_is_nobodys_bad_grade(box: ForkedSandbox) -> None:
    suite = table("def f():\n    return 1\n", ([], 1))
    broken = Suite(files=suite.files, tests=suite.tests, kind=suite.kind, expected_test_ids=("other",))
    assert box.run([broken])[0].verdict is Verdict.INVALID_INFRA


def test_a_rebuild_that_leaves_its_folder_is_an_error(box: ForkedSandbox) -> None:
    suite = table("def f():\n    return 1\n", ([], 1))
    files = (*suite.files, File(path="../evil.py", content=b""))
    broken = Suite(files=files, tests=suite.tests, kind=suite.kind, expected_test_ids=suite.expected_test_ids)
    judgement = box.run([broken])[0]
    assert judgement.verdict is Verdict.ERROR
    assert "../evil.py" in judgement.cause


# ---- Forging


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f():\n    return A()\n",
        "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f():\n    return A()\n",
        "import builtins\nbuiltins.type = lambda _: bool\nclass A:\n    __eq__ = None\ndef f():\n    return A()\n",
        "import builtins\nbuiltins.isinstance = lambda *_: True\ndef f():\n    return object()\n",
        "import os\ndef f():\n    os._exit(0)\n",
        "import os\nos._exit(0)\n",
        "def f():\n    print('passed', 'call-0', True)\n    return 0\n",
        "import os\ndef f():\n    for fd in range(256):\n        try: os.write(fd, b'passed')\n"
        "        except OSError: pass\n    return 0\n",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f():\n    return 1\n",
    ],
    ids=range(9),
)
def test_no_forgery_passes(box: ForkedSandbox, source: str) -> None:
    judgement = ask(box, source, limits=SECOND)
    assert judgement.verdict in (Verdict.FAILED, Verdict.TAMPERED, Verdict.ERROR), judgement
    assert not any(each.outcome is Outcome.PASSED for each in judgement.results)


def test_a_copy_of_the_runner_that_a_candidate_forks_off_tells_nothing(box: ForkedSandbox) -> None:
    passes(box, "import os\ndef f():\n    if os.fork():\n        os.wait()\n    return True\n")


@pytest.mark.parametrize(
    "told",
    [
        "('returned', 0, 0.1, encode(True))",
        "('end',)",
        "'nonsense'",
    ],
)
def test_words_of_the_candidates_own_are_tampering(box: ForkedSandbox, told: str) -> None:
    """The candidate writes the runner's own language to the runner's own pipe, and answers rightly besides."""
    wire = (ROOT / "infra/sandbox/wire.py").read_text()
    suite = table(
        f"import os\nfrom wire import *\ndef f():\n    os.write(3, frame({told}))\n    return True\n", ([], True)
    )
    files = (*suite.files, File(path="wire.py", content=wire.encode()))
    forged = Suite(files=files, tests=suite.tests, kind=suite.kind, expected_test_ids=suite.expected_test_ids)
    assert box.run([forged])[0].verdict is Verdict.TAMPERED


# ---- What a candidate cannot reach

TRIES = """
def f(path=None, mode="r"):
    try:
        with open(path, mode) as file:
            file.read() if mode == "r" else file.write("x")
    except OSError:
        return True
    return False
"""


def test_a_candidate_cannot_read_a_secret_of_the_caller(box: ForkedSandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    for path in (*tmp_path.parents, secret):
        if path.stat().st_uid == os.getuid() and path.is_relative_to(tmp_path.parents[1]):
            path.chmod(0o777)  # permissions are not what keeps it
    passes(box, TRIES, str(secret))
    at_home = Path.home() / f".iccm-sandbox-test-{os.getpid()}"
    try:
        at_home.write_text("key")
        at_home.chmod(0o666)
        passes(box, TRIES, str(at_home))
    finally:
        at_home.unlink()


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/etc/passwd", "/proc/1/environ", "/proc/cpuinfo", str(ROOT / "README.md")]
)
def test_a_candidate_cannot_read_files_of_the_host(box: ForkedSandbox, path: str) -> None:
    passes(box, TRIES, path)


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/dev/x", "/etc/x", str(ROOT / "x"), json.__file__])
def test_a_candidate_cannot_write_outside_its_own_folders(box: ForkedSandbox, path: str) -> None:
    passes(box, TRIES, path, "w")
    assert not Path(path).exists() or path == json.__file__


def test_a_candidate_can_write_in_its_own_folders(box: ForkedSandbox) -> None:
    source = (
        "import os, tempfile\ndef f():\n    open('here.txt', 'w').write('x')\n"
        "    with tempfile.TemporaryDirectory() as there: os.mkdir(there + '/deep')\n    return os.listdir() != []\n"
    )
    passes(box, source)


def test_what_one_run_writes_the_next_does_not_see(box: ForkedSandbox) -> None:
    source = (
        "import os, tempfile\ndef f():\n    path = tempfile.gettempdir() + '/left'\n"
        "    new = not os.path.exists(path)\n    open(path, 'w').close()\n    return new\n"
    )
    passes(box, source)
    passes(box, source)


def test_no_network_not_even_this_host(box: ForkedSandbox) -> None:
    source = (
        "import socket\ndef f(port):\n    try:\n        socket.create_connection(('127.0.0.1', port), 1)\n"
        "    except OSError:\n        return True\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        passes(box, source, server.getsockname()[1])


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK", "AF_PACKET"])
def test_no_socket_of_any_family(box: ForkedSandbox, family: str) -> None:
    source = (
        "import socket\ndef f(name):\n    try: socket.socket(getattr(socket, name), socket.SOCK_DGRAM)\n"
        "    except OSError: return True\n"
    )
    passes(box, source, family)


def test_a_candidate_has_no_rights_left(box: ForkedSandbox) -> None:
    source = (
        "import ctypes, os\ndef f():\n    libc = ctypes.CDLL(None)\n    data = ctypes.create_string_buffer(24)\n"
        "    libc.capget((0x20080522).to_bytes(4, 'little') + bytes(4), data)\n"
        "    return not any(data.raw) and libc.prctl(39, 0, 0, 0, 0) == 1 and os.getuid() != 0\n"
    )
    if os.getuid() != 0:
        source = source.replace(" and os.getuid() != 0", "")
    passes(box, source)


def test_a_candidate_cannot_signal_or_limit_processes_of_the_host(box: ForkedSandbox) -> None:
    source = (
        "import os, resource\ndef f(pids):\n    for pid in pids:\n        try: os.kill(pid, 0)\n"
        "        except OSError: pass\n        else: return False\n"
        "        try: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))\n        except OSError: pass\n"
        "        else: return False\n    return True\n"
    )
    victim = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    try:
        passes(box, source, [os.getpid(), victim.pid, *sorted(family())])
    finally:
        victim.communicate()


def test_a_candidate_sees_no_environment_of_the_caller(box: ForkedSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "key")
    with closing(open_sandbox(box.name, servers=1)) as fresh:
        passes(fresh, "import os\ndef f():\n    return 'SECRET_TOKEN' not in os.environ\n")


def test_files_have_a_bound(box: ForkedSandbox) -> None:
    source = (
        "def f():\n    try:\n        with open('big', 'wb') as file:\n"
        "            for _ in range(100): file.write(bytes(1 << 20))\n    except OSError:\n        return True\n"
    )
    passes(box, source)


# ---- What a run leaves behind


def test_a_fork_bomb_is_bounded_and_nothing_of_it_survives(box: ForkedSandbox) -> None:
    source = "import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass\n"
    before = family()
    assert ask(box, source, limits=QUICK).verdict is not Verdict.PASSED
    assert family() <= before
    passes(box, "def f():\n    return True\n")


def test_processes_have_a_bound(box: ForkedSandbox) -> None:
    source = (
        "import os, time\ndef f():\n    started = 0\n    try:\n        while started < 1000:\n"
        "            if os.fork() == 0: time.sleep(100)\n            started += 1\n"
        "    except OSError:\n        return 4 <= started < 64\n"
    )
    before = family()
    passes(box, source)
    assert family() <= before


def test_daemons_die_with_their_run(box: ForkedSandbox) -> None:
    source = (
        "import os, time\ndef f():\n    for _ in range(3):\n        if os.fork() == 0:\n            os.setsid()\n"
        "            if os.fork() == 0:\n                os.setsid()\n                time.sleep(1000)\n"
        "            os._exit(0)\n    return True\n"
    )
    before = family()
    passes(box, source)
    assert family() <= before


def test_three_hundred_runs_leave_no_process_no_descriptor_no_mount_no_file(box: ForkedSandbox) -> None:
    def held() -> tuple[object, ...]:
        descriptors = {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (os.getpid(), *family())}
        folders = [path for top in ("/dev/shm", "/tmp") for path in Path(top).glob("iccm-sandbox-*/*/*")]
        return descriptors, Path("/proc/self/mounts").read_text(), folders

    suite = table("def f():\n    open('left', 'w').close()\n    return True\n", ([], True))
    box.run([suite])
    before = held()
    assert {each.verdict for each in box.run([suite] * 300)} == {Verdict.PASSED}
    assert held() == before


def test_a_folder_as_deep_as_can_be_is_removed(box: ForkedSandbox) -> None:
    source = (
        "import os\ndef f():\n    for _ in range(1500):\n        os.mkdir('deep')\n        os.chdir('deep')\n"
        "    os.chmod('.', 0)\n    return True\n"
    )
    passes(box, source)
    passes(box, source)


def test_a_closed_sandbox_leaves_nothing(box: ForkedSandbox) -> None:
    before = family(), descriptors()
    fresh = open_sandbox(box.name, servers=2)
    suite = table("def f():\n    return True\n", ([], True))
    assert {each.verdict for each in fresh.run([suite] * 4)} == {Verdict.PASSED}
    fresh.close()
    assert (family(), descriptors()) == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


CLIENT = """
import sys
from infra.sandbox.open import open_sandbox
from tests.unit.infra import test_sandbox_runs as runs
box = open_sandbox(sys.argv[1], servers=1)
print(*runs.family(), flush=True)
runs.ask(box, "import time\\ndef f():\\n    time.sleep(1000)\\n", limits=runs.Limits(cpu_seconds=100))
"""


def test_a_killed_client_takes_its_servers_and_their_runs_along(box: ForkedSandbox) -> None:
    folders = set(Path("/dev/shm").glob("iccm-sandbox-*"))
    client = subprocess.Popen([sys.executable, "-c", CLIENT, box.name], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    servers = {int(pid) for pid in client.stdout.readline().split()}
    assert servers
    until(lambda: len(family(client.pid)) > len(servers), "the run has begun")
    handles = [os.pidfd_open(pid) for pid in family(client.pid)]
    client.kill()
    client.communicate()
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a process of the sandbox outlived its client"
        os.close(handle)
    assert set(Path("/dev/shm").glob("iccm-sandbox-*")) == folders


# ---- When the machine fails


@pytest.mark.parametrize(("kills", "verdict"), [(1, Verdict.PASSED), (3, Verdict.INVALID_INFRA)])
def test_a_run_whose_server_dies_is_tried_again_a_bounded_number_of_times(
    box: ForkedSandbox, kills: int, verdict: Verdict
) -> None:
    spin = "import time\ndef f():\n    while time.process_time() < 1.5: pass\n    return True\n"
    assert under_fire(box, spin, "guard", kills).verdict is verdict


@pytest.mark.parametrize("victim", ["guard", "server"])
def test_a_dead_server_leaves_no_process_of_a_fork_bomb(box: ForkedSandbox, victim: str) -> None:
    before = family()
    bomb = "import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass\n"
    assert under_fire(box, bomb, victim, kills=3).verdict is Verdict.INVALID_INFRA
    until(lambda: family() <= before, "all of it is gone")


def under_fire(box: ForkedSandbox, source: str, victim: str, kills: int) -> Judgement:
    """The judgement on a source whose server is killed so many times while it runs."""
    answers: list[Judgement] = []
    known = guards()
    with closing(open_sandbox(box.name, servers=1)) as fresh:
        playing = threading.Thread(target=lambda: answers.append(ask(fresh, source)))
        playing.start()
        for _ in range(kills):
            until(lambda: bool(at_work(known)), "the run has begun")
            guard, server = at_work(known)[0]
            known.add(guard)
            os.kill(guard if victim == "guard" else server, signal.SIGKILL)
        playing.join()
    return answers[0]


def at_work(known: set[int]) -> list[tuple[int, int]]:
    """Guards and servers with a run in their hands, those known already aside."""
    parents = {pid: parent(pid) for pid in family()}
    return [
        (guard, server)
        for server, guard in parents.items()
        if parents.get(guard) == os.getpid() and guard not in known and server in parents.values()
    ]


# ---- Which isolation

WITHOUT = """
import struct, sys
from infra.sandbox import kernel
from infra.sandbox.open import open_sandbox
def step(code, k, yes=0, no=0): return struct.pack("<HBBI", code, yes, no, k)
x86 = kernel.MACHINE == "x86_64"
unshare, prctl = (272, 157) if x86 else (97, 167)
code = [step(0x20, 0), step(0x15, unshare, 0, 1), step(6, 0x50001)]
if sys.argv[1] == "neither":
    code += [step(0x15, prctl, 0, 3), step(0x20, 16), step(0x15, 22, 0, 1), step(6, 0x50001)]
kernel.no_new_privileges()
kernel.filter_system_calls(b"".join([*code, step(6, 0x7FFF0000)]))
box = open_sandbox("auto", servers=1)
print(box.name, box.assurance)
box.close()
"""


def on_a_host_without(what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, what]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_where_namespaces_are_forbidden_the_fallback_works_and_says_what_is_absent() -> None:
    answer = on_a_host_without("namespaces")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("seccomp seccomp")
    assert "absent: namespaces" in answer.stdout


def test_where_nothing_can_isolate_it_refuses_and_says_what_to_enable() -> None:
    answer = on_a_host_without("neither")
    assert "ServiceUnavailable" in answer.stderr
    assert "user.max_user_namespaces" in answer.stderr


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="docker"):
        open_sandbox("docker")


def test_the_environment_is_the_same_whatever_the_isolation(box: ForkedSandbox) -> None:
    with closing(open_sandbox("auto", servers=1)) as other:
        assert other.environment == box.environment


# ---- Pytest suites

IMPL = "def add(a, b):\n    return a + b\n"
TEST = """
import pytest
from impl import add

@pytest.fixture
def two():
    return 2

@pytest.mark.parametrize("n", [1, 2])
def test_adds(n, two, tmp_path):
    (tmp_path / "x").write_text("x")
    assert add(n, two) == n + 2

def test_one(capsys):
    assert add(0, 1) == 1
"""
IDS = ("tests/test_impl.py::test_adds[1]", "tests/test_impl.py::test_adds[2]", "tests/test_impl.py::test_one")


def session(impl: str, test: str = TEST, limits: Limits | None = None, **more: str) -> Suite:
    files = {"impl.py": impl, **{path.replace("__", "/"): text for path, text in more.items()}}
    return Suite(
        files=tuple(File(path=path, content=text.encode()) for path, text in files.items()),
        tests=(File(path="tests/test_impl.py", content=test.encode()),),
        kind=SuiteKind.PYTEST,
        expected_test_ids=IDS,
        limits=limits or Limits(),
    )


def test_a_session_reports_each_expected_test_in_order(box: ForkedSandbox) -> None:
    (judgement,) = box.run([session(IMPL)])
    assert judgement.verdict is Verdict.PASSED, judgement
    assert tuple(each.test_id for each in judgement.results) == IDS
    assert "3 passed" in judgement.evidence.output_tail


def test_a_wrong_rebuild_fails_some_tests_with_their_messages(box: ForkedSandbox) -> None:
    (judgement,) = box.run([session("def add(a, b):\n    return 3\n")])
    assert judgement.verdict is Verdict.FAILED
    outcomes = [each.outcome for each in judgement.results]
    assert outcomes == [Outcome.PASSED, Outcome.FAILED, Outcome.FAILED]
    assert "AssertionError" in judgement.results[1].message


@pytest.mark.parametrize(
    ("impl", "verdict"),
    [
        ("raise ImportError('no')", Verdict.ERROR),
        ("def sub(): pass", Verdict.ERROR),
        ("import os; os._exit(0)", Verdict.TAMPERED),
        ("import os\ndef add(a, b):\n    os._exit(0)\n", Verdict.TAMPERED),
        ("import pytest\ndef add(a, b):\n    pytest.exit('done', 0)\n", Verdict.TAMPERED),
        ("import pytest\ndef add(a, b):\n    pytest.skip('no')\n", Verdict.FAILED),
        ("import pytest\ndef add(a, b):\n    pytest.xfail('no')\n", Verdict.FAILED),
        ("import sys\ndef add(a, b):\n    sys.exit(0)\n", Verdict.FAILED),
        ("def add(a, b):\n    return bytearray(1 << 40)\n", Verdict.OOM),
        ("def add(a, b):\n    while True: pass\n", Verdict.TIMEOUT),
        ("import os\ndef add(a, b):\n    os.fork()\n    return a + b\n", Verdict.PASSED),
        ("import time\ndef add(a, b):\n    time.sleep(1000)\n", Verdict.INVALID_INFRA),
    ],
)
def test_each_way_a_session_ends_has_its_verdict(box: ForkedSandbox, impl: str, verdict: Verdict) -> None:
    (judgement,) = box.run([session(impl, limits=QUICK if verdict is Verdict.INVALID_INFRA else SECOND)])
    assert judgement.verdict is verdict, judgement


def test_a_rebuild_cannot_bring_its_own_conftest(box: ForkedSandbox) -> None:
    conftest = "def pytest_collection_modifyitems(items):\n    items.clear()\n"
    (judgement,) = box.run([session(IMPL, **{"conftest.py": conftest, "tests__conftest.py": conftest})])
    assert judgement.verdict is Verdict.PASSED, judgement


def test_a_rebuild_cannot_rewrite_the_tests_where_it_is_not_said_to(box: ForkedSandbox) -> None:
    rewriting = (
        "import os\ntries = [lambda: open('tests/test_impl.py', 'w'), lambda: os.unlink('tests/test_impl.py'),\n"
        "    lambda: os.rename('tests', 'old'), lambda: os.mkdir('tests/new'), lambda: os.chmod('tests', 0o777)]\n"
        "def add(a, b):\n    for each in tries:\n        try: each()\n        except OSError: continue\n"
        "        raise RuntimeError('the tests are not protected')\n    return a + b\n"
    )
    (judgement,) = box.run([session(rewriting)])
    unprotected = "read-only tests" in box.assurance.partition("absent:")[2]
    assert judgement.verdict is (Verdict.FAILED if unprotected else Verdict.PASSED), judgement


def test_collecting_lists_the_ids_without_running_a_test(box: ForkedSandbox) -> None:
    files = (File(path="impl.py", content=IMPL.encode()),)
    test = TEST + "\n\ndef test_that_would_hang():\n    while True:\n        pass\n"
    found = collect(box, files, (File(path="tests/test_impl.py", content=test.encode()),))
    assert found == [*IDS, "tests/test_impl.py::test_that_would_hang"]


def test_an_application_that_cannot_be_collected_is_refused_with_the_reason(box: ForkedSandbox) -> None:
    files = (File(path="other.py", content=b""),)
    with pytest.raises(ApplicationRefused, match="No module named 'impl'"):
        collect(box, files, (File(path="tests/test_impl.py", content=TEST.encode()),))
