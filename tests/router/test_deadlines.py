"""Deadlines: wherever time is lost, a request ends in an answer or in an error that says why. The clock jumps, as on a starved machine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.scripted import scripted
from adapters.types import Delta
from difficulty.belief import Success
from difficulty.curves import Latency
from router.errors import RouterError
from router.pipeline import Router
from tests.router.test_pipeline import CURVES, LARGE, PLANS, SMALL, Exact, Probe, a_policy, a_router, an_ask

LEFT_AND_TAKEN_UP = [
    {"best_of_n": {"backend": "small", "n": 12, "batch": 1, "verifier": "exact"}},
    {"single": {"backend": "large", "verifier": "exact"}},
]
BOTH = {"small": 3, "large": 1}
SETS: dict[str, list[dict[str, Any]]] = {
    "every kind": PLANS,
    "left and taken up": LEFT_AND_TAKEN_UP,
    "a vote": [{"best_of_n": {"backend": "small", "n": 12, "batch": 2, "select": "majority"}}],
    "weighed": [{"best_of_n": {"backend": "small", "n": 8, "verifier": "exact", "select": "weighted"}}, {"single": {"backend": "large"}}],
    "a pool": [{"ensemble": {"members": BOTH}}, {"single": {"backend": "large"}}],
    "a scored pool": [
        {"ensemble": {"members": BOTH, "verifier": "exact"}},
        {"best_of_n": {"backend": "small", "n": 8, "verifier": "exact"}},
    ],
    "a search": [{"tree_search": {"backend": "small", "verifier": "exact", "max_steps": 3}}, {"single": {"backend": "large"}}],
}


@dataclass
class Clock:
    """Goes on a little whenever it is looked at, and once, at a look of that number, by much."""

    at: int = 0
    by_s: float = 0.0
    looks: int = 0
    now_s: float = 0.0

    def __call__(self) -> float:
        self.looks += 1
        self.now_s += 1e-4 + (self.by_s if self.looks == self.at else 0.0)
        return self.now_s


def starved(plans: list[dict[str, Any]], clock: Clock, *, fails: int | None = None, verifier_fails: bool = False) -> Router:
    """Nine wrong answers of the small backend come before a right one; the large one is wrong too."""
    answers = [*(f"wrong {i}" for i in range(9)), "a right one"]
    small = scripted("small", *answers, price=SMALL, fail_every=fails, fail_after_tokens=1)
    policy, verifier = a_policy(2e-4, plans), Exact(scores_prefixes=True, fails=verifier_fails)
    parts = a_router(small, scripted("large", "wrong too", price=LARGE), policy=policy, verifier=verifier, probe=Probe()).parts
    latency = {**CURVES.latency, "small": Latency(0.05, 0.002, 0.3), "large": Latency(0.1, 0.002, 0.3)}
    curves = replace(CURVES, success=dict.fromkeys(("small", "large"), Success(spread=0.5, own=2.5)), latency=latency)
    return Router(
        replace(parts, market=replace(parts.market, prices={**parts.market.prices, "large": (3.0, 3.0)}, curves=curves)), clock=clock
    )


async def asked(router: Router, *, deadline_s: float = 1.0, streamed: bool = False, **more: Any) -> str:
    """How it ended: `answered`, or the error."""

    async def sink(_: Delta) -> None: ...

    try:
        outcome = await router.answer(an_ask(deadline_s=deadline_s, **more), sink if streamed else None)
    except RouterError as error:
        return error.code or "none"
    assert outcome.candidates
    return "answered"


@pytest.mark.parametrize("name", SETS)
async def test_wherever_the_time_is_lost_a_request_ends_as_one_should(name: str) -> None:
    """At each look at the clock in turn nearly all of the time goes by, or all of it. What was answered by then goes out."""
    await asked(starved(SETS[name], whole := Clock()))
    clocks = [Clock(at, 1.5 if at % 2 else 0.985) for at in range(1, whole.looks + 1)]
    endings = [await asked(starved(SETS[name], clock)) for clock in clocks]
    assert set(endings) == {"answered", "deadline_exceeded"}
    assert endings[-1] == "answered"


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(SETS)),
    clock=st.builds(Clock, st.integers(1, 120), st.sampled_from([0.3, 0.8, 0.95, 0.985, 2.0])),
    fails=st.sampled_from([None, 2, 3]),
    verifier_fails=st.booleans(),
    streamed=st.booleans(),
    limits=st.fixed_dictionaries(
        {"deadline_s": st.sampled_from([0.05, 0.3, 1.0])}, optional={"max_cost_usd": st.sampled_from([1e-5, 1e-4])}
    ),
)
def test_whatever_fails_beside_a_request_ends_as_one_should(
    name: str, clock: Clock, fails: int | None, verifier_fails: bool, streamed: bool, limits: dict[str, float]
) -> None:
    """Calls and verifier fail, money is short, the answer is streamed: every ending has its code."""
    router = starved(SETS[name], clock, fails=fails, verifier_fails=verifier_fails)
    found = asyncio.run(asked(router, streamed=streamed, **limits))
    assert found in {"answered", "deadline_exceeded", "budget_exceeded", "backend_failed", "backend_unavailable"}


async def test_samples_that_there_is_no_time_for_any_more_are_not_drawn() -> None:
    """A plan that was left is chosen again, and before its first new sample nearly all of the time is gone: the answer in hand goes out."""
    await asked(starved(LEFT_AND_TAKEN_UP, whole := Clock()))
    ends = []
    for at in range(whole.looks // 2, whole.looks):  # it is taken up in the second half
        outcome = await starved(LEFT_AND_TAKEN_UP, Clock(at, 0.985)).answer(an_ask(deadline_s=1.0))
        ends.append([action["answers"] for action in outcome.decision["actions"]])
    assert any(len(answers) == 3 and not answers[-1] for answers in ends)
