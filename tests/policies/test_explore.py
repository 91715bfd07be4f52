"""Exploration: a share of first plans is drawn from what the limits allow, and each comes with the chance that it was taken with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from policies.decide import decide
from policies.facts import Decision
from tests.policies.conftest import belief
from tests.policies.test_decide import FACTS, MARKET, WRONG, policy

DRAWS = (np.arange(2000) + 0.5) / 2000


def taken(explore: float, **facts: float) -> list[Decision]:
    """The first decision for every number that may be drawn."""
    return [decide(policy(explore=explore), MARKET, replace(FACTS, draw=draw, **facts), belief(-2.0)) for draw in DRAWS[::20]]


def test_each_plan_is_taken_as_often_as_its_propensity_says() -> None:
    """Over all numbers that may be drawn, so that weights of one over it are right; and a larger share explores more."""
    for share in (0.1, 0.5):
        found = taken(share)
        often = Counter(d.plan.key for d in found)
        assert len(often) == 5
        assert {d.plan.key: d.propensity for d in found} == pytest.approx({key: n / len(found) for key, n in often.items()}, abs=0.011)
        assert sum(d.cause == "explore" for d in found) == pytest.approx(0.8 * share * len(found), abs=2)


def test_nothing_is_explored_unless_asked_for() -> None:
    """Off by default, and without a number the best plan is taken for certain."""
    assert {(d.cause, d.propensity) for d in taken(0.0)} == {("utility", 1.0)}
    assert decide(policy(explore=0.5), MARKET, FACTS, belief(-2.0)).propensity == 1.0


def test_exploration_stays_inside_hard_limits() -> None:
    """A plan that the ceiling or the deadline refuses is never drawn."""
    for limit in ({"ceiling_usd": 2e-5}, {"deadline_s": 0.3}):
        refused = {c.plan.key for d in taken(0.5, **limit) for c in d.considered if c.refused}
        drawn = {d.plan.key for d in taken(0.5, **limit)}
        assert refused
        assert len(drawn) > 1
        assert not drawn & refused


def test_only_the_first_plan_is_drawn() -> None:
    """After a result the best action is taken, and a stop is never undone."""
    later = replace(FACTS, draw=0.0, done=frozenset({"single(small)"}))
    found = decide(policy(explore=0.5), MARKET, later, belief(-2.0).after([WRONG]))
    assert (found.propensity, found.cause) == (1.0, "utility")


def test_more_than_half_is_refused() -> None:
    """A policy that mostly explores is a mistake in the file."""
    with pytest.raises(ValidationError, match="explore"):
        policy(explore=0.6)
