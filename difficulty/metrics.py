"""How good an estimate is, in figures with intervals. P prompts; k of n draws of a prompt were right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from difficulty.labels import Counts
from difficulty.probe import Array

BINS = 15

Metric = Callable[[Array, Counts, Counts], float]
"""(p, k, n), each of shape [P], to a figure; NaN where it is not defined."""


class Figure(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "–" if self.value != self.value else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def spearman(p: Array, k: Counts, n: Counts) -> float:
    """Rank correlation with the pass rate."""
    from scipy.stats import rankdata

    ranks = rankdata(p), rankdata(k / n)
    if min(r.std() for r in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def auroc(p: Array, k: Counts, n: Counts) -> float:
    """Chance that a right draw's prompt was ranked above a wrong draw's, ties counting half."""
    values, place = np.unique(p, return_inverse=True)
    right = np.bincount(place, k, len(values))
    wrong = np.bincount(place, n - k, len(values))
    pairs = right.sum() * wrong.sum()
    below = np.cumsum(wrong) - wrong / 2
    return float(right @ below / pairs) if pairs else float("nan")


def brier(p: Array, k: Counts, n: Counts) -> float:
    """Mean squared error of a draw."""
    return float((k * (1 - p) ** 2 + (n - k) * p**2).sum() / n.sum())


def calibration_error(p: Array, k: Counts, n: Counts) -> float:
    """Expected calibration error over BINS bins with equally many draws."""
    mass, predicted, observed = reliability(p, k, n)
    return float(mass @ np.abs(predicted - observed))


METRICS: dict[str, Metric] = {"spearman": spearman, "auroc": auroc, "brier": brier, "ece": calibration_error}


def reliability(p: Array, k: Counts, n: Counts) -> tuple[Array, Array, Array]:
    """(share of draws, mean prediction, observed rate) of each bin that is not empty, in order; equal predictions share a bin."""
    values, place = np.unique(p, return_inverse=True)
    k, n, p = np.bincount(place, k), np.bincount(place, n), values
    bins = np.minimum((np.cumsum(n) - n / 2) / n.sum() * BINS, BINS - 1).astype(np.int64)
    mass = np.bincount(bins, n, BINS)
    full = mass > 0
    predicted, right = np.bincount(bins, p * n, BINS)[full], np.bincount(bins, k, BINS)[full]
    return mass[full] / n.sum(), predicted / mass[full], right / mass[full]


def resamples(groups: Sequence[str], times: int, seed: int) -> list[Counts]:
    """Bootstrap samples of rows, drawn by group: near-duplicates come and go together."""
    rng = np.random.default_rng(seed)
    _, place = np.unique(np.array(groups), return_inverse=True)
    members = [np.flatnonzero(place == g) for g in range(place.max() + 1)]
    return [np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))]) for _ in range(times)]


def figure(metric: Metric, p: Array, k: Counts, n: Counts, samples: Sequence[Counts]) -> Figure:
    """The metric with its interval, which for an error does not reach below 0."""
    found = _interval(metric(p, k, n), [metric(p[s], k[s], n[s]) for s in samples])
    return found._replace(low=max(found.low, 0.0)) if metric in (brier, calibration_error) else found


def difference(metric: Metric, ours: Array, other: Array, k: Counts, n: Counts, samples: Sequence[Counts]) -> Figure:
    """metric(ours) - metric(other), on the same resampled prompts."""
    drawn = [metric(ours[s], k[s], n[s]) - metric(other[s], k[s], n[s]) for s in samples]
    return _interval(metric(ours, k, n) - metric(other, k, n), drawn)


def _interval(value: float, drawn: Sequence[float]) -> Figure:
    """Percentiles, recentred on the figure: resampling adds a bias of its own to a binned calibration error.

    Resamples in which the metric is not defined (no wrong draw at all) do not count.
    """
    defined = [v for v in drawn if v == v]
    if not defined or value != value:
        return Figure(value, float("nan"), float("nan"))
    low, middle, high = np.percentile(defined, [2.5, 50, 97.5])
    return Figure(value, float(value + low - middle), float(value + high - middle))
