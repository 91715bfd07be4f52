"""Policies played on a log: the same decisions as in service, from answers that were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from adapters.scripted import ScriptedBackend, scripted
from adapters.types import Call, ChatRequest, Choice, Verdict
from difficulty.probe import Estimate
from policies.policy import Policy
from router.collect import Collector, Labelled, Plans
from router.parts import Parts
from router.pipeline import Router
from router.play import Player, play
from tests.router.test_pipeline import LARGE, SMALL, Exact, Probe, a_policy, a_router, an_ask

PROMPT = "a question of some words"
CHAINS: list[dict[str, Any]] = [
    {"best_of_n": {"backend": "small", "n": 5, "batch": 1, "verifier": "exact"}},
    {"revise": {"backend": "small", "rounds": 3, "verifier": "exact"}},
    {"single": {"backend": "large", "verifier": "exact"}},
    {"best_of_n": {"backend": "small", "n": 5, "verifier": "exact"}},
]


def backends(*texts: str) -> dict[str, ScriptedBackend]:
    return {"small": scripted("small", *texts, price=SMALL), "large": scripted("large", "the right one", price=LARGE)}


def the_parts(policy: Policy, *texts: str) -> Parts:
    made = backends(*texts)
    return a_router(made["small"], made["large"], policy=policy, probe=Probe(ease=-0.5)).parts


async def a_row(parts: Parts, samples: int = 5) -> dict[str, Any]:
    chains = [plan for plan in parts.policies["balanced"].all_plans if plan.kind == "revise"]
    collector = Collector(parts, Plans({"small": samples, "large": 1}, chains, ["exact"]), Exact("truth"))
    return await collector.row(Labelled(PROMPT))


ESTIMATES = {PROMPT: Estimate({"small": -0.5, "large": 0.5}, {"small": 0.4, "large": 0.6}, "probe", 5, 5)}
DRAWS = ["wrong a", "wrong b", "right c", "wrong d", "wrong e"]


@pytest.mark.parametrize("value", [1e-5, 1e-4, 3e-3])
@pytest.mark.parametrize("kinds", [(0,), (0, 2), (2, 0), (3,), (3, 2)])
async def test_the_service_decides_as_the_replay_does(value: float, kinds: tuple[int, ...]) -> None:
    """Fed the same answers and scores, live and played requests run the same plans, decide by the same beliefs, and cost the same."""
    policy = a_policy(value, [CHAINS[kind] for kind in kinds])
    row = await a_row(the_parts(policy, *DRAWS))
    played = await Player(the_parts(policy), policy, ESTIMATES).answer(row)
    live = await Router(the_parts(policy, *DRAWS)).answer(an_ask(PROMPT))
    assert [d["plan"] for d in played.decision["decisions"]] == [d["plan"] for d in live.decision["decisions"]]
    assert [d["belief"]["evidence"] for d in played.decision["decisions"]] == [d["belief"]["evidence"] for d in live.decision["decisions"]]
    assert [a["answers"] for a in played.decision["actions"]] == [a["answers"] for a in live.decision["actions"]]
    assert [c["n"] for c in played.decision["calls"]] == [c["n"] for c in live.decision["calls"]]
    assert played.right == float("right" in live.candidates[0].text)
    spent = [c["output_tokens"] for c in live.decision["calls"]]
    assert [c["output_tokens"] for c in played.decision["calls"]] == pytest.approx(spent, abs=1)


async def test_a_revision_is_played_only_as_far_as_the_policy_wants_it() -> None:
    """The recorded chain has three attempts, of which the second is right: the third is neither shown nor paid."""
    policy = a_policy(3e-3, [CHAINS[1]])
    row = await a_row(the_parts(policy, "wrong a", "wrong b", "wrong c", "wrong d", "wrong e", "wrong f", "right g", "wrong h"))
    played = await Player(the_parts(policy), policy, ESTIMATES).answer(row)
    assert (played.right, played.answers) == (1.0, 2)


async def test_a_dearer_policy_buys_more() -> None:
    """The value of a right answer turns what is bought, and the clock of a played request is the log's, not the machine's."""
    parts = the_parts(a_policy(1e-5, CHAINS), *DRAWS)
    row = await a_row(the_parts(a_policy(1e-5, CHAINS), *DRAWS))
    cheap = await Player(parts, a_policy(1e-5, [CHAINS[0]]), ESTIMATES).answer(row)
    dear = await Player(parts, a_policy(3e-3, [CHAINS[0]]), ESTIMATES).answer(row)
    assert cheap.cost_usd < dear.cost_usd
    assert cheap.latency_s < dear.latency_s < 1.0


def test_without_an_estimate_the_probe_counts_as_down() -> None:
    """A prompt that has none is answered by the configured fallback, as it would be in service."""
    import asyncio

    policy = a_policy(1e-4, CHAINS)
    row = asyncio.run(a_row(the_parts(policy, *DRAWS)))
    parts = replace(the_parts(policy), when_unavailable="large")
    (played,) = play(parts, policy, [row], {})
    assert played.decision["degraded"] == ["probe"]
    assert played.decision["actions"][0]["plan"] == "single(large)"


async def test_a_second_batch_is_billed_as_in_service() -> None:
    """Who keeps the prompt is paid its cached price from the second batch on; a log without such counts is played too."""
    policy = a_policy(3e-3, [CHAINS[0]])
    row = await a_row(the_parts(policy, *DRAWS))
    for trace in row["traces"]:
        assert all(len(call) == 7 for call in trace["calls"])
        trace["calls"] = [call[:6] for call in trace["calls"]]
    parts = the_parts(policy)
    keeps = replace(parts, market=replace(parts.market, caches=frozenset({"small"})))
    (plain, cached) = [await Player(some, policy, ESTIMATES).answer(row) for some in (parts, keeps)]
    bought = [[c["cached_tokens"] for c in played.decision["calls"] if c["target"] == "small"] for played in (plain, cached)]
    assert len(bought[1]) > 1
    assert set(bought[0]) == {0}
    assert bought[1] == [0] + [len(PROMPT.split())] * (len(bought[1]) - 1)


def test_a_recorded_chain_is_billed_for_the_prompt_that_nobody_has_read() -> None:
    """A log's chain that found the prompt in the cache reads it itself if played first; one that did not, finds it if played later."""
    from policies.facts import Market
    from router.play import Tape

    tape = Tape(Market(caches=frozenset({"small"})), input_tokens=10)
    assert [tape.cached("small", tokens) for tokens in (10, 10, 14, 0)] == [0, 10, 14, 10]
    assert [tape.cached("large", tokens) for tokens in (0, 25, 0)] == [0, 25, 0]


class Behaves(Exact):
    """A verifier that believes no answer, and says which behave alike: those of the same last letter."""

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        return [Verdict(0.0, cluster=choice.text[-1]) for choice in choices]


@pytest.mark.parametrize(("select", "text"), [("best", "wrong a"), ("weighted", "right b"), ("majority", "right b")])
async def test_what_behaves_alike_is_on_the_log(select: str, text: str) -> None:
    """The verifier's clusters are collected, and a vote that is counted on them chooses in the replay what it chooses in service."""
    texts = ["wrong a", "right b", "just right b", "wrong c", "wrong d"]
    policy = a_policy(3e-3, [{"best_of_n": {"backend": "small", "n": 4, "batch": 4, "verifier": "exact", "select": select}}])
    parts = replace(the_parts(policy, *texts), verifiers={"exact": Behaves()})
    row = await a_row(parts)
    played = await Player(parts, policy, ESTIMATES).answer(row)
    live = await Router(replace(parts, backends=backends(*texts))).answer(an_ask(PROMPT))
    assert live.candidates[0].text == text
    assert played.right == float("right" in text)
