"""A budget over time in the way of a request: it is spent, shown, shared, and at its end nothing is overspent in silence."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from adapters.cache import MemoryCache
from adapters.ledger import MemoryLedger
from adapters.scripted import scripted
from adapters.tallies import MemoryTallies, RedisTallies, Tallies
from difficulty.belief import Belief
from policies.certify import Accepted
from policies.decide import decide
from policies.policy import MOST
from router.errors import BackendFailed, BudgetSpent, DeadlineExceeded, OverBudget
from router.explain import shown
from router.keys import Key
from router.pacing import Pacer
from router.pipeline import Router
from router.purse import Purse
from router.record import facts_from_json
from router.render import headers
from router.teller import Teller
from tests.router.test_pipeline import PLANS, SMALL, a_policy, a_router, an_ask

KEYS = [("0000000a", "one"), ("0000000b", "one"), ("0000000c", "two")]
"""Two keys of one tenant, and one of another."""
MIDNIGHT = 20_000 * 86400.0


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = MIDNIGHT + 6 * 3600

    def __call__(self) -> float:
        return self.now


def a_paced(budget_usd: float, *, tallies: Tallies | None = None, clock: Clock | None = None, **more: Any) -> Router:
    objective = {"budget_usd": budget_usd, "per": "day", **more.pop("objective", {})}
    router = a_router(policy=a_policy().model_validate({"objective": objective, "plans": PLANS}), **more)
    router.pacer = Pacer(tallies or MemoryTallies(), clock or Clock())
    return router


async def spent(router: Router, n: int, **more: Any) -> list[Any]:
    return [await router.answer(an_ask(f"question number {i}", **more)) for i in range(n)]


async def test_what_is_spent_is_what_is_left_less() -> None:
    """Probe, answers and verdicts all come out of the budget; the decision block says what was left before each request."""
    router = a_paced(1.0)
    outcomes = await spent(router, 3)
    left = [outcome.decision["budget"]["left_usd"] for outcome in outcomes]
    assert left[0] == 1.0
    assert left[2] == pytest.approx(1.0 - outcomes[0].cost_usd - outcomes[1].cost_usd)


async def test_a_tight_budget_raises_the_multiplier_and_buys_less() -> None:
    """The same requests cost less each under a small budget than under a large one, and the block, the header and `explain` show why."""
    rich, poor = a_paced(10.0), a_paced(0.002)
    many, few = await spent(rich, 40), await spent(poor, 40)
    assert few[-1].cost_usd < many[-1].cost_usd
    assert many[-1].decision["budget"]["multiplier"] == 1.0 < few[-1].decision["budget"]["multiplier"]
    assert float(headers(an_ask(verbose=True), few[-1])["x-outlay-cost-multiplier"]) > 1
    block = await poor.route(an_ask("one more question"))
    assert "a dollar counts" in shown(block, 80)


async def test_a_certified_budget_moves_among_the_accepted_multipliers_only() -> None:
    """Where the budget asks for more than was proven, the highest accepted multiplier is taken, and the block says so."""
    free, held = a_paced(0.002), a_paced(0.002)
    held.parts = replace(held.parts, accepted={"balanced": Accepted((1.0, 1.5))})
    wanted, taken = [[o.decision["budget"]["multiplier"] for o in await spent(router, 40)] for router in (free, held)]
    assert max(wanted) > 1.5
    assert set(taken) == {1.0, 1.5}


async def test_a_decision_under_a_budget_can_be_made_again_from_its_block() -> None:
    """The multiplier is among the facts, so that the log is enough."""
    router = a_paced(0.002)
    outcome = (await spent(router, 40))[-1]
    logged = outcome.decision["decisions"][0]
    facts = facts_from_json(logged["facts"])
    assert facts.cost_multiplier == outcome.decision["budget"]["multiplier"] > 1
    again = decide(router.parts.policies["balanced"], router.parts.market, facts, Belief.from_json(logged["belief"]))
    assert (again.plan and again.plan.key) == logged["plan"]


async def test_once_it_is_spent_only_the_cheapest_plan_is_run_and_marked() -> None:
    """Answers go on, each by the cheapest plan, marked `budget`, and none of them is kept in the cache."""
    cache = MemoryCache()
    router = a_paced(1e-5, cache=cache)
    outcomes = await spent(router, 4)
    assert outcomes[0].degraded == ()
    assert [outcome.plan for outcome in outcomes[1:]] == ["single(small)"] * 3
    assert {outcome.degraded for outcome in outcomes[1:]} == {("budget",)}
    assert outcomes[3].decision["budget"]["multiplier"] == MOST
    assert not (await router.answer(an_ask("question number 3"))).cached
    assert (await router.answer(an_ask("question number 0"))).cached


async def test_once_it_is_spent_a_named_plan_is_refused() -> None:
    """The caller cannot talk a spent budget into a dear plan."""
    router = a_paced(1e-5)
    await spent(router, 2)
    with pytest.raises(BudgetSpent, match="only its cheapest plan"):
        await router.answer(an_ask(plan=router.parts.policies["balanced"].all_plans[2]))


async def test_a_budget_that_refuses_is_never_overspent_and_says_when_to_come_back() -> None:
    """429 with the seconds until the next period; what was spent stays under the budget to the last cent; then there is money again."""
    clock, budget = Clock(), 1e-3
    router = a_paced(budget, clock=clock, objective={"when_spent": "refuse"})
    outcomes, refused = [], None
    while refused is None:
        try:
            outcomes.append(await router.answer(an_ask(f"question number {len(outcomes)}")))
        except BudgetSpent as error:
            refused = error
    assert 0.9 * budget < sum(outcome.cost_usd for outcome in outcomes) <= budget
    assert (refused.status, refused.code, refused.retry_after_s) == (429, "insufficient_quota", 64800)
    assert "a new budget begins in 64800 s" in refused.message
    clock.now += 64800
    assert (await router.answer(an_ask("the first of the new day"))).degraded == ()


async def test_each_tenant_has_its_share_and_all_of_them_the_whole() -> None:
    """One tenant that has spent its share leaves the others theirs; the tighter of the two budgets counts."""
    router = a_paced(1.0, objective={"tenant_budget_usd": 1e-5})
    teller = Teller(MemoryLedger(), 1)
    purses = [Purse.of(Key(id=id, digest="0" * 64, name=id, tenant=tenant), id, teller) for id, tenant in KEYS]
    mine, same, other = [await router.answer(an_ask(f"a question of {purse.key.id}", purse=purse)) for purse in purses]
    assert [outcome.degraded for outcome in (mine, same, other)] == [(), ("budget",), ()]
    assert same.decision["budget"]["budget_usd"] == 1e-5


async def test_two_processes_share_one_budget(redis_url: str) -> None:
    """What one of them spends is gone for the other, as soon as that one asks Redis."""
    one, two = (a_paced(1e-5, tallies=RedisTallies(redis_url, timeout_s=5)) for _ in range(2))
    await spent(one, 1)
    assert (await spent(two, 1))[0].degraded == ("budget",)
    for router in (one, two):
        await router.pacer.tallies.aclose()


async def test_a_budget_that_cannot_be_shared_is_marked() -> None:
    """Where the shared count is gone, this process counts alone and says so."""
    tallies = MemoryTallies()
    tallies.down = True  # type: ignore[misc]
    outcome = (await spent(a_paced(1.0, tallies=tallies), 1))[0]
    assert outcome.degraded == ("pacing",)


async def test_a_request_that_fails_has_spent_what_it_spent() -> None:
    """A backend that breaks after others were paid for: the money is counted."""
    tallies = MemoryTallies()
    broken = [scripted(name, fail_every=1, price=SMALL) for name in ("small", "large")]
    router = a_paced(1.0, tallies=tallies, small=broken[0], large=broken[1])
    with pytest.raises(BackendFailed):
        await router.answer(an_ask())
    (tally,) = tallies._tallies.values()
    assert tally.now[0] > 0  # what the probe has read


async def test_asking_what_would_be_done_spends_nothing() -> None:
    """`route` shows the budget and leaves it as it is."""
    router = a_paced(1.0)
    for _ in range(2):
        assert (await router.route(an_ask()))["budget"]["left_usd"] == 1.0


async def test_a_policy_without_a_budget_has_none_to_show() -> None:
    """No tally, no block, a multiplier of 1."""
    outcome = await a_router().answer(an_ask())
    assert outcome.decision["budget"] is None
    assert outcome.decision["decisions"][0]["facts"]["cost_multiplier"] == 1.0


async def test_a_limit_that_is_not_the_budgets_is_not_called_so() -> None:
    """With money left, a ceiling or a deadline that the caller set is what the error names."""
    for when_spent in ("cheapest", "refuse"):
        router = a_paced(1.0, objective={"when_spent": when_spent})
        with pytest.raises(DeadlineExceeded):
            await router.answer(an_ask(deadline_s=1e-9))
        with pytest.raises(OverBudget):
            await router.answer(an_ask(max_cost_usd=1e-9))


async def test_a_client_that_goes_while_its_spending_is_told_is_on_record() -> None:
    """Redis is slow to take what was bought, and the client leaves just then: the key pays, so log and metrics say so too."""
    slow, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryTallies):
        async def add(self, rows: Any) -> None:
            slow.set()
            await go_on.wait()
            await super().add(rows)

    router, ask = a_paced(1.0, tallies=Slow()), an_ask()
    task = asyncio.ensure_future(router.answer(ask))
    await slow.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    block = await router.decision(ask.id)
    assert block is not None
    assert block["cost_usd"] > 0
    assert b'outlay_requests_total{plan="' in router.measured()
