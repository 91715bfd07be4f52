"""Laws that hold for every strategy, whatever the backend says and the verifier thinks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import BackendError
from adapters.scripted import ScriptedBackend, ScriptedOptions
from adapters.types import Price
from policies.plans import KINDS, BestOfN, Revise, Single, TreeSearch
from router.candidates import Candidate
from router.run import Limits, OutOfBudget, Run
from router.strategies import STRATEGIES
from tests.router.strategies.doubles import ASKED, ScriptedVerifier, a_run, by_line, yielding

TARGETS: dict[str, Any] = {"backend": "small", "verifier": "reward"}

PLANS = st.one_of(
    st.just(Single(**TARGETS)),
    st.builds(Revise, rounds=st.integers(1, 5), **{key: st.just(value) for key, value in TARGETS.items()}),
    st.builds(
        BestOfN,
        n=st.integers(1, 9),
        batch=st.integers(1, 5),
        select=st.sampled_from(["best", "majority", "weighted"]),
        **{key: st.just(value) for key, value in TARGETS.items()},
    ),
    st.builds(
        TreeSearch,
        beam_width=st.integers(1, 3),
        samples=st.integers(3, 6),
        lookahead=st.integers(0, 2),
        aggregate=st.sampled_from(["last", "min", "prod"]),
        max_steps=st.integers(1, 4),
        **{key: st.just(value) for key, value in TARGETS.items()},
    ),
)
LINES = st.lists(st.sampled_from(["a", "b b", "c c c"]), min_size=1, max_size=4).map("\n".join)
BACKENDS = st.fixed_dictionaries(
    {
        "answers": st.lists(LINES, min_size=1, max_size=4),
        "native_n": st.booleans(),
        "continues_prefix": st.booleans(),
        "fail_every": st.none() | st.integers(2, 5),
        "fail_after_tokens": st.integers(0, 3),
    }
)


class Counting(ScriptedBackend):
    """Keeps every call it was given, to compare with the trace."""

    def __init__(self, **options: Any) -> None:
        super().__init__("small", ScriptedOptions(price=Price(1, 10), delay_s=1, **options), sleep=yielding)
        self.seen: list[Any] = []

    async def complete(self, request, call) -> None:
        self.seen.append((request.n, call))
        await super().complete(request, call)


def carried_out(plan: Any, backend: ScriptedBackend, run: Run, **request: Any) -> Candidate | None:
    """The strategy's answer; None where it had none to give."""
    try:
        return asyncio.run(STRATEGIES[plan.kind](plan, ASKED.but(**request), run))
    except (OutOfBudget, BackendError):
        return None


def verifier(fails_from: int | None = None) -> ScriptedVerifier:
    return ScriptedVerifier(by_line({"a": 0.7, "b b": 0.4, "c c c": 0.2}), price=Price(2, 0), fails_from=fails_from)


def test_every_kind_of_plan_has_a_strategy():
    """The table of strategies and the table of plans name the same kinds."""
    assert set(STRATEGIES) == set(KINDS)


@settings(max_examples=120, deadline=None)
@given(plan=PLANS, options=BACKENDS, fails_from=st.none() | st.integers(1, 4), seed=st.none() | st.integers(0, 9))
def test_usage_adds_up(plan, options, fails_from, seed):
    """The trace holds exactly the calls that were made, and what they cost: there is no spending beside the run."""
    backend, judge = Counting(**options), verifier(fails_from)
    run = a_run(backend, judge)
    carried_out(plan, backend, run, seed=seed)
    generated = [call for call in run.calls if call.kind == "generate"]
    assert sum(call.n for call in generated) == sum(n for n, _ in backend.seen)
    assert sum(call.output_tokens for call in generated) == sum(call.output_tokens for _, call in backend.seen)
    assert sum(call.n for call in run.calls if call.kind == "score") == len(judge.read)
    assert run.spent_usd == pytest.approx(sum(call.cost_usd for _, call in backend.seen) + 2e-6 * sum(len(t.split()) for t in judge.read))
    assert run._reserved_usd == pytest.approx(0)


