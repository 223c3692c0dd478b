"""A fake Kubernetes Service: TCP to one of its endpoints, chosen once for each connection.

Like kube-proxy it leaves a connection where it is, and learns late that an endpoint is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools


class FakeService:
    """`endpoints` are ports on the loopback address; take one out and its connections stay."""

    def __init__(self, endpoints: list[int]) -> None:
        self.endpoints = endpoints
        self.port = 0
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeService:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.endpoints[next(self._turn) % len(self.endpoints)]
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            # kube-proxy passes the endpoint's reset on.
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on, then the end; a reset as a reset."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
    except OSError:
        writer.transport.abort()
