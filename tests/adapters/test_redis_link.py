"""The connection to a Redis that may be gone: a crowd of our own callers is not taken for its failure."""

from __future__ import annotations

import asyncio

import pytest

from adapters.redis_link import RedisGone, RedisLink

CROWD = 200


async def test_a_crowd_waits_its_turn_instead_of_running_out_of_connections(redis_url: str) -> None:
    """More commands at once than the pool has connections: no more than those are sent, and all of them are answered."""
    link, running, most = RedisLink(redis_url, "test", timeout_s=10, retry_s=60), 0, 0

    async def command() -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        pong = await link.redis.ping()
        running -= 1
        return bool(pong)

    assert await asyncio.gather(*(link.ask(command) for _ in range(CROWD))) == [True] * CROWD
    assert (most, link.down) == (link.redis.connection_pool.max_connections, False)
    await link.aclose()


async def test_who_waits_for_a_turn_is_told_that_redis_went_down(redis_url: str) -> None:
    """The first ones find out for all: those behind them do not ask a Redis that hangs, one crowd after the other."""
    link, asked, hangs = RedisLink(redis_url, "test", timeout_s=10, retry_s=60), 0, asyncio.Event()

    async def command() -> None:
        nonlocal asked
        asked += 1
        await hangs.wait()
        raise ConnectionResetError

    crowd = [asyncio.ensure_future(link.ask(command)) for _ in range(CROWD)]
    await asyncio.sleep(0)
    hangs.set()
    assert all(isinstance(error, RedisGone) for error in await asyncio.gather(*crowd, return_exceptions=True))
    assert asked < CROWD
    with pytest.raises(RedisGone):
        await link.ask(command)
    await link.aclose()


async def test_one_asks_for_all_whether_redis_is_back(redis_url: str) -> None:
    """When its time is over, the next command is sent although Redis was down, and its answer ends that."""
    link = RedisLink(redis_url, "test", timeout_s=10, retry_s=0)

    async def fails() -> None:
        raise ConnectionResetError

    with pytest.raises(RedisGone):
        await link.ask(fails)
    assert link.down
    assert await link.ask(link.redis.ping)
    assert not link.down
    await link.aclose()
