"""Traces: one span a request, plan and call, made from what was noted anyway; joined upstream; in nobody's way, and without text."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from adapters.cache import MemoryCache
from adapters.litellm import import_litellm
from adapters.scripted import scripted
from policies.plans import BestOfN
from router.assembly import assemble
from router.config import Config
from router.errors import BackendFailed, UnknownModel
from router.live import Live
from router.online import Online
from router.options import TracingOptions
from router.pipeline import Router
from router.pipeline_types import Ask
from router.tracing import Tracing
from router.wire import parse
from tests.adapters.collector import Collector
from tests.adapters.stub_server import StubServer
from tests.adapters.test_event_log import until
from tests.router.serving import served
from tests.router.test_metrics import value
from tests.router.test_pipeline import LARGE, SMALL, a_policy, a_router, an_ask

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def traced(router: Router, **options: Any) -> Iterator[InMemorySpanExporter]:
    """Every request of the router; its spans are there when the block ends."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingOptions(**options), exporter)
    router.online = Online(tracing=tracing)
    shutdown, exporter.shutdown = exporter.shutdown, lambda: None  # type: ignore[method-assign]
    try:
        yield exporter
    finally:
        tracing.close()
        shutdown()


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def named(exporter: InMemorySpanExporter, beginning: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name.startswith(beginning)]


# --- what is told -------------------------------------------------------------------------------------------------------


async def test_a_request_is_a_tree_of_its_plans_and_calls() -> None:
    """Request above estimate and plans, plans above their calls; each within the time of the one above it."""
    router = a_router(scripted("small", "wrong", price=SMALL), policy=a_policy(1e-2, [*PLANS]))
    with traced(router) as exporter:
        outcome = await router.answer(an_ask())
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans if span.context}
    (top,) = [span for span in spans if span.parent is None]
    assert (top.name, top.kind) == ("chat outlay/balanced", SpanKind.SERVER)
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    above = {span.name: by_id[span.parent.span_id].name for span in spans if span.parent}
    assert above["estimate probe"] == top.name
    assert above["chat small"] == "plan best_of_n"
    assert above["score exact"].startswith("plan ")
    assert above["chat large"] == "plan single"
    assert len(named(exporter, "plan ")) == len(outcome.decision["actions"])
    assert len(spans) == 1 + len(outcome.decision["actions"]) + len(outcome.decision["calls"])
    for span in spans:
        if span.parent:
            parent = by_id[span.parent.span_id]
            assert parent.start_time <= span.start_time <= span.end_time <= parent.end_time + 1000  # type: ignore[operator]


PLANS: list[dict[str, Any]] = [
    {"best_of_n": {"backend": "small", "n": 4, "batch": 4, "verifier": "exact"}},
    {"single": {"backend": "large", "verifier": "exact"}},
]


async def test_spans_say_what_the_decision_block_says() -> None:
    """Policy, plan, chance and cost; tokens of the request are those of its calls; every decision is an event with its reason."""
    router = a_router()
    with traced(router) as exporter:
        outcome = await router.answer(an_ask(max_tokens=50))
    (top,), calls = named(exporter, "chat outlay/"), [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    top_said = said(top)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "outlay",
        "gen_ai.request.model": "outlay/balanced",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.model": outcome.model,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": outcome.input_tokens,
        "gen_ai.usage.output_tokens": outcome.output_tokens,
        "outlay.decision_id": outcome.id,
        "outlay.policy": "balanced",
        "outlay.plan": outcome.plan,
        "outlay.chance": outcome.decision["chance"],
        "outlay.cost_usd": outcome.cost_usd,
        "outlay.outcome": "ok",
    }
    assert expected.items() <= top_said.items()
    assert [event.name for event in top.events] == ["outlay.decision"] * len(outcome.decision["decisions"])
    reasons = [(event.attributes or {})["outlay.reason"] for event in top.events]
    assert reasons == [row["reason"] for row in outcome.decision["decisions"]]
    paid = [row for row in outcome.decision["calls"] if row["kind"] == "generate"]
    assert [said(call)["gen_ai.usage.output_tokens"] for call in calls] == [row["output_tokens"] for row in paid]
    assert [said(call)["outlay.cost_usd"] for call in calls] == [row["cost_usd"] for row in paid]


