"""An OpenAI-compatible server in this process, that answers, fails and misbehaves by the name of the model asked for.

    async with StubServer() as stub:
        backend = OpenAIBackend("small", OpenAIOptions(model="words", base_url=stub.url))

`words` (and any unknown name) answers with words drawn by the seed, obeys n, stop and max_tokens, and streams; tokens are words.
`echo` answers with the last message. The others are below, in `StubServer._behaviours`.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

Body = dict[str, Any]
VOCABULARY = ["river", "stone", "lamp", "green", "seven", "cloud", "paper", "north", "wheel", "apple", "quiet", "storm"]
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Berlin"}'}}


def free_port() -> int:
    """One at which nobody answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class StubServer:
    """`requests` and `headers` hold what was asked; `started` and `disconnected` are set by the `slow` models."""

    def __init__(self) -> None:
        self.requests: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.started, self.disconnected, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._behaviours: dict[str, Callable[[web.Request, Body], Coroutine[Any, Any, web.StreamResponse]]] = {
            "slow": self._slow,  # answers when `release` is set; `disconnected` if the client goes first
            "slow-stream": self._slow_stream,  # two words, then the same
            "cut": self._cut,  # closes the connection after two words, or in the middle of a plain answer
            "html": self._html,
            "bad-json": self._bad_json,
            "empty": self._empty,  # no choices
            "one-choice": self._one_choice,  # whatever n says
            "no-usage": self._no_usage,
            "lying-usage": self._lying_usage,  # minus a thousand tokens
            "tools": self._tools,  # a tool call, in pieces when streamed
            "odd-fields": self._odd_fields,  # reasoning, refusal and the stop string, as vLLM and others send them
            "error-event": self._error_event,  # an error in mid-stream
            "plain-only": self._plain_only,  # does not know stream
            "flood": self._flood,  # a line that does not end
            "caching": self._words,  # as `words`; all tokens but one of the prompt were read from a cache, as OpenAI and vLLM say it
            "caching-deepseek": self._words,  # the same, as DeepSeek says it
            "caching-lies": self._words,  # more cached than there was to read
            "paid": self._paid,  # the usage has a cost
        }

    async def __aenter__(self) -> StubServer:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.1)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.connections.add(request.transport)
        if status := re.fullmatch(r"status-(\d+)", body["model"]):
            return _error(int(status[1]), dict(request.headers))
        return await self._behaviours.get(body["model"], self._words)(request, body)

    # --- well-behaved ---------------------------------------------------------------------------------------------

    async def _words(self, request: web.Request, body: Body) -> web.StreamResponse:
        choices = [_draw(body, index) for index in range(body.get("n") or 1)]
        if body.get("stream"):
            return await _send(request, [*_deltas(choices), *_usage_event(body, choices), "[DONE]"])
        return web.json_response(_completion(body, choices))

    async def _paid(self, request: web.Request, body: Body) -> web.StreamResponse:
        answer = _completion(body, [_draw(body, 0)])
        answer["usage"]["cost"] = 0.25
        return web.json_response(answer)

    async def _tools(self, request: web.Request, body: Body) -> web.StreamResponse:
        if not body.get("stream"):
            message = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
            return web.json_response(_completion(body, [{"message": message, "finish_reason": "tool_calls", "words": 3}]))
        name = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        pieces = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"city"', ': "Berlin"}')]
        events = [_event({"role": "assistant", "content": None}), *(_event({"tool_calls": [p]}) for p in [name, *pieces])]
        return await _send(request, [*events, _event({}, finish_reason="tool_calls"), "[DONE]"])

    async def _odd_fields(self, request: web.Request, body: Body) -> web.StreamResponse:
        message = {"content": "5", "reasoning_content": "two and three", "refusal": None}
        if not body.get("stream"):
            choice = {"message": {"role": "assistant", **message}, "finish_reason": "stop", "stop_reason": "\n", "words": 1}
            return web.json_response(_completion(body, [choice]))
        events = [_event({"reasoning_content": "two "}), _event({"reasoning_content": "and three"}), _event({"content": "5"})]
        end = _event({}, finish_reason="stop")
        end["choices"][0]["stop_reason"] = "\n"
        return await _send(request, [*events, end, "[DONE]"])

    async def _one_choice(self, request: web.Request, body: Body) -> web.StreamResponse:
        return await self._words(request, {**body, "n": 1})

    async def _plain_only(self, request: web.Request, body: Body) -> web.StreamResponse:
        return await self._words(request, {**body, "stream": False})

    # --- not so well-behaved --------------------------------------------------------------------------------------

    async def _no_usage(self, request: web.Request, body: Body) -> web.StreamResponse:
        choices = [_draw(body, 0)]
        if body.get("stream"):
            return await _send(request, [*_deltas(choices), "[DONE]"])
        return web.json_response({"choices": _completion(body, choices)["choices"]})

    async def _lying_usage(self, request: web.Request, body: Body) -> web.StreamResponse:
        usage = {"prompt_tokens": -1000, "completion_tokens": 1}
        return web.json_response({**_completion(body, [_draw(body, 0)]), "usage": usage})

    async def _slow(self, request: web.Request, body: Body) -> web.StreamResponse:
        await self._wait()
        return await self._words(request, body)

    async def _slow_stream(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = await _open(request)
        for word in ("river", " stone"):
            await _write(response, _event({"content": word}))
        await self._wait()
        for event in (_event({}, finish_reason="stop"), "[DONE]"):
            await _write(response, event)
        return response

    async def _wait(self) -> None:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.disconnected.set()
            raise

    async def _cut(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = await _open(request)
        await _write(response, _event({"content": "river"}))
        await _write(response, _event({"content": " stone"}))
        assert request.transport is not None
        request.transport.close()
        return response

    async def _html(self, request: web.Request, body: Body) -> web.StreamResponse:
        return web.Response(text="<html>Welcome to nginx</html>", content_type="text/html")

    async def _bad_json(self, request: web.Request, body: Body) -> web.StreamResponse:
        if body.get("stream"):
            return await _send(request, ['{"choices": [', "[DONE]"])
        return web.Response(text='{"choices": [', content_type="application/json")

    async def _empty(self, request: web.Request, body: Body) -> web.StreamResponse:
        if body.get("stream"):
            return await _send(request, ["[DONE]"])
        return web.json_response(_completion(body, []))

    async def _error_event(self, request: web.Request, body: Body) -> web.StreamResponse:
        if not body.get("stream"):
            return web.json_response({"error": {"message": "out of memory"}})
        return await _send(request, [_event({"content": "river"}), {"error": {"message": "out of memory"}}])

    async def _flood(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = await _open(request)
        while True:
            await response.write(b"x" * (1 << 20))


def _error(status: int, headers: dict[str, str]) -> web.Response:
    """An error as OpenAI sends it; it repeats the key, as careless servers do."""
    message = f"no, because {headers.get('Authorization', 'of you')}"
    retry = {"Retry-After": "7"} if status in (429, 503) else {}
    location = {"Location": "http://127.0.0.1:9/elsewhere"} if 300 <= status < 400 else {}
    return web.json_response({"error": {"message": message, "code": f"code_{status}"}}, status=status, headers={**retry, **location})


def _draw(body: Body, index: int) -> dict[str, Any]:
    """A choice: words by the seed, cut as the body says."""
    words = [w if i == 0 else f" {w}" for i, w in enumerate(_words_of(body, index))]
    longest, reason = body.get("max_tokens") or body.get("max_completion_tokens"), "stop"
    if longest is not None and len(words) > longest:
        words, reason = words[:longest], "length"
    text = "".join(words)
    ends = [text.find(stop) for stop in body.get("stop") or () if stop in text]
    text, reason = (text[: min(ends)], "stop") if ends else (text, reason)
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": reason, "words": len(text.split())}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": word, "logprob": -0.25} for word in text.split()]}
    return choice


