"""Texts by the nearness of their vectors, in buckets that never see each other: in memory, or in Redis.

A bucket is whatever the caller says may be compared with each other. Vectors have length 1, so a product of two is their cosine. Like a
cache an index is an economy: what goes wrong in it is nothing found, never an error.

In Redis a bucket is a stream. A process keeps a copy and reads what is new, in one round trip. Where the server has vector search it is
asked instead, and nothing is copied.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from adapters.errors import CacheError
from adapters.options import without_password
from adapters.redis_link import Clock, RedisGone, RedisLink

Floats = NDArray[np.float32]

AT_ONCE = 2000
"""Rows that are compared without leaving the event loop: a quarter of a millisecond."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A text, its vector, and the Unix time until which it is kept."""

    text: str
    vector: Floats
    until: float


@dataclass(frozen=True, slots=True)
class Near:
    """A text that was found, and its cosine with what was looked for."""

    text: str
    cosine: float


class Vectors(Protocol):
    """An index. No failure is an error."""

    async def holds(self, bucket: str) -> bool:
        """Whether there is anything in the bucket to compare with; asked before `nearest`, it brings a copy up to date."""

    async def nearest(self, bucket: str, vector: Floats, least: float, most: int) -> list[Near]:
        """The nearest texts of the bucket with a cosine of at least so much, nearest first."""

    async def add(self, bucket: str, entry: Entry) -> None:
        """Put a text into the bucket; one that is there already is replaced."""

    async def aclose(self) -> None:
        """Release connections and memory."""


