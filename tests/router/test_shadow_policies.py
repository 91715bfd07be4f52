"""Policies in shadow: what they would have decided on the same belief is logged, counted and shown, and costs no request anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.cache import MemoryCache
from adapters.event_log import EventWriter
from adapters.scripted import scripted
from difficulty.belief import Belief, Evidence
from policies.facts import Facts, Market
from policies.policy import Policy
from policies.shadow import STOP, beside
from router import shadow_policies
from router.config import Config, parse
from router.errors import ConfigError
from router.events import DecisionEvent, ShadowPolicyEvent, read_events
from router.live import Live
from router.online import Online
from router.pipeline import Router
from router.shadow_policies import ShadowPolicies
from tests.router.test_metrics import value
from tests.router.test_online import Events, soon
from tests.router.test_pipeline import CURVES, LARGE, SMALL, Probe, a_policy, a_router, an_ask

PLANS: list[dict[str, Any]] = [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}]
CHEAP, DEAR = a_policy(1e-5, PLANS), a_policy(1e-2, PLANS)
MARKET = Market({"small": (1.0, 1.0), "large": (14.0, 14.0)}, curves=CURVES)
BELIEF = Belief({"small": (0.0, 1.0), "large": (1.0, 1.0)}, source="probe")
FACTS = Facts(input_tokens=10)


def a_service(live: Policy = CHEAP, share: float = 1.0, **more: Any) -> Router:
    """`balanced` is live, and `dear` decides beside it."""
    router = a_router(scripted("small", "wrong", price=SMALL), scripted("large", "right", price=LARGE), policy=live, **more)
    policies = {**router.parts.policies, "dear": DEAR}
    object.__setattr__(router.parts, "policies", policies)
    object.__setattr__(router.parts, "shadow_policies", {"balanced": {"dear": share}})
    return router


async def idle(router: Router) -> None:
    await soon(lambda: not router.online.shadow_policies._waiting)


# --- what is compared ---------------------------------------------------------------------------------------------------


def a_point(shadow: Policy, live: Policy, facts: Facts = FACTS, belief: Belief = BELIEF) -> Any:
    from policies.decide import decide

    return beside(shadow, live, MARKET, facts, belief, decide(live, MARKET, facts, belief))


def test_the_gain_is_the_shadows_forecast_less_the_live_ones_valued_by_the_live_objective() -> None:
    """By hand: the two rows of the table, and value * right - cost - value of a second * seconds."""
    live = a_policy(1e-5, PLANS)
    live = live.model_copy(update={"objective": live.objective.model_copy(update={"value_of_second_usd": 1e-6})})  # type: ignore[union-attr]
    point = a_point(DEAR, live)
    assert (point.live, point.shadow) == ("single(small)", "single(large)")
    right = BELIEF.p_correct("large") - BELIEF.p_correct("small")
    assert point.gain.right == pytest.approx(right)
    assert point.gain.cost_usd > 0
    expected = 1e-5 * right - point.gain.cost_usd - 1e-6 * point.gain.latency_s
    assert point.gain.utility_usd == pytest.approx(expected)
    assert point.gain.utility_usd < 0
    twice = a_point(DEAR, live, Facts(input_tokens=10, cost_multiplier=2.0))
    assert twice.gain.utility_usd == pytest.approx(expected - point.gain.cost_usd)


def test_a_policy_of_the_same_mind_agrees_and_gains_nothing() -> None:
    point = a_point(CHEAP, CHEAP)
    assert (point.live, point.gain) == (point.shadow, None)


def test_to_stop_is_worth_what_the_answer_is_believed_to_be() -> None:
    """The live policy stops, the shadow would go on: it gains the chance that is yet to be had, for its price."""
    seen = BELIEF.after([Evidence("small")])
    point = a_point(DEAR, CHEAP, belief=seen)
    assert (point.live, point.shadow) == (STOP, "single(large)")
    assert 0 < point.gain.right < 1 - seen.best


def test_the_shadow_keeps_to_its_own_limits_too() -> None:
    """One that could not pay for a plan does not claim it; one that may run nothing would refuse."""
    assert a_point(a_policy(1e-2, PLANS, limits={"cost_usd": 5e-5}), CHEAP).shadow == "single(small)"
    assert a_point(a_policy(1e-2, PLANS, limits={"cost_usd": 1e-12}), CHEAP).shadow == "refuse"
    assert a_point(a_policy(1e-5, PLANS, limits={"quality_floor": 0.7}), CHEAP).shadow == "single(large)"


def test_rules_have_no_objective_and_are_valued_by_the_others() -> None:
    """Between two of rules nobody says what a right answer is worth; what it gains is known all the same."""
    from pydantic import TypeAdapter

    small, large = (TypeAdapter(Policy).validate_python({"rules": [{"otherwise": plan}]}) for plan in PLANS)
    assert a_point(large, small).gain.utility_usd is None
    assert a_point(large, small).gain.right > 0
    by_shadows = a_point(DEAR, small).gain
    assert by_shadows.utility_usd == pytest.approx(1e-2 * by_shadows.right - by_shadows.cost_usd)


# --- beside requests ----------------------------------------------------------------------------------------------------


async def test_decisions_beside_the_live_ones_are_events_and_metrics(tmp_path: Path) -> None:
    """One event a request, under its id, with a point for each decision; sums of the first points are what a scrape shows."""
    router = a_service(cache=MemoryCache())
    router.online = Online([EventWriter(sink := Events())])
    outcomes = [await router.answer(an_ask(f"question {i}")) for i in range(5)]
    await router.answer(an_ask("question 0"))
    await router.answer(an_ask(model="small"))
    await router.answer(an_ask("named", plan=PLANS_TYPED[0]))
    await idle(router)
    first = {"policy": "balanced", "shadow": "dear", "point": "first"}
    assert value(router, "outlay_shadow_policy_decisions_total", **first, outcome="differed") == 5
    assert value(router, "outlay_shadow_policy_comparisons_total", outcome="made") == 5
    expected, of = "outlay_shadow_policy_expected", {"policy": "balanced", "shadow": "dear"}
    shown = {name: value(router, f"{expected}_{unit}", **of) for name, unit in GAIN.items()}
    await router.aclose()
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(line + b"\n" for line in sink.lines))
    events = [event for event in read_events(str(log)) if isinstance(event, ShadowPolicyEvent)]
    assert [event.id for event in events] == [outcome.id for outcome in outcomes]
    assert [len(event.points) for event in events] == [len(outcome.decision["decisions"]) for outcome in outcomes]
    for name in GAIN:
        assert shown[name] == pytest.approx(sum(event.points[0]["gain"][name] for event in events))
    assert shown["right"] > 0


GAIN = {"right": "right", "cost_usd": "usd", "latency_s": "seconds", "utility_usd": "utility_usd"}
PLANS_TYPED = CHEAP.all_plans


async def test_nothing_is_called_for_it_and_the_answer_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the comparison is under way the answer has gone out, and no backend but the live policy's was asked."""
    go_on = threading.Event()
    _before_each(monkeypatch, go_on.wait)
    router = a_service()
    outcome = await router.answer(an_ask())
    assert (outcome.model, len(router.online.shadow_policies._waiting)) == ("small", 1)
    go_on.set()
    await idle(router)
    assert not router.parts.backends["large"].requests  # type: ignore[attr-defined]
    assert router.online.shadow_policies.counts == {"made": 1}
    await router.aclose()


