"""Tallies: sums that many processes add to, in memory or in Redis. What a sum means is decided elsewhere.

A tally has three rows of numbers: `now`, the sums of one period; `usual`, their average over the periods before; `recent`, sums that fade.
All are sums, so what could not be sent is merged and sent later, and no order of arrival matters much. In Redis a tally is one JSON
document, folded by a script: one round trip for any number of keys, and each addition counts once (`lots.py`). While Redis is gone each
process goes on from what was known and counts what it adds itself; where Redis lost its memory, the first process to come back brings the
tally along.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Protocol

from adapters.lots import ONCE, REMEMBERED_S, Lots
from adapters.redis_link import Clock, RedisGone, RedisLink

log = logging.getLogger(__name__)

NEWEST = 0.5
"""Weight of the newest period in what is usual."""
FORGOTTEN_S = 14 * 86400
"""A tally that nobody adds to for so long is forgotten by Redis."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The sums under one key. A negative number in `now` or `usual` is one that was never seen."""

    period: int
    now: tuple[float, ...]
    usual: tuple[float, ...]
    recent: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What is added: to `now` of that period, and to `recent` after that was multiplied by `fade`."""

    period: int
    now: tuple[float, ...]
    recent: tuple[float, ...]
    fade: float

    def then(self, later: Added) -> Added:
        """Both in one: the later period counts for both."""
        now = tuple(a + b for a, b in zip(self.now, later.now, strict=True))
        recent = tuple(a * later.fade + b for a, b in zip(self.recent, later.recent, strict=True))
        return Added(max(self.period, later.period), now, recent, self.fade * later.fade)


def folded(tally: Tally, added: Added) -> Tally:
    """The tally after an addition. A newer period begins at zero and what was becomes usual; an older one counts as the present."""
    now, usual = tally.now, tally.usual
    if added.period > tally.period:
        now, usual = (0.0,) * len(now), tuple(_average(new, old) for new, old in zip(now, usual, strict=True))
    sums = tuple(max(was, 0.0) + more if more else was for was, more in zip(now, added.now, strict=True))
    recent = tuple(was * added.fade + more for was, more in zip(tally.recent, added.recent, strict=True))
    return Tally(max(tally.period, added.period), sums, usual, recent)


def _average(new: float, old: float) -> float:
    return old if new < 0 else new if old < 0 else old + NEWEST * (new - old)


_SCRIPT = (
    ONCE
    + """
local asked, newest, tallies = cjson.decode(ARGV[3]), tonumber(ARGV[4]), {}
local function as_long(a, b) return type(a) == 'table' and #a == #b end
for i, row in ipairs(asked) do
  local fresh, stored = row.fresh, redis.pcall('GET', KEYS[i + 1])
  local read, tally = true, fresh
  if stored then read, tally = pcall(cjson.decode, stored) end
  tallies[i] = read and type(tally) == 'table' and type(tally.period) == 'number' and as_long(tally.now, fresh.now)
    and as_long(tally.usual, fresh.usual) and as_long(tally.recent, fresh.recent) and tally
end
once(function()
  local written = {}
  for i, tally in ipairs(tallies) do
    local added = asked[i].added
    if tally and added ~= cjson.null then
      if added.period > tally.period then
        for j, new in ipairs(tally.now) do
          local old = tally.usual[j]
          tally.usual[j] = new < 0 and old or old < 0 and new or old + newest * (new - old)
          tally.now[j] = 0
        end
        tally.period = added.period
      end
      for j, more in ipairs(added.now) do
        if more ~= 0 then tally.now[j] = math.max(tally.now[j], 0) + more end
      end
      for j, more in ipairs(added.recent) do tally.recent[j] = tally.recent[j] * added.fade + more end
      written[i] = cjson.encode(tally)
    end
  end
  for i, text in pairs(written) do redis.call('SET', KEYS[i + 1], text, 'EX', ARGV[5]) end -- all or, where one cannot be said, none
end)
local answers = {}
for i, tally in ipairs(tallies) do answers[i] = tally and cjson.encode(tally) end
return answers
"""
)
"""`folded` in Redis, for each key; a missing tally starts from the one that the caller brings, and what is no such tally is left alone."""


class Tallies(Protocol):
    """Tallies by key. `down` says that they are this process's own at the moment; no failure is an error."""

    @property
    def down(self) -> bool:
        """Whether what other processes add is not seen at the moment."""

    async def read(self, fresh: Mapping[str, Tally]) -> Mapping[str, Tally]:
        """The tally of each key as last seen; where there is none, the one given."""

    async def add(self, rows: Mapping[str, tuple[Added, Tally]]) -> None:
        """Add to the tally of each key; where there is none, to the one given."""

    async def aclose(self) -> None:
        """Release connections and memory."""


