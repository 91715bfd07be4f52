"""The benchmark of the guarantee: the bound holds where tuning to what was observed breaks it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.guarantee import DELTA, NAIVE, Population, cheapest, goes_small, judged
from policies.certify import BETS


@pytest.fixture(scope="module")
def population() -> Population:
    """20 settings, from no loss to six points, in steps finer than a calibration set can see."""
    rng = np.random.default_rng(0)
    level, floor = rng.random(2000), rng.random(2000)
    losses = [(level < 0.1 + shift).astype(float) - (floor < 0.1) for shift in np.linspace(0, 0.06, 20)]
    return Population("made up", np.stack(losses), np.linspace(1, 0.2, 20))


def test_the_bound_holds_where_the_observed_drop_breaks_it(population: Population) -> None:
    """Every stake stays under delta (and three standard errors of 60 sets); the naive choice is wrong far more often, for less money."""
    rows = judged(population, 60, 0)["rows"]
    broken = {m: max(row["violations"][0] for row in rows if row["method"] == m) for m in (NAIVE, *BETS)}
    assert all(broken[bet] <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / 60) for bet in BETS)
    assert broken[NAIVE] > 0.25
    for n in (300, 1000):
        cost = {row["method"]: row["cost"] for row in rows if (row["n"], row["epsilon"]) == (n, 0.05)}
        assert cost[NAIVE] < cost["mixture"] <= 1


def test_nothing_is_accepted_where_the_safest_setting_is_bad() -> None:
    """Settings are tested in order: a good one behind a bad one is not reached, but the naive choice takes it."""
    loss = np.stack([np.full(400, 0.5), np.full(400, -0.5)])
    assert cheapest(loss, 0.02, "mixture") == -1
    assert cheapest(loss, 0.02, NAIVE) == 1
    assert cheapest(loss[::-1], 0.02, "mixture") == 0


def test_the_pair_is_routed_by_the_services_decision() -> None:
    """The large one is asked where it is worth its price, and where a dollar counts more, less often."""
    assert not goes_small({"small": -2.0, "large": 2.0}, 1.0)
    assert goes_small({"small": 2.0, "large": 2.0}, 1.0)
    assert goes_small({"small": 0.0, "large": 1.0}, 64.0)
