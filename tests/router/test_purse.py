"""What a key may spend, through the whole pipeline: two hundred at once, calls cut off, limits that meet, Redis that dies."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from adapters.accounts import METERS, NANO, Amount, Entry, Receipt
from adapters.cache import MemoryCache
from adapters.ledger import Ledger, MemoryLedger, RedisLedger
from adapters.scripted import ScriptedBackend, ScriptedOptions
from adapters.types import ChatRequest, Delta, Price
from policies.facts import Market
from policies.policy import Rule, Rules, When
from router.errors import Forbidden, LedgerDown, OverQuota, RateLimited, RouterError, UnknownModel
from router.keys import Key, new_key
from router.parts import Parts, single_answer_policy
from router.pipeline import Router
from router.pipeline_types import Ask, Outcome
from router.purse import Purse
from router.teller import Teller
from tests.router.test_pipeline import Exact, a_router, an_ask

A_DOLLAR_A_WORD = Price(0, 1e6)
TEN = "one two three four five six seven eight nine ten"
USED = {meter: i for i, meter in enumerate(METERS)}


def key(**options: Any) -> Key:
    return new_key("test", **options)[1]


def dollars(**budget: float) -> Key:
    return key(budget_usd=budget)


def asking(mine: Key, teller: Teller, text: str = "hello", model: str = "small", max_tokens: int = 40, **more: Any) -> Ask:
    request = ChatRequest(({"role": "user", "content": text},), max_tokens=max_tokens, **more)
    return Ask(request, model, purse=Purse.of(mine, secrets.token_hex(8), teller))


def router(delay_s: float = 0, backend: ScriptedBackend | None = None, **parts: Any) -> Router:
    """One backend whose answers have ten words at a dollar each; a request allows for forty."""
    options = {"answers": ({"text": TEN},), "price": A_DOLLAR_A_WORD, "delay_s": delay_s}
    small = backend or ScriptedBackend("small", ScriptedOptions.model_validate(options))
    large = ScriptedBackend("large", ScriptedOptions.model_validate(options))
    prices = {"small": (0.0, 1e6), "large": (0.0, 1e6)}
    policies = {"balanced": single_answer_policy("small"), "other": single_answer_policy("large")}
    return Router(Parts({"small": small, "large": large}, policies, "balanced", Market(prices), **parts))


async def books(ledger: Ledger, mine: Key) -> Receipt:
    """The account as it stands."""
    return await ledger.write(mine.account, Entry("look"))


async def tried(router: Router, ask: Ask) -> Outcome | RouterError:
    try:
        return await router.answer(ask)
    except RouterError as error:
        return error


@pytest.fixture(params=["memory", "redis"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    built = MemoryLedger() if request.param == "memory" else RedisLedger(request.getfixturevalue("redis_url"))
    yield built
    await built.aclose()


# --- two hundred at once ------------------------------------------------------------------------------------------------


async def test_two_hundred_at_once_on_a_nearly_spent_key(ledger: Ledger) -> None:
    """Not a dollar more than the budget is spent, and nobody is refused while there is the price of a call."""
    mine, teller, gateway = dollars(day=1037), Teller(ledger, wait_s=60), router(delay_s=0.001)
    await ledger.write(mine.account, Entry("before", spent=Amount(1, 37 * NANO), closed=True))
    found = await asyncio.gather(*(tried(gateway, asking(mine, teller)) for _ in range(200)))
    served = [one for one in found if isinstance(one, Outcome)]
    refused = [one for one in found if isinstance(one, RouterError)]
    state = await books(ledger, mine)
    spent_usd = state.used[USED["usd", "day"]] / NANO
    assert spent_usd == 37 + sum(one.cost_usd for one in served)
    assert 1037 - 40 < spent_usd <= 1037
    assert all(isinstance(one, OverQuota) for one in refused)
    assert len(served) + len(refused) == 200
    assert state.held == (0, 0, 0)


async def test_a_key_that_pays_for_all_serves_all(ledger: Ledger) -> None:
    """Worst cases add up to four times the budget, what is really spent to all of it: nobody is refused for what others only hold."""
    mine, teller, gateway = dollars(day=2030), Teller(ledger, wait_s=60), router(delay_s=0.001)
    found = await asyncio.gather(*(tried(gateway, asking(mine, teller)) for _ in range(200)))
    assert [type(one) for one in found] == [Outcome] * 200
    assert (await books(ledger, mine)).used[USED["usd", "day"]] == 2000 * NANO


async def test_two_processes_share_one_budget(redis_url: str) -> None:
    """Each has its own line of those who wait; together they spend no more than there is, and nearly all of it."""
    mine = dollars(day=500)
    ledgers = [RedisLedger(redis_url) for _ in range(2)]
    tellers = [Teller(one, wait_s=60) for one in ledgers]
    gateway = router(delay_s=0.001)
    found = await asyncio.gather(*(tried(gateway, asking(mine, tellers[i % 2])) for i in range(80)))
    served = sum(isinstance(one, Outcome) for one in found)
    assert served * 10 == (await books(ledgers[0], mine)).used[USED["usd", "day"]] / NANO
    assert 460 < served * 10 <= 500
    await asyncio.gather(*(one.aclose() for one in ledgers))


async def test_who_has_waited_long_enough_is_told_to_come_back() -> None:
    """`wait_s` bounds the wait; the refusal says that money is held, not that it is spent."""
    mine, teller, gateway = dollars(day=50), Teller(MemoryLedger(), wait_s=0.01), router(delay_s=0.3)
    first = asyncio.ensure_future(gateway.answer(asking(mine, teller)))
    await asyncio.sleep(0)
    second = await tried(gateway, asking(mine, teller))
    assert isinstance(second, RateLimited)
    assert (second.retry_after_s, "under way" in second.message) == (1.0, True)
    assert (await first).cost_usd == 10
    assert isinstance(await tried(gateway, asking(mine, teller)), Outcome)


async def test_the_deadline_bounds_the_wait_too() -> None:
    """A request that may take half a second does not stand in line for a minute."""
    mine, teller, gateway = dollars(day=50), Teller(MemoryLedger(), wait_s=60), router(delay_s=30)
    first = asyncio.ensure_future(gateway.answer(asking(mine, teller)))
    await asyncio.sleep(0)
    second = await tried(gateway, replace(asking(mine, teller), deadline_s=0.5))
    assert isinstance(second, RateLimited)
    first.cancel()


# --- trace = usage = ledger ---------------------------------------------------------------------------------------------


async def test_every_call_of_a_request_is_in_the_books() -> None:
    """Probe, answers and verdicts: the trace, the usage of the answer and the ledger say the same, in dollars and in tokens."""
    mine, teller = dollars(day=1), Teller(MemoryLedger(), 1)
    outcome = await a_router().answer(an_ask(purse=Purse.of(mine, "a", teller)))
    assert [call["kind"] for call in outcome.decision["calls"]] == ["estimate", "generate", "score", "generate", "score"]
    state = await books(teller.ledger, mine)
    assert state.used[USED["usd", "month"]] == round(outcome.cost_usd * NANO) > 0
    assert state.used[USED["tokens", "day"]] == outcome.input_tokens + outcome.output_tokens
    assert (state.used[USED["requests", "minute"]], state.held) == (1, (0, 0, 0))


async def test_a_verifier_that_fails_is_paid_for_what_it_is_owed() -> None:
    """A degraded request settles too."""
    mine, teller = dollars(day=1), Teller(MemoryLedger(), 1)
    outcome = await a_router(verifier=Exact(fails=True)).answer(an_ask(purse=Purse.of(mine, "a", teller)))
    assert (await books(teller.ledger, mine)).used[USED["usd", "day"]] == round(outcome.cost_usd * NANO)


async def test_one_answer_asks_the_ledger_twice() -> None:
    """Once each way: to reserve and to settle."""
    written: list[Entry] = []

    class Watched(MemoryLedger):
        async def write(self, account: Any, entry: Entry) -> Receipt:
            written.append(entry)
            return await super().write(account, entry)

    mine, teller = dollars(day=1000), Teller(Watched(), 1)
    await router().answer(asking(mine, teller))
    assert [(entry.wanted.nano_usd, entry.closed) for entry in written] == [(40 * NANO, False), (0, True)]


async def test_a_client_that_leaves_in_the_middle_pays_for_what_was_made() -> None:
    """Four words were streamed when it went: four dollars, and nothing stays held."""
    mine, teller = dollars(day=1000), Teller(MemoryLedger(), 1)
    gateway, words, enough = router(), 0, asyncio.Event()

    async def sink(delta: Delta) -> None:
        nonlocal words
        words += bool(delta.text)
        if words == 4:
            enough.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(gateway.answer(asking(mine, teller), sink))
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    state = await books(teller.ledger, mine)
    assert (state.used[USED["usd", "day"]], state.held) == (4 * NANO, (0, 0, 0))


async def test_a_process_that_dies_holds_for_the_length_of_a_lease(redis_url: str) -> None:
    """Killed between reserving and settling: what it held is free again when its lease is over, and not before."""
    now = [1_800_000_000.0]
    ledger = RedisLedger(redis_url, lease_s=30, clock=lambda: now[0])
    mine, teller = dollars(month=50), Teller(ledger, wait_s=0)
    dying = asking(mine, teller).purse
    await dying._admit(router()._open(replace(asking(mine, teller), purse=dying)).first_cost)
    assert isinstance(await tried(router(), asking(mine, teller)), RateLimited)
    now[0] += 30
    assert isinstance(await tried(router(), asking(mine, teller)), Outcome)
    await ledger.aclose()


async def test_redis_killed_in_mid_run_loses_nothing(redis_server: Any, redis_url: str) -> None:
    """Requests go on, marked; when Redis is back, empty as it is, it is told every dollar of before, during and after."""
    ledger = RedisLedger(redis_url, retry_s=0)
    mine, teller, gateway = dollars(day=10_000), Teller(ledger, wait_s=5), router(delay_s=0.01)
    before = [await gateway.answer(asking(mine, teller)) for _ in range(3)]
    flying = [asyncio.ensure_future(gateway.answer(asking(mine, teller))) for _ in range(20)]
    await asyncio.sleep(0.005)
    redis_server.kill()
    during = [*await asyncio.gather(*flying), await gateway.answer(asking(mine, teller))]
    assert during[-1].degraded == ("ledger",)
    redis_server.start()
    after = await gateway.answer(asking(mine, teller))
    assert after.degraded == ()
    assert (await books(ledger, mine)).used[USED["usd", "day"]] == 10 * NANO * len([*before, *during, after])
    await ledger.aclose()


async def test_a_server_may_refuse_while_redis_is_gone() -> None:
    """`when_down: refuse` gives 503 and spends nothing."""
    mine, teller = dollars(day=1000), Teller(RedisLedger("redis://127.0.0.1:1/0", when_down="refuse"), 1)
    error = await tried(router(), asking(mine, teller))
    assert isinstance(error, LedgerDown)
    assert error.status == 503
    await teller.aclose()


# --- limits -------------------------------------------------------------------------------------------------------------


async def test_a_spent_budget_is_insufficient_quota_until_its_window_ends() -> None:
    """The error names the window, what is left of it and when it begins anew; other keys go on."""
    mine, teller, gateway = dollars(day=45), Teller(MemoryLedger(clock=lambda: 600.0), 1), router()
    first = await tried(gateway, asking(mine, teller))
    assert isinstance(first, Outcome)
    error = await tried(gateway, asking(mine, teller))
    assert isinstance(error, OverQuota)
    assert (error.status, error.code, error.type) == (429, "insufficient_quota", "insufficient_quota")
    assert "$45 for the day" in error.message
    assert f"; ${45 - first.cost_usd:.6f} of it is left" in error.message
    assert error.retry_after_s == 86400 - 600
    assert isinstance(await tried(gateway, asking(dollars(day=45), teller)), Outcome)


async def test_the_rate_of_requests_is_held() -> None:
    """The third request of a minute in which two are allowed is refused before anything is done for it, whatever becomes of the others."""
    backend = ScriptedBackend("small", ScriptedOptions())
    mine, teller, gateway = key(requests={"minute": 2}), Teller(MemoryLedger(clock=lambda: 600.0), 1), router(backend=backend)
    found = [await tried(gateway, asking(mine, teller)) for _ in range(3)]
    assert [type(one) for one in found] == [Outcome, Outcome, RateLimited]
    assert isinstance(found[2], RateLimited)
    assert (found[2].type, found[2].code, found[2].retry_after_s) == ("requests", "rate_limit_exceeded", 60)
    assert len(backend.requests) == 2


async def test_the_rate_of_tokens_is_estimated_and_then_settled() -> None:
    """What is held is the estimate; what counts is what was used, so that short answers leave room for more."""
    mine, teller, gateway = key(tokens={"minute": 60}), Teller(MemoryLedger(clock=lambda: 600.0), 1), router()
    found = [await tried(gateway, asking(mine, teller)) for _ in range(4)]
    assert [type(one) for one in found] == [Outcome, Outcome, RateLimited, RateLimited]
    assert isinstance(found[2], RateLimited)
    assert found[2].type == "tokens"


async def test_more_tokens_than_a_window_has_are_let_in_when_it_is_empty() -> None:
    """Else such a request could never be answered."""
    mine, teller, gateway = key(tokens={"minute": 5}), Teller(MemoryLedger(clock=lambda: 600.0), 1), router()
    assert isinstance(await tried(gateway, asking(mine, teller)), Outcome)
    assert isinstance(await tried(gateway, asking(mine, teller)), RateLimited)


async def test_what_a_key_has_left_bounds_what_is_planned() -> None:
    """Decisions see the key's money as the request's ceiling: fewer samples are drawn, and the cut is marked as the key's."""
    small = ScriptedBackend("small", ScriptedOptions.model_validate({"answers": [{"text": TEN}], "price": A_DOLLAR_A_WORD}))
    mine, teller = dollars(day=90), Teller(MemoryLedger(), 1)
    outcome = await router(backend=small).answer(asking(mine, teller, n=4))
    assert (small.requests[0].n, outcome.truncated_by) == (2, "key")
    assert outcome.decision["decisions"][0]["facts"]["ceiling_usd"] == 90


