"""Figures of an estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.metrics import METRICS, auroc, brier, calibration_error, difference, figure, reliability, resamples, spearman

P = np.array([0.1, 0.4, 0.4, 0.9])
K = np.array([0, 1, 2, 3])
N = np.array([3, 4, 4, 3])


@given(st.lists(st.tuples(st.floats(0, 1, width=16), st.integers(0, 5), st.integers(1, 5)), min_size=2, max_size=30))
def test_auroc_and_brier_are_those_of_the_single_draws(rows: list[tuple[float, int, int]]) -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    p, k, n = np.array([r[0] for r in rows]), np.array([min(r[1], r[2]) for r in rows]), np.array([r[2] for r in rows])
    y = np.concatenate([[1] * a + [0] * (b - a) for a, b in zip(k, n, strict=True)])
    drawn = np.repeat(p, n)
    if 0 < k.sum() < n.sum():
        assert auroc(p, k, n) == pytest.approx(roc_auc_score(y, drawn))
        assert brier(p, k, n) == pytest.approx(brier_score_loss(y, drawn))
    else:
        assert math.isnan(auroc(p, k, n))


def test_spearman_is_scipys_and_not_defined_for_a_constant() -> None:
    from scipy.stats import spearmanr

    assert spearman(P, K, N) == pytest.approx(spearmanr(P, K / N).statistic)
    assert math.isnan(spearman(np.full(4, 0.5), K, N))


def test_calibration_error_is_zero_for_the_truth_and_the_offset_for_a_shift() -> None:
    rng = np.random.default_rng(0)
    truth, n = rng.uniform(0.2, 0.7, 3000), np.full(3000, 200)
    k = rng.binomial(n, truth)
    assert calibration_error(truth, k, n) < 0.01
    assert calibration_error(truth + 0.2, k, n) == pytest.approx(0.2, abs=0.01)


def test_a_constant_at_the_base_rate_is_perfectly_calibrated() -> None:
    assert calibration_error(np.full(4, K.sum() / N.sum()), K, N) == pytest.approx(0)


def test_bins_hold_equally_many_draws_and_all_of_them() -> None:
    mass, predicted, observed = reliability(np.linspace(0, 1, 300), np.full(300, 1), np.full(300, 2))
    assert mass == pytest.approx(np.full(15, 1 / 15))
    assert (np.diff(predicted) > 0).all()
    assert observed == pytest.approx(np.full(15, 0.5))


def test_resampling_keeps_near_duplicates_together_and_repeats_with_its_seed() -> None:
    groups = ["a", "a", "b", "c"]
    samples = resamples(groups, 50, seed=3)
    assert len(samples) == 50
    for sample in samples:
        counts = np.bincount(sample, minlength=4)
        assert counts[0] == counts[1]
    assert all(np.array_equal(s, t) for s, t in zip(samples, resamples(groups, 50, seed=3), strict=True))


def test_an_interval_holds_its_figure_and_narrows_with_more_prompts() -> None:
    def width(size: int) -> float:
        rng = np.random.default_rng(1)
        p, n = rng.random(size), np.full(size, 4)
        found = figure(METRICS["auroc"], p, rng.binomial(n, p), n, resamples([str(i) for i in range(size)], 100, 0))
        assert found.low < found.value < found.high
        return found.high - found.low

    assert width(1600) < 0.5 * width(100)


def test_a_paired_difference_of_a_probe_with_itself_is_nothing() -> None:
    samples = resamples(list("abcd"), 20, 0)
    assert difference(brier, P, P, K, N, samples) == (0.0, 0.0, 0.0)
