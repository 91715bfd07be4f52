"""The multiplier of a budget over time: it makes the rest of the money last for the rest of the requests, whatever comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.tallies import Added, Tally, folded
from policies.facts import Considered
from policies.pacing import GRID, SLOTS, added, begun, demand, pace
from policies.plans import Single
from policies.policy import MOST, WithinBudget

DAY_S = 86400.0
NOON = 20_000 * DAY_S + DAY_S / 2
SMALL, LARGE = Single(backend="small"), Single(backend="large")
BUDGET = WithinBudget(budget_usd=1.0, per="day")


def weighed(gain: float) -> tuple[Considered, ...]:
    """Two plans: large is better by `gain` for ten times the money."""
    return (Considered(SMALL, 0.4, 1e-5, 0, 1.0), Considered(LARGE, 0.4 + gain, 1e-4, 0, 3.0))


def tally(now_s: float) -> Tally:
    fresh = begun(DAY_S, now_s)
    return Tally(fresh.period, fresh.now, fresh.usual, fresh.recent)


def after(known: Tally, now_s: float, cost_usd: float, demanded: tuple[float, ...] = ()) -> Tally:
    row = added(DAY_S, now_s, cost_usd, demanded)
    return folded(known, Added(row.period, row.now, row.recent, row.fade))


def day(objective: WithinBudget, *, n: int = 2000, dearer: float = 1.0, seed: int = 0) -> tuple[Tally, float]:
    """A day of requests at random times: (the tally at its end, US dollars spent). What is paid is `dearer` times what was expected."""
    rng = np.random.default_rng(seed)
    start, spent = NOON - DAY_S / 2, 0.0
    known = tally(start)
    for over in np.sort(rng.random(n)):
        now = start + over * DAY_S
        considered = weighed(float(rng.uniform(0, 0.5)))
        multiplier = pace(objective.budget_usd, objective, known, now).multiplier
        row = demand(considered, objective, multiplier)
        spent += row[0] * dearer
        known = after(known, now, row[0] * dearer, row)
    return known, spent


@pytest.mark.parametrize("dearer", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_budget_between_the_cheapest_and_the_best_is_spent_to_the_end_and_not_over(share: float, dearer: float) -> None:
    """Also where plans cost half or twice what was expected of them, and on a first day of which nothing is known."""
    budget = 2000 * dearer * (1e-5 + share * 9e-5)
    _, spent = day(but(BUDGET, budget_usd=budget), dearer=dearer)
    assert 0.95 < spent / budget <= 1.005


def but(objective: WithinBudget, **changes: Any) -> WithinBudget:
    return WithinBudget(**{**objective.model_dump(), **changes})


def test_a_budget_that_is_more_than_enough_is_no_constraint() -> None:
    """The multiplier stays at 1, the lowest."""
    known, _ = day(BUDGET, n=300)
    assert pace(1.0, BUDGET, known, NOON).multiplier == 1.0


@given(st.floats(0.0, 2.0), st.floats(0.01, 0.99), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_less_money_never_means_a_lower_multiplier(left: float, over: float, seed: int) -> None:
    """For any history and time of day, the multiplier rises as the budget falls; with nothing left it is the highest."""
    known, _ = day(but(BUDGET, budget_usd=0.1), n=60, seed=seed)
    now = NOON + DAY_S * (over - 0.5)
    spent = known.now[0]
    more, less = (pace(spent + usd, BUDGET, known, now).multiplier for usd in (left, left / 2))
    assert 1 <= more <= less <= MOST
    assert pace(spent, BUDGET, known, now).multiplier == MOST


def test_spent_means_spent_until_the_next_period() -> None:
    """At the limit the pace says so, with the time until there is money again; a new day begins with the whole budget."""
    known = after(tally(NOON), NOON, 1.0)
    found = pace(1.0, BUDGET, known, NOON)
    assert (found.spent, found.left_usd, found.resets_in_s) == (True, 0.0, DAY_S / 2)
    tomorrow = pace(1.0, BUDGET, known, NOON + DAY_S / 2)
    assert (tomorrow.spent, tomorrow.left_usd) == (False, 1.0)


def test_a_budget_that_refuses_caps_each_request_at_what_is_left() -> None:
    """One that goes on with the cheapest plan does not."""
    known = after(tally(NOON), NOON, 0.75)
    assert pace(1.0, but(BUDGET, when_spent="refuse"), known, NOON).ceiling_usd == 0.25
    assert pace(1.0, BUDGET, known, NOON).ceiling_usd == float("inf")


def test_the_multiplier_stays_in_its_range() -> None:
    """A range holds at both ends, whatever the budget asks for."""
    ranged = but(BUDGET, multipliers=(4.0, 16.0), when_spent="refuse")
    known, _ = day(BUDGET, n=300)
    assert pace(1e-9, ranged, known, NOON).multiplier == 16.0
    assert pace(1e9, ranged, known, NOON).multiplier == 4.0


def test_an_hour_is_paced_within_the_hour() -> None:
    """The same money for an hour lasts for an hour: at its end there is a new one."""
    hourly = but(BUDGET, per="hour")
    assert pace(1.0, hourly, tally(NOON), NOON + 600).resets_in_s == pytest.approx(3000)


def test_the_usual_shape_of_the_day_is_known_from_the_day_before() -> None:
    """Where all comes in the evening, a morning without requests is no reason to spend more on the first of them."""
    evening = tally(NOON - DAY_S / 2)
    row = demand(weighed(0.25), BUDGET, 1.0)
    for i in range(1000):
        evening = after(evening, NOON + DAY_S / 4 + i, row[0], row)
    flat = tally(NOON - DAY_S / 2)
    for i in range(1000):
        flat = after(flat, NOON - DAY_S / 2 + i * 86, row[0], row)
    tomorrow = NOON + DAY_S
    assert pace(0.04, BUDGET, evening, tomorrow).multiplier > pace(0.04, BUDGET, flat, tomorrow).multiplier


def test_a_burst_that_is_over_does_not_starve_the_rest_of_the_day() -> None:
    """After three hours' traffic in ten minutes the multiplier is not far above the one without the burst."""
    objective = but(BUDGET, budget_usd=0.1)
    known, _ = day(objective, n=2000)
    start, row = NOON + DAY_S / 2, demand(weighed(0.25), BUDGET, 4000.0)
    calm = burst = known
    for i in range(1000):
        calm = after(calm, start + i * 43, row[0], row)
    for i in range(1250):
        burst = after(burst, start + min(i * 43, 43_000 + (i - 1000) * 2), row[0], row)
    a, b = (pace(0.1, objective, found, NOON + DAY_S).multiplier for found in (calm, burst))
    assert a < b < 2 * a


