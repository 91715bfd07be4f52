"""Caches: one suite on memory and Redis, then what each does when it is full, wrong or gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from adapters.cache import ENTRY_BYTES, Cache, MemoryCache, RedisCache, build_cache
from adapters.errors import CacheError
from adapters.redis_link import RedisLink


class FakeClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    built = build_cache("memory://" if request.param == "memory" else request.getfixturevalue("redis_url"), timeout_s=5)
    yield built
    await built.aclose()


@pytest.fixture
async def redis_cache(redis_url: str) -> AsyncIterator[RedisCache]:
    built = RedisCache(redis_url, timeout_s=5, retry_s=10, clock=FakeClock())
    yield built
    await built.aclose()


# --- conformance --------------------------------------------------------------------------------------------------------------


async def test_what_was_set_is_got_back_byte_for_byte(cache: Cache) -> None:
    """Any bytes come back as they were, empty ones too."""
    for value in (b"answer", b"", bytes(range(256)), b"x" * 100_000):
        await cache.set("key", value, 60)
        assert await cache.get("key") == value


async def test_an_unknown_key_is_a_miss(cache: Cache) -> None:
    """A key that was never set gives None."""
    assert await cache.get("never set") is None


async def test_the_latest_value_wins_and_keys_do_not_mix(cache: Cache) -> None:
    """Setting again replaces; another key has its own value."""
    await cache.set("a", b"1", 60)
    await cache.set("b", b"2", 60)
    await cache.set("a", b"3", 60)
    assert (await cache.get("a"), await cache.get("b")) == (b"3", b"2")


async def test_a_value_without_time_to_live_is_not_kept(cache: Cache) -> None:
    """A lifetime of zero or less keeps nothing."""
    await cache.set("a", b"1", 0)
    await cache.set("b", b"1", -5)
    assert (await cache.get("a"), await cache.get("b")) == (None, None)


async def test_many_at_once_each_get_their_own(cache: Cache) -> None:
    """Two hundred concurrent callers do not see each other's values."""
    await asyncio.gather(*(cache.set(f"k{i}", str(i).encode(), 60) for i in range(200)))
    assert await asyncio.gather(*(cache.get(f"k{i}") for i in range(200))) == [str(i).encode() for i in range(200)]


async def test_closing_twice_is_harmless(cache: Cache) -> None:
    """aclose is idempotent."""
    await cache.aclose()
    await cache.aclose()


# --- memory -------------------------------------------------------------------------------------------------------------------


async def test_memory_forgets_at_the_end_of_the_time_to_live() -> None:
    """A value is there until its lifetime ends, and its space is given back then."""
    clock = FakeClock()
    cache = MemoryCache(clock=clock)
    await cache.set("a", b"1", 10)
    clock.now += 9.9
    assert await cache.get("a") == b"1"
    clock.now += 0.1
    assert await cache.get("a") is None
    assert cache.size_bytes == 0


async def test_memory_drops_the_least_recently_used_past_max_entries() -> None:
    """When entries run out, the one that was not asked for longest goes."""
    cache = MemoryCache(max_entries=2)
    await cache.set("a", b"1", 60)
    await cache.set("b", b"2", 60)
    await cache.get("a")
    await cache.set("c", b"3", 60)
    assert [await cache.get(key) for key in "abc"] == [b"1", None, b"3"]


async def test_memory_stays_within_max_bytes() -> None:
    """Bytes are bounded too; a value larger than the cache is not kept and drives nothing else out."""
    cache = MemoryCache(max_bytes=2 * ENTRY_BYTES + 100)
    for key in "abc":
        await cache.set(key, b"x" * 39, 60)
    assert [await cache.get(key) is not None for key in "abc"] == [False, True, True]
    await cache.set("d", b"x" * (ENTRY_BYTES + 100), 60)
    assert (await cache.get("c"), await cache.get("d"), cache.size_bytes) == (b"x" * 39, None, 2 * ENTRY_BYTES + 80)


# --- Redis --------------------------------------------------------------------------------------------------------------------


async def test_redis_is_told_the_time_to_live(redis_cache: RedisCache, redis_server: Any) -> None:
    """The server itself expires the value."""
    await redis_cache.set("a", b"1", 90)
    assert redis_server.command("TTL", "outlay:a") in (b":90\r\n", b":89\r\n")


async def test_a_claim_is_one_processs_until_it_is_given_back_or_lapses(redis_url: str, redis_server: Any) -> None:
    """Others wait; the holder may claim again; another's claim cannot be given back; Redis lets it lapse; without Redis all may work."""
    one, two = RedisCache(redis_url, timeout_s=5), RedisCache(redis_url, timeout_s=5)
    assert [await one.claim("a", 60), await one.claim("a", 60), await two.claim("a", 60), await two.claim("b", 60)] == [
        True,
        True,
        False,
        True,
    ]
    await two.release("a")
    assert not await two.claim("a", 60)
    assert redis_server.command("TTL", "outlay:claim:a") in (b":60\r\n", b":59\r\n")
    await one.release("a")
    assert await two.claim("a", 60)
    redis_server.kill()
    assert await one.claim("a", 60)
    await one.release("a")
    await asyncio.gather(one.aclose(), two.aclose())


async def test_the_prefix_keeps_users_of_one_redis_apart(redis_url: str) -> None:
    """Two prefixes are two caches."""
    one, two = RedisCache(redis_url, "one:"), RedisCache(redis_url, "two:")
    await one.set("a", b"1", 60)
    assert (await one.get("a"), await two.get("a")) == (b"1", None)
    await asyncio.gather(one.aclose(), two.aclose())


