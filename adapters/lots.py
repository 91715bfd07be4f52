"""Lots: additions handed in to sums that processes share, so that each counts once although answers are lost.

Where no answer comes (Redis hung, died or was cut off), nobody here knows whether it has what was sent. So a lot has a number, and is sent
again under it, unchanged, until it is known to be there; what is added meanwhile waits, merged by key, for the next. So what is kept does
not grow with the time that Redis is gone. Redis remembers the last number of each process beside the sums (`ONCE`), and loses both or
neither: one that began anew, or fell back to a replica that is behind, lacks the lot as well as its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from math import ceil
from typing import Generic, TypeVar
from uuid import uuid4

Row = TypeVar("Row")

AT_ONCE = 256
"""Keys of one lot, so that what waited long can be worked on within a timeout."""
REMEMBERED_S = 86_400
"""Redis forgets the number of a process that handed in nothing for so long. A lot that it had, and that is sent again later still, counts
twice."""
ONCE = """
local function once(add)
  if tonumber(ARGV[1]) <= tonumber(redis.call('GET', KEYS[1]) or 0) then return end
  add()
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
"""
"""Beginning of a script: `once(f)` calls f if the lot is new. KEYS[1] is the process's own key; ARGV: the lot's number, `REMEMBERED_S`."""


class Lots(Generic[Row]):
    """What one process hands in, one lot at a time; all that is added while one is under way goes together in the next."""

    def __init__(self, carry: Callable[[Mapping[str, Row], int], Awaitable[None]], then: Callable[[Row, Row], Row]) -> None:
        self.id = uuid4().hex
        """Of the process, as Redis knows it. One that starts again is another."""
        self._carry, self._then = carry, then
        self._arrived = 0
        """Number of the last lot that is known to be there."""
        self._sent: Mapping[str, Row] | None = None
        self._waiting: dict[str, Row] | None = None
        self._turn = asyncio.Lock()

    @property
    def kept(self) -> list[Mapping[str, Row]]:
        """What is not known to be there, in its order."""
        return [rows for rows in (self._sent, self._waiting) if rows is not None]

    def add(self, rows: Mapping[str, Row]) -> None:
        """Keep them, to be handed in."""
        waiting = self._waiting = {} if self._waiting is None else self._waiting
        for key, row in rows.items():
            waiting[key] = self._then(waiting[key], row) if key in waiting else row

    async def hand_in(self) -> None:
        """Returns when all that was added until now has arrived. Raises what carrying raises; what has not arrived is still kept then."""
        last = self._arrived + sum(ceil(max(1, len(rows)) / AT_ONCE) for rows in self.kept)
        async with self._turn:
            while self._arrived < last:
                self._sent = self._taken() if self._sent is None else self._sent
                await self._carry(self._sent, self._arrived + 1)
                self._arrived, self._sent = self._arrived + 1, None

    def _taken(self) -> Mapping[str, Row]:
        """The next lot, of what waits longest; one without rows, only to hear what is there, is one too."""
        waiting = iter((self._waiting or {}).items())
        lot = dict(islice(waiting, AT_ONCE))
        self._waiting = dict(waiting) or None
        return lot
