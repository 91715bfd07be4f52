"""A few connections to a Redis that may be gone: it answers within a bound, or is left alone for a while.

Whoever uses it decides what to do without it; here it is only known whether it is worth asking. A crowd of our own must not look like a
Redis that is gone: it waits its turn for the few connections, and time in which our own loop was too busy to read an answer does not count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from adapters.options import without_password

log = logging.getLogger(__name__)

Clock = Callable[[], float]

CONNECTIONS = 16
"""Of one link, opened as they are needed. To open them costs time of our own, and just when there is least of it."""
STEPS = 50
"""Parts of a timeout, and so the turns that our loop has at least: to open a connection and have an answer over it takes about ten."""


class RedisGone(Exception):
    """Redis did not answer, or did not answer the last time that it was asked."""


class RedisLink:
    """After a failure Redis is left alone for `retry_s`, then one request tries it for all; its going and coming back are logged."""

    def __init__(self, url: str, what: str, *, timeout_s: float, retry_s: float, clock: Clock = time.monotonic) -> None:
        import redis.asyncio as aioredis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Dropped
        from redis.exceptions import RedisError

        again = Retry(NoBackoff(), 1, supported_errors=(Dropped,))  # an idle connection may have died; a slow Redis is not asked twice
        pool = aioredis.BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, timeout=None, socket_timeout=None, socket_connect_timeout=None, retry=again
        )  # none of its own timeouts: they count what our loop is busy with, see `patience`
        self.redis = aioredis.Redis.from_pool(pool)
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError)  # a TimeoutError is an OSError
        self._timeout_s, self._retry_s, self._clock, self._retry_at = timeout_s, retry_s, clock, 0.0
        self._what, self.where = what, without_password(url)
        self._running: set[asyncio.Future[Any]] = set()
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self.down = False
        """Redis did not answer last time."""
        self.falls = 0
        """How often it did not."""

    @property
    def left_alone(self) -> bool:
        """It was down, and is not to be asked yet, or somebody asks it just now."""
        return self.down and self._clock() < self._retry_at

    async def ask(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a command. Raises RedisGone, at once while Redis is left alone."""
        if self.left_alone:
            raise RedisGone
        self._retry_at = self._clock() + self._retry_s  # while this one tries a Redis that was down, the others do not wait for it
        task = asyncio.ensure_future(self._in_turn(command, self.falls))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)  # redis-py loses cancellations: see the tests

    async def _in_turn(self, command: Callable[[], Awaitable[Any]], falls: int) -> Any:
        """A crowd of our own is no fault of Redis: it waits here, not for the pool, and is told where Redis went down meanwhile."""
        async with self._turns:
            if self.falls > falls:
                raise RedisGone
            try:
                async with patience(self._timeout_s):
                    answer = await command()
            except self._failures as error:
                if not str(error).startswith("WRONGTYPE"):  # alive, but the key is somebody else's
                    self._went_down(error)
                raise RedisGone from error
            self._is_up()
            return answer

    def try_again(self) -> None:
        """The next command is tried whatever the last one came to: there will be no later one."""
        self._retry_at = self._clock()

    async def aclose(self) -> None:
        """Close the connections, once commands that nobody waits for are through."""
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.redis.aclose()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it where nobody waits any more

    def _went_down(self, error: Exception) -> None:
        self._retry_at = self._clock() + self._retry_s
        self.falls += 1
        if not self.down:
            log.warning("%s %s does not answer (%s: %s); going on without it", self._what, self.where, type(error).__name__, error)
        self.down = True

    def _is_up(self) -> None:
        if self.down:
            log.warning("%s %s is back", self._what, self.where)
        self.down = False


@asynccontextmanager
async def patience(timeout_s: float) -> AsyncIterator[None]:
    """Raises TimeoutError past so many seconds in which our loop could have read an answer.

    They pass in steps, and one that ends late, because the loop was busy or the process had no processor, counts as one. So an answer that
    lies there is read before the time is up, where a plain timeout, due as well, would come first.
    """
    loop, limit, step_s = asyncio.get_running_loop(), asyncio.timeout(None), timeout_s / STEPS
    timer: asyncio.TimerHandle

    def step(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_later(step_s, step, left - 1)
        else:
            limit.reschedule(loop.time())

    timer = loop.call_later(step_s, step, STEPS - 1)
    try:
        async with limit:
            yield
    except TimeoutError:
        raise TimeoutError(f"no answer in {timeout_s:g} s") from None
    finally:
        timer.cancel()
