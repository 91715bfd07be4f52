"""A wire to Redis that loses things: the question, which Redis then never sees, or the answer to one that it has worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it or something on it is lost."""
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._redis_port)
        muted = asyncio.Event()

        async def answers() -> None:
            while (said := await from_redis.read(65536)) and not muted.is_set():
                writer.write(said)
            writer.close()

        answering = asyncio.ensure_future(answers())
        while said := await reader.read(65536):
            if b"EVALSHA" in said and self.fate != "whole":
                self.lost += 1
                if self.fate == "question lost":
                    break
                muted.set()
            to_redis.write(said)
        if not muted.is_set():
            writer.close()
        to_redis.close()
        await answering


@asynccontextmanager
async def lossy_wire(redis_url: str) -> AsyncIterator[LossyWire]:
    """A wire to this Redis, whole at first."""
    wire = LossyWire(redis_url)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    wire.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    yield wire
    server.close()
    await server.wait_closed()
