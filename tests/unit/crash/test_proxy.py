"""What the proxy does to those who talk through it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from infra.ports import ports
from tests.crash.proxy import Proxy, proxied


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that says back what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=echo, args=(server,))
        thread.start()
        [port] = ports(1)
        try:
            with proxied(port, server.getsockname()[1]) as made:
                yield made
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def echo(server: socket.socket) -> None:
    """Until it is shut, one connection after another."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            try:
                while heard := connection.recv(1000):
                    connection.sendall(heard)
            except ConnectionError:
                continue


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 10)


def said_back(client: socket.socket, word: bytes) -> bytes:
    client.sendall(word)
    return client.recv(100)


def ends(client: socket.socket) -> bool:
    """Whether the other side is gone."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_bytes_pass_both_ways_and_are_counted(proxy: Proxy) -> None:
    with closing(connected(proxy)) as client:
        assert said_back(client, b"hello") == b"hello"
    assert (proxy.passed, proxy.connections) == (10, 1)


def test_a_cut_ends_the_connections_there_are_and_lets_new_ones_in(proxy: Proxy) -> None:
    with closing(connected(proxy)) as client:
        assert said_back(client, b"hello") == b"hello"
        proxy.cut()
        assert ends(client)
    with closing(connected(proxy)) as client:
        assert said_back(client, b"again") == b"again"


def test_what_is_said_while_it_drops_never_comes(proxy: Proxy) -> None:
    with closing(connected(proxy)) as client:
        assert said_back(client, b"hello") == b"hello"
        proxy.dropping = True
        client.sendall(b"lost")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_while_it_refuses_nobody_is_let_through(proxy: Proxy) -> None:
    proxy.refusing = True
    with closing(connected(proxy)) as client:
        assert ends(client)


def test_a_delay_holds_for_each_way(proxy: Proxy) -> None:
    proxy.delay_seconds = 0.1
    with closing(connected(proxy)) as client:
        began = time.monotonic()
        assert said_back(client, b"late") == b"late"
        assert time.monotonic() - began >= 0.2