@settings(max_examples=120, deadline=None)
@given(plan=PLANS, options=BACKENDS, ceiling=st.floats(0, 0.02), max_tokens=st.integers(1, 8))
def test_a_plan_never_exceeds_the_ceiling(plan, options, ceiling, max_tokens):
    """Whatever a plan would like to buy, the sum of its calls stays under the ceiling; what it bought is an answer."""
    backend = Counting(**options)
    run = a_run(backend, verifier(), limits=Limits(cost_usd=ceiling))
    answer = carried_out(plan, backend, run, max_tokens=max_tokens)
    assert run.spent_usd <= ceiling + 1e-12
    assert answer is not None or not run.pool


@settings(max_examples=80, deadline=None)
@given(plan=PLANS, options=BACKENDS, ticks=st.integers(0, 12))
def test_a_plan_starts_nothing_after_the_deadline(plan, options, ticks):
    """The clock jumps past the deadline after so many calls: no call starts later, and what was bought is an answer."""
    backend = Counting(**options)
    run = a_run(backend, verifier(), limits=Limits(latency_s=60))
    run.clock = lambda: run.started + (60.0 if len(run.calls) >= ticks else 0.0)
    answer = carried_out(plan, backend, run)
    assert all(call.started_s < 60 for call in run.calls)
    assert answer is not None or not run.pool


@settings(max_examples=120, deadline=None)
@given(plan=PLANS, options=BACKENDS, fails_from=st.none() | st.integers(1, 4))
def test_the_answer_is_one_that_was_offered(plan, options, fails_from):
    """Nobody gets an answer that the pool does not know, whether verifier and backend hold out or not."""
    backend = Counting(**options)
    run = a_run(backend, verifier(fails_from))
    answer = carried_out(plan, backend, run)
    assert answer is None or answer.choice in [c.choice for c in run.pool]
    assert all(c.plan == plan.key and c.backend == "small" for c in run.pool)


@settings(max_examples=60, deadline=None)
@given(
    options=BACKENDS,
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(0, 9),
    select=st.sampled_from(["best", "majority", "weighted"]),
)
def test_one_of_one_is_a_single_answer(options, temperature, seed, select):
    """best_of_n with n = 1, and revise with one round, ask, cost and answer as single does."""
    outcomes = []
    for plan in (Single(**TARGETS), BestOfN(n=1, select=select, **TARGETS), Revise(rounds=1, **TARGETS)):
        backend = Counting(**options)
        run = a_run(backend, verifier())
        answer = carried_out(plan, backend, run, temperature=temperature, seed=seed)
        outcomes.append((list(backend.requests), run.spent_usd, answer and (answer.choice, answer.score)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(max_examples=60, deadline=None)
@given(plan=PLANS, options=BACKENDS)
def test_a_later_answer_never_costs_less_than_its_parts(plan, options):
    """Whenever answers are offered, all that led to them is paid, so the sum only grows, and ends as the run's."""
    backend = Counting(**options)
    paid: list[float] = []

    class Watched(Run):
        def offer(self, *candidates: Candidate) -> None:
            super().offer(*candidates)
            paid.append(self.spent_usd)

    run = Watched({"small": backend}, {"reward": verifier()})
    carried_out(plan, backend, run)
    assert paid == sorted(paid)
    assert not paid or paid[-1] <= run.spent_usd
    assert run.spent_usd == pytest.approx(sum(call.cost_usd for call in run.calls))


@settings(max_examples=40, deadline=None)
@given(options=BACKENDS, rounds=st.integers(1, 5))
def test_one_more_round_never_costs_less(options, rounds):
    """A longer chain contains the shorter one: same attempts, at least its price, and a score that is not lower."""
    costs, scores = [], []
    for more in (0, 1):
        backend = Counting(**{**options, "fail_every": None})
        run = a_run(backend, verifier())
        answer = carried_out(Revise(rounds=rounds + more, **TARGETS), backend, run, seed=3)
        assert answer is not None
        costs.append(run.spent_usd)
        scores.append(answer.score)
    assert costs[0] < costs[1]
    assert scores[0] <= scores[1]
