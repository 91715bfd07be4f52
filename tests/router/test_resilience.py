"""Pools and fallbacks in a whole request: who served is said, all is paid, no limit is overrun, and no secret comes out."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from adapters.backends import BackendOptions, build_backends
from adapters.errors import BackendTimeout
from adapters.options import Resilience
from adapters.pool import Pool
from adapters.types import ChatRequest, Delta
from policies.policy import Policy
from router.errors import BackendFailed, RouterError
from router.job import Job
from router.keys import Key
from router.parts import Parts
from router.pipeline import Router
from router.pipeline_types import Ask, Sink
from router.purse import Purse
from router.run import Limits, Run
from tests.adapters.stub_server import StubServer, free_port
from tests.adapters.test_pool import Played, Time
from tests.router.serving import served

CANARY = "sk-canary-4f1d9e"
PRICE = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
BODY = {"model": "large", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 20}
ASKED = ChatRequest(messages=({"role": "user", "content": "hello there"},), max_tokens=20)


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as server:
        yield server


def place(stub: StubServer, model: str, **options: Any) -> dict[str, Any]:
    return {"model": model, "base_url": stub.url, "price": PRICE, "api_key": CANARY, **options}


def gateway(backends: dict[str, Any]) -> Router:
    options = TypeAdapter(dict[str, BackendOptions]).validate_python(backends)
    policy = TypeAdapter(Policy).validate_python({"rules": [{"otherwise": {"single": {"backend": "large"}}}]})
    return Router(Parts(backends=build_backends(options), policies={"p": policy}, default_policy="p"))


async def nowhere(_: Delta) -> None: ...


# --- who served, and what it cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_says_who_gave_it_and_costs_what_all_attempts_cost(stub: StubServer, stream: bool) -> None:
    """Retry and fallback stand in the decision block by deployment; the sum of the attempts is the call's, and the request's."""
    large = {"deployments": {"eu": place(stub, "status-500"), "us": place(stub, "status-503")}, "fallbacks": ["other"]}
    async with served(gateway({"large": large, "other": place(stub, "words")})) as url, httpx.AsyncClient() as http:
        response = await http.post(f"{url}/chat/completions", json={**BODY, "stream": stream})
        found = await http.get(f"{url}/decisions/{response.headers['x-outlay-decision-id']}")
    (call,) = found.json()["calls"]
    assert [(one["kind"], one["outcome"]) for one in call["attempts"]] == [
        ("first", "BackendUnavailable"),
        ("retry", "BackendUnavailable"),
        ("fallback", "ok"),
    ]
    assert {one["deployment"] for one in call["attempts"]} == {"large/eu", "large/us", "other"}
    assert call["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in call["attempts"]))
    assert found.json()["cost_usd"] == call["cost_usd"] > 0
    assert found.json()["degraded"] == ["fallback:other"]
    if not stream:
        assert response.headers["x-outlay-attempted-fallbacks"] == "1"


async def test_overload_of_all_is_told_with_the_time_to_come_back(stub: StubServer) -> None:
    """A circuit that is open answers at once, with 503 and Retry-After, and /ready says which backend is left alone."""
    router = gateway({"large": place(stub, "status-500", allowed_fails=1, cooldown_s=20, attempts=1)})
    async with served(router) as url, httpx.AsyncClient() as http:
        statuses = [(await http.post(f"{url}/chat/completions", json=BODY)) for _ in range(3)]
        ready = await http.get(url.removesuffix("/v1") + "/ready")
    assert [response.status_code for response in statuses] == [503, 503, 503]
    assert (len(stub.requests), statuses[-1].headers["retry-after"]) == (1, "20")
    assert ready.json()["components"]["backend:large"].startswith("left alone after failures")


async def test_a_client_that_goes_cancels_its_call_upstream_at_once(stub: StubServer) -> None:
    """The provider's connection is closed while it still works, and the prompt is on the bill."""
    router = gateway({"large": place(stub, "slow")})
    async with served(router) as url, httpx.AsyncClient() as http:
        async with http.stream("POST", f"{url}/chat/completions", json={**BODY, "stream": True}) as response:
            id = response.headers["x-outlay-decision-id"]
            await stub.started.wait()
        await stub.disconnected.wait()
        while (block := await router.decision(id)) is None:
            await http.get(f"{url}/models")
    (call,) = block["calls"]
    assert (call["outcome"], call["attempts"][0]["outcome"]) == ("cancelled", "cancelled")
    assert call["cost_usd"] == call["attempts"][0]["cost_usd"] > 0


