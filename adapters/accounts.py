"""The books of one account: what was spent in this minute, day and month, and what is held for calls under way. Pure: time is handed in.

Everything is a whole number: dollars are counted in nano-dollars. A float would drift (a million times $0.0000001 is not $0.10), and two
processes that add in another order would disagree. A token of the cheapest models costs some 50 nano-dollars, which micro-dollars cannot
say; and 53 bits, which is what Redis' Lua counts in, hold nine million dollars.

A request has one entry. Each writing of it says its *totals*, what it has spent since it began and what it wants held, under a number
that grows. So a writing that is repeated because its reply was lost, or that arrives too late, changes nothing. Money is booked in the
window in which it is settled, and what is held stands in every window. An entry that nobody closes is let go at the end of its lease.
`ledger.lua` says the same to Redis; a property test plays both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from math import ceil
from typing import Literal, NamedTuple

NANO = 10**9
MOST_USD = 9_000_000
"""The largest budget whose nano-dollars a double still tells apart."""

UNITS = ("requests", "usd", "tokens")
SPANS = ("minute", "day", "month")
METERS = tuple((unit, span) for unit in UNITS for span in SPANS)
"""The counters of an account; limits and figures come in this order."""

STALE = 64
"""Ends of leases that may be kept of entries that were written again; twice as many as there are entries may be too."""

Verdict = Literal["granted", "busy", "short"]
"""Of what was wanted: held; not now, because others hold it; or not in this window, because it was spent."""


class Amount(NamedTuple):
    """Of each unit so much; dollars in nano-dollars."""

    requests: int = 0
    nano_usd: int = 0
    tokens: int = 0

    def plus(self, other: Amount) -> Amount:
        """The sum."""
        return Amount(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Amount) -> Amount:
        """The difference."""
        return Amount(*(a - b for a, b in zip(self, other, strict=True)))

    def within(self, other: Amount) -> bool:
        """Whether no unit has more than the other's."""
        return all(a <= b for a, b in zip(self, other, strict=True))


NOTHING = Amount()


def nano(usd: float) -> int:
    """Dollars that were spent, in nano-dollars."""
    return round(usd * NANO)


