"""The connection to a Redis that may be gone: a crowd of our own callers is not taken for its failure."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from typing import Any

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


async def test_time_in_which_our_own_loop_is_busy_does_not_count(redis_url: str) -> None:
    """Each turn of the loop takes longer than Redis is given: it still has its answer, over a connection that is first opened."""
    link, busy = RedisLink(redis_url, "test", timeout_s=0.02, retry_s=60), True

    async def works() -> None:
        while busy:
            time.sleep(0.03)  # noqa: ASYNC251
            await asyncio.sleep(0)

    work = asyncio.ensure_future(works())
    assert await link.ask(link.redis.ping)
    assert not link.down
    busy = False
    await work
    await link.aclose()


@pytest.mark.parametrize("timeout_s", [0.05, 60])
async def test_a_redis_that_is_slow_has_so_long(redis_url: str, redis_server: Any, timeout_s: float) -> None:
    """It hangs while it is asked: within `timeout_s` that is waited for, past it Redis is gone."""
    link, patient = RedisLink(redis_url, "test", timeout_s=timeout_s, retry_s=60), timeout_s > 1
    await link.ask(link.redis.ping)
    redis_server.process.send_signal(signal.SIGSTOP)
    asked = asyncio.ensure_future(link.ask(link.redis.ping))
    await asyncio.wait({asked}, timeout=0.3 if patient else None)
    redis_server.process.send_signal(signal.SIGCONT)
    assert (await asyncio.gather(asked, return_exceptions=True) == [True]) is patient
    assert link.down is not patient
    await link.aclose()


@pytest.mark.parametrize("answers", range(5))
async def test_a_redis_that_falls_silent_is_noticed_wherever_it_does(answers: int, caplog: pytest.LogCaptureFixture) -> None:
    """In the middle of opening a connection as well as after; the connection is given up, and the log says how long was waited."""
    closed = asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = answers
        while said := await reader.read(4096):
            commands = min(left, len(re.findall(rb"\*\d+\r\n", said)))
            writer.write(b"+OK\r\n" * commands)
            left -= commands
        writer.close()
        closed.set()

    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    link = RedisLink(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0", "test", timeout_s=0.05, retry_s=60)
    with pytest.raises(RedisGone):
        await link.ask(lambda: link.redis.mget("a", "b"))
    await closed.wait()
    assert "does not answer (TimeoutError: no answer in 0.05 s)" in caplog.text
    await link.aclose()
    listening.close()
    await listening.wait_closed()
