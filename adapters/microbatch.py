"""Micro-batching: jobs of all callers that wait together are worked off together, in one thread beside the event loop.

No timer: while the thread is busy, what arrives waits, and all of it is the next batch. So a lone job starts at once, and batches grow
exactly as fast as the load does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Flooded(Exception):
    """Too many jobs wait already."""


class Closed(Exception):
    """No more jobs are taken."""


class MicroBatcher(Generic[Job, Result]):
    """`work` gets up to `max_batch` jobs and gives a result for each, in order; it runs in one thread, one batch after the other."""

    def __init__(self, name: str, work: Callable[[Sequence[Job]], Sequence[Result]], *, max_batch: int, max_waiting: int) -> None:
        self._work, self._max_batch, self._max_waiting = work, max_batch, max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: deque[tuple[Job, asyncio.Future[Result | Exception]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        """The result of each job, or why it has none. Raises Flooded or Closed. Jobs of a cancelled caller are not begun any more."""
        if self._closed:
            raise Closed("it was closed")
        if len(self._waiting) >= self._max_waiting:
            raise Flooded(f"{len(self._waiting)} are waiting already")
        futures: list[asyncio.Future[Result | Exception]] = [asyncio.get_running_loop().create_future() for _ in jobs]
        self._waiting.extend(zip(jobs, futures, strict=True))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work_off())
        return await asyncio.gather(*futures)

    async def run_in_thread(self, function: Callable[[], None]) -> None:
        """Run something else in the same thread, between batches: loading the model. Raises Closed, or what the function raises."""
        if self._closed:
            raise Closed("it was closed")
        await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def aclose(self) -> None:
        """Fail what waits, let the batch in the thread come to its end, release the thread."""
        self._closed = True
        _settle(list(self._waiting), [Closed("it was closed")] * len(self._waiting))
        self._waiting.clear()
        if self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker])
        self._thread.shutdown(wait=False)

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            _settle(batch, await loop.run_in_executor(self._thread, self._each, [job for job, _ in batch]))

    def _next_batch(self) -> list[tuple[Job, asyncio.Future[Result | Exception]]]:
        batch: list[tuple[Job, asyncio.Future[Result | Exception]]] = []
        while self._waiting and len(batch) < self._max_batch:
            job, future = self._waiting.popleft()
            if not future.done():
                batch.append((job, future))
        return batch

    def _each(self, jobs: Sequence[Job]) -> Sequence[Result | Exception]:
        """The work; if it fails on a batch, once more on each job alone, so that a poisoned one fails by itself."""
        try:
            return self._work(jobs)
        except Exception as error:  # whatever the work raises belongs to its callers, never to this loop
            if len(jobs) == 1:
                return [error]
            return [result for job in jobs for result in self._each([job])]


def _settle(
    batch: Sequence[tuple[Job, asyncio.Future[Result | Exception]]], results: Sequence[Result | Exception] | Sequence[Exception]
) -> None:
    for (_, future), result in zip(batch, results, strict=True):
        if not future.done():
            future.set_result(result)
