"""A request of more effort goes on from what the same request drew before, and pays only for the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from adapters.cache import MemoryCache
from adapters.ledger import MemoryLedger
from adapters.scripted import scripted
from policies.plans import BestOfN, Single
from router import logs
from router.keys import new_key
from router.pipeline import Router
from router.pipeline_types import CacheControl, Outcome
from router.purse import Purse
from router.render import headers, usage
from router.teller import Teller
from tests.router.test_pipeline import SMALL, Probe, a_policy, a_router, an_ask


def best_of(n: int, **more: Any) -> BestOfN:
    return BestOfN(backend="small", n=n, verifier="exact", batch=4, **more)


def gateway(
    script: Callable[[Any, int], str] = lambda request, draw: f"wrong {draw}", cache: MemoryCache | None = None, **more: Any
) -> Router:
    return a_router(scripted("small", script=script, price=SMALL), cache=cache or MemoryCache(), **more)


def drawn(outcome: Outcome, target: str = "small") -> int:
    return sum(call["n"] for call in outcome.decision["calls"] if call["target"] == target)


async def test_a_larger_best_of_n_draws_only_the_difference() -> None:
    """Four, then sixteen: twelve more are bought and scored, bill and usage are theirs alone, and the block says what it went on from."""
    router = gateway()
    first = await router.answer(an_ask(plan=best_of(4)))
    second = await router.answer(an_ask(plan=best_of(16)))
    third = await router.answer(an_ask(plan=best_of(24)))
    assert [drawn(outcome) for outcome in (first, second, third)] == [4, 12, 8]
    assert [drawn(outcome, "exact") for outcome in (first, second, third)] == [4, 12, 8]
    assert [o.decision["continued_from"] for o in (first, second, third)] == [None, first.id, second.id]
    assert second.cost_usd == pytest.approx(sum(call["cost_usd"] for call in second.decision["calls"]))
    assert not second.cached
    for outcome in (first, second, third):
        used = usage(outcome)
        for kind, tokens in (("input_tokens", used["prompt_tokens"]), ("output_tokens", used["completion_tokens"])):
            assert tokens == sum(call[kind] for call in outcome.decision["calls"])


async def test_an_answer_that_goes_on_from_another_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """In the header, in the first reason and in the log's line; neither a new answer nor a hit does."""
    router = gateway()
    for n, marked in ((4, "miss"), (16, "continued"), (16, "hit")):
        ask = an_ask(plan=best_of(n))
        outcome = await router.answer(ask)
        with caplog.at_level("INFO", "outlay"):
            logs.answered(ask, outcome, with_prompt=False)
        first = outcome.decision["decisions"][0]["reason"] if not outcome.cached else ""
        assert headers(ask, outcome)["x-outlay-cache"] == marked
        assert first.startswith(f"goes on from answers of {outcome.decision['continued_from']}: ") == (marked == "continued")
        assert ("continued_from='dec_" in caplog.records[-1].getMessage()) == (marked == "continued")


async def test_what_it_goes_on_from_can_be_the_answer() -> None:
    """The first four hold the right answer: it wins among sixteen, and its vote counts with the others'."""
    router = gateway(lambda request, draw: "a right one" if draw == 2 else f"wrong {draw}")
    await router.answer(an_ask(plan=best_of(4)))
    assert (await router.answer(an_ask(plan=best_of(16)))).candidates[0].text == "a right one"
    votes = gateway(lambda request, draw: "yes" if draw < 4 else "no")
    few, many = (BestOfN(backend="small", n=n, select="majority", batch=2) for n in (4, 6))
    await votes.answer(an_ask(plan=few))
    answer = (await votes.answer(an_ask(plan=many))).candidates[0]
    assert answer.text == "yes"
    assert answer.votes is not None
    assert answer.votes >= 4 / 6


