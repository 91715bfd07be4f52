"""When a stream has its first word: what goes out before the end, how that is measured, and how it is limited."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.scripted import ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Call, Delta, Price, Verdict
from policies.plans import BestOfN, TreeSearch
from router.pipeline import Router
from router.pipeline_types import Outcome
from tests.router.test_pipeline import SMALL, Exact, Probe, a_policy, a_router, an_ask

BATCH = {"best_of_n": {"backend": "small", "n": 4, "batch": 1, "verifier": "exact"}}


@dataclass
class Steps(Exact):
    """Likes beginnings, and the answer 7 best of all."""

    scores_prefixes: bool = True
    price: Price = field(default_factory=Price)

    async def score(self, request: Any, choices: Any, call: Call) -> list[Verdict]:
        return [Verdict(score, (score,)) for score in (0.9 if choice.text.endswith("7") else 0.5 for choice in choices)]


async def heard(router: Router, **ask: Any) -> tuple[list[Delta], Outcome]:
    """What a stream was sent, and the outcome."""
    got: list[Delta] = []

    async def sink(delta: Delta) -> None:
        got.append(delta)

    return got, await router.answer(an_ask(**ask), sink)


# --- a search streams what is settled -----------------------------------------------------------------------------------


async def test_a_search_streams_the_steps_that_all_its_beginnings_share() -> None:
    """Before it ends, and never a word that the answer does not begin with; what is not settled waits."""
    small = scripted("small", "first\nsecond\n6", "first\nsecond\n7", price=SMALL)
    plan = TreeSearch(backend="small", verifier="exact", beam_width=2, samples=4)
    got, outcome = await heard(a_router(small, verifier=Steps()), plan=plan)
    assert [delta.text for delta in got] == ["first", "\nsecond"]
    assert outcome.candidates[0].text.startswith("first\nsecond")
    assert outcome.decision["first_token_s"] is not None


@pytest.mark.parametrize("more", [{"n": 2}, {"extra": {"response_format": {"type": "json_object"}}}])
async def test_a_search_whose_answer_may_not_stand_is_silent(more: dict[str, Any]) -> None:
    """Several choices, or a form that only the end can have."""
    small = scripted("small", "first\nsecond\n7", price=SMALL)
    got, _ = await heard(a_router(small, verifier=Steps()), plan=TreeSearch(backend="small", verifier="exact", samples=4), **more)
    assert not got


async def test_a_search_that_another_plan_may_follow_is_silent() -> None:
    """Where the policy may yet buy something better, nothing of the search is sent."""
    plans = [{"tree_search": {"backend": "small", "verifier": "exact", "samples": 4}}, {"single": {"backend": "large"}}]
    router = a_router(scripted("small", "first\nsecond\n7", price=SMALL), policy=a_policy(1.0, plans), verifier=Steps(), probe=Probe(-1.0))
    got, outcome = await heard(router)
    assert outcome.decision["actions"][0]["plan"].startswith("tree_search")
    assert not [delta for delta in got if delta.text in ("first", "\nsecond")]


# --- measured -----------------------------------------------------------------------------------------------------------


async def test_the_first_word_is_measured_in_streams_only() -> None:
    """Live: when it came; known only at the end: then; not streamed: there is none."""
    live = a_router(scripted("small", "right one", delay_s=0.02, token_delay_s=0.02), probe=Probe(9.0))
    _, outcome = await heard(live)
    assert 0.02 <= outcome.decision["first_token_s"] < outcome.latency_s
    _, outcome = await heard(a_router(), plan=BestOfN(backend="small", n=2, verifier="exact"))
    assert 0 < outcome.decision["first_token_s"] <= outcome.latency_s
    assert (await a_router().answer(an_ask())).decision["first_token_s"] is None


# --- limited ------------------------------------------------------------------------------------------------------------


def taking(*delays_s: float, text: str = "wrong", **policy: Any) -> tuple[ScriptedBackend, Router]:
    """A policy that would draw four samples at leisure, and a backend whose first calls take so long; later ones take no time."""
    left = list(delays_s)

    async def sleep(_: float) -> None:
        await asyncio.sleep(left.pop(0) if left else 0)

    small = ScriptedBackend("small", ScriptedOptions(answers=text, delay_s=1, price=SMALL), sleep=sleep)
    return small, a_router(small, policy=a_policy(1.0, [BATCH], **policy), probe=Probe(-1.0))


@pytest.mark.parametrize(("ask", "policy"), [({"first_token_s": 0.8}, {}), ({}, {"limits": {"first_token_s": 0.8}})])
async def test_at_the_time_for_the_first_word_the_best_so_far_goes_out(ask: dict[str, Any], policy: dict[str, Any]) -> None:
    """The request's limit or the policy's, the tighter; the rest is not drawn, and the answer says what cut it."""
    small, router = taking(0, 60, **policy)
    _, outcome = await heard(router, **ask)
    assert (outcome.candidates[0].text, outcome.truncated_by) == ("wrong", "deadline")
    assert len(small.requests) == 2
    small, router = taking(0, 1.0, **policy)
    assert (await router.answer(an_ask(**ask))).truncated_by is None  # no stream, no first word
    assert len(small.requests) == 4


async def test_without_any_answer_by_then_one_is_streamed() -> None:
    """A plan of many calls that has nothing to show is left for one answer of its backend, live, in the time that the request has."""
    _, router = taking(60, text="a late answer")
    got, outcome = await heard(router, first_token_s=0.05)
    assert "".join(delta.text for delta in got) == outcome.candidates[0].text == "a late answer"
    assert outcome.plan == "single(small)"
    assert [call["outcome"] for call in outcome.decision["calls"] if call["kind"] == "generate"] == ["cancelled", "ok"]


async def test_a_plan_that_is_known_to_be_late_is_not_begun() -> None:
    """By the curves, four samples take longer than that: a live answer is bought at once."""
    plans = [BATCH, {"single": {"backend": "large"}}]
    router = a_router(policy=a_policy(1.0, plans), probe=Probe(-1.0))
    got, outcome = await heard(router, first_token_s=0.01)
    assert "first word" in outcome.decision["decisions"][0]["considered"][0]["refused"]
    assert "".join(delta.text for delta in got) == "the right one"


# --- progress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verbose", [True, False])
async def test_progress_is_told_to_who_asks(verbose: bool) -> None:
    """With `verbose`, which plan begins and what came of it, as comments; otherwise nothing."""
    got, _ = await heard(a_router(), plan=BestOfN(backend="small", n=2, verifier="exact"), verbose=verbose)
    comments = [delta.comment for delta in got if delta.comment]
    assert [comment.split()[-1] for comment in comments][:1] == (["begins"] if verbose else [])
    assert len(comments) == 2 * verbose
