"""Reading requests: headers that never end are cut off, however they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from router.reading import reader

BOUND = 4096


async def echo(scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
    """Answers with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()  # type: ignore[operator]
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"%8d" % size})  # type: ignore[operator]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(echo, log_config=None, lifespan="off", http=reader(BOUND), port=0)
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    streams = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield streams
    finally:
        streams[1].close()
        server.should_exit = True
        await task


async def test_headers_that_never_end_are_answered_400() -> None:
    """Line after line, each of them small: at the bound the connection is closed, and nothing more is kept."""
    async with connected() as (answer, request):
        request.write(b"POST / HTTP/1.1\r\nhost: here\r\n")
        for number in range(2 * BOUND // 64):
            request.write(b"x-%04d: %s\r\n" % (number, b"y" * 54))
        said = await answer.read()
    assert said.startswith(b"HTTP/1.1 400")


async def test_bodies_are_not_counted_and_connections_stay() -> None:
    """Two requests on one connection, each with a body of many times the bound that comes in pieces."""
    async with connected() as (answer, request):
        for _ in range(2):
            request.write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % (4 * BOUND))
            for _ in range(4):
                request.write(b"z" * BOUND)
                await request.drain()
            head = await answer.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await answer.readexactly(8) == b"%8d" % (4 * BOUND)
