"""The simulated days of the pacing benchmark: every way sees the same requests, and hindsight is what a fixed multiplier really gives."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.episodes import EASE, EPISODES, MULTIPLIERS, Episodes
from benchmarks.pacing import BUDGET_USD, DAYS, REQUESTS, Days, Fixed, Hindsight, Ours, Plain, arrive, go_through
from policies.pacing import GRID


@pytest.fixture(scope="module")
def days() -> Days:
    whole = arrive(np.random.default_rng(0))
    some = np.random.default_rng(1).random(len(whole.day)) < 0.05
    return Days(whole.day[some], whole.over[some], whole.ease[some], whole.episode[some])


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    """A dearer answer is likelier right, and the higher the multiplier the cheaper; twenty times as dear as the fleet's."""
    by_multiplier = 600e-6 * 12 / np.arange(1, len(MULTIPLIERS) + 1)
    cost = np.broadcast_to(by_multiplier[None, :, None], (len(EASE), len(MULTIPLIERS), EPISODES)).copy()
    usd = np.interp(np.log(GRID), np.log(MULTIPLIERS), cost[0, :, 0])
    demand = np.broadcast_to(usd, (len(EASE), len(MULTIPLIERS), len(GRID)))
    return Episodes(cost, np.sqrt(cost) / 0.1, np.concatenate([cost[:, :, :1], demand], axis=2))


def test_a_fixed_multiplier_is_what_hindsight_says_of_it(days: Days, episodes: Episodes) -> None:
    """Spend and accuracy of a day under one multiplier are the row of the table of hindsight."""
    paid = go_through(days, episodes, Fixed(float(MULTIPLIERS[5])), np.zeros(len(days.day)))
    hindsight = Hindsight.of(days, episodes, 1)
    assert paid.of(days, 1) == pytest.approx((hindsight.spend[5], hindsight.right[5]))
    assert hindsight.at(hindsight.spend[5]) == pytest.approx(hindsight.right[5])
    assert hindsight.multiplier(hindsight.spend[5]) == pytest.approx(MULTIPLIERS[5])


def test_both_rules_end_every_known_day_near_the_budget(days: Days, episodes: Episodes) -> None:
    """From the second day on, whatever the burst."""
    chance = np.random.default_rng(2).random(len(days.day))
    for way in (Ours(), Plain(0.03)):
        paid = go_through(days, episodes, way, chance)
        assert [paid.of(days, day)[0] for day in (1, 2)] == pytest.approx([1.0, 1.0], abs=0.05)


def test_days_are_as_busy_as_they_should_be() -> None:
    """About the number of requests that is named, more with the burst, and in order."""
    found = arrive(np.random.default_rng(3))
    counts = np.bincount(found.day)
    assert len(counts) == DAYS
    assert counts[:2] == pytest.approx([REQUESTS, REQUESTS], rel=0.03)
    assert counts[2] > 1.05 * REQUESTS
    assert (np.diff(found.day + found.over) >= 0).all()
    assert BUDGET_USD > 0
