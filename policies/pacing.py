"""Budget over time: what a dollar must cost now, so that the money of this hour or day lasts and is all spent where it helps most. Pure.

The multiplier is computed, never integrated, so nothing can wind up. Every first decision says what it would have spent at each multiplier
of a grid (`demand`); the mean of the last requests is a curve of spend against multiplier, corrected by what was really spent. The
multiplier is where that curve meets (what is left of the budget) / (requests still to come); those are forecast from the usual shape of
the day and today's level. What this gives beside the plain rule of small steps, and where it gives nothing, is measured in
docs/benchmarks/pacing.md.

What is remembered between requests are sums, in the shape of `History`; who keeps them, and shares them, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from difficulty.belief import Array
from policies.facts import Considered
from policies.policy import MOST, WithinBudget

GRID: Array = np.append(2.0 ** np.arange(30), MOST)
"""Multipliers at which demand is noted, shape [G]."""
SLOTS = 24
"""Parts of a period in which its usual shape is kept."""
MEMORY = 500
"""Requests over which demand is averaged. Longer is less noise, shorter sees a change sooner."""
TRUST = 20
"""Requests that "what was spent is what was expected" weighs, before what was spent speaks for itself."""
PRIOR = 0.02
"""Share of a usual period that today's level starts with; and, of time, where nothing is usual yet."""
LAST = 0.005
"""Share of a period's requests that is always expected still to come, so that the last ones do not share out whatever is left."""
CAUTION = 1.0
"""Until a period was seen whole: so much more is expected than today's pace says, less as it passes. Traffic may be about to rise."""
SPENT, SINCE, FIRST_SLOT = 0, 1, 2
"""Places in `History.now`: US dollars, share of the period over when it was begun, requests of each slot."""
SEEN, PAID, EXPECTED, FIRST_DEMAND = 0, 1, 2, 3
"""Places in `History.recent`: requests, US dollars paid, US dollars expected of them, US dollars at each multiplier of the grid."""


class History(Protocol):
    """Sums over requests. In `now` and `usual` a negative number is one that was never seen."""

    @property
    def period(self) -> int:
        """Number of the hour or day, from the epoch, in UTC."""

    @property
    def now(self) -> Sequence[float]:
        """Of this period."""

    @property
    def usual(self) -> Sequence[float]:
        """The same, averaged over the periods before."""

    @property
    def recent(self) -> Sequence[float]:
        """Of the last requests, the older the fainter."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Where a budget stands."""

    multiplier: float
    budget_usd: float
    left_usd: float
    resets_in_s: float
    refuses: bool = False
    """Whether nothing is bought once it is spent; else only the cheapest is."""

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.left_usd <= 0

    @property
    def ceiling_usd(self) -> float:
        """What one request may cost: where the budget refuses, never more than is left of it."""
        return max(self.left_usd, 0.0) if self.refuses else float("inf")


def place(period_s: float, now_s: float) -> tuple[int, float]:
    """(number of the period, share of it that is over) at a time in seconds since the epoch."""
    number, over = divmod(now_s / period_s, 1)
    return int(number), over


@dataclass(frozen=True, slots=True)
class Sums:
    """A history that holds nothing yet (`begun`), or what one request adds to one (`added`): `recent` is first multiplied by `fade`."""

    period: int
    now: tuple[float, ...]
    usual: tuple[float, ...]
    recent: tuple[float, ...]
    fade: float = 1.0


UNSEEN, NONE, NOTHING = (-1.0,) * (FIRST_SLOT + SLOTS), (0.0,) * (FIRST_SLOT + SLOTS), (0.0,) * (FIRST_DEMAND + len(GRID))


def begun(period_s: float, now_s: float) -> Sums:
    """The history of a budget that nothing was ever spent of. Slots that are over by then are not known."""
    period, over = place(period_s, now_s)
    slots = (0.0 if slot >= int(over * SLOTS) else -1.0 for slot in range(SLOTS))
    return Sums(period, (0.0, over, *slots), UNSEEN, NOTHING)