def test_harder_prompts_raise_the_multiplier_within_some_hundred_requests() -> None:
    """Where the same multiplier would buy more than before, it rises before the money is gone."""
    objective = but(BUDGET, budget_usd=0.08)
    known, _ = day(objective, n=2000)
    now = NOON + DAY_S
    before = pace(0.08, objective, known, now).multiplier
    for i in range(500):
        row = demand(weighed(0.5), objective, pace(0.08, objective, known, now + i).multiplier)
        known = after(known, now + i, row[0], row)
    assert pace(0.08, objective, known, now + 500).multiplier > before


def test_demand_is_what_each_multiplier_would_have_paid() -> None:
    """The first number is for the multiplier in force; refused plans are bought by none; nothing weighed, nothing demanded."""
    row = demand(weighed(0.25), BUDGET, 1.0)
    assert row[0] == 1e-4
    assert [usd == 1e-4 for usd in row[1:]] == [bool(9e-5 * m < 0.25) for m in GRID]
    assert set(demand((weighed(0.25)[0], replace(weighed(0.25)[1], refused="down")), BUDGET, 1.0)) == {1e-5}
    assert demand((), BUDGET, 1.0) == ()


def test_a_request_without_a_choice_counts_and_teaches_nothing() -> None:
    """What a named plan cost is spent; it says nothing of what a multiplier buys."""
    known = after(tally(NOON), NOON, 0.5)
    assert known.now[0] == 0.5
    assert sum(known.now[2:]) == 1.0 - SLOTS / 2
    assert set(known.recent) == {0.0}
