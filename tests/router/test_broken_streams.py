"""Streams that break: with their first words, which nobody has read yet, and after them. A server on a socket of its own breaks them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from adapters.backends import BackendOptions, build_backends
from adapters.scripted import scripted
from policies.policy import Policy
from router.options import ServerOptions
from router.parts import Parts
from router.pipeline import Router
from tests.adapters.stub_server import StubServer
from tests.router.serving import served
from tests.router.test_pipeline import SMALL, Probe, a_router

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
ROLE, FIRST, SECOND = ({"role": "assistant", "content": ""}, {"content": "amber"}, {"content": " beacon"})
ERROR = b'data: {"error": {"message": "out of memory"}}\n\n'
FAILED = "backend_failed"
"""The code of the error event of a stream that breaks."""
PATHS: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "hello there"}]},
    "/responses": {"input": "hello there"},
    "/messages": {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 20},
}


def events(*deltas: dict[str, Any]) -> bytes:
    """As a server streams them."""
    chunks = [{"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunked(body: bytes) -> bytes:
    """A piece of a body whose length is not known."""
    return b"%x\r\n%s\r\n" % (len(body), body)


WORDS = events(ROLE, FIRST, SECOND)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WAYS = {
    "cut": CHUNKED + chunked(WORDS),
    "cut within its length": HEAD + b"Content-Length: 9999\r\n\r\n" + WORDS,
    "cut where the end is all that says so": HEAD + b"Connection: close\r\n\r\n" + WORDS,
    "an error": CHUNKED + chunked(WORDS + ERROR),
    "an end without its end": CHUNKED + chunked(WORDS) + b"0\r\n\r\n",
}
"""What is written at once, before the connection is closed."""


class Breaking:
    """A server that answers each request with the same bytes in one write, and closes it; where there is more, once `more` is set."""

    def __init__(self, at_once: bytes, later: bytes | None = None) -> None:
        self.at_once, self.later, self.more, self.asked = at_once, later, asyncio.Event(), 0

    async def __aenter__(self) -> Breaking:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.more.set()
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        self.asked += 1
        writer.write(self.at_once)
        if self.later is not None:
            await self.more.wait()
            writer.write(self.later)
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)  # now, where closing would end it a turn of the loop later
        writer.close()


def place(url: str, model: str = "words", **options: Any) -> dict[str, Any]:
    return {"model": model, "base_url": url, "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}, **options}


def gateway(**backends: Any) -> Router:
    """Answers of `large`, of which each is final, and so streamed while it comes."""
    built = build_backends(TypeAdapter(dict[str, BackendOptions]).validate_python(backends))
    policy = TypeAdapter(Policy).validate_python({"rules": [{"otherwise": {"single": {"backend": "large"}}}]})
    return Router(Parts(backends=built, policies={"p": policy}, default_policy="p"))


async def asked(url: str, path: str = "/chat/completions", model: str = "auto") -> tuple[httpx.Response, dict[str, Any]]:
    """A streamed answer, and the decision behind it."""
    async with httpx.AsyncClient(timeout=60) as http:
        response = await http.post(url + path, json={"model": model, "stream": True, **PATHS[path]})
        return response, (await http.get(f"{url}/decisions/{response.headers['x-outlay-decision-id']}")).json()


async def read(url: str, path: str, when: str, then: asyncio.Event) -> str:
    """All of a stream; the event is set once this was read of it."""
    got, body = "", {"model": "auto", "stream": True, **PATHS[path]}
    async with httpx.AsyncClient(timeout=60) as http, http.stream("POST", url + path, json=body) as response:
        assert response.status_code == 200
        async for text in response.aiter_text():
            got += text
            if when in got:
                then.set()
    return got


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as server:
        yield server


# --- words that nobody has read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_that_breaks_with_its_first_words_is_taken_over(stub: StubServer, way: str, path: str) -> None:
    """The client reads the fallback's answer alone, as if the first had failed before its first word; what that had cost is on the bill."""
    async with Breaking(WAYS[way]) as broken:
        router = gateway(large=place(broken.url, attempts=1, fallbacks=["other"]), other=place(stub.url))
        async with served(router) as url:
            response, block = await asked(url, path)
    assert (response.status_code, broken.asked, len(stub.requests)) == (200, 1, 1)
    assert not [word for word in ("amber", "beacon", FAILED) if word in response.text]
    (call,) = block["calls"]
    assert [(one["kind"], one["outcome"]) for one in call["attempts"]] == [("first", "BackendMalformed"), ("fallback", "ok")]
    assert all(one["output_tokens"] > 0 for one in call["attempts"])
    assert block["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in call["attempts"]))
    assert block["first_token_s"] > call["attempts"][0]["latency_s"]


@pytest.mark.parametrize("path", PATHS)
async def test_where_nothing_is_left_the_error_has_its_own_status(path: str) -> None:
    """502 in the API's shape, not a stream that begins and breaks; the broken call is on the bill."""
    async with Breaking(WAYS["cut"]) as broken, served(gateway(large=place(broken.url, attempts=1))) as url:
        response, block = await asked(url, path)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "backend_failed")
    assert block["cost_usd"] == block["calls"][0]["cost_usd"] > 0
    assert block["first_token_s"] is None


