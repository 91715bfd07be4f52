"""What a vote among samples says: how likely its leader is right, and whether more samples are worth drawing. Pure.

The vote is a race of two, the leader against the runner-up. Each new vote that goes to one of them goes to the leader with chance
(first + a) / (first + second + 2a), the predictive of a Beta(a, a) prior; votes for anyone else are draws paid for in vain, so that a
race in which only a share of the draws counts has so many fewer to come and each is so much dearer. On that race `Votes.course` solves
by dynamic programming when to stop: drawing on can only gain by a change of leader. An answer is as much likelier right than its rival as
it leads: `lead_worth` times the difference of their shares, as expected in the long run. So it hardly matters who wins a race that stays
close, which is nearly what recorded samples say. Where wrong answers agree with each other (a systematic error) `lead_worth` is about 0.

Sources: Wang et al. 2022, "Self-consistency"; Aggarwal et al. 2023, "Adaptive-Consistency", whose stopping rule is the chance of this
race alone, without what a sample costs, how many are left, and what a lead is worth. Fitted in `learn_votes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

FURTHEST = 96
"""Votes that a race looks ahead at most; what one further away could change is less than its price."""
EIGHTHS = 8
"""The share of draws that count is taken in eighths, so that one solution serves many states."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A vote so far: for the leader, for the runner-up (0 if all agree), and in all."""

    first: int
    second: int
    n: int


@dataclass(frozen=True, slots=True)
class Course:
    """How a vote goes on if it is stopped when it should be."""

    gain: float
    """What it adds to the chance of being right."""
    reached: tuple[float, ...]
    """Chance that each batch still to come is drawn at all."""


