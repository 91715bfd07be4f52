"""The floor: the least that a FastAPI proxy does. One route, one pooled aiohttp session, no policy, no record; UPSTREAM names the model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

URL = os.environ.get("UPSTREAM", "") + "/chat/completions"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One session for all."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions", response_model=None)
async def answer(request: Request) -> Any:
    """The upstream's answer."""
    body = await request.json()
    if body.get("stream"):
        return StreamingResponse(_stream(body), media_type="text/event-stream")
    async with app.state.session.post(URL, json=body) as response:
        return await response.json()


async def _stream(body: Any) -> AsyncIterator[bytes]:
    async with app.state.session.post(URL, json=body) as response:
        async for chunk in response.content.iter_any():
            yield chunk
