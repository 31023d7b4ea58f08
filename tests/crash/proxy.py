"""A TCP proxy of our own between clients and a broker: it delays, cuts and drops as it is told."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 65_536


@dataclass(slots=True)
class Proxy:
    """Connections to `port` go to `target`. What is set holds from now on, for old connections too."""

    port: int
    target: int
    delay_seconds: float = 0.0  # every chunk, either way, comes this much later
    dropping: bool = False  # what comes is swallowed; connections stay open
    refusing: bool = False  # new connections are closed at once
    passed: int = 0  # bytes
    connections: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Every connection ends now, in the middle of whatever it was saying."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._joined, "127.0.0.1", self.port)
        async with server:
            ready.set()
            await server.serve_forever()

    async def _joined(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(to_client)
        try:
            with suppress(OSError):  # a connection that breaks is what this is for
                if not self.refusing:
                    await self._through(client, to_client)
        finally:
            self._open.discard(to_client)
            to_client.transport.abort()

    async def _through(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        broker, to_broker = await asyncio.open_connection("127.0.0.1", self.target)
        self._open.add(to_broker)
        ways = [
            asyncio.ensure_future(self._pump(client, to_broker)),
            asyncio.ensure_future(self._pump(broker, to_client)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._open.discard(to_broker)
            to_broker.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK):
            if self.dropping:
                continue
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            self.passed += len(chunk)
            sink.write(chunk)
            await sink.drain()

    def run(self, ready: threading.Event) -> None:
        """Serve until `stop`."""
        serving = self._loop.create_task(self._serve(ready))
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(serving)
        if left := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()

    def stop(self) -> None:
        """Every connection ends, and with them the proxy."""
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._cut()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()


@contextmanager
def proxied(port: int, target: int) -> Iterator[Proxy]:
    """A proxy for one block."""
    proxy, ready = Proxy(port, target), threading.Event()
    thread = threading.Thread(target=proxy.run, args=(ready,), name=f"proxy {port}")
    thread.start()
    try:
        if not ready.wait(10):
            raise OSError(f"the proxy at port {port} did not start")
        yield proxy
    finally:
        proxy.stop()
        thread.join()