async def test_what_is_not_ours_in_redis_is_a_miss(redis_cache: RedisCache, redis_server: Any) -> None:
    """A list, a foreign string or a damaged value under our key is a miss, and Redis counts as alive."""
    redis_server.command("RPUSH", "outlay:list", "x")
    redis_server.command("SET", "outlay:foreign", "hello")
    redis_server.command("SET", "outlay:damaged", "ou1:abcdhello")
    assert [await redis_cache.get(key) for key in ("list", "foreign", "damaged")] == [None, None, None]
    assert not redis_cache.down


async def test_a_dead_redis_is_a_miss_logged_once_and_logged_when_back(
    redis_cache: RedisCache, redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed: misses, one line. Restarted: hits again, one more line."""
    clock: FakeClock = redis_cache._link._clock  # type: ignore[assignment]
    await redis_cache.set("a", b"1", 60)
    redis_server.kill()
    with caplog.at_level(logging.WARNING, "adapters.redis_link"):
        for _ in range(3):
            assert await redis_cache.get("a") is None
            await redis_cache.set("a", b"1", 60)
            clock.now += 11
        assert [record.message.split(" (")[0] for record in caplog.records] == [f"cache {redis_server.url} does not answer"]
        redis_server.start()
        await redis_cache.set("a", b"2", 60)
        assert await redis_cache.get("a") == b"2"
        assert [record.message for record in caplog.records][1:] == [f"cache {redis_server.url} is back"]


async def test_readiness_asks_redis_itself(redis_cache: RedisCache, redis_server: Any) -> None:
    """So that an idle replica tells of a Redis that went, or came back, since its last request."""
    await redis_cache.load()
    redis_server.kill()
    with pytest.raises(CacheError, match="every look is a miss"):
        await redis_cache.load()
    assert redis_cache.down
    redis_server.start()
    redis_cache._link._clock.now += 11  # type: ignore[attr-defined]
    await redis_cache.load()
    assert not redis_cache.down


async def test_a_dead_redis_is_left_alone_for_retry_s(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure nobody waits for Redis until `retry_s` is over, and then one caller tries for all."""
    clock, tries = FakeClock(), 0
    cache = RedisCache(redis_url, retry_s=10, clock=clock)

    async def refuse(*_: object) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0)
        raise ConnectionRefusedError

    monkeypatch.setattr(cache._link.redis, "get", refuse)
    await cache.get("a")
    clock.now += 9.9
    await cache.get("a")
    assert tries == 1
    clock.now += 0.2
    await asyncio.gather(*(cache.get("a") for _ in range(5)))
    assert tries == 2
    await cache.aclose()


async def test_a_quick_restart_between_two_requests_is_not_noticed(redis_cache: RedisCache, redis_server: Any) -> None:
    """Connections that died while idle are replaced, not taken for a dead Redis."""
    await asyncio.gather(*(redis_cache.set(f"k{i}", b"1", 60) for i in range(20)))
    redis_server.kill()
    redis_server.start()
    await asyncio.gather(*(redis_cache.set(f"k{i}", b"2", 60) for i in range(20)))
    assert await redis_cache.get("k7") == b"2"
    assert not redis_cache.down


async def test_a_redis_that_accepts_and_never_answers_costs_one_timeout() -> None:
    """A hanging server is given `timeout_s` once, then it is left alone: the second call opens no connection."""
    connections = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    cache = RedisCache(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_s=0.02, retry_s=1000)
    assert await cache.get("a") is None
    seen = connections
    assert await cache.get("a") is None
    assert cache.down
    assert (seen, connections) == (1, 1)
    await cache.aclose()
    server.close()
    await server.wait_closed()


async def test_a_redis_that_talks_nonsense_is_a_miss() -> None:
    """A server that speaks another protocol is a failure like any other."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    cache = RedisCache(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_s=5)
    assert await cache.get("a") is None
    assert cache.down
    await cache.aclose()
    server.close()
    await server.wait_closed()


async def test_whoever_is_cancelled_while_redis_works_is_cancelled(redis_cache: RedisCache) -> None:
    """redis-py's own coroutines lose a cancellation at some of their steps; a request whose client left must end at whichever it is."""
    for steps in range(40):
        task = asyncio.ensure_future(redis_cache.get("a"))
        for _ in range(steps):
            await asyncio.sleep(0)
        if not task.done() and task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task


# --- by URL -------------------------------------------------------------------------------------------------------------------


def test_the_url_names_the_cache() -> None:
    """memory:// and redis:// build their caches, with the limits given."""
    assert isinstance(build_cache("memory://"), MemoryCache)
    assert isinstance(build_cache("redis://localhost:1/0"), RedisCache)


async def test_the_limits_reach_the_memory_cache() -> None:
    """`max_entries` and `max_bytes` given by URL's caller hold."""
    cache = build_cache("memory://", max_entries=1)
    await cache.set("a", b"1", 60)
    await cache.set("b", b"2", 60)
    assert await cache.get("a") is None
    tiny = build_cache("memory://", max_bytes=1)
    await tiny.set("a", b"1", 60)
    assert await tiny.get("a") is None


@pytest.mark.parametrize("build", [lambda: build_cache("ftp://user:secret@host"), lambda: build_cache("redis://user:secret@host:port/x")])
def test_a_wrong_url_says_what_would_be_right_and_no_password(build: Callable[[], Cache]) -> None:
    """The message shows the forms that are known, and never a password."""
    with pytest.raises(CacheError, match="redis://host:6379/0") as refused:
        build()
    assert "secret" not in str(refused.value)


def test_the_log_shows_no_password() -> None:
    """Where Redis is may be logged; how to get in may not."""
    assert "secret" not in RedisLink("redis://user:secret@localhost:1/0", "cache", timeout_s=1, retry_s=1).where
