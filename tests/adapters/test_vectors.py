"""Indexes of vectors: one suite on memory and on a real Redis, then what each does when it is full, lied to or gone.

No Redis with vector search can be installed with the tests: that branch talks to a server here that knows just those commands, in the
shape that the documentation of RediSearch gives for both versions of the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from adapters.errors import CacheError
from adapters.vectors import Entry, Floats, MemoryVectors, Near, RedisVectors, Vectors, build_vectors
from tests.adapters.test_cache import FakeClock

BUCKET, OTHER = "a1", "b2"
WIDTH = 8


def unit(*numbers: float) -> Floats:
    """A vector of length 1 that begins in this direction."""
    vector = np.zeros(WIDTH, np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.float32(np.linalg.norm(vector))


def entry(text: str, *numbers: float, ttl_s: float = 60) -> Entry:
    return Entry(text, unit(*numbers), time.time() + ttl_s)


async def found(index: Vectors, vector: Floats, least: float = 0.5, most: int = 8, bucket: str = BUCKET) -> list[str]:
    """Texts, by a look as the cache makes it."""
    if not await index.holds(bucket):
        return []
    return [near.text for near in await index.nearest(bucket, vector, least, most)]


@pytest.fixture(params=["memory", "redis", "search2", "search3"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[Vectors]:
    if request.param.startswith("search"):
        async with searching(int(request.param[-1])) as built:
            yield built
        return
    memory = request.param == "memory"
    built = build_vectors("memory://", "e", 100) if memory else RedisVectors(request.getfixturevalue("redis_url"), 100, timeout_s=5)
    yield built
    await built.aclose()


# --- conformance --------------------------------------------------------------------------------------------------------


async def test_the_nearest_come_first_and_none_below_the_least(index: Vectors) -> None:
    """By cosine, at most so many, each with its cosine."""
    for text, numbers in {"near": (1, 0.1), "far": (0, 1), "nearer": (1, 0.01), "middling": (1, 0.8)}.items():
        await index.add(BUCKET, entry(text, *numbers))
    assert await found(index, unit(1)) == ["nearer", "near", "middling"]
    assert await found(index, unit(1), least=0.9) == ["nearer", "near"]
    assert await found(index, unit(1), most=1) == ["nearer"]
    cosine = (await index.nearest(BUCKET, unit(1), 0.5, 1))[0].cosine
    assert cosine == pytest.approx(float(unit(1) @ unit(1, 0.01)), abs=1e-4)


async def test_buckets_do_not_see_each_other(index: Vectors) -> None:
    """The same vector in another bucket is not there."""
    await index.add(BUCKET, entry("mine", 1))
    assert await found(index, unit(1)) == ["mine"]
    assert not await index.holds(OTHER)
    assert await found(index, unit(1), bucket=OTHER) == []


async def test_a_text_put_in_again_is_there_once(index: Vectors) -> None:
    """The later one holds."""
    for numbers in ((1, 0), (0, 1)):
        await index.add(BUCKET, entry("again", *numbers))
    assert await found(index, unit(0, 1)) == ["again"]
    assert await found(index, unit(1, 0)) == []


async def test_what_has_no_time_left_is_not_put_in(index: Vectors) -> None:
    """Nor does it make a bucket."""
    await index.add(BUCKET, entry("late", 1, ttl_s=-1))
    assert not await index.holds(BUCKET)


async def test_many_at_once_are_all_there(index: Vectors) -> None:
    """Fifty writers and as many readers at the same time lose nothing."""
    await asyncio.gather(
        *(index.add(BUCKET, entry(f"text {i}", 1, i / 50)) for i in range(50)), *(found(index, unit(1)) for _ in range(50))
    )
    assert sorted(await found(index, unit(1), most=100)) == sorted(f"text {i}" for i in range(50))


# --- memory -------------------------------------------------------------------------------------------------------------


async def test_memory_forgets_at_the_end_of_the_time() -> None:
    """An entry is found until its time is over, and gives its place back when the space is needed."""
    clock = FakeClock()
    index = MemoryVectors(max_entries=1, clock=clock)
    await index.add(BUCKET, Entry("old", unit(1), clock.now + 10))
    assert await found(index, unit(1)) == ["old"]
    clock.now += 10
    assert await found(index, unit(1)) == []
    await index.add(BUCKET, Entry("new", unit(1), clock.now + 10))
    assert (await found(index, unit(1)), index.size) == (["new"], 1)


async def test_memory_stays_within_max_entries() -> None:
    """The bucket asked for longest ago goes first; a bucket alone loses its oldest texts."""
    index = MemoryVectors(max_entries=10)
    for bucket in (BUCKET, OTHER):
        for i in range(4):
            await index.add(bucket, entry(f"{i}", 1, i / 100))
    await found(index, unit(1))
    for i in range(4):
        await index.add("c3", entry(f"{i}", 1))
    assert [await index.holds(bucket) for bucket in (BUCKET, OTHER, "c3")] == [True, False, True]
    for i in range(100):
        await index.add("d4", entry(f"text {i}", 1))
        assert index.size <= 10
    assert "text 99" in await found(index, unit(1), most=10, bucket="d4")
    assert "text 0" not in await found(index, unit(1), most=10, bucket="d4")


async def test_a_large_bucket_is_searched_beside_the_event_loop() -> None:
    """With thousands of texts others go on while it is searched, and the answer is the same."""
    index = MemoryVectors(max_entries=5000)
    index.put(BUCKET, [entry(f"{i}", 1, 1 + i) for i in range(3000)])
    ticked = False

    async def tick() -> None:
        nonlocal ticked
        ticked = True

    ticking = asyncio.create_task(tick())
    assert await found(index, unit(1), most=1) == ["0"]
    assert ticked
    await ticking


async def test_vectors_of_another_width_do_not_mix() -> None:
    """What an encoder of another width wrote is not found, and breaks nothing."""
    index = MemoryVectors()
    await index.add(BUCKET, entry("mine", 1))
    await index.add(BUCKET, Entry("other", np.ones(1, np.float32), time.time() + 60))
    assert await found(index, unit(1)) == ["mine"]
    assert await index.nearest(BUCKET, np.ones(3, np.float32), 0.0, 8) == []


# --- Redis --------------------------------------------------------------------------------------------------------------


async def test_a_process_finds_what_another_put_in_and_reads_only_what_is_new(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is one round trip, which brings only what came since the last."""
    one, two = RedisVectors(redis_url, timeout_s=5), RedisVectors(redis_url, timeout_s=5)
    await one.add(BUCKET, entry("first", 1))
    assert await found(two, unit(1)) == ["first"]
    await one.add(BUCKET, entry("second", 1, 0.1))
    read: list[Any] = []
    execute = two._link.redis.execute_command

    async def watched(*command: Any) -> Any:
        reply = await execute(*command)
        read.append((command[0], len(reply)))
        return reply

    monkeypatch.setattr(two._link.redis, "execute_command", watched)
    assert await found(two, unit(1)) == ["first", "second"]
    assert await found(two, unit(1)) == ["first", "second"]
    assert read == [("XRANGE", 1), ("XRANGE", 0)]
    await asyncio.gather(one.aclose(), two.aclose())