async def test_another_deployment_answers_in_its_place(stub: StubServer) -> None:
    """At once, whichever of the two is asked first; behind a fallback chain, too."""
    async with Breaking(WAYS["cut"]) as broken:
        places = {"bad": place(broken.url), "good": place(stub.url)}
        large = {"deployments": places, "allowed_fails": 1000, "fallbacks": ["other"], "fallback_on": ["failure", "content_filter"]}
        async with served(gateway(large=large, other=place("http://127.0.0.1:9/v1"))) as url:
            while not broken.asked:
                response, block = await asked(url)
                assert (response.status_code, "amber" in response.text, FAILED in response.text) == (200, False, False)
    assert [(one["deployment"], one["kind"]) for one in block["calls"][0]["attempts"]] == [("large/bad", "first"), ("large/good", "retry")]


@pytest.mark.parametrize("kind", ["of a server", "of this process"])
async def test_the_policys_next_plan_answers_in_its_place(kind: str) -> None:
    """With no fallback configured, the policy decides again; a backend that is in no pool fails by the same rule."""
    async with Breaking(WAYS["cut"]) as broken:
        here = scripted("small", "amber beacon candle", fail_every=1, fail_after_tokens=2, price=SMALL)
        there = build_backends(TypeAdapter(dict[str, BackendOptions]).validate_python({"small": place(broken.url, attempts=1)}))["small"]
        async with served(a_router(here if kind == "of this process" else there, probe=Probe(9.0))) as url:
            response, block = await asked(url)
    assert (response.status_code, "amber" in response.text, FAILED in response.text) == (200, False, False)
    assert "".join(re.findall(r'"content":"([^"]+)"', response.text)) == "the right one"
    assert [action.get("error") for action in block["actions"]] == [block["actions"][0]["error"], None]
    assert block["degraded"] == ["backend:small"]


async def test_what_went_out_before_the_words_contradicts_nothing(stub: StubServer) -> None:
    """A role and comments: the stream goes on with the other's words, and has one beginning and one end."""
    async with Breaking(b"", WAYS["cut"]) as broken:
        router = gateway(large=place(broken.url, attempts=1, fallbacks=["other"]), other=place(stub.url))
        async with served(router, ServerOptions(first_event_s=0, keep_alive_s=0.01)) as url:
            got = await read(url, "/chat/completions", ": working", broken.more)
    chunks = [json.loads(line[6:])["choices"][0] for line in got.splitlines() if line.startswith("data: {")]
    assert [chunk["delta"].get("role") for chunk in chunks].count("assistant") == 1
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["stop"]
    assert "amber" not in got
    assert len("".join(chunk["delta"].get("content", "") for chunk in chunks).split()) == 8


# --- words that were read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_words_that_were_read_are_not_contradicted(stub: StubServer, path: str) -> None:
    """The break comes once the client has read them: the stream ends with an error event, and nobody else is asked."""
    async with Breaking(CHUNKED + chunked(WORDS), chunked(ERROR)) as broken:
        router = gateway(large=place(broken.url, fallbacks=["other"]), other=place(stub.url))
        async with served(router) as url:
            got = await read(url, path, "beacon", broken.more)
    assert "out of memory" in got
    assert (broken.asked, stub.requests) == (1, [])
