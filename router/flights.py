"""Equal requests at once: the first does the work, those that come while it is under way wait for its answer.

Only a whole answer is shared. Where the one that works is cancelled, the next in line takes its place; where it fails, or ends with less
than a whole answer, each of the others works alone, so that a failure is never waited for twice. Nobody waits past their own deadline.
Across processes a claim in the cache keeps all but one waiting; it is given back at the end, or lapses if its owner dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from adapters.cache import Cache
from router.job import Job
from router.pipeline_types import Outcome

CLAIM_S = 10.0
"""A claim lasts so long at most: longer work is done again by whoever else waits for it, once in each process."""
LOOK_AGAIN_S = 0.05
"""How often a process looks for what another works on."""

Landing = Outcome | Literal["left", "failed"]
Look = Callable[[], Awaitable[Outcome | None]]


@dataclass(slots=True)
class Turn:
    """One request's part in it: an answer of somebody else's work (`theirs`), or none, and then what it makes itself goes into `mine`."""

    theirs: Outcome | None = None
    mine: Outcome | None = None
    """For those who wait; left None where it is not to be shared."""


class Flights:
    """What is under way, by the key of the cache. Without a cache nothing is shared."""

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self._under_way: dict[str, asyncio.Future[Landing]] = {}

    @asynccontextmanager
    async def turn(self, key: str, job: Job, look: Look) -> AsyncIterator[Turn]:
        """Waits while an equal request is under way, holding nothing. `look` finds in the cache what another process put there."""
        if self._cache is None or not job.ask.cache.shares:
            yield Turn()
            return
        until = asyncio.get_running_loop().time() + job.patience_s
        while (ahead := self._under_way.get(key)) is not None:
            await job.ask.purse.rest()
            landing = await _landing(ahead, until)
            if landing != "left":
                yield Turn(theirs=None if landing == "failed" else landing)
                return
        async with self._lead(key) as turn:
            turn.theirs = await self._elsewhere(self._cache, key, until, look)
            yield turn

    @asynccontextmanager
    async def _lead(self, key: str) -> AsyncIterator[Turn]:
        """All that come from now on wait for this one."""
        flight = self._under_way[key] = asyncio.get_running_loop().create_future()
        turn = Turn()
        ending: Landing = "failed"
        try:
            yield turn
        except asyncio.CancelledError:
            ending = "left"
            raise
        finally:
            del self._under_way[key]
            flight.set_result(turn.theirs or turn.mine or ending)
            assert self._cache is not None
            if turn.theirs is None:
                await self._cache.release(key)

    async def _elsewhere(self, cache: Cache, key: str, until: float, look: Look) -> Outcome | None:
        """What another process makes of it; None where none is at it, or it takes too long, and the work is to be done here."""
        clock = asyncio.get_running_loop().time
        while not await cache.claim(key, CLAIM_S) and clock() < until:
            await asyncio.sleep(LOOK_AGAIN_S)
            if (found := await look()) is not None:
                return found
        return None


async def _landing(flight: asyncio.Future[Landing], until: float) -> Landing:
    """How it ended; one that is still up when the time is over counts as failed."""
    left_s = until - asyncio.get_running_loop().time()
    await asyncio.wait({flight}, timeout=None if left_s == float("inf") else max(0.0, left_s))
    return flight.result() if flight.done() else "failed"
