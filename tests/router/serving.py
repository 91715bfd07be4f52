"""The application behind a real server on a free port, for tests by real clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from router.app import create_app
from router.options import ServerOptions
from router.pipeline_types import Pipeline


class Announcing(uvicorn.Server):
    """Says when it is up, and leaves the signals of the test process alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def served(pipeline: Pipeline, options: ServerOptions | None = None) -> AsyncIterator[str]:
    """The application behind uvicorn on a free port; its address."""
    server = Announcing(uvicorn.Config(create_app(pipeline, options), port=0, log_level="warning", lifespan="on"))
    running = asyncio.ensure_future(server._serve())
    await server.up.wait()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await running
