"""The closed form for policies of unscored answers gives what the general way gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from difficulty.belief import Belief, Evidence
from difficulty.curves import Curves, Latency, Tokens
from policies.decide import decide
from policies.facts import Decision, Facts, Market, NothingToRun
from policies.optimise import Optimisation
from policies.plans import Single
from policies.policy import Optimiser, Policy
from tests.policies.conftest import belief

SMALL, LARGE = ({"single": {"backend": name}} for name in ("small", "large"))
CURVES = Curves(tokens={"large": Tokens()}, latency={"small": Latency(0.2, 0.01, 0.3), "large": Latency(1.0, 0.02, 0.3)})
MARKET = Market({"small": (0.4, 1.6), "large": (2.0, 8.0)}, curves=CURVES)


def policy(plans: list[dict[str, Any]], **objective: Any) -> Optimiser:
    found: Policy = TypeAdapter(Policy).validate_python({"objective": objective or {"value_of_correct_usd": 0.02}, "plans": plans})
    assert isinstance(found, Optimiser)
    return found


NUMBERS = ("quality", "cost_usd", "cost_q95_usd", "latency_s", "latency_q95_s", "utility_usd")


def outcome(decide_: Callable[[], Decision]) -> tuple[list[Any], list[float]]:
    """What was decided in words, and the numbers beside it."""
    try:
        decision = decide_()
    except NothingToRun as nothing:
        return [str(nothing)], []
    rows = decision.considered
    words = [decision.plan, decision.cause, decision.reason, *((row.plan.key, row.refused) for row in rows)]
    return words, [getattr(row, name) for row in rows for name in NUMBERS]


@settings(max_examples=150, deadline=None)
@given(
    ease=st.floats(-6, 6),
    seen=st.lists(st.sampled_from(["small", "large"]), max_size=2, unique=True),
    limits=st.fixed_dictionaries(
        {"ceiling_usd": st.floats(1e-6, 1e-2), "deadline_s": st.floats(0.1, 60), "quality_floor": st.floats(0, 1)}
    ),
    down=st.frozensets(st.sampled_from(["small", "large"])),
    objective=st.sampled_from([{"value_of_correct_usd": 0.02, "value_of_second_usd": 0.001}, {"cheapest_above": 0.8}]),
)
def test_it_is_the_general_decision(ease: float, seen: list[str], limits: dict[str, float], down: frozenset[str], objective: Any) -> None:
    """Whatever is believed, allowed, down or done: the same plan for the same reason, and the same numbers beside it."""
    mine, believed = policy([SMALL, LARGE], **objective), belief(ease).after([Evidence(name) for name in seen])
    facts = Facts(input_tokens=100, done=frozenset(f"single({name})" for name in seen), down=down, **limits)
    words, numbers = outcome(lambda: decide(mine, MARKET, facts, believed))
    general_words, general_numbers = outcome(Optimisation(mine, MARKET, facts, believed).decide)
    assert (words, numbers) == (general_words, pytest.approx(general_numbers, abs=1e-12))


def test_it_is_for_unscored_answers_only() -> None:
    """A verifier, or several samples, and the general way decides: there something may follow."""
    assert policy([SMALL, LARGE]).unscored
    assert not policy([SMALL, {"single": {"backend": "large", "verifier": "reward"}}]).unscored
    assert not policy([SMALL, {"best_of_n": {"backend": "large", "n": 3, "select": "majority"}}]).unscored


def test_a_second_backend_stays_in_reserve() -> None:
    """Where the better one would leave no time for another, should it fail, a quicker one is asked; but where there is time for one only,
    the best of those that are sure to be in time."""
    speed = {"small": Latency(1.0, 0.0, 0.1), "middle": Latency(2.0, 0.0, 0.1), "large": Latency(2.5, 0.0, 0.1)}
    market = Market(curves=Curves(latency=speed))
    believed = Belief({"small": (0.0, 1.0), "middle": (1.0, 1.0), "large": (2.0, 1.0)})
    dear = policy([{"single": {"backend": name}} for name in speed], value_of_correct_usd=10.0)
    for deadline_s, best in ((9.0, "large"), (4.0, "middle"), (3.2, "large"), (2.5, "middle"), (1.5, "small")):
        assert decide(dear, market, Facts(input_tokens=100, deadline_s=deadline_s), believed).plan == Single(backend=best), deadline_s