async def test_a_call_says_what_it_was_asked_for_and_how_it_ended() -> None:
    """As it was sent, with the policy's own temperature and the ceiling's length; what nobody said is left out."""
    plan = BestOfN(backend="small", n=2, batch=2, verifier="exact", temperature=0.7)
    router = a_router(scripted("small", "right", "wrong and long and longer", price=SMALL))
    with traced(router) as exporter:
        await router.answer(an_ask(max_tokens=3, plan=plan))
        await router.answer(an_ask(model="small"))
    chosen, plain = (said(span) for span in named(exporter, "chat small") if span.kind is SpanKind.CLIENT)
    asked = {"gen_ai.request.max_tokens": 3, "gen_ai.request.temperature": 0.7, "gen_ai.request.choice.count": 2}
    assert (asked | {"gen_ai.response.finish_reasons": ("stop", "length")}).items() <= chosen.items()
    assert plain["gen_ai.response.finish_reasons"] == ("stop",)
    assert not asked.keys() & plain.keys()


async def test_a_judge_is_a_model_that_is_asked() -> None:
    """A client span of its backend, under the verifier's name; a verifier that asks nobody stays within."""
    config = {
        "backends": {"small": {"kind": "scripted"}, "large": {"kind": "scripted", "model": "big", "answers": ["score: 9"]}},
        "verifiers": {"fair": {"kind": "judge", "backend": "large"}, "fits": {"kind": "regex", "pattern": "ok"}},
        "policies": {
            name: {"objective": {"value_of_correct_usd": 1.0}, "plans": [{"single": {"backend": "small", "verifier": name}}]}
            for name in ("fair", "fits")
        },
    }
    router = assemble(Config.model_validate(config | {"default": "fair"}))
    with traced(router) as exporter:
        for name in ("fair", "fits"):
            await router.answer(an_ask(model=f"outlay/{name}"))
    (judged,), (matched,) = named(exporter, "chat big"), named(exporter, "score fits")
    assert (judged.kind, matched.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    expected = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "big", "outlay.verifier": "fair", "outlay.answers": 1}
    assert expected.items() <= said(judged).items()
    assert "outlay.backend" not in said(judged)


async def test_no_text_is_in_a_trace_unless_asked_for_and_then_redacted() -> None:
    """Neither of the prompt nor of the answer nor of a failure."""
    for prompts in (False, True):
        router = a_router(scripted("small", "the secret answer", price=SMALL))
        with traced(router, prompts=prompts) as exporter:
            await router.answer(an_ask("a secret question of ann@example.org"))
            with pytest.raises(UnknownModel):
                await router.answer(an_ask("x", model="a secret model"))
        shown = " ".join(span.to_json() for span in exporter.get_finished_spans())
        assert "secret answer" not in shown
        assert "secret model" not in shown
        assert "ann@example.org" not in shown
        assert ("secret question" in shown) is prompts
        if prompts:
            messages = json.loads(said(named(exporter, "chat outlay/")[0])["gen_ai.input.messages"])
            assert messages == [{"role": "user", "parts": [{"type": "text", "content": "a secret question of [email]"}]}]


async def test_failures_are_errors_of_the_span_and_a_clients_mistake_is_not() -> None:
    """A backend that fails marks its call, its plan and the request; an unknown model only says what it was."""
    router = a_router(scripted("small", fail_every=1, price=SMALL), scripted("large", fail_every=1, price=LARGE))
    with traced(router) as exporter:
        with pytest.raises(BackendFailed):
            await router.answer(an_ask())
        with pytest.raises(UnknownModel):
            await router.answer(an_ask(model="none"))
    call, plan, top, mistaken = (named(exporter, name)[-1] for name in ("chat small", "plan ", "chat outlay/", "chat"))
    assert [span.status.status_code for span in (call, plan, top)] == [StatusCode.ERROR] * 3
    assert said(call)["error.type"] == "BackendUnavailable"
    assert said(top)["error.type"] == "BackendFailed"
    assert (mistaken.name, mistaken.status.status_code, said(mistaken)["error.type"]) == ("chat", StatusCode.UNSET, "UnknownModel")


async def test_a_client_that_leaves_is_no_error_and_has_a_trace() -> None:
    """With the call that was cut off."""
    router = a_router(scripted("small", never=True, price=SMALL), scripted("large", never=True, price=LARGE))
    with traced(router) as exporter:
        task = asyncio.create_task(router.answer(an_ask()))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    (top,) = named(exporter, "chat outlay/")
    assert (top.status.status_code, said(top)["outlay.outcome"]) == (StatusCode.UNSET, "cancelled")
    assert [said(span)["outlay.outcome"] for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT] == ["cancelled"]


async def test_an_answer_from_the_cache_is_a_span_without_calls() -> None:
    router = Router(a_router(cache=MemoryCache()).parts)
    with traced(router) as exporter:
        await router.answer(an_ask())
        before = len(exporter.get_finished_spans())
        await router.answer(an_ask())
    top = exporter.get_finished_spans()[-1]
    assert before == 0  # nothing is made while requests go on
    assert (said(top)["outlay.cached"], top.name) == (True, "chat outlay/balanced")


