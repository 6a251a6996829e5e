"""A line of the network that can be cut for some seconds: a TCP proxy on the loopback."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlsplit


class Line:
    """Forwards connections on a port of its own to an address such as ``tcp://127.0.0.1:8786``, both ways."""

    def __init__(self, address: str) -> None:
        self._to = urlsplit(address).hostname, urlsplit(address).port
        self._whole, self._ends = asyncio.Event(), set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        """What to connect to instead."""
        self._loop.call_soon_threadsafe(self._whole.set)

    def cut(self, seconds: float, *, dropped: bool) -> None:
        """Forward nothing for so long; all that waits comes behind it, unless the connections are dropped."""
        self._loop.call_soon_threadsafe(self._whole.clear)
        if dropped:
            self._run(self._drop())
        time.sleep(seconds)
        self._loop.call_soon_threadsafe(self._whole.set)

    def close(self) -> None:
        """Drop what is connected, for good."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        self._server.close()
        self._whole.set()
        await self._drop()
        await asyncio.sleep(0.1)  # what forwards comes to its end

    async def _drop(self) -> None:
        for end in self._ends:
            _hang_up(end)
        self._ends.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            there, onwards = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, onwards}
        await asyncio.gather(self._forward(reader, onwards), self._forward(there, writer))
        self._ends -= {writer, onwards}
        for end in (writer, onwards):
            _hang_up(end)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):  # dropped
            pass


def _hang_up(end: asyncio.StreamWriter) -> None:
    """Shut a connection down before it is closed, since a forked process may have its socket, too."""
    with suppress(OSError):
        end.get_extra_info("socket").shutdown(SHUT_RDWR)
    end.transport.abort()
