"""A wire to Redis that loses things: the question, which Redis then never sees, or the answer to one that it has worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Fate = Literal["whole", "question lost", "answer lost"]


class LossyWire:
    """Stands between a client and Redis. Only scripts are lost, each over a connection that breaks with it."""

    def __init__(self, redis_url: str) -> None:
        self._redis_port = urlsplit(redis_url).port
        self.url = ""
        self.fate: Fate = "whole"
        """Of every script from now on."""
        self.lost = 0
        self.connections: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has come."""
        self.connections.add(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it or something on it is lost."""
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._redis_port)
        except OSError:  # Redis is gone
            writer.close()
            return
        muted = asyncio.Event()
        answering = asyncio.create_task(_answers(from_redis, writer, muted))
        with suppress(ConnectionError):
            while said := await reader.read(65536):
                if b"EVALSHA" in said and self.fate != "whole":
                    self.lost += 1
                    if self.fate == "question lost":
                        break
                    muted.set()
                to_redis.write(said)
        if muted.is_set():
            await answering  # Redis has worked on it
        for end in (to_redis, writer):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()
        await answering


async def _answers(from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
    """What Redis says, up to the answer that is lost; with that one the connection breaks."""
    with suppress(ConnectionError):
        while (said := await from_redis.read(65536)) and not muted.is_set():
            writer.write(said)
    writer.close()


@asynccontextmanager
async def lossy_wire(redis_url: str) -> AsyncIterator[LossyWire]:
    """A wire to this Redis, whole at first. Clients have closed their connections before it ends."""
    wire = LossyWire(redis_url)
    server = await asyncio.start_server(wire.connected, "127.0.0.1", 0)
    wire.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    yield wire
    server.close()
    await server.wait_closed()
    await asyncio.gather(*wire.connections, return_exceptions=True)