class Unread:
    """A client that is sent nothing before the end."""

    async def __call__(self, delta: Delta) -> None: ...

    def take_back(self) -> bool:
        return True


@pytest.mark.parametrize(("model", "more"), [("words", {}), ("status-500", {"attempts": 2}), ("cut", {"fallbacks": ["other"]})])
@pytest.mark.parametrize("sink", [None, nowhere, Unread()], ids=["plain", "read", "unread"])
async def test_a_request_that_is_over_is_freed_at_once(stub: StubServer, model: str, more: dict[str, Any], sink: Sink | None) -> None:
    """Answered, failed after retries, cut off: nothing of it waits for the garbage collector, which comes late under load."""
    router = gateway({"large": place(stub, model, **more), "other": place(stub, "status-500")})

    async def asked() -> None:
        with contextlib.suppress(RouterError):
            await router.answer(Ask(ASKED, "large"), sink)

    await asked()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await asked()
        assert not [one for one in gc.get_objects() if type(one) is Job]
    finally:
        gc.enable()
        await router.aclose()


# --- what the log says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_failures_that_others_made_good_are_in_the_log(stub: StubServer, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    """Each deployment and each cause once, with the id of the first request, and after a minute with how often; no word of others."""
    large = {"deployments": {"eu": place(stub, "status-500"), "us": place(stub, "status-502")}, "fallbacks": ["other"], "allowed_fails": 99}
    now, sink = [0.0], nowhere if stream else None
    router = Router(gateway({"large": large, "other": place(stub, "words")}).parts, clock=lambda: now[0])
    ids = list[str]()
    for now[0] in (0.0, 30.0, 59.0, 61.0):
        outcome = await router.answer(Ask(ASKED, "large"), sink)
        ids.append(outcome.id)
    await router.aclose()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split()[0] for line in said] == [ids[0], ids[3]]
    for line, more in zip(said, ("", ", and 2 more since this was last said"), strict=True):
        failed = {f"backend 'large/{name}' failed: BackendUnavailable {status}{more}" for name, status in (("eu", 500), ("us", 502))}
        assert set(line.partition(" ")[2].split("; ")) == failed
    assert not [word for word in ("hello", CANARY, "no, because") if word in caplog.text]


async def test_where_nothing_is_left_the_log_names_the_backend_too(stub: StubServer, caplog: pytest.LogCaptureFixture) -> None:
    """So that an outage is told from a failure that a deployment's neighbour made good; a pool of one is named once."""
    alone = place(stub, "status-500")
    for backend, names in ((alone, ["large"]), ({"deployments": {"eu": alone}}, ["large/eu", "large"])):
        caplog.clear()
        router = gateway({"large": {**backend, "attempts": 2}})
        with pytest.raises(BackendFailed):
            await router.answer(Ask(ASKED, "large"))
        await router.aclose()
        (line,) = caplog.messages
        assert line.partition(" ")[2] == "; ".join(f"backend '{name}' failed: BackendUnavailable 500" for name in names)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
async def test_where_a_dead_backend_is_stands_in_the_log_and_in_nothing_that_a_client_reads(
    caplog: pytest.LogCaptureFixture, path: str, stream: bool
) -> None:
    """The client reads who does not answer; the operator where that is, without what opens the door there."""
    address = f"127.0.0.1:{free_port()}"
    large = {"model": "m", "base_url": f"http://me:{CANARY}@{address}/v1?key={CANARY}", "attempts": 1, "fallbacks": ["other"]}
    router = gateway({"large": large, "other": {"model": "m", "base_url": f"http://{address}/other", "attempts": 1}})
    body = {"input": "hello there"} if path == "/responses" else {"messages": BODY["messages"], "max_tokens": 20}
    async with served(router) as url, httpx.AsyncClient(timeout=60) as http:
        response = await http.post(url + path, json={"model": "large", "stream": stream, **body})
        told = [response.text, str(response.headers)]
        told.append((await http.get(f"{url}/decisions/{response.headers['x-outlay-decision-id']}")).text)
        told += [(await http.get(f"{url}/models")).text, (await http.get(url.removesuffix("/v1") + "/ready")).text]
    assert response.status_code == 503
    assert "backend 'large': no connection (ConnectionRefusedError)" in response.json()["error"]["message"]
    assert not [text for text in told if address in text or "127.0.0.1" in text or '"cause":"Backend' in text]
    lines = [record.getMessage() for record in caplog.records if record.name == "outlay"]
    for name, where in (("large", "v1"), ("other", "other")):
        assert f"backend '{name}' failed: BackendUnavailable (ConnectionRefusedError at http://{address}/{where})" in lines[0]
    assert CANARY not in "".join(lines)