async def test_redis_is_told_the_time_to_live_and_the_most_entries(redis_url: str, redis_server: Any) -> None:
    """The server forgets by itself."""
    index = RedisVectors(redis_url, max_entries=100, timeout_s=5)
    await asyncio.gather(*(index.add(BUCKET, entry(f"{i}", 1, i / 1000)) for i in range(500)))
    assert redis_server.command("TTL", f"outlay:near:{BUCKET}") in (b":60\r\n", b":59\r\n")
    assert int(redis_server.command("XLEN", f"outlay:near:{BUCKET}")[1:]) <= 200  # whole nodes of the stream are trimmed
    assert len(await found(index, unit(1), most=1000)) <= 100
    await index.aclose()


async def test_what_is_not_ours_in_redis_is_not_found(redis_url: str, redis_server: Any) -> None:
    """Foreign fields, torn vectors and vectors that are none are left out; a foreign kind of value is nothing; Redis counts as alive."""
    index = RedisVectors(redis_url, timeout_s=5)
    key = f"outlay:near:{BUCKET}"
    redis_server.command("XADD", key, "*", "hello", "world")
    redis_server.command("XADD", key, "*", "text", "torn", "vector", "abc", "until", "9e9")
    redis_server.command("XADD", key, "*", "text", "zeros", "vector", "\0" * 4 * WIDTH, "until", "9e9")
    redis_server.command("XADD", key, "*", "text", "when", "vector", "\0\0\x80?" + "\0" * 4 * (WIDTH - 1), "until", "soon")
    await index.add(BUCKET, entry("ours", 1))
    redis_server.command("SET", f"outlay:near:{OTHER}", "a string")
    assert await found(index, unit(1)) == ["ours"]
    assert await found(index, unit(1), bucket=OTHER) == []
    await index.add(OTHER, entry("ours", 1))
    assert not index.down
    await index.aclose()