async def test_a_policy_goes_on_with_the_evidence_of_a_smaller_ceiling() -> None:
    """Cut short for its ceiling, then asked with more money: what was drawn is evidence from the first decision on."""
    router = gateway(probe=Probe(1.0), policy=a_policy(1.0))
    first = await router.answer(an_ask(max_cost_usd=5e-4))
    assert first.truncated_by == "cost"
    second = await router.answer(an_ask())
    assert second.decision["continued_from"] == first.id
    begins = second.decision["decisions"][0]["belief"]
    assert len(begins["evidence"]) == drawn(first) + drawn(first, "large")
    fresh = await gateway(probe=Probe(1.0), policy=a_policy(1.0)).answer(an_ask())
    assert begins["p_correct"]["large"] < fresh.decision["decisions"][0]["belief"]["p_correct"]["large"] - 0.1


async def test_an_answer_good_enough_is_not_bought_again_by_more_effort() -> None:
    """A right answer is known: the request that would pay more for it stops at once, at the price and the tokens of the probe."""
    router = gateway(lambda request, draw: "a right one")
    first = await router.answer(an_ask(max_cost_usd=0.01))
    second = await router.answer(an_ask(max_cost_usd=0.02))
    assert (drawn(first) > 0, drawn(second)) == (True, 0)
    assert second.candidates[0].text == first.candidates[0].text
    assert {call["target"] for call in second.decision["calls"]} == {"probe"}
    assert usage(second)["completion_tokens"] == 0 < usage(first)["completion_tokens"]


@pytest.mark.parametrize(
    "change",
    [
        {"text": "another"}, {"max_tokens": 7}, {"tags": {"a": "b"}}, {"extra": {"seed": 1}}, {"model": "small"},
        {"cache": CacheControl(namespace="n")}, {"cache": CacheControl(no_cache=True)}, {"cache": CacheControl(s_maxage_s=-1.0)},
        {"purse": Purse.of(new_key("else")[1], "x", Teller(MemoryLedger(), 0))},
        {"plan": Single(backend="large")}, {"plan": best_of(16, temperature=0.5)},
    ],
)  # fmt: skip
async def test_nothing_else_is_gone_on_with(change: dict[str, Any]) -> None:
    """Another request, tenant, namespace or backend begins anew, and so does whoever will not have what is cached."""
    router = gateway()
    await router.answer(an_ask(plan=best_of(4)))
    plan = {} if change.get("model") else {"plan": best_of(16)}
    assert (await router.answer(an_ask(**{**plan, **change}))).decision["continued_from"] is None


async def test_no_store_leaves_nothing_to_go_on_from() -> None:
    """What the client will not have kept is not kept in parts either."""
    router = gateway()
    await router.answer(an_ask(plan=best_of(4), cache=CacheControl(no_store=True)))
    assert drawn(await router.answer(an_ask(plan=best_of(16)))) == 16


async def test_a_policy_takes_nothing_that_it_may_not_buy() -> None:
    """What the large backend said to another policy is no answer of one that has the small one only."""
    router = gateway()
    router.parts.policies["thrifty"] = a_policy(plans=[{"single": {"backend": "small"}}])  # type: ignore[index]
    await router.answer(an_ask(plan=Single(backend="large")))
    outcome = await router.answer(an_ask(model="outlay/thrifty"))
    assert (outcome.model, outcome.decision["continued_from"]) == ("small", None)


@pytest.mark.parametrize("poison", ["oversized", "moved", "torn", "odd"])
async def test_what_is_poisoned_is_not_gone_on_with(poison: str) -> None:
    """Entries too large, under a key that is not theirs, cut off, or of odd contents are refused, and the work is done."""

    class Poisoned(MemoryCache):
        async def get(self, key: str) -> bytes | None:
            if (value := await super().get(key)) is None:
                return None
            entry = json.loads(value)
            bad = {
                "oversized": entry | {"x": "x" * (4 << 20)},
                "moved": entry | {"key": "0" * 64},
                "odd": entry | {"actions": 3, "outcome": 3},
            }
            return value[:-9] if poison == "torn" else json.dumps(bad[poison]).encode()

    router = gateway(cache=Poisoned())
    await router.answer(an_ask(plan=best_of(4)))
    assert not (await router.answer(an_ask(plan=best_of(4)))).cached
    assert drawn(await router.answer(an_ask(plan=best_of(16)))) == 16
