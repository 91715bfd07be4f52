"""Equal requests at once cost one, whatever becomes of the one that does the work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.cache import MemoryCache, RedisCache
from adapters.ledger import MemoryLedger
from adapters.scripted import ScriptedBackend, scripted
from adapters.types import Delta, Price
from router.errors import RouterError
from router.parts import Parts, single_answer_policy
from router.pipeline import Router
from router.pipeline_types import Ask, CacheControl
from router.teller import Teller
from tests.router.test_pipeline import an_ask
from tests.router.test_purse import asking, dollars

PRICE = Price(1.0, 1.0)


def router(backend: ScriptedBackend | None = None, cache: Any = None, policy: Any = None) -> Router:
    """One backend, one plan; every answer says which draw it is, so that two draws never look alike."""
    slow = backend or scripted("small", script=lambda request, draw: f"draw {draw}", price=PRICE, delay_s=0.05)
    return Router(Parts({"small": slow}, {"balanced": policy or single_answer_policy("small")}, "balanced", cache=cache or MemoryCache()))


def calls(of: Router) -> int:
    return len(of.parts.backends["small"].requests)  # type: ignore[attr-defined]


async def test_a_hundred_equal_requests_at_once_cost_one() -> None:
    """One call, one answer for all, paid once; those who waited are marked, and name the decision that it comes from."""
    gateway = router()
    outcomes = await asyncio.gather(*(gateway.answer(an_ask()) for _ in range(100)))
    assert calls(gateway) == 1
    assert {outcome.candidates[0].text for outcome in outcomes} == {outcomes[0].candidates[0].text}
    assert [outcome.cached for outcome in outcomes] == [False] + [True] * 99
    assert sum(outcome.cost_usd > 0 for outcome in outcomes) == 1
    assert {outcome.decision["cached_from"] for outcome in outcomes[1:]} == {outcomes[0].id}
    assert len({outcome.id for outcome in outcomes}) == 100


async def test_streams_get_the_winner() -> None:
    """Whoever streams waits for the answer too, and a stream's answer goes to those who do not stream."""
    gateway, seen = router(), list[Delta]()

    async def sink(delta: Delta) -> None:
        seen.append(delta)

    live, plain, other = await asyncio.gather(gateway.answer(an_ask(), sink), gateway.answer(an_ask()), gateway.answer(an_ask(), sink))
    assert calls(gateway) == 1
    assert live.candidates[0].text == plain.candidates[0].text == other.candidates[0].text == "".join(delta.text for delta in seen)


async def test_requests_that_differ_or_will_not_share_do_not_wait_for_each_other() -> None:
    """Another question, another namespace, `no-cache` and `no-store` each make a call of their own."""
    gateway = router()
    controls = [CacheControl(namespace="n"), CacheControl(no_cache=True), CacheControl(no_cache=True), CacheControl(no_store=True)]
    asks = [an_ask(), an_ask("other"), *(an_ask(cache=control) for control in controls)]
    await asyncio.gather(*(gateway.answer(ask) for ask in asks))
    assert calls(gateway) == len(asks)


async def test_where_the_one_that_works_is_cancelled_the_next_takes_its_place() -> None:
    """The client of the first goes; of those that waited one works, and the others get its answer."""
    gateway = router()
    first = asyncio.ensure_future(gateway.answer(an_ask()))
    others = [asyncio.ensure_future(gateway.answer(an_ask())) for _ in range(20)]
    await asyncio.sleep(0.01)
    first.cancel()
    outcomes = await asyncio.gather(*others)
    assert calls(gateway) == 2
    assert [outcome.cached for outcome in outcomes].count(False) == 1


async def test_one_that_waits_can_be_cancelled_alone() -> None:
    """Its leaving changes nothing for the others."""
    gateway = router()
    first, second, third = (asyncio.ensure_future(gateway.answer(an_ask())) for _ in range(3))
    await asyncio.sleep(0.01)
    second.cancel()
    assert ((await first).cached, (await third).cached, calls(gateway)) == (False, True, 1)


async def test_a_failure_is_not_shared() -> None:
    """Where the first fails, whoever waited asks for itself, and has an answer where the backend has one by then."""
    gateway = router(scripted("small", "an answer", price=PRICE, delay_s=0.02, fail_every=3))
    for text in ("one", "two"):
        await gateway.answer(an_ask(text))
    results = await asyncio.gather(*(gateway.answer(an_ask()) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, RouterError) for result in results] == [True, False, False]


async def test_nobody_waits_past_their_own_deadline() -> None:
    """One whose deadline comes before the answer of the first does is refused then; the first is left alone."""
    gateway = router(scripted("small", "an answer", price=PRICE, delay_s=0.3))
    gateway.cache.key = lambda job: "one key for all"  # type: ignore[method-assign]
    first = asyncio.ensure_future(gateway.answer(an_ask()))
    await asyncio.sleep(0.01)
    with pytest.raises(RouterError, match="deadline"):
        await gateway.answer(an_ask(deadline_s=0.05))
    assert not first.done()
    assert not (await first).cached


async def test_who_waits_holds_no_money() -> None:
    """A key that pays for one answer pays for a hundred equal ones, since those who wait do not keep it from the one that works."""
    teller, mine = Teller(MemoryLedger(), 0.0), dollars(day=100e-6)
    gateway = router(scripted("small", "an answer", price=PRICE, delay_s=0.05))
    outcomes = await asyncio.gather(*(gateway.answer(asking(mine, teller, model="auto", max_tokens=80)) for _ in range(100)))
    assert (calls(gateway), [outcome.cached for outcome in outcomes].count(True)) == (1, 99)


async def test_processes_share_one_work_through_redis(redis_url: str) -> None:
    """Two gateways on one Redis: the second waits for the first; a claim is given back at the end."""
    caches = [RedisCache(redis_url, timeout_s=5), RedisCache(redis_url, timeout_s=5)]
    one, two = (router(cache=cache) for cache in caches)
    outcomes = await asyncio.gather(*(gateway.answer(an_ask()) for gateway in (one, two) for _ in range(10)))
    assert calls(one) + calls(two) == 1
    assert len({outcome.candidates[0].text for outcome in outcomes}) == 1
    key = one.cache.key(one._open(an_ask()))
    assert await caches[1].claim(key, 1)
    await asyncio.gather(*(cache.aclose() for cache in caches))


async def test_another_processes_failure_is_not_waited_for(redis_url: str) -> None:
    """The claim is given back when the work fails, so the other process goes on at once."""
    caches = [RedisCache(redis_url, timeout_s=5), RedisCache(redis_url, timeout_s=5)]
    one = router(scripted("small", "x", price=PRICE, delay_s=0.05, fail_every=1), caches[0])
    two = router(cache=caches[1])
    failing = asyncio.ensure_future(one.answer(an_ask()))
    await asyncio.sleep(0.02)
    assert not (await two.answer(an_ask())).cached
    assert isinstance((await asyncio.gather(failing, return_exceptions=True))[0], RouterError)
    await asyncio.gather(*(cache.aclose() for cache in caches))


def test_an_ask_shares_unless_it_says_not_to() -> None:
    """`no-cache` and `no-store` each keep a request by itself."""
    assert [CacheControl(*flags).shares for flags in ((), (True,), (False, True))] == [True, False, False]
    assert Ask(an_ask().request, "auto").cache.shares