@pytest.mark.parametrize(("policy", "mine", "asked", "ceiling"), [(5, 3, 4, 3), (2, 3, 4, 2), (5, 4, 3, 3), (None, 3, None, 3)])
async def test_the_tightest_limit_holds(policy: float | None, mine: float, asked: float | None, ceiling: float) -> None:
    """Of policy, key and request, in money as in time."""
    limits = {"cost_usd": policy, "latency_s": policy}
    rules = Rules(rules=(Rule(when=When(), then=single_answer_policy("small").all_plans),), limits=limits)  # type: ignore[arg-type]
    gateway = Router(replace(router().parts, policies={"balanced": rules}))
    ask = asking(key(limits={"cost_usd": mine, "latency_s": mine}), Teller(MemoryLedger(), 1), model="auto")
    run = gateway._open(replace(ask, max_cost_usd=asked, deadline_s=asked)).run
    assert (run.limits.cost_usd, run.limits.latency_s) == (ceiling, ceiling)


async def test_the_highest_quality_floor_holds() -> None:
    """A key may ask for more than its policy does."""
    ask = asking(key(limits={"quality_floor": 0.7}), Teller(MemoryLedger(), 1), model="auto")
    assert router()._open(replace(ask, min_quality=0.5)).facts().quality_floor == 0.7


