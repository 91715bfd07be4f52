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
        await self._enter(asyncio.get_running_loop().time() + self._timeout_s)
        patience = Patience(self._timeout_s)
        try:
            async with aclosing(cast(AsyncGenerator[Delta], self.backend.stream(request, call))) as deltas:
                while (delta := await patience.wait(anext(deltas, None))) is not None:
                    yield delta
        except TimeoutError:
            if not patience.over:
                raise
            raise self._late() from None
        finally:
            patience.end()
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
            raise self._late() from None

    def _late(self) -> BackendTimeout:
        return BackendTimeout(self.name, f"no answer within {self._timeout_s:g} s", because=f"{self._timeout_s:g} s")


class Patience:
    """Many waits one after the other, none of which may last longer than so many seconds, with one timer for all of them.

    A timeout of its own for each delta of a stream would cost more than reading it.
    """

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._seconds, self._loop = seconds, asyncio.get_running_loop()
        self._since: float | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    async def wait(self, work: Awaitable[T]) -> T:
        """The result of the work. Raises TimeoutError where it takes longer."""
        self._since, self._waiting = self._loop.time(), asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if self.over and self._waiting is not None and self._waiting.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._since = None

    def end(self) -> None:
        """Nothing is waited for any more."""
        self._timer.cancel()

    def _look(self) -> None:
        """Whether the present wait has lasted too long; else look again when it may have."""
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        if waited < self._seconds:
            self._timer = self._loop.call_later(self._seconds - waited, self._look)
        elif self._waiting is not None:
            self.over = True
            self._waiting.cancel()
