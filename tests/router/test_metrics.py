"""Metrics: what a scrape of the running gateway shows of requests, money, labels, states and refusals, and what it must not show."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.cache import MemoryCache, RedisCache
from adapters.event_log import EventWriter
from adapters.fallbacks import Fallbacks
from adapters.options import Resilience
from adapters.pool import Pool
from adapters.scripted import scripted
from adapters.types import Price
from policies.plans import BestOfN
from router.app import create_app
from router.errors import BackendFailed, InvalidRequest, OverQuota
from router.lessons import Given
from router.metrics import Metrics
from router.online import Online
from router.options import DriftOptions, MetricsOptions
from router.pipeline import Router
from router.pipeline_types import CacheControl
from router.watch import Watch
from tests.router.doubles import ScriptedPipeline
from tests.router.serving import served
from tests.router.test_keys import Client, ask, bearer
from tests.router.test_keys import client as client
from tests.router.test_keys import file as file
from tests.router.test_online import Events
from tests.router.test_pipeline import a_router, an_ask


def samples(text: bytes | str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(router: Router, name: str, **labels: str) -> float:
    """One sample of the router; zero where there is none."""
    return samples(router.measured()).get((name, frozenset(labels.items())), 0.0)


def endings(router: Router) -> dict[str, float]:
    """Requests by how they ended."""
    return {dict(labels)["status"]: n for (name, labels), n in samples(router.measured()).items() if name == "outlay_requests_total"}


async def test_a_request_is_counted_by_policy_plan_and_ending_with_its_money() -> None:
    """Spend is what the outcome says, saved is what the baseline would have cost beyond that; a cached answer saves all of it."""
    router = a_router(cache=MemoryCache())
    first, second = await router.answer(an_ask()), await router.answer(an_ask())
    assert first.baseline_usd is not None
    assert value(router, "outlay_requests_total", policy="balanced", plan=first.plan, status="answered") == 1
    assert value(router, "outlay_requests_total", policy="balanced", plan=first.plan, status="cached") == 1
    assert value(router, "outlay_spend_usd_total", policy="balanced") == pytest.approx(first.cost_usd)
    assert value(router, "outlay_saved_usd", policy="balanced") == pytest.approx(2 * first.baseline_usd - first.cost_usd)
    assert second.cached


async def test_a_failed_request_is_counted_with_what_it_did_without() -> None:
    router = a_router(scripted("small", fail_every=1), scripted("large", fail_every=1))
    with pytest.raises(BackendFailed):
        await router.answer(an_ask())
    assert endings(router) == {"failed": 1}
    assert value(router, "outlay_degraded_total", component="backend:small") == 1
    assert value(router, "outlay_calls_total", kind="generate", target="small", outcome="BackendUnavailable") >= 1


async def test_a_client_that_leaves_is_no_failure_of_ours() -> None:
    """Whoever looks for an outage does not see impatience; what was bought until then is counted all the same."""
    router = a_router(*(scripted(name, "one two", token_delay_s=60, price=Price(1.0, 1.0)) for name in ("small", "large")))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(router.answer(an_ask()), 0.05)
    assert endings(router) == {"left": 1}
    assert value(router, "outlay_spend_usd_total", policy="balanced") > 0


async def test_own_overhead_is_measured_apart_from_waiting() -> None:
    """The two add up to the request's time; a slow backend is in the one and not in the other."""
    router = a_router(scripted("small", "a right one", delay_s=0.05))
    outcome = await router.answer(an_ask())
    waited, own = (value(router, f"outlay_{name}_seconds_sum") for name in ("upstream", "overhead"))
    assert waited >= 0.05
    assert own < waited
    assert waited + own == pytest.approx(outcome.latency_s, abs=0.02)


async def test_a_plan_of_a_client_makes_no_label() -> None:
    """Labels are bounded by the configuration: whatever plans clients think of count as one."""
    router = a_router()
    for n in (3, 5, 7):
        await router.answer(an_ask(plan=BestOfN(backend="small", n=n, verifier="exact")))
    plans = {dict(labels)["plan"] for (name, labels) in samples(router.measured()) if name == "outlay_requests_total"}
    assert plans == {"other"}


async def test_feedback_shows_how_right_chances_are() -> None:
    """By bucket of the chance: labels, their sum, and the sum of what was believed. A label sent twice counts once."""
    router = a_router()
    outcome = await router.answer(an_ask())
    chance = outcome.decision["chance"]
    for _ in range(2):
        await router.feedback(Given(outcome.id, 1.0))
    bucket = f"{min(9, int(chance * 10)) / 10:g}"
    assert value(router, "outlay_feedback_total", chance=bucket) == 1
    assert value(router, "outlay_feedback_right_total", chance=bucket) == 1
    assert value(router, "outlay_feedback_believed_total", chance=bucket) == pytest.approx(chance, abs=1e-4)


async def test_every_look_into_the_cache_is_counted_by_what_came_of_it() -> None:
    """Once for each request that looked: nothing, an equal request's answer, that of one under way, and samples to go on from."""
    router = a_router(*(scripted(name, "a right one", delay_s=0.01) for name in ("small", "large")), cache=MemoryCache())
    await asyncio.gather(*(router.answer(an_ask()) for _ in range(3)))
    for one in (an_ask(), an_ask(min_quality=0.5), an_ask("other"), an_ask(cache=CacheControl(no_cache=True))):
        await router.answer(one)
    looks = {dict(labels)["outcome"]: n for (name, labels), n in samples(router.measured()).items() if name == "outlay_cache_lookups_total"}
    assert looks == {"miss": 2, "joined": 2, "hit": 1, "continued": 1}
    uncached = a_router()
    await uncached.answer(an_ask())
    assert b"outlay_cache_lookups_total{" not in uncached.measured()