def _words_of(body: Body, index: int) -> list[str]:
    last = str(body["messages"][-1]["content"])
    if body["model"] == "echo":
        return last.split(" ")
    return random.Random(f"{body.get('seed')}/{index}/{last}").choices(VOCABULARY, k=8)


def _completion(body: Body, choices: list[dict[str, Any]]) -> dict[str, Any]:
    sent = [{k: v for k, v in choice.items() if k != "words"} | {"index": i} for i, choice in enumerate(choices)]
    usage = _usage(body, choices)
    return {"id": "stub", "object": "chat.completion", "created": 0, "model": body["model"], "choices": sent, "usage": usage}


def _usage(body: Body, choices: list[dict[str, Any]]) -> dict[str, Any]:
    tokens_in = sum(len(str(message["content"]).split()) for message in body["messages"])
    tokens_out = sum(choice["words"] for choice in choices)
    cached = {
        "caching": {"prompt_tokens_details": {"cached_tokens": tokens_in - 1}},
        "caching-deepseek": {"prompt_cache_hit_tokens": tokens_in - 1, "prompt_cache_miss_tokens": 1},
        "caching-lies": {"prompt_tokens_details": {"cached_tokens": tokens_in + 1000}},
    }
    total = tokens_in + tokens_out
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": total, **cached.get(body["model"], {})}


def _event(delta: Body, index: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "stub", "object": "chat.completion.chunk", "created": 0, "model": "stub", "choices": [choice]}


def _deltas(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of all choices: a role, a word each, an end."""
    events = []
    for index, choice in enumerate(choices):
        words = re.findall(r"\s*\S+|\s+$", choice["message"]["content"])
        events += [_event({"role": "assistant", "content": ""}, index)]
        for word in words:
            event = _event({"content": word}, index)
            if "logprobs" in choice:
                event["choices"][0]["logprobs"] = {"content": [{"token": word, "logprob": -0.25}]}
            events.append(event)
        events += [_event({}, index, choice["finish_reason"])]
    return events


def _usage_event(body: Body, choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = (body.get("stream_options") or {}).get("include_usage")
    return [{**_event({}), "choices": [], "usage": _usage(body, choices)}] if asked else []


async def _open(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def _send(request: web.Request, events: list[Any]) -> web.StreamResponse:
    response = await _open(request)
    for event in events:
        await _write(response, event)
    return response


async def _write(response: web.StreamResponse, event: Any) -> None:
    data = event if isinstance(event, str) else json.dumps(event)
    await response.write(f"data: {data}\n\n".encode())