# --- whose trace it is --------------------------------------------------------------------------------------------------


async def test_a_clients_trace_is_gone_on_with_and_its_word_on_sampling_holds() -> None:
    """Below the client's span; not sampled: no spans; what is no traceparent begins a trace of its own, of which `sample` is kept."""
    router = a_router()
    with traced(router, sample=0.0) as exporter:
        await router.answer(an_ask(traceparent=CLIENTS))
        for other in (CLIENTS[:-1] + "0", "", "garbage", CLIENTS.replace("00-", "ff-", 1), f"00-{'0' * 32}-{'0' * 16}-01"):
            await router.answer(an_ask(traceparent=other))
    (top,) = named(exporter, "chat outlay/")
    assert top.context is not None
    assert top.parent is not None
    assert (f"{top.context.trace_id:032x}", f"{top.parent.span_id:016x}", top.parent.is_remote) == (*CLIENTS.split("-")[1:3], True)


async def test_the_share_of_others_is_kept() -> None:
    """A half of two hundred, within five standard errors."""
    router = a_router()
    with traced(router, sample=0.5) as exporter:
        for i in range(200):
            await router.answer(an_ask(f"question {i}"))
    assert 65 <= len(named(exporter, "chat outlay/")) <= 135


def remote(stub: StubServer, model: str = "words", **more: Any) -> Config:
    """A configuration whose backend is the stub."""
    backends = {"small": {"model": model, "base_url": stub.url, "api_key": "sk-secret"}}
    policies = {"balanced": {"rules": [{"otherwise": {"best_of_n": {"backend": "small", "n": 2, "select": "majority"}}}]}}
    return Config.model_validate({"backends": backends, "policies": policies, **more})


async def test_a_server_that_is_asked_joins_the_trace_at_the_calls_span() -> None:
    """Plain and streamed; the call's span names whom it asked, and what the server called the model that answered."""
    async with StubServer() as stub:
        router = assemble(remote(stub))
        with traced(router) as exporter:
            ask = parse(json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode(), {"traceparent": CLIENTS}).ask
            await router.answer(ask)
            await router.answer(an_ask(model="small"), _nowhere)
        await router.parts.aclose()
    calls = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    sent = [headers["traceparent"] for headers in stub.headers]
    assert sent == [f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}-01" for call in calls if call.context]
    assert sent[0].split("-")[1] == CLIENTS.split("-")[1] != sent[1].split("-")[1]
    port = int(stub.url.split(":")[2].split("/")[0])
    assert [said(call)["gen_ai.response.model"] for call in calls] == ["words", "stub"]  # as it names itself, plain and streamed
    whom = {"server.address": "127.0.0.1", "server.port": port, "gen_ai.provider.name": "openai", "gen_ai.request.model": "words"}
    for call in calls:
        assert whom.items() <= said(call).items()
        assert "sk-secret" not in call.to_json()