# --- what a key is for --------------------------------------------------------------------------------------------------


async def test_auto_is_the_keys_own_policy() -> None:
    """`auto` means what the key says, and the list of models says so."""
    mine, teller, gateway = key(policy="other"), Teller(MemoryLedger(), 1), router()
    assert (await gateway.answer(asking(mine, teller, model="auto"))).model == "large"
    assert gateway.models(mine)[0].description == "outlay/other"


async def test_a_model_that_is_not_the_keys_is_forbidden() -> None:
    """403 for what exists and is not for this key, 404 for what does not exist; neither names what the key may not see."""
    mine, teller, gateway = key(models=["outlay/other"]), Teller(MemoryLedger(), 1), router()
    for model in ("small", "outlay/balanced", "auto"):
        assert isinstance(await tried(gateway, asking(mine, teller, model=model)), Forbidden)
    missing = await tried(gateway, asking(mine, teller, model="gpt"))
    assert isinstance(missing, UnknownModel)
    assert "small" not in missing.message
    assert [card.id for card in gateway.models(mine)] == ["outlay/other"]


async def test_a_backend_that_is_not_the_keys_is_never_bought() -> None:
    """By name or by a plan of the request it is forbidden; in a policy its plans are refused, with the reason in the decision."""
    mine, teller = key(backends=["small"]), Teller(MemoryLedger(), 1)
    for ask in (asking(mine, teller, model="large"), asking(mine, teller, model="outlay/other")):
        assert isinstance(await tried(router(), ask), Forbidden)
    wrong = ScriptedBackend("small", ScriptedOptions.model_validate({"answers": [{"text": "wrong"}], "price": {"output_usd_per_mtok": 1}}))
    outcome = await a_router(wrong).answer(an_ask(purse=Purse.of(mine, "a", teller)))
    assert outcome.model == "small"
    assert {call["target"] for call in outcome.decision["calls"]} <= {"small", "exact", "probe"}
    refused = [row.get("refused", "") for row in outcome.decision["decisions"][0]["considered"]]
    assert "this key may not use backend 'large'" in refused


async def test_no_tenant_sees_anothers_cache_or_decisions() -> None:
    """The same question of another tenant is answered anew, and its decision is not there for the first; keys of one tenant share both."""
    teller, gateway = Teller(MemoryLedger(), 1), router(cache=MemoryCache())
    one, other, mate = key(tenant="a"), key(), key(tenant="a")
    first = await gateway.answer(asking(one, teller))
    assert not (await gateway.answer(asking(other, teller))).cached
    assert (await gateway.answer(asking(mate, teller))).cached
    assert (await books(teller.ledger, mate)).used[USED["requests", "day"]] == 1
    assert await gateway.decision(first.id, other.owner) is None
    assert await gateway.decision(first.id, mate.owner) is not None
    assert await gateway.decision(first.id) is None


def test_a_tenant_cannot_be_called_as_a_key_is() -> None:
    """A tenant named like another key's id owns nothing of that key."""
    mine = key()
    assert key(tenant=mine.id).owner != mine.owner
