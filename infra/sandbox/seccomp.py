"""A seccomp filter for candidates: what no honest program needs ends it, what some try and do without is refused.

No socket of any family, no namespaces, no tracing, no mounts, no memory outside the limits (memfd, System V). The same
calls are closed in every backend, so a rebuild is graded alike on every host.
"""

import errno
import struct
from collections.abc import Sequence

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, low halves on little endian
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000
_AF_UNIX = 1
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: numbers on x86_64 and aarch64; None where a machine lacks the call
_KILLED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "ioprio_set": (251, 30),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "pidfd_send_signal": (424, 424),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setpriority": (141, 140),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "socket": (41, 198),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
_CLONE, _CLONE3, _SOCKETPAIR = (56, 220), (435, 435), (53, 199)
# calls whose first argument names a process: kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, prlimit64
_REACHING = ((62, 129), (200, 130), (234, 131), (129, 138), (297, 240), (302, 261))


def program(machine: str, own_pid: int | None = None) -> bytes:
    """The filter for this machine. With `own_pid`, for hosts without namespaces, no other process is reached."""
    column = list(ARCHITECTURES).index(machine)
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, ARCHITECTURES[machine], skip_if=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_step(_JUMP_ABOVE, _X32, skip_unless=1), _step(_RETURN, _KILL)]
    for action, table in ((_KILL, _KILLED), (_refusal(errno.EPERM), _REFUSED)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                code += _on(number, [_step(_RETURN, action)])
    code += _on(
        _CLONE3[column], [_step(_RETURN, _refusal(errno.ENOSYS))]
    )  # libraries then use clone, which can be read
    code += _on(_CLONE[column], _unless_any(_NEW_NAMESPACES))
    code += _on(_SOCKETPAIR[column], _only((_AF_UNIX,)))
    if own_pid is not None:
        for pair in _REACHING:
            code += _on(pair[column], _only((0, own_pid)))
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, *, skip_if: int = 0, skip_unless: int = 0) -> bytes:
    return struct.pack("<HBBI", code, skip_if, skip_unless, value)


def _refusal(number: int) -> int:
    return _ERRNO | number


def _on(number: int, then: Sequence[bytes]) -> list[bytes]:
    return [_step(_JUMP_EQUAL, number, skip_unless=len(then)), *then]


def _unless_any(bits: int) -> list[bytes]:
    return [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_ANY_BIT, bits, skip_unless=1),
        _step(_RETURN, _refusal(errno.EPERM)),
        _step(_RETURN, _ALLOW),
    ]


def _only(values: Sequence[int]) -> list[bytes]:
    checks = [_step(_JUMP_EQUAL, each, skip_if=len(values) - i) for i, each in enumerate(values)]
    return [_step(_LOAD, _FIRST_ARGUMENT), *checks, _step(_RETURN, _refusal(errno.EPERM)), _step(_RETURN, _ALLOW)]
