"""Sums that outlive the process and are shared by replicas: named rows of three numbers, in memory, in a file, or in a Redis hash.

One operation: add to some rows, forget others, and see all. What the rows mean is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from adapters.errors import SumsError
from adapters.event_log import REDIS_SCHEMES
from adapters.redis_link import RedisGone, RedisLink

Row = tuple[float, float, float]
Rows = Mapping[str, Row]

MEMORY = "memory://"
KEY = "outlay:feedback"


class Sums(Protocol):
    """Rows by name."""

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """Add `more`, drop the rows to `forget`, return all. Raises SumsError, with nothing added as far as that can be known."""

    async def aclose(self) -> None:
        """Release what is held."""


class MemorySums:
    """In this process only."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """Add, drop, return."""
        self._rows = _summed(self._rows, more, forget)
        return self._rows

    async def aclose(self) -> None:
        """Nothing is held."""


class FileSums:
    """In a JSON file, replaced whole; processes of one machine may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """Under a lock, in a thread."""
        return await asyncio.to_thread(self._exchange, more, forget)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _exchange(self, more: Rows, forget: Collection[str]) -> Rows:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(self._path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                rows = self._read()
                if not more and not forget:
                    return rows
                rows = _summed(rows, more, forget)
                partial = self._path.with_name(self._path.name + ".partial")
                partial.write_text(json.dumps({"version": 1, "rows": rows}) + "\n")
                partial.replace(self._path)
                return rows
        except OSError as error:
            raise SumsError(f"{self._path}: {error.strerror or error}") from error

    def _read(self) -> dict[str, Row]:
        if not self._path.exists():
            return {}
        try:
            data = json.loads(self._path.read_text())
            return {name: _row(row) for name, row in data["rows"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SumsError(f"{self._path}: not written by Outlay ({error}); move it away") from error


class RedisSums:
    """In a Redis hash, one field for each number; one round trip, all of it or nothing."""

    def __init__(self, url: str, *, key: str = KEY, timeout_s: float = 2.0) -> None:
        self._link, self._key = RedisLink(url, "feedback in", timeout_s=timeout_s, retry_s=0.0), key

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """As a transaction. A reply that is lost on its way may make a sum count twice."""
        pipe = self._link.redis.pipeline(transaction=True)
        for name, row in more.items():
            for place, number in enumerate(row):
                pipe.hincrbyfloat(self._key, f"{place}{name}", number)
        if forget:
            pipe.hdel(self._key, *(f"{place}{name}" for name in forget for place in range(3)))
        pipe.hgetall(self._key)
        try:
            return _gathered((await self._link.ask(pipe.execute))[-1])
        except RedisGone as gone:
            raise SumsError(f"{self._link.where}: {gone.__cause__}") from gone
        except ValueError as error:
            raise SumsError(f"{self._link.where}: '{self._key}' was not written by Outlay ({error})") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()


def build_sums(where: str) -> Sums:
    """What a setting names: `memory://`, a Redis URL, or the path of a JSON file. Nothing is opened yet."""
    if where == MEMORY:
        return MemorySums()
    return RedisSums(where) if is_redis(where) else FileSums(Path(where))


def is_redis(where: str) -> bool:
    """Whether a setting names a Redis."""
    return urlsplit(where).scheme in REDIS_SCHEMES


def _gathered(fields: Mapping[bytes, bytes]) -> dict[str, Row]:
    rows: dict[str, list[float]] = {}
    for field, number in fields.items():
        place, name = int(field[:1]), field[1:].decode()
        rows.setdefault(name, [0.0, 0.0, 0.0])[place] = float(number)
    return {name: _row(row) for name, row in rows.items()}


def _summed(rows: Rows, more: Rows, forget: Collection[str]) -> dict[str, Row]:
    summed = dict(rows)
    for name, row in more.items():
        summed[name] = _row([a + b for a, b in zip(summed.get(name, (0.0, 0.0, 0.0)), row, strict=True)])
    return {name: row for name, row in summed.items() if name not in forget}


def _row(numbers: Any) -> Row:
    first, second, third = numbers
    return float(first), float(second), float(third)