class MemoryTallies:
    """In this process only."""

    down = False

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    async def read(self, fresh: Mapping[str, Tally]) -> Mapping[str, Tally]:
        """As last added to."""
        return {key: self._tallies.get(key, tally) for key, tally in fresh.items()}

    async def add(self, rows: Mapping[str, tuple[Added, Tally]]) -> None:
        """At once."""
        for key, (added, fresh) in rows.items():
            self._tallies[key] = folded(self._tallies.get(key, fresh), added)

    async def aclose(self) -> None:
        """Forget everything."""
        self._tallies.clear()


Row = tuple[Added | None, Tally]
"""Under a key: what is added, if anything, and the tally to start from where there is none."""


class RedisTallies:
    """Shared by processes. A read costs no round trip but a key's first: each addition brings back what the others added until then.

    What is added while Redis is gone (see `redis_link.py`) is kept, and goes before the next addition.
    """

    def __init__(
        self, url: str, prefix: str = "outlay:tally:", *, timeout_s: float = 0.25, retry_s: float = 5.0, clock: Clock = time.monotonic
    ) -> None:
        self._link = RedisLink(url, "tallies in", timeout_s=timeout_s, retry_s=retry_s, clock=clock)
        self._script = self._link.redis.register_script(_SCRIPT)
        self._prefix = prefix
        self._shared: dict[str, Tally] = {}
        self._lots: Lots[Row] = Lots(self._fold, _together)

    @property
    def down(self) -> bool:
        """Redis did not answer last time: the tallies are this process's own."""
        return self._link.down

    async def read(self, fresh: Mapping[str, Tally]) -> Mapping[str, Tally]:
        """As the last addition of this process found them, with what is not known to have arrived since."""
        if unknown := {key: (None, tally) for key, tally in fresh.items() if key not in self._shared}:
            await self._hand_in(unknown)
        return {key: self._seen(key, tally) for key, tally in fresh.items()}

    async def add(self, rows: Mapping[str, tuple[Added, Tally]]) -> None:
        """In one round trip; kept for later while Redis is gone."""
        await self._hand_in(rows)

    async def aclose(self) -> None:
        """Send what waits, if Redis is there after all, and close the connections."""
        if self._lots.kept:
            self._link.try_again()
            try:
                await self._lots.hand_in()
            except RedisGone:
                log.error("tallies in %s: the last additions were never told", self._link.where)
        await self._link.aclose()

    async def _hand_in(self, rows: Mapping[str, Row]) -> None:
        self._lots.add(rows)
        if not self._link.left_alone:
            with suppress(RedisGone):  # they are kept
                await self._lots.hand_in()

    def _seen(self, key: str, fresh: Tally) -> Tally:
        tally = self._shared.get(key, fresh)
        for added, _ in (lot[key] for lot in self._lots.kept if key in lot):
            tally = folded(tally, added) if added else tally
        return tally

    async def _fold(self, rows: Mapping[str, Row], number: int) -> None:
        """Fold each addition into its tally, or into what is known of it, and remember what came out. Raises RedisGone."""
        asked = [{"added": added and asdict(added), "fresh": asdict(self._shared.get(key, fresh))} for key, (added, fresh) in rows.items()]
        keys = [f"{self._prefix}told:{self._lots.id}", *(self._prefix + key for key in rows)]
        arguments = (number, REMEMBERED_S, json.dumps(asked), NEWEST, FORGOTTEN_S)
        said = await self._link.ask(lambda: self._script(keys=keys, args=arguments))
        for (key, (added, fresh)), stored in zip(rows.items(), said, strict=True):
            if stored is None:
                self._alone(key, added, fresh)
            else:
                tally = _tally(stored)
                self._shared[key] = max(self._shared.get(key, tally), tally, key=_progress)  # one that fell back knows less

    def _alone(self, key: str, added: Added | None, fresh: Tally) -> None:
        """What lies in Redis under the key is none of ours."""
        if key not in self._shared:
            log.warning("tallies in %s: no tally lies under '%s%s', so it is counted here alone", self._link.where, self._prefix, key)
        known = self._shared.get(key, fresh)
        self._shared[key] = folded(known, added) if added else known


def _together(earlier: Row, later: Row) -> Row:
    before, added = earlier[0], later[0]
    return before.then(added) if before and added else before or added, later[1]


def _tally(stored: bytes) -> Tally:
    row = json.loads(stored)
    return Tally(int(row["period"]), tuple(row["now"]), tuple(row["usual"]), tuple(row["recent"]))


def _progress(tally: Tally) -> tuple[int, float]:
    return tally.period, sum(tally.now)


def build_tallies(url: str) -> Tallies:
    """The tallies that a URL names: `memory://`, or `redis://`, `rediss://`, `unix://`. Nothing is connected yet."""
    return MemoryTallies() if url.startswith("memory:") else RedisTallies(url)