# --- limits -------------------------------------------------------------------------------------------------------------


def a_run(limit_usd: float, *steps: Any, latency_s: float = float("inf"), **options: Any) -> tuple[Run, Played]:
    time = Time()
    played = Played("large", time, *steps)
    pool = Pool("large", [played], Resilience(**options), clock=time, sleep=time.sleep)
    return Run({"large": pool}, {}, Limits(limit_usd, latency_s), clock=time), played


@pytest.mark.parametrize(("limit_usd", "calls"), [(30.0, 1), (59.9, 1), (60.0, 2)])
async def test_a_paid_failure_is_tried_again_only_with_money_for_it(limit_usd: float, calls: int) -> None:
    """One answer may cost $30 at worst (10 tokens in, 20 out); the second attempt needs as much again under the ceiling."""
    run, played = a_run(limit_usd, BackendTimeout("large", "slow"), None)
    if calls == 1:
        with pytest.raises(BackendTimeout):
            await run.generate("large", ASKED)
    else:
        await run.generate("large", ASKED)
    assert (played.calls, run.spent_usd <= limit_usd) == (calls, True)
    assert run._left_usd == limit_usd - run.spent_usd  # nothing stays set aside


async def test_no_pause_is_begun_that_would_outlast_the_deadline() -> None:
    """The failure comes back at once, so that the policy can still ask another backend."""
    for latency_s, calls in ((0.1, 1), (10.0, 2)):
        run, played = a_run(100.0, *[BackendTimeout("large", "slow")] * 2, latency_s=latency_s)
        with pytest.raises(BackendTimeout):
            await run.generate("large", ASKED)
        assert played.calls == calls


async def test_a_fallback_that_the_key_may_not_buy_is_not_bought(stub: StubServer) -> None:
    """A configuration's fallback is no way round a key's list of backends."""
    router = gateway({"large": place(stub, "status-500", attempts=1, fallbacks=["dear"]), "dear": place(stub, "words")})
    free = Ask(ASKED, "large")
    assert (await router.answer(free)).decision["degraded"] == ["fallback:dear"]
    bound = replace(free, purse=Purse(Key(id="0" * 8, digest="0" * 64, name="bound", backends=("large",))))
    with pytest.raises(BackendFailed):
        await router.answer(bound)
    await router.aclose()


# --- secrets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["status-400", "status-401", "status-403", "status-404", "status-429", "status-500", "html", "cut", "words"]
)
async def test_a_key_is_in_no_answer_no_decision_and_no_log(stub: StubServer, caplog: pytest.LogCaptureFixture, model: str) -> None:
    """Servers that repeat the key they got, and all other errors: what leaves the gateway never holds it."""
    caplog.set_level(logging.DEBUG)
    router = gateway(
        {"large": place(stub, model, headers={"x-other": CANARY}, fallbacks=["other"]), "other": place(stub, model, attempts=1)}
    )
    async with served(router) as url, httpx.AsyncClient() as http:
        for stream in (False, True):
            response = await http.post(f"{url}/chat/completions", json={**BODY, "stream": stream})
            id = response.headers.get("x-outlay-decision-id", "none")
            told = [response.text, str(response.headers), (await http.get(f"{url}/decisions/{id}")).text]
            assert not [text for text in told if CANARY in text]
    assert any(CANARY in str(headers) for headers in stub.headers)
    assert CANARY not in caplog.text


async def test_no_upstream_comes_from_a_caller(stub: StubServer) -> None:
    """Addresses, keys and headers in a body are a field like any other for the configured server, or refused; never a destination."""
    async with StubServer() as elsewhere:
        router = gateway({"large": place(stub, "words")})
        names = ("api_base", "base_url", "url", "proxy", "extra_headers", "api_key", "model_list", "fallbacks", "deployments")
        for name in names:
            with contextlib.suppress(RouterError):
                await router.answer(Ask(ASKED.but(extra={name: elsewhere.url}), "large"))
        assert elsewhere.requests == []
        assert all(headers["Authorization"] == f"Bearer {CANARY}" for headers in stub.headers)
        await router.aclose()
