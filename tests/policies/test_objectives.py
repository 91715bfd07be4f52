"""Objectives: what a right answer is worth, the cheapest above a quality, the best at the price that a budget asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.decide import decide, next_draws
from policies.facts import Considered, Facts, Market
from policies.policy import MOST, Policy
from tests.policies.conftest import CURVES, PRICES, belief
from tests.policies.test_decide import PLANS, RIGHT, WRONG

MARKET = Market(PRICES, frozenset({"small", "large"}), CURVES)
FACTS = Facts(input_tokens=14)
BUDGET = {"budget_usd": 5, "per": "day"}


def policy(**objective: Any) -> Policy:
    return TypeAdapter(Policy).validate_python({"objective": objective, "plans": PLANS})


def chosen(found: Policy, facts: Facts = FACTS, ease: float = -1.0) -> Considered:
    """The plan that is run first, as it was considered."""
    decision = decide(found, MARKET, facts, belief(ease))
    return next(c for c in decision.considered if c.plan == decision.plan)


# --- the cheapest above a quality -------------------------------------------------------------------------------------------


@given(st.floats(-3, 4), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_cheapest_of_those_above_the_floor_is_run(ease: float, floor: float) -> None:
    """No plan that reaches the floor is cheaper; where none reaches it, none comes nearer by as much as a plan is worth."""
    decision = decide(policy(cheapest_above=floor), MARKET, FACTS, belief(ease))
    ran = next(c for c in decision.considered if c.plan == decision.plan)
    reaching = [c for c in decision.considered if c.quality >= floor]
    if reaching:
        assert ran.quality >= floor - 0.005
        assert ran.cost_usd <= min(c.cost_usd for c in reaching) + 1e-15
    else:
        assert ran.quality >= max(c.quality for c in decision.considered) - 0.005
        assert "which no plan reaches" in decision.reason


def test_a_higher_floor_costs_more() -> None:
    """Turning the floor up buys a dearer and better plan."""
    rows = [chosen(policy(cheapest_above=floor)) for floor in (0.2, 0.6, 0.9)]
    assert [r.cost_usd for r in rows] == sorted({r.cost_usd for r in rows})
    assert [r.quality for r in rows] == sorted(r.quality for r in rows)


def test_an_answer_above_the_floor_is_enough_and_one_below_is_not() -> None:
    """Nothing is bought after an answer that is right with the chance asked for, also not in the middle of a plan."""
    found, plan = policy(cheapest_above=0.9), decide(policy(cheapest_above=0.9), MARKET, FACTS, belief(-1.0)).plan
    assert plan is not None
    facts = replace(FACTS, done=frozenset({plan.key}))
    for seen, goes_on in ((RIGHT, False), (WRONG, True)):
        after = belief(0.0).after([seen])
        assert (decide(found, MARKET, facts, after).plan is not None) == goes_on
        assert bool(next_draws(found, MARKET, facts, after, plan, 1)) == goes_on


def test_seconds_break_the_tie_between_plans_above_the_floor() -> None:
    """With dear seconds the quicker one of those above the floor is the cheapest."""
    slow, fast = (chosen(policy(cheapest_above=0.7, value_of_second_usd=v)) for v in (0.0, 1.0))
    assert fast.latency_s < slow.latency_s
    assert min(fast.quality, slow.quality) >= 0.7


def test_a_request_may_ask_for_more_than_the_objective() -> None:
    """The floor of the request and that of the objective: the higher one counts."""
    low = chosen(policy(cheapest_above=0.2))
    assert chosen(policy(cheapest_above=0.2), replace(FACTS, quality_floor=0.9)) == chosen(policy(cheapest_above=0.9))
    assert chosen(policy(cheapest_above=0.2), replace(FACTS, quality_floor=0.1)) == low


def test_a_floor_beside_a_worth_is_reached_first() -> None:
    """The limit `quality_floor` makes a plan go on that its worth alone would end."""
    found = policy(value_of_correct_usd=1e-7)
    assert not next_draws(found, MARKET, FACTS, belief(0.0).after([WRONG]), found.all_plans[2], 4)
    assert next_draws(found, MARKET, replace(FACTS, quality_floor=0.9), belief(0.0).after([WRONG]), found.all_plans[2], 4)


# --- the price of a dollar --------------------------------------------------------------------------------------------------


@given(st.floats(-4, 4), st.lists(st.floats(1, MOST), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_multiplier_is_a_price_on_dollars_alone(ease: float, multipliers: list[float]) -> None:
    """A dollar that counts twice is the same as a right answer that is worth half; so the decision is the same."""
    for m in multipliers:
        dear = decide(policy(**BUDGET, value_of_correct_usd=1.0), MARKET, replace(FACTS, cost_multiplier=m), belief(ease))
        poor = decide(policy(value_of_correct_usd=1.0 / m), MARKET, FACTS, belief(ease))
        assert dear.plan == poor.plan


@given(st.floats(-4, 4), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_at_the_highest_multiplier_the_cheapest_plan_is_run_and_nothing_after_it(ease: float, floor: float) -> None:
    """Whatever the prompt, and whatever quality was asked for."""
    found, facts = policy(**BUDGET), replace(FACTS, cost_multiplier=MOST, quality_floor=floor)
    first = decide(found, MARKET, facts, belief(ease))
    ran = next(c for c in first.considered if c.plan == first.plan)
    assert ran.cost_usd == min(c.cost_usd for c in first.considered)
    assert decide(found, MARKET, replace(facts, done=frozenset({ran.plan.key})), belief(ease).after([WRONG])).plan is None


def test_what_a_right_answer_is_worth_holds_back_a_rich_budget() -> None:
    """With money enough, no more is paid for a right answer than it is worth."""
    poor, rich = (chosen(policy(**BUDGET, value_of_correct_usd=v)) for v in (1e-6, 1.0))
    assert poor.cost_usd < rich.cost_usd


def test_what_a_second_is_worth_buys_a_faster_plan() -> None:
    """Also under a budget."""
    slow, fast = (chosen(policy(**BUDGET, value_of_second_usd=v)) for v in (0.0, 1.0))
    assert fast.latency_s < slow.latency_s


# --- spellings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({}, "value_of_correct_usd"),
        ({"cheapest_above": 1.0}, "less than 1"),
        ({"cheapest_above": 0.9, "value_of_correct_usd": 1}, "two objectives"),
        ({"cheapest_above": 0.9, **BUDGET}, "two objectives"),
        ({"per": "day", "value_of_correct_usd": 1}, "stands beside budget_usd"),
        ({"budget_usd": 5}, "per"),
        ({"budget_usd": 5, "per": "week"}, "'hour' or 'day'"),
        ({**BUDGET, "tenant_budget_usd": 6}, "above budget_usd"),
        ({**BUDGET, "multipliers": [2, 1], "when_spent": "refuse"}, "low <= high"),
        ({**BUDGET, "multipliers": [1, 8]}, "when_spent: refuse"),
        ({**BUDGET, "when_spent": "panic"}, "'cheapest' or 'refuse'"),
    ],
)
def test_an_objective_that_says_too_much_or_too_little_is_refused(objective: dict[str, Any], says: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(ValidationError, match=says):
        policy(**objective)
