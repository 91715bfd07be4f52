"""Sums that outlive the process and are shared by replicas: named rows of three numbers, in memory, in a file, or in a Redis hash.

One operation: add to some rows, forget others, and see all. What the rows mean is decided elsewhere. What cannot be added now is kept and
counts once (`lots.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from adapters.errors import SumsError
from adapters.event_log import REDIS_SCHEMES
from adapters.lots import ONCE, REMEMBERED_S, Lots
from adapters.redis_link import RedisGone, RedisLink

Row = tuple[float, float, float]
Rows = Mapping[str, Row]
NOTHING: Row = (0.0, 0.0, 0.0)

MEMORY = "memory://"
KEY = "outlay:feedback"


class Sums(Protocol):
    """Rows by name."""

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """Add `more`, drop the rows to `forget`, return all. Raises SumsError; what was handed in is kept then, for the next exchange."""

    async def aclose(self) -> None:
        """Release what is held."""


class MemorySums:
    """In this process only."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """Add, drop, return."""
        self._rows = _changed(self._rows, _changes(more, forget))
        return self._rows

    async def aclose(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a row: whether it is forgotten, and what is added then."""

    more: Row
    forgotten: bool = False

    def then(self, later: Change) -> Change:
        """Both in one."""
        return later if later.forgotten else Change(_sum(self.more, later.more), self.forgotten)


class FileSums:
    """In a JSON file, replaced whole; processes of one machine may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: Rows = {}
        self._lots: Lots[Change] = Lots(self._carry, Change.then)

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """Under a lock, in a thread."""
        self._lots.add(_changes(more, forget))
        await self._lots.hand_in()
        return self._rows

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _carry(self, changes: Mapping[str, Change], _: int) -> None:
        self._rows = await asyncio.to_thread(self._exchange, changes)

    def _exchange(self, changes: Mapping[str, Change]) -> Rows:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(self._path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                rows = self._read()
                if not changes:
                    return rows
                rows = _changed(rows, changes)
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


_SCRIPT = (
    ONCE
    + """
once(function()
  for i = 3, #ARGV, 5 do
    local name = ARGV[i]
    if ARGV[i + 1] == '1' then redis.call('HDEL', KEYS[2], '0' .. name, '1' .. name, '2' .. name) end
    for place = 0, 2 do
      local more = ARGV[i + 2 + place]
      if tonumber(more) ~= 0 then redis.call('HINCRBYFLOAT', KEYS[2], place .. name, more) end
    end
  end
end)
return redis.call('HGETALL', KEYS[2])
"""
)


class RedisSums:
    """In a Redis hash, one field for each number; one round trip, all of it or nothing."""

    def __init__(self, url: str, *, key: str = KEY, timeout_s: float = 2.0) -> None:
        self._link, self._key = RedisLink(url, "feedback in", timeout_s=timeout_s, retry_s=0.0), key
        self._script = self._link.redis.register_script(_SCRIPT)
        self._rows: Rows = {}
        self._lots: Lots[Change] = Lots(self._carry, Change.then)

    async def exchange(self, more: Rows, forget: Collection[str] = ()) -> Rows:
        """By a script, once."""
        self._lots.add(_changes(more, forget))
        try:
            await self._lots.hand_in()
        except RedisGone as gone:
            raise SumsError(f"{self._link.where}: {gone.__cause__}") from gone
        except ValueError as error:
            raise SumsError(f"{self._link.where}: '{self._key}' was not written by Outlay ({error})") from error
        return self._rows

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()

    async def _carry(self, changes: Mapping[str, Change], number: int) -> None:
        keys = [f"{self._key}:told:{self._lots.id}", self._key]
        arguments: list[float | str] = [number, REMEMBERED_S]
        for name, change in changes.items():
            arguments += [name, int(change.forgotten), *change.more]
        found = await self._link.ask(lambda: self._script(keys=keys, args=arguments))
        self._rows = _gathered(dict(zip(found[::2], found[1::2], strict=True)))


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


def _changes(more: Rows, forget: Collection[str]) -> dict[str, Change]:
    return {name: Change(row) for name, row in more.items()} | {name: Change(NOTHING, forgotten=True) for name in forget}


def _changed(rows: Rows, changes: Mapping[str, Change]) -> dict[str, Row]:
    changed = dict(rows)
    for name, change in changes.items():
        if change.forgotten:
            changed.pop(name, None)
        if any(change.more):
            changed[name] = _sum(changed.get(name, NOTHING), change.more)
    return changed


def _sum(a: Row, b: Row) -> Row:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _row(numbers: Any) -> Row:
    first, second, third = numbers
    return float(first), float(second), float(third)
