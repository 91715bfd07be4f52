"""A backend with a time limit and a bounded queue around it: for whatever is behind a network and sets itself no limits.

What waits is bounded too, so that a provider that hangs turns callers away at once instead of collecting them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeVar, cast

from adapters.errors import BackendBusy, BackendTimeout
from adapters.types import Backend, Call, ChatRequest, Delta

T = TypeVar("T")

COME_BACK_S = 1.0
"""What a caller is told who is turned away: the queue moves with every answer."""


class Guarded:
    """`backend`, with at most `max_concurrency` calls under way, at most `max_waiting` waiting, and none silent for `timeout_s`."""

    def __init__(self, backend: Backend, *, timeout_s: float, max_concurrency: int, max_waiting: int) -> None:
        self.name, self.price, self.features = backend.name, backend.price, backend.features
        self.backend = backend
        self._timeout_s, self._max_waiting = timeout_s, max_waiting
        self._slots = asyncio.Semaphore(max_concurrency)
        self._waiting = 0

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """The whole call, its wait in the queue included, within the time."""
        until = asyncio.get_running_loop().time() + self._timeout_s
        await self._enter(until)
        try:
            await self._within_time(self.backend.complete(request, call), until)
        finally:
            self._slots.release()

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """Each next delta within the time: a long answer is no fault, a silent one is."""
        now = asyncio.get_running_loop().time
        await self._enter(now() + self._timeout_s)
        try:
            async with aclosing(cast(AsyncGenerator[Delta], self.backend.stream(request, call))) as deltas:
                while (delta := await self._within_time(anext(deltas, None), now() + self._timeout_s)) is not None:
                    yield delta
        finally:
            self._slots.release()

    def count_tokens(self, request: ChatRequest) -> int:
        """As the backend counts."""
        return self.backend.count_tokens(request)

    async def aclose(self) -> None:
        """Close the backend."""
        await self.backend.aclose()

    async def _enter(self, until: float) -> None:
        """Wait for a slot, if there is room to wait."""
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        if self._waiting >= self._max_waiting:
            raise BackendBusy(self.name, f"too many requests waiting ({self._waiting})", retry_after_s=COME_BACK_S)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await self._slots.acquire()
        except TimeoutError:
            message = f"no turn within {self._timeout_s:g} s, with {self._waiting} requests waiting"
            raise BackendBusy(self.name, message, retry_after_s=COME_BACK_S) from None
        finally:
            self._waiting -= 1

    async def _within_time(self, work: Awaitable[T], until: float) -> T:
        try:
            async with asyncio.timeout_at(until) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise BackendTimeout(self.name, f"no answer within {self._timeout_s:g} s") from None
