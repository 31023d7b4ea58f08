"""Ports on 127.0.0.1 for servers of ours: last time's while they are free, else others."""

import errno
import random
import socket
from collections.abc import Sequence

RANGE = range(20_000, 32_000)  # below the ports that outgoing connections take


def ports(count: int, last: Sequence[int] = ()) -> list[int]:
    """The last ports if there are that many and all are free, else as many free ones."""
    if len(last) == count and all(_free(port) for port in last):
        return list(last)
    found = [port for port in random.sample(RANGE, 20 * count) if _free(port)]
    return found[:count]


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers bind: TIME_WAIT counts as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True
