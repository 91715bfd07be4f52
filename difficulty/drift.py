"""Has the world moved? Sequential tests that may be looked at after every request and still keep their word about false alarms.

Each bets against "the mean of what is still to come lies within the tolerance", with a stake chosen from the past alone; while that is
true, the wealth is a supermartingale, and the chance that it ever reaches 1/alpha is at most alpha (Ville). Where it is not, wealth grows
exponentially. Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting". Plain numbers, no clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from math import log

MEMORY = 0.02
"""Weight of the newest observation in the mean that stakes are chosen by: about the last fifty count."""
BOLDEST = 0.5
"""Share of the wealth that one bet may lose at most."""


@dataclass
class _Bettor:
    """Bets that the mean of x in [-2, 2] is above 0."""

    log_wealth: float = 0.0
    mean: float = 0.0
    spread: float = 0.25

    def see(self, x: float, worst: float) -> None:
        """`x` is never below `-worst`."""
        stake = min(BOLDEST / worst, max(0.0, self.mean) / (self.spread + self.mean**2))
        self.log_wealth += log(1 + stake * x)
        self.mean += MEMORY * (x - self.mean)
        self.spread += MEMORY * ((x - self.mean) ** 2 - self.spread)


@dataclass
class MeanTest:
    """Alarm, for good, once the mean of residuals in [-1, 1] was shown to lie outside of +- tolerance."""

    tolerance: float
    alpha: float = 0.01
    sides: tuple[int, ...] = (1, -1)
    """1: too high gives alarm; -1: too low."""
    seen: int = 0
    alarm: int = 0
    """The side on which it was shown; 0: nothing was."""
    _bettors: dict[int, _Bettor] = field(init=False)

    def __post_init__(self) -> None:
        self._bettors = {side: _Bettor() for side in self.sides}

    def see(self, residual: float) -> bool:
        """Whether this residual gave the alarm."""
        self.seen += 1
        for side, bettor in self._bettors.items():
            bettor.see(side * residual - self.tolerance, 1 + self.tolerance)
            if not self.alarm and bettor.log_wealth >= log(len(self.sides) / self.alpha):
                self.alarm = side
                return True
        return False


@dataclass
class RankTest:
    """The same for a number that is known only by its past: its mean rank among the first `reference` values, less a half."""

    test: MeanTest
    reference: int = 1000
    _first: list[float] = field(default_factory=list)

    @property
    def alarm(self) -> int:
        """1: values got larger, -1: smaller, 0: nothing was shown."""
        return self.test.alarm

    def see(self, value: float) -> bool:
        """Whether this value gave the alarm."""
        if len(self._first) < self.reference:
            insort(self._first, value)
            return False
        rank = (bisect_left(self._first, value) + bisect_right(self._first, value)) / 2
        return self.test.see(rank / self.reference - 0.5)
