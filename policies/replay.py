"""What another policy would have been worth on logged requests: doubly robust, from first plans that were drawn with a known chance. Pure.

A request is a context, a first plan and an outcome; what follows the first plan is part of the outcome, as the logging policy went on. For
each request the belief says what the new policy's plan would give; where that very plan was run, what was seen less what the belief said
of it is added, over the chance that it was run with. Either a right belief or right chances suffice for an unbiased value. Source: Dudik,
Langford and Li 2011, "Doubly robust policy evaluation and learning".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ENOUGH = 100.0
"""Effective number of requests from which an estimate is shown without a warning."""


@dataclass(frozen=True, slots=True)
class Value:
    """A mean over requests with its 95 % interval."""

    mean: float
    low: float
    high: float


def effective(weights: ArrayLike) -> float:
    """How many equally weighted requests say as much: (sum w)^2 / sum w^2."""
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0


def doubly_robust(said: ArrayLike, seen: ArrayLike, weights: ArrayLike) -> Value:
    """Each [N]: what the belief says of the new plan; what was seen; 1 / propensity where the new plan is the one that was run, else 0."""
    model, w = np.asarray(said, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    values = model + w * np.where(w > 0, np.asarray(seen, dtype=np.float64) - model, 0.0)
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else float("inf")
    return Value(float(values.mean()), float(values.mean() - half), float(values.mean() + half))