async def test_a_dead_redis_of_the_cache_is_told_of() -> None:
    """By readiness, which asks it, and by metrics; requests are answered, and told to be misses."""
    router = a_router(cache=RedisCache("redis://127.0.0.1:1/0"))
    assert value(router, "outlay_component_ok", component="cache") == 1  # nobody has asked it yet
    assert (await router.ready())["cache"] == "CacheError: Redis does not answer; every look is a miss"
    assert value(router, "outlay_component_ok", component="cache") == 0
    await router.answer(an_ask())
    assert value(router, "outlay_cache_lookups_total", outcome="miss") == 1
    await router.aclose()


async def test_requests_beyond_the_first_of_a_call_are_counted() -> None:
    """Retries and fallbacks, by the deployment that was asked, and how each ended."""
    down, up = (scripted(name, "right", fail_every=every) for name, every in (("small/a", 1), ("large", None)))
    pools = [Pool(name, [one], Resilience(attempts=2), sleep=lambda _: asyncio.sleep(0)) for name, one in (("small", down), ("large", up))]
    router = a_router(Fallbacks(pools[0], [pools[1]], {"failure"}))  # type: ignore[arg-type]
    await router.answer(an_ask(model="small"))
    for deployment, kind, outcome in (
        ("small/a", "first", "BackendUnavailable"),
        ("small/a", "retry", "BackendUnavailable"),
        ("large", "fallback", "ok"),
    ):
        assert value(router, "outlay_attempts_total", deployment=deployment, kind=kind, outcome=outcome) == 1


async def test_states_are_read_at_the_scrape() -> None:
    """Dropped events, alarms of drift, the probe's queue, and what a backend says of its deployments."""
    sink = Events()
    sink.broken = True
    watch = Watch(DriftOptions())
    watch.alarms["length"] = "prompts became longer"
    router = a_router()
    router.online = Online([EventWriter(sink, size=1, retry_s=0.01, patience_s=0.01)], watch=watch)
    router.parts.backends["small"].states = lambda: {"small/a": "open"}  # type: ignore[attr-defined]
    for _ in range(4):
        await router.answer(an_ask())
    await router.aclose()
    assert value(router, "outlay_log_events_total", sink="kept", outcome="dropped") == 4
    assert value(router, "outlay_drift_alarm", test="length") == 1
    assert value(router, "outlay_deployment_state", backend="small", deployment="small/a", state="open") == 1


async def test_an_error_is_counted_by_its_kind_and_not_by_a_providers_code() -> None:
    """A provider's codes are without end; the ledger's refusals have a line of their own."""
    metrics = Metrics()
    metrics.refused(InvalidRequest("no", code="whatever_the_provider_said"))
    metrics.refused(OverQuota("spent"))
    found = samples(metrics.shown(a_router().parts, Online()))
    assert found["outlay_errors_total", frozenset({("error", "InvalidRequest"), ("status", "400")})] == 1
    assert found["outlay_ledger_refusals_total", frozenset({("error", "OverQuota")})] == 1


async def test_whatever_leaves_as_an_error_is_counted_also_in_a_stream() -> None:
    """By the application, once for each."""
    pipeline = ScriptedPipeline(error=OverQuota("spent"))
    body: Mapping[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "a"}]}
    async with served(pipeline) as url, httpx.AsyncClient() as http:
        for stream in (False, True):
            assert (await http.post(f"{url}/chat/completions", json={**body, "stream": stream})).status_code == 429
        assert (await http.get(url.removesuffix("/v1") + "/metrics")).text == "outlay_up 1\n"
    assert [type(error) for error in pipeline.refusals] == [OverQuota, OverQuota]


async def test_where_there_are_keys_metrics_are_for_an_admin_key_and_show_no_keys(client: Client) -> None:
    """Neither does a label name one, unless asked for."""
    mine, admin = client(), client(admin=True)
    await ask(mine)
    http: Any = mine._client
    statuses = [(await http.get("/metrics", headers=bearer(one.api_key))).status_code for one in (mine, admin)]
    assert statuses == [403, 200]
    shown = (await http.get("/metrics", headers=bearer(admin.api_key))).text
    assert "outlay_requests_total" in shown
    assert mine.api_key.split("-")[2] not in shown


async def test_spend_by_key_is_shown_if_asked_for(tmp_path: Path) -> None:
    """`metrics.by_key`."""
    from router.keys import new_key
    from router.purse import Purse

    _, key = new_key("web")
    for by_key in (False, True):
        router = a_router()
        router.metrics = Metrics(MetricsOptions(by_key=by_key))
        purse = Purse()
        purse.key = key
        await router.answer(an_ask(purse=purse))
        assert (f'key="{key.id}"' in router.measured().decode()) is by_key


def test_the_application_tells_of_its_metrics() -> None:
    """In the OpenAPI document as every other path."""
    assert "/metrics" in create_app(a_router()).openapi()["paths"]


async def test_the_process_tells_what_it_holds() -> None:
    """Tasks, open files and memory, so that a leak is seen: what is under way is one task more, and one less at its end."""
    router, asked, go_on = a_router(), asyncio.Event(), asyncio.Event()
    at_rest = value(router, "outlay_tasks")

    async def waiting() -> None:
        asked.set()
        await go_on.wait()

    task = asyncio.ensure_future(waiting())
    await asked.wait()
    assert value(router, "outlay_tasks") == at_rest + 1
    go_on.set()
    await task
    assert value(router, "outlay_tasks") == at_rest
    if sys.platform == "linux":
        assert value(router, "process_open_fds") > 0
        assert value(router, "process_resident_memory_bytes") > 1e6
