"""A backend with a time limit and a bounded queue around it: for whatever is behind a network and sets itself no limits.

What waits is bounded too, so that a provider that hangs turns callers away at once instead of collecting them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeVar, cast

from adapters.errors import BackendTimeout, BackendUnavailable
from adapters.types import Backend, Call, ChatRequest, Delta

T = TypeVar("T")


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
        await self._within_time(self._in_turn(request, call))

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """Each next delta within the time: a long answer is no fault, a silent one is."""
        await self._within_time(self._enter())
        try:
            async with aclosing(cast(AsyncGenerator[Delta], self.backend.stream(request, call))) as deltas:
                while (delta := await self._within_time(anext(deltas, None))) is not None:
                    yield delta
        finally:
            self._slots.release()

    def count_tokens(self, request: ChatRequest) -> int:
        """As the backend counts."""
        return self.backend.count_tokens(request)

    async def aclose(self) -> None:
        """Close the backend."""
        await self.backend.aclose()

    async def _in_turn(self, request: ChatRequest, call: Call) -> None:
        await self._enter()
        try:
            await self.backend.complete(request, call)
        finally:
            self._slots.release()

    async def _enter(self) -> None:
        """Wait for a slot, if there is room to wait."""
        if self._slots.locked() and self._waiting >= self._max_waiting:
            raise BackendUnavailable(self.name, f"too many requests waiting ({self._waiting})")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    async def _within_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise BackendTimeout(self.name, f"no answer within {self._timeout_s:g} s") from None
