"""Samples of several backends: drawn at once, each by its own way to fail, and chosen from all together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import BackendUnavailable
from adapters.scripted import ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Price
from policies.plans import Ensemble
from router.candidates import Candidate
from router.run import Limits, OutOfBudget, Run
from router.strategies.ensemble import ensemble
from tests.router.strategies.doubles import ASKED, ScriptedVerifier, yielding

HEADS = Ensemble(members={"small": 2, "large": 1}, select="majority")
BEST = Ensemble(members={"small": 2, "large": 1}, select="best", verifier="reward")


def a_run(small: ScriptedBackend | None = None, large: ScriptedBackend | None = None, verifier: Any = None, **options: Any) -> Run:
    backends = {"small": small or scripted("small", "7"), "large": large or scripted("large", "6")}
    return Run(backends, {"reward": verifier or ScriptedVerifier(lambda text: 0.9 if text == "6" else 0.2)}, **options)


def stuck(name: str) -> ScriptedBackend:
    return ScriptedBackend(name, ScriptedOptions(never=True, price=Price(1, 1)))


def large_counts_three(said: Sequence[str], voters: Sequence[Candidate]) -> Mapping[str, float]:
    """In place of a belief: the large backend is worth three of the small one."""
    weights = dict.fromkeys(said, 0.0)
    for answer, voter in zip(said, voters, strict=True):
        weights[answer] += 3.0 if voter.backend == "large" else 1.0
    return weights


# --- choosing -----------------------------------------------------------------------------------------------------------


async def test_by_heads_the_most_win() -> None:
    """Two against one, whoever they are; the share of the vote is said."""
    chosen = await ensemble(HEADS, ASKED, a_run(weigh=large_counts_three))
    assert (chosen.text, chosen.votes) == ("7", pytest.approx(2 / 3))


async def test_by_weight_a_strong_one_outvotes_two_weak_ones() -> None:
    """What each voice weighs is what is believed of it; the answer is of the backend that gave it."""
    spec = Ensemble(members=HEADS.members)
    chosen = await ensemble(spec, ASKED, a_run(weigh=large_counts_three))
    assert (chosen.text, chosen.backend, chosen.votes) == ("6", "large", pytest.approx(3 / 5))
    assert (await ensemble(spec, ASKED, a_run())).text == "7"


async def test_the_likeliest_right_is_best_not_the_highest_score() -> None:
    """Both are scored by one verifier; a belief that knows better of a backend decides, and without one the score does."""
    chosen = await ensemble(BEST, ASKED, a_run())
    assert (chosen.text, chosen.score, chosen.verifier) == ("6", 0.9, "reward")
    trusting = a_run(chances=lambda answers: [1.0 if answer.backend == "small" else 0.0 for answer in answers])
    assert (await ensemble(BEST, ASKED, trusting)).text == "7"


async def test_without_a_score_the_pool_is_voted_on() -> None:
    """A verifier that is down leaves what all said."""
    run = a_run(verifier=ScriptedVerifier(fails_from=1), weigh=large_counts_three)
    assert (await ensemble(BEST, ASKED, run)).text == "6"
    assert "verifier:reward" in run.degraded


async def test_answers_are_compared_by_the_pattern() -> None:
    """Different words around one answer are one vote."""
    spec = Ensemble(members={"small": 2, "large": 1}, select="majority", answer=r"= (\d+)")
    chosen = await ensemble(spec, ASKED, a_run(scripted("small", "2 = 7 or so", "so = 6"), scripted("large", "hence = 6")))
    assert (chosen.text, chosen.votes) == ("so = 6", pytest.approx(2 / 3))


# --- drawing ------------------------------------------------------------------------------------------------------------


async def test_all_are_asked_at_once_with_seeds_of_their_own() -> None:
    """Each backend gets one call for its samples; no two have a seed in common; the plan's temperature holds for all."""
    small, large = scripted("small", "7"), scripted("large", "6")
    spec = Ensemble(members={"small": 3, "large": 2}, temperature=0.7)
    run = a_run(small, large)
    await ensemble(spec, ASKED.but(seed=10), run)
    assert [(r.n, r.seed, r.temperature) for r in (*small.requests, *large.requests)] == [(3, 10, 0.7), (2, 13, 0.7)]
    assert sorted((c.backend, c.plan) for c in run.pool) == [("large", spec.key)] * 2 + [("small", spec.key)] * 3
    await ensemble(Ensemble(members=HEADS.members), ASKED.but(temperature=0.4), a_run(small, large))
    assert small.requests[-1].temperature == 0.4


