"""The guarantee: which settings of a policy lose at most epsilon against a reference, with confidence 1 - delta over the calibration set.

A setting loses D = y_reference - y_policy in [-1, 1] on a prompt. If its mean loss were epsilon or more, the wealth of a gambler who bets
on less, W_t = prod (1 + nu_s (epsilon - D_s)) with each stake nu_s set before D_s is seen, would be a supermartingale; by Ville's
inequality it ever exceeds 1/delta with a chance of at most delta, so p = 1 / max W. Settings are tested in an order fixed before looking,
safest first, until one fails; then all that passed hold together. Sources: Waudby-Smith and Ramdas 2024 (betting), Angelopoulos et
al. 2021 (learn then test). Pure: arrays in, numbers out; how losses are made of a log is in `router/certify.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MOST = 0.9
"""Share of the wealth that may be lost on one prompt."""
MIXED = 20
"""Constant stakes that the mixture spreads its wealth over."""


def mixture(gain: Array, most: float) -> Array:
    """Log wealth [N] of a gambler who splits it over constant stakes and leaves it there: near the best of them in hindsight."""
    stakes = most * (np.arange(MIXED) + 0.5) / MIXED
    each = np.log1p(np.multiply.outer(gain, stakes)).cumsum(axis=0)
    return np.asarray(np.logaddexp.reduce(each, axis=1) - np.log(MIXED))


def agrapa(gain: Array, most: float) -> Array:
    """Log wealth [N] under the stake that would have grown it most so far, approximately: mean / (variance + mean^2)."""
    seen = np.arange(1, len(gain))
    mean = np.concatenate([[0.0], gain.cumsum()[:-1] / (seen + 1)])
    square = np.concatenate([[0.25], (0.25 + (gain**2).cumsum()[:-1]) / (seen + 1)])
    return np.asarray(np.log1p(np.clip(mean / square, 0, most) * gain).cumsum())


def newton(gain: Array, most: float) -> Array:
    """Log wealth [N] under stakes moved by an online Newton step."""
    stake, curvature, grown = 0.0, 1.0, np.empty(len(gain))
    for i, g in enumerate(gain):
        grown[i] = np.log1p(stake * g)
        slope = g / (1 + stake * g)
        curvature += slope**2
        stake = float(np.clip(stake + 2 / (2 - np.log(3)) * slope / curvature, 0, most))
    return grown.cumsum()


BETS: Mapping[str, Callable[[Array, float], Array]] = {"mixture": mixture, "agrapa": agrapa, "newton": newton}
"""How to stake. Each is valid; they differ in how many prompts they need (docs/benchmarks/guarantee.md)."""


def p_value(losses: ArrayLike, epsilon: float, bet: str = "mixture", worst: float = 1.0) -> float:
    """Of the hypothesis that the mean loss is epsilon or more. `losses` [N] are independent draws, none above `worst`."""
    gain = epsilon - np.asarray(losses, dtype=np.float64)
    if worst <= epsilon:
        raise ValueError(f"a loss of {worst:g} at most is never above {epsilon:g}: there is nothing to certify")
    if len(gain) == 0:
        return 1.0
    if gain.min() < epsilon - worst - 1e-9:
        raise ValueError(f"a loss of {epsilon - gain.min():g} is above the worst one that was promised, {worst:g}")
    return float(min(1.0, np.exp(-BETS[bet](gain, MOST / (worst - epsilon)).max())))


def passed(p_values: Sequence[float], delta: float) -> int:
    """How many settings hold together, of those tested in this order."""
    return next((i for i, p in enumerate(p_values) if p > delta), len(p_values))


@dataclass(frozen=True, slots=True)
class Accepted:
    """The settings that a certificate accepts: multipliers on what a dollar counts, the safest (lowest) first.

    Whoever turns the multiplier at run time, from past spending and not from the prompt at hand, keeps the guarantee by `held`.
    """

    multipliers: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.multipliers, "a certificate without accepted settings is none"
        assert list(self.multipliers) == sorted(self.multipliers)

    @property
    def low(self) -> float:
        """The safest."""
        return self.multipliers[0]

    @property
    def high(self) -> float:
        """The cheapest."""
        return self.multipliers[-1]

    def held(self, wanted: float) -> float:
        """The accepted setting next to the one wanted, on the safe side where there is one."""
        return max((m for m in self.multipliers if m <= wanted), default=self.low)
