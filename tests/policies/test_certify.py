"""The guarantee's statistics: a bad setting is hardly ever accepted, a good one nearly always, whatever the stakes are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.certify import BETS, Accepted, p_value, passed

EPSILON, DELTA = 0.02, 0.1


def share_accepted(bet: str, chances: list[float], n: int, trials: int = 400) -> float:
    """How often a setting whose losses are -1, 0, 1 with these chances is accepted."""
    rng = np.random.default_rng(5)
    return float(np.mean([p_value(rng.choice([-1.0, 0.0, 1.0], n, p=chances), EPSILON, bet) <= DELTA for _ in range(trials)]))


@pytest.mark.parametrize("bet", BETS)
@pytest.mark.parametrize("chances", [[0.10, 0.78, 0.12], [0.0, 0.98, 0.02], [0.29, 0.40, 0.31]])
def test_a_setting_that_loses_epsilon_is_accepted_with_a_chance_under_delta(bet: str, chances: list[float]) -> None:
    """At the very edge, where a mean loss of epsilon is reached: 400 calibration sets, three standard errors of room."""
    assert share_accepted(bet, chances, 300) <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / 400)


@pytest.mark.parametrize("bet", BETS)
def test_a_good_setting_is_accepted_once_there_are_enough_prompts(bet: str) -> None:
    """Eight points better than the reference: more prompts make it surer, and 1,000 are enough."""
    few, many = (share_accepted(bet, [0.18, 0.72, 0.10], n, trials=100) for n in (50, 1000))
    assert few < many
    assert many > 0.95


def test_the_mixture_needs_the_fewest_prompts() -> None:
    """Why it is the one in use: at five points better and 300 prompts no other stakes accept as often."""
    power = {bet: share_accepted(bet, [0.15, 0.75, 0.10], 300, trials=200) for bet in BETS}
    assert max(power, key=lambda bet: power[bet]) == "mixture"


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0.01, 0.3), st.floats(0.0, 0.5))
def test_a_p_value_is_one_and_falls_as_more_may_be_lost(losses: list[float], epsilon: float, more: float) -> None:
    """It lies in [0, 1], and smaller losses never make it larger."""
    p = p_value(losses, epsilon)
    assert 0 <= p <= 1
    assert p_value(np.asarray(losses) - more * (np.asarray(losses) + 1), epsilon) <= p + 1e-12


def test_an_amount_of_money_is_bounded_by_its_ceiling() -> None:
    """A mean cost of a fifth of the cap is proven; one over it is not; a loss above the ceiling is an error, not a proof."""
    cost = np.random.default_rng(0).exponential(2e-4, 2000).clip(0, 5e-3)
    assert p_value(cost, 1e-3, worst=5e-3) < 0.01
    assert p_value(cost, 1.5e-4, worst=5e-3) > 0.5
    with pytest.raises(ValueError, match="above the worst one"):
        p_value([0.1, 2.0], 0.02)
    with pytest.raises(ValueError, match="nothing to certify"):
        p_value([0.1], 1.0)


def test_settings_are_accepted_in_order_until_one_fails() -> None:
    """What comes after the first failure is not looked at, however good it seems."""
    assert passed([0.01, 0.1, 0.2, 0.001], DELTA) == 2
    assert passed([0.5, 0.001], DELTA) == 0


def test_a_multiplier_is_held_to_the_accepted_ones() -> None:
    """The accepted setting on the safe side; beyond either end, the end."""
    accepted = Accepted((0.5, 1.0, 2.0))
    assert [accepted.held(m) for m in (0.1, 0.5, 0.99, 1.7, 2.0, 50.0)] == [0.5, 0.5, 0.5, 1.0, 2.0, 2.0]
    assert (accepted.low, accepted.high) == (0.5, 2.0)