async def test_only_so_many_wait_and_what_fails_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow comparison crowds out later ones; one that raises concerns no request, nor the next comparison."""
    go_on = threading.Event()
    _before_each(monkeypatch, go_on.wait)
    router = a_service()
    router.online.shadow_policies = ShadowPolicies(queue=2)
    for _ in range(5):
        assert (await router.answer(an_ask())).cost_usd > 0
    go_on.set()
    await idle(router)
    assert router.online.shadow_policies.counts == {"made": 2, "crowded": 3}
    _before_each(monkeypatch, _broken)
    assert "shadow_policies" not in (await router.answer(an_ask(verbose=True))).decision
    await idle(router)
    assert router.online.shadow_policies.counts == {"made": 2, "crowded": 3, "failed": 1}
    await router.aclose()


def _before_each(monkeypatch: pytest.MonkeyPatch, does: Callable[[], object]) -> None:
    """Of the comparisons to come."""

    def slow(*args: Any) -> Any:
        does()
        return beside(*args)

    monkeypatch.setattr(shadow_policies, "beside", slow)


def _broken() -> None:
    raise RuntimeError("a fault of ours")


async def test_the_share_is_kept_and_explored_decisions_are_left_out() -> None:
    """A share of 0 compares nothing, one of a half about half; where chance decided, there is nothing to agree with."""
    for share, low, high in ((0.0, 0, 0), (0.5, 60, 140)):
        router = a_service(share=share)
        for i in range(200):
            await router.answer(an_ask(f"question {i}"))
        await idle(router)
        assert low <= router.online.shadow_policies.counts["made"] <= high
        await router.aclose()
    router = a_service(CHEAP.model_copy(update={"explore": 0.5}))
    outcomes = [await router.answer(an_ask(f"question {i}")) for i in range(40)]
    await idle(router)
    decisions = [row for outcome in outcomes for row in outcome.decision["decisions"]]
    found = router.online.shadow_policies.tallies["balanced", "dear"].decisions
    assert found.total() == sum(row["cause"] != "explore" for row in decisions) < len(decisions)
    await router.aclose()


async def test_the_block_shows_it_only_to_who_asks_for_more() -> None:
    """And a cached answer does not carry it to anybody else."""
    router = a_service(cache=MemoryCache())
    shown = (await router.answer(an_ask(verbose=True))).decision["shadow_policies"]
    assert shown[0]["policy"] == "dear"
    assert shown[0]["points"][0]["shadow"] == "single(large)"
    again = await router.answer(an_ask())
    assert again.cached
    assert "shadow_policies" not in again.decision
    assert "shadow_policies" not in (await router.answer(an_ask("another"))).decision
    await router.aclose()


async def test_it_is_configured_checked_and_goes_on_over_a_reload(tmp_path: Path) -> None:
    """Counts are those of the process; another configuration's shadows decide from its first request on."""
    backends = {name: {"kind": "scripted", "answers": [name]} for name in ("small", "large")}
    policies = {name: {"rules": [{"otherwise": {"single": {"backend": name}}}]} for name in backends}
    raw = {"backends": backends, "policies": {"balanced": policies["small"], "other": policies["large"]}}
    log = {"path": str(tmp_path / "log.jsonl")}
    live = Live(Config.model_validate({**raw, "log": log}))
    await live.answer(an_ask())
    for n in (1, 2):
        await live.use(Config.model_validate({**raw, "log": log, "shadow_policies": {"balanced": {"other": 1.0 - n / 1e9}}}))
        await live.answer(an_ask())
        await idle(live.router)
        assert live.router.online.shadow_policies.counts["made"] == n
    await live.aclose()
    kinds = [type(event) for event in read_events(log["path"])]
    assert kinds == [DecisionEvent, DecisionEvent, ShadowPolicyEvent, DecisionEvent, ShadowPolicyEvent]
    wrong = {"no policy 'othr'": {"balanced": {"othr": 1.0}}, "beside itself": {"other": {"other": 1.0}}, "no policy 'x'": {"x": {}}}
    for said, shadows in wrong.items():
        with pytest.raises(ConfigError, match=said):
            parse({**raw, "shadow_policies": shadows}, "outlay.yaml")


async def test_what_waits_at_the_end_is_compared() -> None:
    """Closing makes the comparisons that were taken."""
    router = a_service(probe=Probe(0.0))
    router.online = Online([EventWriter(sink := Events())])
    for i in range(10):
        await router.answer(an_ask(f"question {i}"))
    await router.aclose()
    assert sum(b'"shadow_policy"' in line for line in sink.lines) == 10
