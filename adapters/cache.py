"""Caches: bytes under a key for a time, and claims on work that need be done once, in memory or in Redis.

A cache is an economy, never a duty: whatever goes wrong in it is a miss, so `get` and `set` do not raise. What a key is made of and
what the bytes mean is decided elsewhere.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from adapters.errors import CacheError
from adapters.options import without_password
from adapters.redis_link import Clock, RedisGone, RedisLink

_MARK = b"ou1:"
"""Begins every value in Redis, before its CRC-32: whatever else lies under our key is not ours, or not whole."""

ENTRY_BYTES = 300
"""What an entry in memory takes beside its key and its value."""

_CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class Cache(Protocol):
    """Bytes under a key, until their time is over or the space is needed. No failure of a cache is an error."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None for a miss, whatever the cause."""

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for so many seconds; with none left, it is not kept."""

    async def claim(self, key: str, ttl_s: float) -> bool:
        """Whether no other process holds a claim on the key; from now on this one does, until `release`, or for so long."""

    async def release(self, key: str) -> None:
        """Give a claim back; one of another process's is left alone."""

    async def aclose(self) -> None:
        """Release connections and memory."""


class MemoryCache:
    """In this process only; the least recently used entries go when it is full: of entries, or of bytes of the process's memory."""

    def __init__(self, max_entries: int = 10_000, max_bytes: int = 64 << 20, *, clock: Clock = time.monotonic) -> None:
        self._max_entries, self._max_bytes, self._clock = max_entries, max_bytes, clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one and its time is not over."""
        value, expires = self._entries.get(key, (None, 0.0))
        if value is not None and expires <= self._clock():
            self._drop(key)
            return None
        if value is not None:
            self._entries.move_to_end(key)
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value; one that is larger than the whole cache is not kept."""
        self._drop(key)
        if ttl_s <= 0 or _weight(key, value) > self._max_bytes:
            return
        self._entries[key] = (value, self._clock() + ttl_s)
        self.size_bytes += _weight(key, value)
        while len(self._entries) > self._max_entries or self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def claim(self, key: str, ttl_s: float) -> bool:
        """No other process shares this memory."""
        return True

    async def release(self, key: str) -> None:
        """There is nothing to give back."""

    async def aclose(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size_bytes = 0

    def _drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.size_bytes -= _weight(key, entry[0])


def _weight(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES


class RedisCache:
    """Shared by processes. While Redis is gone every read is a miss and costs nothing; see `redis_link.py`."""

    def __init__(
        self, url: str, prefix: str = "outlay:", *, timeout_s: float = 0.25, retry_s: float = 5.0, clock: Clock = time.monotonic
    ) -> None:
        self._link = RedisLink(url, "cache", timeout_s=timeout_s, retry_s=retry_s, clock=clock)
        self._prefix, self._me = prefix, secrets.token_bytes(16)

    @property
    def down(self) -> bool:
        """Redis did not answer last time; reads are misses and writes are dropped."""
        return self._link.down

    async def load(self) -> None:
        """Look whether Redis is there. Raises CacheError where it is not; reads are misses then."""
        try:
            await self._link.ask(self._link.redis.ping)
        except RedisGone:
            raise CacheError("Redis does not answer; every look is a miss") from None

    async def get(self, key: str) -> bytes | None:
        """The value; a miss if Redis is gone, slow, or holds something under the key that this class did not write."""
        return _unwrapped(await self._try(lambda: self._link.redis.get(self._prefix + key)))

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value, unless Redis is gone."""
        if (ttl_ms := int(ttl_s * 1000)) > 0:
            await self._try(lambda: self._link.redis.set(self._prefix + key, _wrapped(value), px=ttl_ms))

    async def claim(self, key: str, ttl_s: float) -> bool:
        """While Redis is gone, every process may work."""
        script = (_CLAIM, 1, self._prefix + "claim:" + key, self._me, int(ttl_s * 1000))
        refused = await self._try(lambda: self._link.redis.eval(*script)) == 0
        return not refused

    async def release(self, key: str) -> None:
        """Only of what is still ours: a claim that lapsed may be another process's by now."""
        await self._try(lambda: self._link.redis.eval(_RELEASE, 1, self._prefix + "claim:" + key, self._me))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()

    async def _try(self, command: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await self._link.ask(command)
        except RedisGone:
            return None


def _wrapped(value: bytes) -> bytes:
    return _MARK + zlib.crc32(value).to_bytes(4, "big") + value


def _unwrapped(stored: Any) -> bytes | None:
    """The value inside, if it is one of ours and whole."""
    if not isinstance(stored, bytes) or not stored.startswith(_MARK):
        return None
    checksum, value = stored[len(_MARK) : len(_MARK) + 4], stored[len(_MARK) + 4 :]
    return value if zlib.crc32(value).to_bytes(4, "big") == checksum else None


def build_cache(
    url: str,
    *,
    prefix: str = "outlay:",
    max_entries: int = 10_000,
    max_bytes: int = 64 << 20,
    timeout_s: float = 0.25,
    retry_s: float = 5.0,
) -> Cache:
    """The cache that a URL names: `memory://`, or `redis://`, `rediss://`, `unix://`. Nothing is connected yet. Raises CacheError."""
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return MemoryCache(max_entries, max_bytes)
    if scheme not in ("redis", "rediss", "unix"):
        raise CacheError(f"no cache for '{without_password(url)}'; have memory:// and redis://host:6379/0")
    try:
        return RedisCache(url, prefix, timeout_s=timeout_s, retry_s=retry_s)
    except ValueError as error:
        raise CacheError(f"'{without_password(url)}' is not a Redis URL ({error}); write redis://host:6379/0") from None
