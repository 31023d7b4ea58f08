"""Isolation where a host forbids user namespaces: seccomp without sockets, Landlock, limits, and a sweep afterwards.

It holds less: host processes can be seen to exist through the kernel's own calls, /tmp has no quota as a whole, the
system's own files stay readable where there is no Landlock. A candidate reaches no process but its own run's.
"""

import os
import resource
import sys
import tempfile

from infra.sandbox import cell, kernel, landlock, seccomp
from infra.sandbox.cell import Place
from infra.sandbox.messages import Opening, Request

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Fallback:
    """The server's side of it. Made in the guard, it returns in the server; the guard sweeps up if the server dies."""

    def __init__(self, opening: Opening) -> None:
        self._uid = opening.uid
        self._folder = tempfile.mkdtemp(prefix="iccm-sandbox-")
        os.chmod(self._folder, 0o711)
        _fork_server(self._folder)
        self._landlock = kernel.landlock_version()
        self._readable = [path for path in opening.readable if os.path.exists(path)]
        if self._uid is not None:
            _reroute(_hidden(sys.base_prefix))
        tempfile.tempdir = self._folder
        self.protections = (
            "seccomp",
            f"landlock {self._landlock}" if self._landlock else "absent: landlock",
            "no capabilities",
            "another user" if self._uid is not None else "absent: another user",
            "limits on CPU, memory, files and processes",
            "absent: namespaces (host files outside the run are closed by landlock and permissions alone)",
            "absent: a quota on the run's files together",
            "absent: control groups (memory and CPU are limited per process)",
        )