class MemoryVectors:
    """In this process only. When it is full the bucket goes that was not asked for longest, and of the only one its oldest texts."""

    def __init__(self, max_entries: int = 10_000, *, clock: Clock = time.time) -> None:
        self._max_entries, self._clock = max_entries, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self.size = 0
        """Texts in all buckets."""

    async def holds(self, bucket: str) -> bool:
        """Whether there is anything in the bucket."""
        return bucket in self._buckets

    async def nearest(self, bucket: str, vector: Floats, least: float, most: int) -> list[Near]:
        """The nearest of the bucket whose time is not over; large buckets are searched in a thread."""
        if (rows := self._buckets.get(bucket)) is None:
            return []
        self._buckets.move_to_end(bucket)
        matrix, entries = rows.matrix[: len(rows.entries)], rows.entries
        if matrix.shape[1] != len(vector):
            return []
        cosines = matrix @ vector if len(matrix) <= AT_ONCE else await asyncio.to_thread(np.matmul, matrix, vector)
        now, order = self._clock(), np.argsort(-cosines)
        found = (Near(entries[i].text, float(cosines[i])) for i in order if cosines[i] >= least and entries[i].until > now)
        return [near for near, _ in zip(found, range(most), strict=False)]

    async def add(self, bucket: str, entry: Entry) -> None:
        """Put a text into the bucket."""
        self.put(bucket, [entry])

    def put(self, bucket: str, entries: Iterable[Entry], seen: str = "") -> None:
        """Several at once; `seen` is where a copy goes on from."""
        now = self._clock()
        fresh = [entry for entry in entries if entry.until > now]
        if not fresh and bucket not in self._buckets:
            return
        rows = self._buckets.setdefault(bucket, _Bucket())
        self._buckets.move_to_end(bucket)
        self.size -= len(rows.entries)
        rows.add(fresh, self._max_entries, now)
        rows.seen = seen or rows.seen
        self.size += len(rows.entries)
        while self.size > self._max_entries:
            self.size -= len(self._buckets.popitem(last=False)[1].entries)

    def seen(self, bucket: str) -> str:
        """Where the copy of a bucket goes on from; empty for one that is not here."""
        rows = self._buckets.get(bucket)
        return rows.seen if rows else ""

    async def aclose(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self.size = 0


@dataclass(slots=True)
class _Bucket:
    """Entries, oldest first, and their vectors as rows. A search may hold both while others are added, so neither gets shorter in place."""

    entries: list[Entry] = field(default_factory=list)
    matrix: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    places: dict[str, int] = field(default_factory=dict)
    seen: str = ""

    def add(self, fresh: Sequence[Entry], most: int, now: float) -> None:
        """Those of the width that the bucket has; past `most` of them what is over goes, and a tenth of what is oldest."""
        entries = list(self.entries)
        for entry in fresh:
            if entries and len(entry.vector) != self.matrix.shape[1]:
                continue
            place = self.places.setdefault(entry.text, len(entries))
            if place == len(entries):
                entries.append(entry)
                self._grow(len(entries), len(entry.vector))
            entries[place] = entry
            self.matrix[place] = entry.vector
        self.entries = entries
        if len(entries) > most:
            self._shrink(max(1, most * 9 // 10), now)

    def _grow(self, rows: int, width: int) -> None:
        if rows > len(self.matrix):
            grown = np.zeros((2 * rows + 14, width), np.float32)
            grown[: rows - 1] = self.matrix[: rows - 1] if rows > 1 else 0
            self.matrix = grown

    def _shrink(self, most: int, now: float) -> None:
        kept = [i for i, entry in enumerate(self.entries) if entry.until > now][-most:]
        self.entries, self.matrix = [self.entries[i] for i in kept], self.matrix[kept]
        self.places = {entry.text: place for place, entry in enumerate(self.entries)}


# --- Redis --------------------------------------------------------------------------------------------------------------


class RedisVectors:
    """Shared by processes. While Redis is gone nothing is found; see `redis_link.py`."""

    def __init__(
        self,
        url: str,
        max_entries: int = 10_000,
        prefix: str = "outlay:near:",
        *,
        timeout_s: float = 0.25,
        retry_s: float = 5.0,
        clock: Clock = time.time,
    ) -> None:
        self._link = RedisLink(url, "semantic cache", timeout_s=timeout_s, retry_s=retry_s)
        self._max_entries, self._prefix, self._clock = max_entries, prefix, clock
        self._copy = MemoryVectors(max_entries, clock=clock)
        self._index = f"{prefix}index"
        self._searches: bool | None = None
        """Whether the server has vector search; None before it was asked."""

    @property
    def down(self) -> bool:
        """Redis did not answer last time."""
        return self._link.down

    async def holds(self, bucket: str) -> bool:
        """Whether the bucket has anything, by a look at the server."""
        try:
            if await self._has_search():
                return _count(await self._ask("FT.SEARCH", self._index, f"@bucket:{{{bucket}}}", "LIMIT", 0, 0, "DIALECT", 2)) > 0
            await self._catch_up(bucket)
        except RedisGone:
            return False
        return await self._copy.holds(bucket)

    async def nearest(self, bucket: str, vector: Floats, least: float, most: int) -> list[Near]:
        """Of the copy that `holds` brought up to date, or of the server's own search."""
        if not self._searches:
            return await self._copy.nearest(bucket, vector, least, most)
        query = f"(@bucket:{{{bucket}}})=>[KNN {most} @vector $v AS distance]"
        options = ("PARAMS", 2, "v", _bytes(vector), "SORTBY", "distance", "RETURN", 2, "text", "distance", "DIALECT", 2)
        try:
            found = _found(await self._ask("FT.SEARCH", self._index, query, *options))
        except RedisGone:
            return []
        return [near for near in found if near.cosine >= least]

    async def add(self, bucket: str, entry: Entry) -> None:
        """Put a text into the bucket, unless Redis is gone."""
        ttl_ms = int((entry.until - self._clock()) * 1000)
        if ttl_ms <= 0:
            return
        fields = {"text": entry.text, "vector": _bytes(entry.vector), "until": repr(entry.until)}
        try:
            if await self._has_search():
                await self._create_index(len(entry.vector))
                await self._write(self._prefix + _name(bucket, entry.text), {**fields, "bucket": bucket}, ttl_ms)
            else:
                await self._append(self._prefix + bucket, fields, ttl_ms)
        except RedisGone:
            return

    async def aclose(self) -> None:
        """Close the connections, forget the copy."""
        await self._link.aclose()
        await self._copy.aclose()

    # --- a stream for each bucket, and a copy of it here ----------------------------------------------------------------

    async def _catch_up(self, bucket: str) -> None:
        """Copy what came since the last look."""
        seen = self._copy.seen(bucket)
        rows = await self._ask("XRANGE", self._prefix + bucket, f"({seen}" if seen else "-", "+", "COUNT", self._max_entries)
        entries = [entry for _, fields in rows or () if (entry := _entry(fields)) is not None]
        if rows:
            self._copy.put(bucket, entries, _text(rows[-1][0]))

    async def _append(self, key: str, fields: Mapping[str, Any], ttl_ms: int) -> None:
        """One more entry. The stream lives as long as its newest one: an older one that is lost with it is a miss."""

        async def both() -> None:
            async with self._pipeline() as pipe:
                pipe.xadd(key, fields, maxlen=self._max_entries, approximate=True)
                pipe.pexpire(key, ttl_ms)
                await pipe.execute(raise_on_error=False)  # a refusal (a key of another kind) is no failure of the server

        await self._link.ask(both)

    # --- a server with vector search ------------------------------------------------------------------------------------

    async def _has_search(self) -> bool:
        """Asked once, for servers do not learn it while they run."""
        if self._searches is None:
            self._searches = await self._ask("FT._LIST") is not None
        return self._searches

    async def _create_index(self, width: int) -> None:
        """Refused where it is there, and so harmless to repeat."""
        vector = ("vector", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", width, "DISTANCE_METRIC", "COSINE")
        await self._ask("FT.CREATE", self._index, "ON", "HASH", "PREFIX", 1, self._prefix, "SCHEMA", "bucket", "TAG", *vector)

    async def _write(self, key: str, fields: Mapping[str, Any], ttl_ms: int) -> None:
        async def both() -> None:
            async with self._pipeline() as pipe:
                pipe.hset(key, mapping=fields)
                pipe.pexpire(key, ttl_ms)
                await pipe.execute(raise_on_error=False)  # a refusal (a key of another kind) is no failure of the server

        await self._link.ask(both)

    def _pipeline(self) -> Any:
        return self._link.redis.pipeline(transaction=False)

    async def _ask(self, *command: Any) -> Any:
        """What the server says; a refusal of the command is an answer, for the server lives."""
        from redis.exceptions import ResponseError

        redis: Any = self._link.redis

        async def said() -> Any:
            try:
                return await redis.execute_command(*command)
            except ResponseError as refusal:
                return refusal

        found = await self._link.ask(said)
        return None if isinstance(found, ResponseError) else found


def _entry(fields: Any) -> Entry | None:
    """An entry that is whole, its vector of length 1."""
    try:
        said = _pairs(fields)
        vector = np.frombuffer(said["vector"], np.float32)
        whole = abs(float(vector @ vector) - 1) < 1e-3
        return Entry(said["text"].decode(), vector, float(said["until"])) if whole else None
    except (KeyError, ValueError, TypeError):
        return None


def _bytes(vector: Floats) -> bytes:
    return np.ascontiguousarray(vector, np.float32).tobytes()


def _name(bucket: str, text: str) -> str:
    return f"{bucket}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _pairs(fields: Any) -> dict[str, bytes]:
    """A reply's fields, as a mapping or one after the other."""
    pairs = fields.items() if isinstance(fields, Mapping) else zip(fields[::2], fields[1::2], strict=True)
    return {_text(name): value for name, value in pairs}


def _count(reply: Any) -> int:
    """How many a search found; 0 where it was refused."""
    if isinstance(reply, Mapping):
        reply = [_named(reply, "total_results")]
    return int(reply[0] or 0) if reply else 0


def _found(reply: Any) -> list[Near]:
    """The results of a search, in either version of the protocol; what is not whole is left out."""
    if isinstance(reply, Mapping):
        rows = [_named(row, "extra_attributes") for row in _named(reply, "results") or ()]
    else:
        rows = list(reply[2::2]) if reply else []
    found = []
    for row in rows:
        try:
            said = _pairs(row)
            found.append(Near(_text(said["text"]), 1.0 - float(said["distance"])))
        except (KeyError, ValueError, TypeError):
            continue
    return found


def _named(reply: Mapping[Any, Any], name: str) -> Any:
    return reply.get(name, reply.get(name.encode()))


def build_vectors(url: str, encoder: str, max_entries: int) -> Vectors:
    """The index that belongs to the cache of that URL, for vectors of one encoder. Nothing is connected yet. Raises CacheError."""
    if urlsplit(url).scheme == "memory":
        return MemoryVectors(max_entries)
    try:
        return RedisVectors(url, max_entries, f"outlay:near:{encoder}:")
    except ValueError as error:
        raise CacheError(f"'{without_password(url)}' is not a Redis URL ({error}); write redis://host:6379/0") from None