@dataclass(frozen=True, slots=True)
class Votes:
    """One backend's votes. The defaults are about what `python -m benchmarks.early_stop` finds over its recorded sets."""

    contest: float = 0.5
    """a of the race: small, where the first votes decide. One half is Jeffreys' prior, which knows nothing."""
    lead_worth: float = 0.65
    """Chance of being right that an answer has over its rival, for each share of the votes of the two by which it leads."""
    intercept: float = -0.27
    on_share: float = 1.48
    on_lead: float = -0.07
    """The leader is right with odds exp(intercept + on_share * log odds of its share + on_lead * log of its votes over the runner-up's)."""
    base_rate: float = 0.74
    """Share of single samples that were right."""
    shift: float = 0.47
    slope: float = 0.29
    """A majority of n is right as a sample is whose logit is shift * log n + (1 + slope * log n) * its own."""
    agree: float = 0.5
    """Chance that a wrong answer is the one that another backend's wrong answer names (`difficulty/pooled.py`)."""

    def right(self, tally: Tally) -> float:
        """Chance that the leader is right, on a prompt like those of the log."""
        _, share, lead = features(tally)
        return 1 / (1 + exp(-(self.intercept + self.on_share * share + self.on_lead * lead)))

    def lasts(self, tally: Tally, left: int) -> float:
        """Chance that the leader still leads after `left` more votes."""
        _, count = _counting(tally.first + tally.second, tally.n, left)
        return float(_wins(tally.first + tally.second, count, self.contest)[tally.first])

    def likelihoods(self, tally: Tally) -> tuple[float, float]:
        """Of the tally, if its leader is right and if it is wrong, up to a factor. One answer alone says nothing."""
        right = self.base_rate if tally.n == 1 else self.right(tally)
        return right / self.base_rate, (1 - right) / (1 - self.base_rate)

    def majority(self, n: int) -> tuple[float, float]:
        """(shift, slope) of the channel through which a majority of n is a sample."""
        return self.shift * log(n), 1 + self.slope * log(n)

    def course(self, tally: Tally | None, left: int, batch: int, price: float) -> Course:
        """How the vote goes on, with `left` draws to come in batches; `price` of a draw over the value of a right answer."""
        race, eighths = self._race(tally, left, batch, price)
        gain, reached = _course(race, tally.first if tally else 0)
        at = [min(k * batch * eighths // EIGHTHS // race.steps[0], len(reached) - 1) for k in range(-(-left // batch))]
        return Course(gain * self.lead_worth, tuple(reached[i] for i in at))

    def goes_on(self, tally: Tally, left: int, batch: int, price: float) -> bool:
        """Whether the next batch is worth its price: whether `course` reaches it."""
        return left > 0 and bool(self._race(tally, left, batch, price)[0].on[0][tally.first])

    def _race(self, tally: Tally | None, left: int, batch: int, price: float) -> tuple[_Race, int]:
        """The race that is left, and the share of the draws that count in it, in eighths."""
        contested, n = (tally.first + tally.second, tally.n) if tally else (0, 0)
        eighths, count = _counting(contested, n, left)
        dear = price * EIGHTHS / eighths / max(self.lead_worth, 1e-9)
        return _race(contested, count, max(1, round(batch * eighths / EIGHTHS)), dear, self.contest), eighths


def features(tally: Tally) -> tuple[float, float, float]:
    """What the chance that the leader is right is read from: 1, log odds of its share, log of its votes over the runner-up's."""
    return 1.0, log((tally.first + 0.5) / (tally.n - tally.first + 0.5)), log((tally.first + 1) / (tally.second + 1))


def _counting(contested: int, n: int, left: int) -> tuple[int, int]:
    """(share of the draws that count, in eighths; how many of those still to come do)."""
    eighths = -(-EIGHTHS * contested // n) if n else EIGHTHS
    return eighths, min(-(-left * eighths // EIGHTHS), FURTHEST)


@dataclass(frozen=True, slots=True, eq=False)
class _Race:
    """The best way to go on with a race from `start` votes. Arrays are by the votes of the contender who leads at the start."""

    start: int
    steps: tuple[int, ...]
    """Votes of each batch."""
    contest: float
    on: tuple[Bools, ...]
    """Before each batch: whether it is worth drawing."""


@lru_cache(maxsize=4096)
def _course(race: _Race, first: int) -> tuple[float, tuple[float, ...]]:
    """(what drawing on adds to the share of who is named, chance that each batch is drawn) where the leader has `first` votes."""
    at, reached, share, votes = np.zeros(race.start + 1), [], 0.0, race.start
    at[first] = 1.0
    for step, on in zip(race.steps, race.on, strict=True):
        share += float(at[~on] @ _named(votes, race.contest)[~on])
        at = np.where(on, at, 0.0)
        reached.append(float(at.sum()))
        for _ in range(step):
            to_first = _to_first(votes, race.contest)
            at = np.append(at * (1 - to_first), 0.0) + np.append(0.0, at * to_first)
            votes += 1
    return share + float(at @ _named(votes, race.contest)) - float(_named(race.start, race.contest)[first]), tuple(reached)


@lru_cache(maxsize=4096)
def _race(start: int, count: int, step: int, price: float, contest: float) -> _Race:
    """Solved backwards from the end; a price is in shares of the votes."""
    steps = [step] * (count // step) + [count % step] * (count % step > 0)
    votes = start + count
    worth, on = _named(votes, contest), []
    for size in reversed(steps):
        for _ in range(size):
            votes -= 1
            to_first = _to_first(votes, contest)
            worth = to_first * worth[1:] + (1 - to_first) * worth[:-1] - price
        stop = _named(votes, contest)
        on.append(worth > stop + 1e-12 if votes else np.array([True]))
        worth = np.maximum(worth, stop)
    return _Race(start, tuple(steps), contest, tuple(reversed(on)))


@lru_cache(maxsize=4096)
def _wins(start: int, count: int, contest: float) -> Array:
    """Chance that a contender leads after so many more votes, by its votes at the start; an even race is half won."""
    votes = start + count
    wins = (np.sign(2 * np.arange(votes + 1) - votes) + 1) / 2
    while votes > start:
        votes -= 1
        to_first = _to_first(votes, contest)
        wins = to_first * wins[1:] + (1 - to_first) * wins[:-1]
    return np.asarray(wins)


def _to_first(votes: int, contest: float) -> Array:
    """Chance that the next vote goes to a contender, which is its share in the long run as expected, by its votes."""
    return np.asarray((np.arange(votes + 1) + contest) / (votes + 2 * contest))


def _named(votes: int, contest: float) -> Array:
    """The leader's share of the votes in the long run, as expected, by the votes of a contender. A contender's own is a martingale: votes
    to come change nothing of what is expected of it now, so that drawing on is worth what a change of leader brings."""
    share = _to_first(votes, contest)
    return np.asarray(np.maximum(share, 1 - share))