async def test_a_dead_redis_is_nothing_found_logged_once(redis_url: str, redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Killed: nothing found, one line. Restarted: what is put in is found, one more line."""
    index = RedisVectors(redis_url, timeout_s=5, retry_s=0)
    await index.add(BUCKET, entry("before", 1))
    redis_server.kill()
    with caplog.at_level(logging.WARNING, "adapters.redis_link"):
        for _ in range(3):
            assert await found(index, unit(1)) == []
            await index.add(BUCKET, entry("lost", 1))
        assert [record.message.split(" (")[0] for record in caplog.records] == [f"semantic cache {redis_server.url} does not answer"]
        redis_server.start()
        await index.add(BUCKET, entry("after", 1, 0.1))
        assert "after" in await found(index, unit(1))
        assert [record.message for record in caplog.records][1:] == [f"semantic cache {redis_server.url} is back"]
    await index.aclose()


def test_a_wrong_url_is_refused_with_what_would_be_right() -> None:
    """As for the cache itself."""
    with pytest.raises(CacheError, match="write redis://host:6379/0"):
        build_vectors("redis://host:notaport/0", "e", 10)


# --- a server with vector search, as a double ---------------------------------------------------------------------------


class SearchServer:
    """Knows FT._LIST, FT.CREATE and FT.SEARCH over hashes, as RediSearch does: `hits` in the reply's shape of protocol 2 or 3."""

    def __init__(self, protocol: int) -> None:
        self.protocol, self.hashes, self.indexes = protocol, dict[str, dict[str, bytes]](), set[str]()
        self.asked: list[str] = []

    async def execute_command(self, *command: Any) -> Any:
        from redis.exceptions import ResponseError

        self.asked.append(command[0])
        if command[0] == "FT._LIST":
            return [name.encode() for name in self.indexes]
        if command[0] == "FT.CREATE":
            assert command[2:6] == ("ON", "HASH", "PREFIX", 1)
            if command[1] in self.indexes:
                raise ResponseError("Index already exists")
            self.indexes.add(command[1])
            return b"OK"
        assert command[0] == "FT.SEARCH"
        if command[1] not in self.indexes:
            raise ResponseError(f"{command[1]}: no such index")
        bucket = command[2].partition("{")[2].partition("}")[0]
        rows = {key: row for key, row in self.hashes.items() if row["bucket"] == bucket.encode()}
        if "LIMIT" in command:
            return {b"total_results": len(rows), b"results": []} if self.protocol == 3 else [len(rows)]
        return self._nearest(rows, int(command[2].partition("KNN ")[2].split()[0]), np.frombuffer(command[6], np.float32))

    def _nearest(self, rows: dict[str, dict[str, bytes]], most: int, vector: Floats) -> Any:
        far = {key: 1 - float(np.frombuffer(row["vector"], np.float32) @ vector) for key, row in rows.items()}
        best = sorted(far, key=far.__getitem__)[:most]
        found = {key.encode(): {b"distance": str(far[key]).encode(), b"text": rows[key]["text"]} for key in best}
        if self.protocol == 3:
            return {b"total_results": len(found), b"results": [{b"id": key, b"extra_attributes": row} for key, row in found.items()]}
        return [len(found), *(part for key, row in found.items() for part in (key, [x for pair in row.items() for x in pair]))]

    def pipeline(self, transaction: bool) -> SearchServer:
        return self

    async def __aenter__(self) -> SearchServer:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def hset(self, key: str, mapping: dict[str, Any]) -> None:
        self.hashes[key] = {name: value if isinstance(value, bytes) else str(value).encode() for name, value in mapping.items()}

    def pexpire(self, key: str, ttl_ms: int) -> None:
        assert 0 < ttl_ms <= 60_000

    async def execute(self, raise_on_error: bool) -> None: ...


class searching:  # noqa: N801 - a context manager
    """An index that talks to such a server."""

    def __init__(self, protocol: int) -> None:
        self.server, self.index = SearchServer(protocol), RedisVectors("redis://127.0.0.1:1/0")
        self._redis = self.index._link.redis

    async def __aenter__(self) -> RedisVectors:
        self.index._link.redis = self.server  # type: ignore[assignment]
        return self.index

    async def __aexit__(self, *_: object) -> None:
        self.index._link.redis = self._redis
        await self.index.aclose()


async def test_a_server_with_vector_search_is_asked_and_nothing_is_copied() -> None:
    """Its index is made at the first write; a server that was emptied gets it again."""
    double = searching(2)
    async with double as index:
        assert not await index.holds(BUCKET)
        await index.add(BUCKET, entry("one", 1))
        assert await index.holds(BUCKET)
        assert await index.nearest(BUCKET, unit(1), 0.9, 4) == [Near("one", pytest.approx(1.0))]
        assert index._copy.size == 0
        double.server.indexes.clear()
        assert not await index.holds(BUCKET)
        await index.add(BUCKET, entry("one", 1))
        assert await index.holds(BUCKET)
        assert double.server.asked.count("FT._LIST") == 1