def nano_up(usd: float) -> int:
    """Dollars that may be needed, in nano-dollars, rounded up."""
    return ceil(usd * NANO)


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays, and up to what; None where there is no limit."""

    id: str
    limits: tuple[int | None, ...] = (None,) * len(METERS)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a request says of itself, in totals."""

    id: str
    spent: Amount = NOTHING
    number: int = 0
    """Grows with each writing: one that arrives after its successor changes nothing."""
    wanted: Amount = NOTHING
    """To be held from now on, in place of what it holds."""
    kept: Amount = NOTHING
    """Held if it cannot have what it wants: what its calls under way may still cost."""
    booked: Amount = NOTHING
    """Of what it spent, the part that it knows to be in the books."""
    closed: bool = False

    @property
    def asks(self) -> bool:
        """Whether it wants more than it is sure to get."""
        return not self.wanted.within(self.kept)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The state of an account after an entry was written."""

    verdict: Verdict
    meter: int
    """Index of the counter that stands in the way; -1 if none."""
    windows: tuple[int, ...]
    used: tuple[int, ...]
    held: Amount
    """Of all requests together."""
    now_s: float
    degraded: bool = False
    """Written in memory only, because the ledger of all processes does not answer."""

    def left(self, account: Account, unit: int) -> int | None:
        """What is not spent of a unit, in the tightest of its windows; None without a limit."""
        pairs = [(account.limits[i], self.used[i]) for i in _meters_of(unit)]
        return min((limit - used for limit, used in pairs if limit is not None), default=None)

    def tightest(self, account: Account, unit: int) -> int:
        """The counter of a unit that has the least left; -1 without a limit."""
        limited = [(limit - self.used[i], -i) for i in _meters_of(unit) if (limit := account.limits[i]) is not None]
        return -min(limited)[1] if limited else -1

    def resets_s(self, meter: int) -> float:
        """Seconds until a counter begins anew."""
        return ends_at_s(self.now_s, meter % len(SPANS)) - self.now_s


def _meters_of(unit: int) -> range:
    return range(unit * len(SPANS), (unit + 1) * len(SPANS))


def windows_at(now_s: float) -> tuple[int, ...]:
    """The minute, day and calendar month (UTC) of a time, each as a running number."""
    day = datetime.fromtimestamp(now_s, UTC)
    return int(now_s // 60), int(now_s // 86400), day.year * 12 + day.month - 1


def ends_at_s(now_s: float, span: int) -> float:
    """When the window of that span is over."""
    minute, day, month = windows_at(now_s)
    if span < 2:
        return (minute + 1) * 60.0 if span == 0 else (day + 1) * 86400.0
    year, index = divmod(month + 1, 12)
    return datetime(year, index + 1, 1, tzinfo=UTC).timestamp()


@dataclass(slots=True)
class Line:
    """An entry as it stands in the books."""

    spent: Amount
    held: Amount
    number: int
    until_s: float


@dataclass(slots=True)
class Books:
    """One account's counters and open entries."""

    windows: tuple[int, ...] = (0, 0, 0)
    used: list[int] = field(default_factory=lambda: [0] * len(METERS))
    held: Amount = NOTHING
    lines: dict[str, Line] = field(default_factory=dict)
    leases: list[tuple[float, str]] = field(default_factory=list)
    """A heap of when entries end; one that was written again is there more than once."""

    def write(self, limits: Sequence[int | None], entry: Entry, now_s: float, keep_s: float) -> Receipt:
        """Book what was spent, then hold what is wanted, if it fits beside what others hold; all of it or none."""
        self.turn(windows_at(now_s))
        self._let_go(now_s)
        before = self.lines.get(entry.id, Line(entry.booked, NOTHING, entry.number, now_s))
        if entry.number < before.number:
            entry = replace(entry, spent=before.spent, number=before.number, wanted=before.held, kept=before.held)
        spent = entry.spent.minus(before.spent)
        self.used = [used + spent[i // len(SPANS)] for i, used in enumerate(self.used)]
        others = self.held.minus(before.held)
        verdict, meter = self._verdict(limits, entry, others)
        held = entry.wanted if verdict == "granted" else entry.kept
        self.held = others.plus(held)
        if entry.spent == held == NOTHING:  # refused at the door, or only looking: nothing to remember
            self.lines.pop(entry.id, None)
        else:
            self.lines[entry.id] = Line(entry.spent, held, entry.number, now_s + keep_s)
            heappush(self.leases, (now_s + keep_s, entry.id))
            self._tidy()
        return Receipt(verdict, meter, self.windows, tuple(self.used), self.held, now_s)

    def turn(self, windows: tuple[int, ...]) -> None:
        """Counters of windows that are over begin anew; time does not go back."""
        for i, window in enumerate(windows):
            if window > self.windows[i]:
                self.used[i :: len(SPANS)] = [0] * len(UNITS)
        self.windows = tuple(max(pair) for pair in zip(windows, self.windows, strict=True))

    def _let_go(self, now_s: float) -> None:
        while self.leases and self.leases[0][0] <= now_s:
            _, id = heappop(self.leases)
            if id in self.lines and self.lines[id].until_s <= now_s:
                self.held = self.held.minus(self.lines.pop(id).held)

    def _tidy(self) -> None:
        """A lease is long and a request writes often: what was written again would be the most of what is kept."""
        if len(self.leases) > 2 * len(self.lines) + STALE:
            self.leases = [(line.until_s, id) for id, line in self.lines.items()]
            heapify(self.leases)

    def _verdict(self, limits: Sequence[int | None], entry: Entry, others: Amount) -> tuple[Verdict, int]:
        """A spent window weighs more than others' holds, and a longer window more than a shorter one."""
        found: tuple[Verdict, int] = ("granted", -1)
        for i, limit in enumerate(limits):
            unit = i // len(SPANS)
            wanted = entry.wanted[unit]
            if limit is None or wanted <= entry.kept[unit]:
                continue
            if self.used[i] + wanted > limit:
                found = ("short", i)
            elif self.used[i] + others[unit] + wanted > limit and found[0] != "short":
                found = ("busy", i)
        return found