async def test_a_backend_whose_votes_could_not_turn_it_is_not_waited_for() -> None:
    """Two of three agree: the third is cut off, paid for what it began, and marked so. One against one waits for it."""
    run = a_run(large=stuck("large"))
    assert (await asyncio.wait_for(ensemble(HEADS, ASKED, run), 5)).text == "7"
    assert [(c.target, c.outcome) for c in run.calls] == [("small", "ok"), ("large", "cancelled")]
    assert run.calls[1].cost_usd > 0
    assert run._reserved_usd == pytest.approx(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ensemble(HEADS, ASKED, a_run(scripted("small", "7", "6"), large=stuck("large"))), 0.05)


async def test_scores_may_say_anything_so_all_are_waited_for() -> None:
    """A pool that a verifier judges is judged whole, up to the deadline; what is there then is judged."""
    run = a_run(large=stuck("large"), limits=Limits(latency_s=0.05))
    assert (await ensemble(BEST, ASKED, run)).text == "7"
    assert run.truncated_by == "deadline"


# --- failing ------------------------------------------------------------------------------------------------------------


async def test_a_member_that_fails_is_left_out() -> None:
    """The others answer, the failure is marked, and the next plan of the request does not ask it again."""
    broken = scripted("large", "6", fail_every=1)
    run = a_run(large=broken)
    assert (await ensemble(HEADS, ASKED, run)).text == "7"
    assert run.degraded == {"backend:large"}
    assert run.down == {"large"}
    await ensemble(BEST, ASKED, run)
    assert len(broken.requests) == 1


async def test_where_all_fail_there_is_no_answer() -> None:
    """The backends' failure is raised; where one had only no money left, that is, for it may have later."""
    broken = [scripted(name, fail_every=1, price=Price(1, 1)) for name in ("small", "large")]
    with pytest.raises(BackendUnavailable):
        await ensemble(HEADS, ASKED, a_run(*broken))
    dear = scripted("large", "6", price=Price(1e6, 1e6))
    with pytest.raises(OutOfBudget):
        await ensemble(HEADS, ASKED, a_run(broken[0], dear, limits=Limits(cost_usd=1.0)))


async def test_a_member_that_cannot_be_paid_is_left_out() -> None:
    """Under the ceiling the cheap one answers alone, and the answer says that it was cut short."""
    run = a_run(scripted("small", "7", price=Price(1, 1)), scripted("large", "6", price=Price(1e6, 1e6)), limits=Limits(cost_usd=0.5))
    assert (await ensemble(HEADS, ASKED, run)).text == "7"
    assert (run.truncated_by, run.degraded) == ("cost", set())


OPTIONS = st.fixed_dictionaries(
    {
        "answers": st.lists(st.sampled_from(["6", "7", "about 6 or so"]), min_size=1, max_size=3),
        "native_n": st.booleans(),
        "fail_every": st.none() | st.integers(1, 3),
        "fail_after_tokens": st.integers(0, 2),
    }
)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Ensemble,
        members=st.fixed_dictionaries({"small": st.integers(1, 4), "large": st.integers(1, 3)}),
        select=st.sampled_from(["best", "majority", "weighted"]),
        verifier=st.just("reward"),
    ),
    OPTIONS,
    OPTIONS,
    st.floats(1e-5, 0.02),
)
def test_laws_of_spending_hold(spec: Ensemble, small: dict[str, Any], large: dict[str, Any], ceiling: float) -> None:
    """Whoever fails or is cut off: all that was bought is in the trace, under the ceiling, and the answer is one of the pool."""
    backends = [
        ScriptedBackend(name, ScriptedOptions(price=Price(1, price), delay_s=1, **options), sleep=yielding)
        for name, price, options in (("small", 10, small), ("large", 100, large))
    ]
    run = a_run(*backends, limits=Limits(cost_usd=ceiling))
    try:
        chosen = asyncio.run(ensemble(spec, ASKED.but(max_tokens=8), run))
    except (OutOfBudget, BackendUnavailable):
        assert not run.pool
    else:
        assert chosen.choice in [answer.choice for answer in run.pool]
    assert run.spent_usd <= ceiling + 1e-12
    assert run._reserved_usd == pytest.approx(0)
    assert len([call for call in run.calls if call.kind == "generate"]) == sum(len(backend.requests) for backend in backends)