async def test_a_server_behind_litellm_joins_the_trace_too() -> None:
    """Plain and streamed, at the call's own span, beside a header of the operator's; without tracing that goes alone."""
    async with StubServer() as stub:
        params = {"extra_headers": {"x-team": "red"}}
        small = {"kind": "litellm", "model": "openai/words", "api_base": stub.url, "api_key": "sk-secret", "litellm_params": params}
        router = assemble(remote(stub, backends={"small": small}))
        with traced(router) as exporter:
            await router.answer(an_ask(model="small", traceparent=CLIENTS))
            await router.answer(an_ask(model="small"), _nowhere)
        router.online = Online()
        await router.answer(an_ask(model="small", traceparent=CLIENTS))
        await router.aclose()
        await import_litellm().close_litellm_async_clients()
    calls = [span.context for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    sent = [headers.get("traceparent") for headers in stub.headers]
    assert sent == [*(f"00-{call.trace_id:032x}-{call.span_id:016x}-01" for call in calls if call), None]
    assert [headers["x-team"] for headers in stub.headers] == ["red"] * 3


async def _nowhere(_: Any) -> None: ...


async def test_without_tracing_nothing_is_sent_upstream() -> None:
    """A client's header goes no further than here."""
    async with StubServer() as stub:
        router = assemble(remote(stub))
        await router.answer(an_ask(traceparent=CLIENTS))
        await router.aclose()
    assert "traceparent" not in stub.headers[0]


def test_without_tracing_opentelemetry_is_not_imported() -> None:
    """It need not be there."""
    code = "import sys, router.assembly, router.app; print(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


async def test_requests_at_the_same_time_keep_their_traces_apart() -> None:
    """Each server call carries the trace of the request that it was made for; a trace holds one request's decision and no other's."""
    async with StubServer() as stub:
        router = assemble(remote(stub))
        with traced(router) as exporter:
            asks = [an_ask(f"question {i}", traceparent=f"00-{i + 1:032x}-{i + 1:016x}-01") for i in range(20)]
            await asyncio.gather(*(router.answer(ask) for ask in asks))
        await router.parts.aclose()
    for body, headers in zip(stub.requests, stub.headers, strict=True):
        assert int(headers["traceparent"].split("-")[1], 16) == int(body["messages"][0]["content"].split()[1]) + 1
    for i, ask in enumerate(asks):
        mine = [span for span in exporter.get_finished_spans() if span.context and span.context.trace_id == i + 1]
        assert [said(span)["outlay.decision_id"] for span in mine if span.kind is SpanKind.SERVER] == [ask.id]
        assert not any(other.id in span.to_json() for span in mine for other in asks if other is not ask)


# --- a collector over HTTP ----------------------------------------------------------------------------------------------


async def test_a_gateway_sends_its_traces_to_a_collector_as_configured() -> None:
    """A real client, a real server, OTLP over HTTP; `service_name` is the resource's."""
    with Collector() as collector:
        async with StubServer() as stub:
            live = Live(remote(stub, tracing={"otlp": collector.url, "service_name": "edge"}))
            async with served(live) as url, openai.AsyncOpenAI(base_url=url, api_key="none") as client:
                messages: Any = [{"role": "user", "content": "hi"}]
                await client.chat.completions.create(model="auto", messages=messages, extra_headers={"traceparent": CLIENTS})
        assert collector.resources[0]["service.name"] == "edge"
        assert {span.trace_id.hex() for span in collector.spans} == {CLIENTS.split("-")[1]}
        assert {span.name for span in collector.spans} == {"chat outlay/balanced", "plan best_of_n", "chat words"}


async def test_a_collector_that_dies_or_hangs_or_refuses_harms_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers go on; what is lost is counted, told to readiness, and shown to Prometheus; the end does not hang."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    for how in ("dies", "hangs", "refuses"):
        with Collector(status=400 if how == "refuses" else 200) as collector:
            live = Live(fleet(tracing={"otlp": collector.url, "queue": 4}))
            if how == "dies":
                await live.answer(an_ask())
                await asyncio.to_thread(until, lambda collector=collector: bool(collector.spans))  # type: ignore[misc]
                collector.die()
            if how == "hangs":
                collector.go_on.clear()
            for i in range(60):
                assert (await live.answer(an_ask(f"question {i}"))).candidates[0].text == "small"
            assert value(live.router, "outlay_traces_total", outcome="dropped") > 40
            tracing = live.router.online.tracing
            assert tracing is not None
            await asyncio.to_thread(until, lambda tracing=tracing: tracing.writer.counts["failed"] > 0)  # type: ignore[misc]
            assert "traces lost so far" in (await live.ready())["tracing"]
            await live.aclose()


def fleet(**more: Any) -> Config:
    """Without any server."""
    policies = {"balanced": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]}}
    return Config.model_validate({"backends": {"small": {"kind": "scripted", "answers": ["small"]}}, "policies": policies, **more})


async def test_tracing_outlives_a_reload_and_a_change_of_it_needs_a_restart() -> None:
    """Traces of both configurations arrive."""
    with Collector() as collector:
        tracing = {"otlp": collector.url}
        live = Live(fleet(tracing=tracing))
        await live.answer(an_ask())
        await live.use(fleet(tracing=tracing, cache={"url": "memory://"}))
        await live.answer(an_ask())
        await live.use(fleet(tracing={**tracing, "sample": 0.5}))
        assert live.waiting_for_restart() == ["tracing"]
        await live.aclose()
        assert sum(span.name == "chat outlay/balanced" for span in collector.spans) == 2


async def test_the_header_of_a_request_is_read_by_every_api(tmp_path: Path) -> None:
    """Chat completions, responses, messages."""
    router, seen = a_router(), list[Ask]()
    answer = router.answer

    async def noting(ask: Ask, sink: Any = None) -> Any:
        seen.append(ask)
        return await answer(ask, sink)

    router.answer = noting  # type: ignore[method-assign]
    async with served(router) as url, httpx.AsyncClient(headers={"traceparent": CLIENTS}) as http:
        messages = [{"role": "user", "content": "hi"}]
        await http.post(f"{url}/chat/completions", json={"messages": messages})
        await http.post(f"{url}/responses", json={"input": "hi"}, timeout=60)
        await http.post(f"{url}/messages", json={"messages": messages, "max_tokens": 9}, timeout=60)
    assert [ask.traceparent for ask in seen] == [CLIENTS] * 3
