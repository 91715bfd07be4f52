"""Sequential tests: they keep quiet while nothing moves, and give alarm soon after something did."""

from __future__ import annotations

import numpy as np
import pytest

from difficulty.belief import sigmoid
from difficulty.drift import MeanTest, RankTest


def residuals(rng: np.random.Generator, n: int, off: float) -> np.ndarray:
    """Label less chance, where the truth is `off` logits above what was believed."""
    believed = rng.normal(0.8, 1.0, n)
    return np.asarray((rng.random(n) < sigmoid(believed + off)) - sigmoid(believed), dtype=float)


def test_false_alarms_keep_their_promise() -> None:
    """Of 200 calibrated services watched for 2,000 labels, with no tolerance at all, under alpha (and its error of two sigma) alarm."""
    rng, alpha = np.random.default_rng(1), 0.05
    alarms = 0
    for _ in range(200):
        test = MeanTest(0.0, alpha)
        alarms += any(test.see(float(r)) for r in residuals(rng, 2000, 0.0))
    assert alarms / 200 <= alpha + 2 * (alpha * (1 - alpha) / 200) ** 0.5


@pytest.mark.parametrize(("off", "within"), [(-1.5, 150), (-1.0, 400), (1.5, 600)])
def test_an_alarm_comes_soon_after_a_change_however_long_it_was_calm(off: float, within: int) -> None:
    """The median over 20 services, after 2,000 calm labels; it says which way things went."""
    rng, delays = np.random.default_rng(2), []
    for _ in range(20):
        test = MeanTest(0.05)
        for calm in residuals(rng, 2000, 0.0):
            assert not test.see(float(calm))
        delays.append(next(i for i, r in enumerate(residuals(rng, 5000, off)) if test.see(float(r))))
        assert test.alarm == np.sign(off)
    assert np.median(delays) <= within


def test_what_lies_within_the_tolerance_is_no_alarm() -> None:
    """A service that is off by less than it is allowed to be."""
    rng, test = np.random.default_rng(3), MeanTest(0.1)
    off = residuals(rng, 5000, 0.3)
    assert 0.03 < float(off.mean()) < 0.1
    assert not any(test.see(float(r)) for r in off)


def test_an_alarm_stays_and_is_given_once() -> None:
    """Better times later do not take it back."""
    test = MeanTest(0.05)
    given = sum(test.see(r) for r in [-1.0] * 100 + [1.0] * 500)
    assert (given, test.alarm, test.seen) == (1, -1, 600)


def test_a_test_of_one_side_is_deaf_on_the_other() -> None:
    """Better than allowed is no alarm, however much."""
    test = MeanTest(0.05, sides=(-1,))
    assert not any(test.see(1.0) for _ in range(500))
    assert any(test.see(-1.0) for _ in range(500))


def test_prompts_that_became_harder_or_longer_are_noticed_by_their_ranks() -> None:
    """In any unit; a value that is always the same is no drift."""
    rng = np.random.default_rng(4)
    for shift, alarm in ((0.0, 0), (0.9, 1), (-0.9, -1)):
        test = RankTest(MeanTest(0.1), reference=300)
        given = [test.see(float(v)) for v in np.exp(np.concatenate([rng.normal(0, 1, 1000), rng.normal(shift, 1, 1500)]))]
        assert test.alarm == alarm
        assert sum(given[:1000]) == 0
    same = RankTest(MeanTest(0.1), reference=100)
    assert not any(same.see(5.0) for _ in range(1000))
