"""Doubly robust values: unbiased where the belief is wrong, as long as the chances are right."""

from __future__ import annotations

import numpy as np
import pytest

from policies.replay import doubly_robust, effective


def logged(n: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(outcomes, weights) of a plan that is right in 70 of 100 cases and was run with a chance of `share`."""
    rng = np.random.default_rng(seed)
    return (rng.random(n) < 0.7).astype(float), (rng.random(n) < share) / share


@pytest.mark.parametrize("belief", [0.1, 0.7, 0.95])
def test_a_wrong_belief_is_corrected_by_what_was_seen(belief: float) -> None:
    """Over many logs the mean is what the plan truly gives, and 95 % of the intervals hold it."""
    found = [doubly_robust(np.full(400, belief), *logged(400, 0.1, seed)) for seed in range(300)]
    assert np.mean([value.mean for value in found]) == pytest.approx(0.7, abs=0.02)
    assert np.mean([value.low <= 0.7 <= value.high for value in found]) > 0.9


def test_a_better_belief_gives_a_narrower_interval() -> None:
    """What the belief explains need not be learned from the few requests that were explored."""
    good, bad = (doubly_robust(np.full(400, belief), *logged(400, 0.1)) for belief in (0.7, 0.1))
    assert good.high - good.low < bad.high - bad.low


def test_effective_requests_count_what_weighs() -> None:
    """Equal weights count in full, one heavy one counts as little more than one, none as none."""
    assert effective([1, 1, 1, 1]) == 4
    assert effective([100, 1, 1, 1]) == pytest.approx(1.06, abs=0.01)
    assert effective([0, 0]) == 0
