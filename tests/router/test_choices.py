"""Several choices, answers of a given form, greedy requests, and ceilings that are too low: what the policy's pool becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.answers import normalise
from adapters.cache import MemoryCache
from adapters.scripted import Answer, scripted
from adapters.types import Delta
from policies.plans import BestOfN, Ensemble
from router.candidates import best, distinct
from router.errors import OverBudget
from router.pipeline_types import Ask, Outcome
from router.render import completion, headers
from tests.router.doubles import candidate
from tests.router.test_pipeline import LARGE, SMALL, Exact, Probe, a_policy, a_router, an_ask

SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "required": ["x"]}}}
GOOD, BAD = '{"x": "right"}', "right, but in words"


def texts(outcome: Outcome) -> list[str]:
    return [candidate.text for candidate in outcome.candidates]


# --- n > 1 --------------------------------------------------------------------------------------------------------------


async def test_several_choices_are_distinct_and_ranked_by_the_verifier() -> None:
    """Out of a best-of-8 that saw four different answers come the three best, each once, although wrong ones were drawn more often."""
    small = scripted("small", "wrong 1", "wrong 2", "wrong 1", "right 5", "wrong 1", "wrong 2", "wrong 3", "right 5", price=SMALL)
    plan = BestOfN(backend="small", n=8, batch=8, verifier="exact")
    outcome = await a_router(small).answer(an_ask(n=3, plan=plan))
    assert texts(outcome) == ["right 5", "wrong 1", "wrong 2"]
    assert len(small.requests) == 1


async def test_what_is_missing_of_distinct_choices_is_drawn() -> None:
    """The policy needs one answer and the client wants three: one more batch, scored as the first, for what is missing."""
    small = scripted("small", "right 1", "right 2", "right 3", "right 4", price=SMALL)
    policy = a_policy(plans=[{"best_of_n": {"backend": "small", "n": 4, "batch": 1, "verifier": "exact"}}])
    outcome = await a_router(small, policy=policy, probe=Probe(3.0)).answer(an_ask(n=3))
    assert len(texts(outcome)) == 3
    assert [action["plan"].split("(")[0] for action in outcome.decision["actions"]] == ["best_of_n"] * 2
    assert outcome.cost_usd == pytest.approx(sum(call["cost_usd"] for call in outcome.decision["calls"]))


async def test_a_prompt_without_so_many_answers_gets_fewer_choices() -> None:
    """Asked for twice more and no further; the same answer is not given twice."""
    small = scripted("small", "right 1", price=SMALL)
    outcome = await a_router(small, probe=Probe(3.0)).answer(an_ask(n=4))
    assert texts(outcome) == ["right 1"]
    assert len(outcome.decision["actions"]) == 3


async def test_seeded_choices_differ() -> None:
    """A later batch does not repeat the seeds of the one before; the same request draws the same."""
    small = scripted("small", *(f"right {i}" for i in range(9)), price=SMALL)
    policy = a_policy(plans=[{"single": {"backend": "small"}}])
    request = an_ask(n=5).request.but(seed=3)
    first = await a_router(small, policy=policy).answer(Ask(request, "auto"))
    assert len(set(texts(first))) == 5
    assert texts(await a_router(small, policy=policy).answer(Ask(request, "auto"))) == texts(first)


async def test_the_ceiling_bounds_the_choices() -> None:
    """Fewer choices where money ends, and never more spent than allowed."""
    small = scripted("small", *(f"right {i} and more words" for i in range(20)), price=SMALL)
    policy = a_policy(plans=[{"single": {"backend": "small"}}])
    outcome = await a_router(small, policy=policy).answer(an_ask(n=16, max_cost_usd=6e-5))
    assert 1 <= len(outcome.candidates) < 16
    assert outcome.cost_usd <= 6e-5
    assert outcome.truncated_by == "cost"


@pytest.mark.parametrize(
    ("texts", "answers"),
    [
        (["3*8=24", "4*6=24"], 2),
        (["so the answer is 24.", "hence the answer is 24"], 1),
        (['{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}'], 1),
        (["Yes.", "yes"], 1),
    ],
)
def test_two_ways_to_a_number_are_two_choices(texts: list[str], answers: int) -> None:
    """Unlike in a vote, the last number is not the answer; what is marked as one is, and JSON is compared as JSON."""
    pool = [candidate(text) for text in texts]
    assert len(distinct(pool[0], pool)) == answers


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", "x"]), st.none() | st.floats(0, 1), st.booleans()), min_size=1, max_size=12))
def test_distinct_choices_are_the_best_of_each_answer_in_order(pool: list[tuple[str, float | None, bool]]) -> None:
    """No answer twice, none left out, the best first, and of each answer its best candidate."""
    from dataclasses import replace

    candidates = [replace(candidate(text), score=score, fault="bad" if bad else "") for text, score, bad in pool]
    first = best(candidates)
    assert first is not None
    found = distinct(first, candidates)
    assert found[0] is first
    said = [normalise(c.text, guess=False) for c in found]
    assert len(set(said)) == len(said) == len({text for text, _, _ in pool})
    ranks = [(not c.fault, c.score is not None, c.score or 0.0) for c in found]
    assert ranks == sorted(ranks, reverse=True)


async def test_only_choices_of_the_form_count_while_one_has_it() -> None:
    """Two are asked for and one of two has the form: another is drawn for the other, and what has no form does not go out."""
    small = scripted("small", GOOD, BAD, '{"x": "another"}', price=SMALL)
    plan = BestOfN(backend="small", n=2, batch=2, select="majority")
    outcome = await a_router(small).answer(an_ask(n=2, plan=plan, extra={"response_format": SCHEMA}))
    assert sorted(texts(outcome)) == ['{"x": "another"}', GOOD]
    assert outcome.degraded == ()
    outcome = await a_router(scripted("small", GOOD, BAD)).answer(an_ask(n=2, plan=plan, extra={"response_format": SCHEMA}))
    assert texts(outcome) == [GOOD]


async def test_choices_without_the_form_are_marked_where_there_are_no_others() -> None:
    """They go out, for the client may make something of them; decision block, header and each choice say what they are."""
    outcome = await a_router(scripted("small", BAD)).answer(an_ask(n=2, model="small", extra={"response_format": SCHEMA}))
    assert texts(outcome) == [BAD, BAD]
    body = completion(outcome, 0)
    assert (body["outlay"]["degraded"], headers(an_ask(), outcome)["x-outlay-degraded"]) == (["form"], "form")
    assert all("not JSON" in choice["outlay"]["fault"] for choice in body["choices"])


# --- a form that is asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["best", "majority", "weighted"])
async def test_an_answer_of_the_form_is_never_beaten_by_one_without(select: str) -> None:
    """Whatever the verifier thinks and however many agree: with a schema, only what fits it can win while anything does."""
    small = scripted("small", BAD, BAD, '{"x": "poor"}', BAD, price=SMALL)
    plan = BestOfN(backend="small", n=4, batch=4, verifier="exact", select=select)  # type: ignore[arg-type]
    outcome = await a_router(small).answer(an_ask(plan=plan, extra={"response_format": SCHEMA}))
    assert texts(outcome) == ['{"x": "poor"}']
    assert (
        "not JSON"
        in (await a_router(scripted("small", BAD)).answer(an_ask(plan=plan, extra={"response_format": SCHEMA}))).candidates[0].fault
    )


async def test_an_answer_without_the_form_is_not_enough() -> None:
    """Unscored plans go on where the schema says no, and no verifier is configured; and stop where it is met."""
    policy = a_policy(1e-4, [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}])
    for said, model in ((GOOD, "small"), (BAD, "large")):
        router = a_router(scripted("small", said, price=SMALL), scripted("large", GOOD, price=LARGE), policy=policy, probe=Probe(8.0))
        outcome = await router.answer(an_ask(extra={"response_format": SCHEMA}))
        assert (outcome.model, texts(outcome)) == (model, [GOOD])


async def test_an_answer_that_may_yet_lose_its_form_is_not_streamed_before_it_is_known() -> None:
    """Where another plan would follow a malformed answer, none of it has gone out; where none would, it streams."""
    for plans, live in (
        ([{"single": {"backend": "small"}}, {"single": {"backend": "large"}}], False),
        ([{"single": {"backend": "small"}}], True),
    ):
        got: list[Delta] = []

        async def sink(delta: Delta, got: list[Delta] = got) -> None:
            got.append(delta)

        router = a_router(scripted("small", BAD), scripted("large", GOOD), policy=a_policy(1.0, plans), probe=Probe(8.0))
        await router.answer(an_ask(extra={"response_format": SCHEMA}), sink)
        assert bool(got) is live


# --- what a backend withholds -------------------------------------------------------------------------------------------

FILTERED = Answer(text="", finish_reason="content_filter")
CUT = Answer(text="right so", finish_reason="content_filter")
REFUSAL = Answer(text="", message={"role": "assistant", "content": None, "refusal": "I cannot help"})
UP = [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}]


@pytest.mark.parametrize("withheld", [FILTERED, CUT, REFUSAL])
@pytest.mark.parametrize("more", [{}, {"extra": {"tools": [{"type": "function"}]}}])
@pytest.mark.parametrize("live", [False, True])
async def test_the_policy_goes_on_from_an_answer_that_was_withheld(withheld: Answer, more: dict[str, Any], live: bool) -> None:
    """Filtered, or refused: the other backend answers, though nothing scores and the first was thought sure to be right."""
    got: list[Delta] = []

    async def sink(delta: Delta) -> None:
        got.append(delta)

    router = a_router(scripted("small", withheld), scripted("large", GOOD), policy=a_policy(1e-3, UP), probe=Probe(8.0))
    outcome = await router.answer(an_ask(**more), sink if live else None)
    if live and withheld is CUT:  # what was read cannot be taken back
        assert (texts(outcome), outcome.degraded) == (["right so"], ("content_filter",))
        return
    assert (texts(outcome), outcome.model, outcome.degraded) == ([GOOD], "large", ())
    assert outcome.decision["actions"][0]["chance"] == 0
    assert "".join(delta.text for delta in got) in ("", GOOD)


@pytest.mark.parametrize(("withheld", "mark"), [(FILTERED, "content_filter"), (REFUSAL, "refusal")])
@pytest.mark.parametrize("model", ["auto", "small"])
async def test_what_was_withheld_goes_out_as_it_is_where_it_is_all_there_is(withheld: Answer, mark: str, model: str) -> None:
    """With its finish reason and its refusal; marked, so that it is not kept in the cache; nobody is said to believe in it."""
    router = a_router(scripted("small", withheld), policy=a_policy(1e-3, UP[:1]), cache=MemoryCache())
    for _ in range(2):
        outcome = await router.answer(an_ask(model=model))
        choice = outcome.candidates[0].choice
        assert (choice.finish_reason, choice.message) == (withheld.finish_reason, withheld.message)
        assert (outcome.degraded, outcome.decision["chance"], outcome.cached) == ((mark,), 0, False)


@pytest.mark.parametrize("n", [3, 8])
async def test_votes_are_not_cast_for_silence(n: int) -> None:
    """Answers that were filtered are alike and come first, and settle nothing: the one that says something wins."""
    small = scripted("small", *[FILTERED] * (n - 1), Answer(text="right"))
    vote = BestOfN(backend="small", n=n, batch=n - 1, select="majority")
    assert texts(await a_router(small).answer(an_ask(plan=vote))) == ["right"]
    pool = Ensemble(members={"small": n - 1, "large": 1}, select="majority")
    router = a_router(scripted("small", FILTERED), scripted("large", "right", delay_s=0.01))
    assert texts(await router.answer(an_ask(plan=pool))) == ["right"]


async def test_words_are_better_than_none_where_both_are_faulty() -> None:
    """Nothing has the form: what says something goes out rather than what was filtered after it."""
    router = a_router(scripted("small", BAD), scripted("large", FILTERED), policy=a_policy(1e-3, UP), probe=Probe(8.0))
    outcome = await router.answer(an_ask(extra={"response_format": SCHEMA}))
    assert [action["plan"] for action in outcome.decision["actions"]] == ["single(small)", "single(large)"]
    assert (texts(outcome), outcome.degraded) == ([BAD], ("form",))


# --- temperature 0 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [{"best_of_n": {"backend": "small", "n": 4, "verifier": "exact", "temperature": 0.7}}])
async def test_temperature_0_buys_no_samples(plan: dict[str, Any]) -> None:
    """A policy whose plans all sample gives a greedy request one greedy answer, and a request with tools one answer."""
    small = scripted("small", "right", price=SMALL)
    router = a_router(small, policy=a_policy(plans=[plan]))
    await router.answer(Ask(an_ask().request.but(temperature=0.0), "auto"))
    assert [(request.n, request.temperature) for request in small.requests] == [(1, 0.0)]
    await router.answer(an_ask(extra={"tools": [{"type": "function"}]}))
    assert small.requests[-1].n == 1


# --- ceilings -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 300) | st.none(), st.sampled_from(["single", "best_of_n", "revise", "forced", "bypass"]))
async def test_the_ceiling_that_a_refusal_names_is_enough(words: int, max_tokens: int | None, kind: str) -> None:
    """Who sends it again with the amount that the message names gets an answer, within that amount."""
    plans = {"single": {"backend": "small"}, "best_of_n": {"backend": "small", "n": 4, "verifier": "exact"}}
    plans["revise"] = {"backend": "small", "verifier": "exact"}
    policy = a_policy(plans=[{kind: plans[kind]}]) if kind in plans else None
    more: dict[str, Any] = {"plan": BestOfN(backend="small", n=2, verifier="exact")} if kind == "forced" else {}
    more |= {"model": "small"} if kind == "bypass" else {}

    async def asked(ceiling_usd: float) -> Outcome:
        router = a_router(scripted("small", "right", price=SMALL), policy=policy, verifier=Exact())
        return await router.answer(an_ask("word " * words, max_tokens=max_tokens, max_cost_usd=ceiling_usd, **more))

    with pytest.raises(OverBudget) as refused:
        await asked(1e-12)
    assert refused.value.param == "outlay.max_cost_usd"
    named = float(refused.value.message.rsplit("$", 1)[1].split()[0])
    assert (await asked(named)).cost_usd <= named


async def test_a_ceiling_of_the_policy_is_called_the_policys() -> None:
    """The caller is told whose limit it was; a larger one in the request would not help."""
    router = a_router(policy=a_policy(limits={"cost_usd": 1e-9}))
    with pytest.raises(OverBudget, match=r"limits\.cost_usd") as refused:
        await router.answer(an_ask(max_cost_usd=1.0))
    assert refused.value.param is None
    assert json.dumps(refused.value.message)