def added(period_s: float, now_s: float, cost_usd: float, demanded: tuple[float, ...] = ()) -> Sums:
    """What a request that ended now adds. One that the policy had no say in (its plan was named) adds its cost and no demand."""
    period, over = place(period_s, now_s)
    now = (cost_usd, 0.0, *(float(slot == int(over * SLOTS)) for slot in range(SLOTS)))
    if not demanded:
        return Sums(period, now, NONE, NOTHING)
    return Sums(period, now, NONE, (1.0, cost_usd, *demanded), 1 - 1 / MEMORY)


def demand(considered: Sequence[Considered], objective: WithinBudget, multiplier: float) -> tuple[float, ...]:
    """US dollars that a first decision would mean to spend at this multiplier, and at each of the grid; empty if nothing was weighed."""
    open_to = [c for c in considered if not c.refused]
    if not open_to:
        return ()
    quality, cost, seconds = np.array([[c.quality, c.cost_usd, c.latency_s] for c in open_to]).T
    worth = objective.value_of_correct_usd * quality - objective.value_of_second_usd * seconds
    chosen = np.argmax(worth - np.append(multiplier, GRID)[:, None] * cost, axis=1)
    return tuple(cost[chosen].tolist())


def pace(budget_usd: float, objective: WithinBudget, history: History, now_s: float) -> Pace:
    """The multiplier that the rest of the period asks for, within the objective's range, and what is left."""
    period, over = place(objective.period_s, now_s)
    here = history.period >= period
    left = budget_usd - (history.now[SPENT] if here else 0.0)
    low, high = objective.multipliers
    needed = MOST if left <= 0 else _meeting(left / max(to_come(history, here, over), 1.0), history.recent)
    return Pace(min(max(needed, low), high), budget_usd, left, (1 - over) * objective.period_s, objective.when_spent == "refuse")


def _meeting(target_usd: float, recent: Sequence[float]) -> float:
    """The multiplier at which a request costs so much on the mean."""
    seen = recent[SEEN]
    if not seen:
        return 1.0
    trust = TRUST * recent[EXPECTED] / seen
    truth = (recent[PAID] + trust) / (recent[EXPECTED] + trust) if recent[EXPECTED] + trust > 0 else 1.0
    curve = np.minimum.accumulate(np.array(recent[FIRST_DEMAND:])) / seen * truth
    if target_usd >= curve[0]:
        return 1.0
    if target_usd <= curve[-1]:
        return MOST
    curve = np.maximum(curve, 1e-15)
    return float(np.exp(np.interp(-np.log(target_usd), -np.log(curve), np.log(GRID))))


def to_come(history: History, here: bool, over: float) -> float:
    """Requests expected in the rest of the period: the usual ones, times today's level."""
    begun_at, slots = (history.now[SINCE], np.array(history.now[FIRST_SLOT:])) if here else (0.0, np.zeros(SLOTS))
    usual = np.array(history.usual[FIRST_SLOT:] if here else _blended(history))
    known = usual >= 0
    shape = np.where(known, usual, usual[known].mean()) if known.any() and usual[known].sum() > 0 else np.ones(SLOTS)
    whole, prior = float(shape.sum()), PRIOR * float(shape.sum())
    past, rest = (_between(shape, *span) for span in ((begun_at, over), (over, 1.0)))
    level = (float(slots[slots > 0].sum()) + (prior if known.any() else 0.0)) / (past + prior)
    prudent = 1.0 if known.any() else 1 + CAUTION * (1 - over)
    return level * prudent * max(rest, LAST * whole)


def _blended(history: History) -> list[float]:
    """What is usual where the new period has not had its first request: the period before says most."""
    pairs = zip(history.now[FIRST_SLOT:], history.usual[FIRST_SLOT:], strict=True)
    return [before if now < 0 else now if before < 0 else (now + before) / 2 for now, before in pairs]


def _between(shape: Array, start: float, end: float) -> float:
    """The part of a shape that lies between two shares of the period."""
    edges, total = np.arange(SLOTS + 1) / SLOTS, np.append(0.0, np.cumsum(shape))
    return float(np.interp(end, edges, total) - np.interp(start, edges, total))
