"""How many answers are drawn at once: as few as an answer too many costs, as many as a round costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difficulty.belief import Evidence
from difficulty.votes import Tally
from policies.batches import BATCHES, all_wrong, cheapest, equal
from policies.decide import next_draws
from policies.facts import Facts, Market
from policies.optimise import Optimisation
from policies.plans import BestOfN
from policies.policy import Optimiser, Rule, Rules, Worth
from tests.policies.conftest import CURVES, PRICES, belief

SHARED, APART = (Market(PRICES, names, CURVES) for names in (frozenset({"small"}), frozenset()))
SCORED = BestOfN(backend="small", n=64, verifier="reward")
CHECKED = BestOfN(backend="small", n=64, verifier="exact")
"""By a verifier that reads for nothing."""
VOTE = BestOfN(backend="small", n=33, select="majority")
FACTS = Facts(input_tokens=14)


def first(
    plan: BestOfN = SCORED, market: Market = SHARED, second: float = 0.0, ease: float = -2.0, value: float = 1e-2, **facts: Any
) -> int:
    policy = Optimiser(objective=Worth(value_of_correct_usd=value, value_of_second_usd=second), plans=(plan,))
    return next_draws(policy, market, replace(FACTS, **facts), belief(ease), plan, 0)


@given(st.floats(0.01, 0.99), st.floats(0.0, 30.0))
@settings(max_examples=60, deadline=None)
def test_tries_that_are_alike_cost_the_least_until_one_is_right(p: float, round_usd: float) -> None:
    """Of all sizes, batch after batch, the one that is chosen has the lowest expected price of a right answer."""
    prices = {m: round_usd + m for m in BATCHES}
    chosen = cheapest(all_wrong(np.array([p]), np.ones(1), 10**3 + 16), 10**3, prices)[0]
    until_right = {m: sum((round_usd + m) * (1 - p) ** (m * k) for k in range(3000)) for m in BATCHES}
    assert until_right[chosen] == pytest.approx(min(until_right.values()))


@given(st.integers(1, 70), st.floats(-4, 4))
@settings(max_examples=40, deadline=None)
def test_batches_add_up_and_grow_while_all_is_wrong(n: int, ease: float) -> None:
    """All n are drawn, none twice; failures say that the prompt is hard, so that no batch but the last is smaller than the one before."""
    b = belief(ease)
    sizes = cheapest(all_wrong(b.by_node("small"), b.weights, n + 16), n, {m: 3.0 + m for m in BATCHES})
    assert sum(sizes) == n == sum(equal(n, 4))
    assert sizes[:-1] == sorted(sizes[:-1])


def test_a_long_prompt_is_read_seldom() -> None:
    """Where samples share the reading of the prompt, a long one is read for more of them at once; where not, length changes nothing."""
    assert [first(CHECKED, input_tokens=tokens) for tokens in (4, 200, 20_000)] == [1, 4, 16]
    assert [first(CHECKED, APART, input_tokens=tokens) for tokens in (4, 20_000)] == [1, 1]


def test_a_dear_second_is_spent_on_few_rounds() -> None:
    """The higher the value of a second, the larger the batch; a hard prompt, too, is asked more at once."""
    assert [first(market=APART, second=value) for value in (0.0, 3e-4, 1e-2)] == [1, 4, 16]
    assert first(market=APART, second=3e-4, ease=3.0) < first(market=APART, second=3e-4, ease=-3.0)


def test_what_costs_nothing_is_drawn_in_the_fewest_rounds() -> None:
    """A server of one's own, without a price, and no value of a second: there is no reason to wait."""
    assert first(market=Market({}, curves=CURVES)) == 16


def test_a_near_deadline_makes_batches_larger() -> None:
    """One by one, few of sixty-four would be in time; all money is there, so more are drawn at once."""
    assert first(market=APART, deadline_s=60.0) == 1
    assert first(market=APART, deadline_s=1.0) > 1


def test_the_ceiling_makes_batches_smaller() -> None:
    """A batch that the ceiling does not allow is not chosen, and does not keep the plan from being run."""
    tight = replace(FACTS, input_tokens=2000, ceiling_usd=2.2e-4)
    policy = Optimiser(objective=Worth(value_of_correct_usd=1e-2), plans=(CHECKED,))
    free, bound = (next_draws(policy, SHARED, facts, belief(-2.0), CHECKED, 0) for facts in (replace(tight, ceiling_usd=1.0), tight))
    assert free > bound > 0
    considered = Optimisation(policy, SHARED, tight, belief(-2.0)).considered[0]
    assert not considered.refused
    assert considered.cost_q95_usd <= 2.2e-4


def test_batches_follow_what_was_seen() -> None:
    """After answers that failed the next batch is larger than the first was."""
    policy = Optimiser(objective=Worth(value_of_correct_usd=1e-1), plans=(CHECKED,))
    seen = belief(0.0).after([CURVES.scores["exact"].seen("small", 0.0)] * 12)
    facts = replace(FACTS, input_tokens=200)
    assert next_draws(policy, SHARED, facts, seen, CHECKED, 12) > next_draws(policy, SHARED, facts, belief(0.0), CHECKED, 0) > 0


def test_the_batches_of_a_vote_follow_its_price() -> None:
    """Seconds that are dear, and a long prompt that is shared, make its batches larger, at the start and under way."""

    def under_way(market: Market, second: float, tokens: int) -> int:
        policy = Optimiser(objective=Worth(value_of_correct_usd=1e-2, value_of_second_usd=second), plans=(VOTE,))
        tally = Evidence("small", if_right=1.1, if_wrong=0.9, votes=Tally(3, 2, 5))
        return next_draws(policy, market, replace(FACTS, input_tokens=tokens), belief(1.0).after([tally]), VOTE, 5)

    assert 0 < under_way(APART, 0.0, 14) < under_way(APART, 1e-4, 14)
    assert 0 < under_way(SHARED, 0.0, 4) < under_way(SHARED, 0.0, 2000)
    assert first(VOTE, APART, 0.0, 1.0) < first(VOTE, APART, 3e-4, 1.0)


def test_a_plan_that_says_it_is_drawn_as_it_says() -> None:
    """An explicit `batch` holds whatever it costs; a policy of rules draws four."""
    assert [first(SCORED.model_copy(update={"batch": m}), second=1.0) for m in (1, 3)] == [1, 3]
    rules = Rules(rules=(Rule(when={}, then=(SCORED,)),))
    assert next_draws(rules, SHARED, FACTS, belief(0.0), SCORED, 0) == 4
    assert next_draws(rules, SHARED, replace(FACTS, forced=SCORED), belief(0.0), SCORED, 3) == 61
