"""Providers that misbehave by a seeded dice, and keep books of every call: `python -m benchmarks.soak.provider --seed 0`.

The name of the model asked for is the provider's; `MOODS` says how each behaves. Tokens are counted by the rule by which the gateway
estimates (four bytes, four tokens around each message), so that a difference between the books is one of what was seen, not of how it was
counted. A call is `confirmed` where its usage went out whole: of it both sides must say the same to the token. Of the others the gateway
can only know what it saw; the provider bills the prompt, and what it had produced.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

QUESTION = re.compile(r"\bq-[a-z]{12}\b")
"""What makes each question one of its own; every answer to it begins with it."""
SERIAL = re.compile(r"\bs-\d+;")
"""What makes each answer one of its own; with its end, so that one that was cut off is not taken for another."""
STORM_S = 10.0
"""A provider is up or down for so long at a time."""
LONGEST = 256
"""Output tokens where the request does not say."""
WORDS = ["river", "stone", "lamp", "green", "seven", "cloud", "paper", "north", "wheel", "apple", "quiet", "storm"]

ROUGH = {"slow": 0.06, "error": 0.05, "busy": 0.02, "hang": 0.01, "malformed": 0.02, "cut": 0.05, "reset": 0.02, "garbage": 0.05}
MOODS: Mapping[str, Mapping[str, float]] = {
    "east": {**ROUGH, "storm": 0.1},
    "west": {**{kind: 2 * chance for kind, chance in ROUGH.items()}, "storm": 0.2},
    "north": ROUGH,
    "large": {**ROUGH, "storm": 0.1},
    "judge": {"slow": 0.02, "error": 0.03, "malformed": 0.02, "hang": 0.005, "garbage": 0.05, "storm": 0.05},
    "spare": {"slow": 0.05, "error": 0.01, "cut": 0.01},
}
"""By provider: the chance of each way to misbehave, and of being down for ten seconds; else it answers."""

GARBAGE: tuple[Any, ...] = (
    None,
    "many",
    {"prompt_tokens": -5, "completion_tokens": 3},
    {"prompt_tokens": "12", "completion_tokens": "7"},
    {"prompt_tokens": 1.5, "completion_tokens": 2.5},
    {"prompt_tokens": 10**30, "completion_tokens": 10**30},
    {"completion_tokens": 7},
    [1, 2],
)


@dataclass
class Bill:
    """One call, as its provider keeps it."""

    question: str
    model: str
    happened: str
    streamed: bool
    tokens_in: int
    longest: int
    """Output tokens that it may come to at most."""
    tokens_out: int = 0
    accepted: bool = False
    """Whether the prompt was read, and so is billed."""
    confirmed: bool = False
    open: bool = True


@dataclass
class Provider:
    """All providers, in one process."""

    seed: int
    bills: list[Bill] = field(default_factory=list)
    calm: bool = False
    """Nothing misbehaves any more."""

    def __post_init__(self) -> None:
        self._chance, self._serials = random.Random(self.seed), itertools.count(1)

    def app(self) -> web.Application:
        """Its endpoints: OpenAI's, and those of whoever plays it."""
        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/books", self._books)
        app.router.add_post("/calm", self._become_calm)
        return app

    async def _books(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(bill) for bill in self.bills])

    async def _become_calm(self, request: web.Request) -> web.Response:
        self.calm = request.query.get("on", "1") == "1"
        return web.Response()

    # --- a call -------------------------------------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = "\n".join(str(message.get("content")) for message in body["messages"])
        found, n = QUESTION.findall(text), int(body.get("n") or 1)
        longest = int(body.get("max_tokens") or LONGEST)
        model, streamed = str(body["model"]), bool(body.get("stream"))
        tokens_in = sum(4 + tokens(message.get("content") or "") for message in body["messages"])
        bill = Bill(found[-1] if found else "", model, self._dice(model, streamed), streamed, tokens_in, n * longest)
        self.bills.append(bill)
        texts = [self._text(body, bill, longest) for _ in range(n)]
        try:
            response: web.StreamResponse = await getattr(self, f"_{bill.happened}")(request, bill, texts)
            return response
        finally:
            bill.open = False

    def _dice(self, model: str, streamed: bool) -> str:
        mood = MOODS[model]
        down = random.Random(f"{self.seed}/{model}/{asyncio.get_running_loop().time() // STORM_S}").random() < mood.get("storm", 0.0)
        if self.calm:
            return "well"
        if down and self._chance.random() < 0.9:
            return "error"
        kinds = {kind: chance for kind, chance in mood.items() if kind != "storm"}
        return self._chance.choices([*kinds, "well"], [*kinds.values(), 1 - sum(kinds.values())])[0]

    def _text(self, body: Mapping[str, Any], bill: Bill, longest: int) -> str:
        if bill.model == "judge":
            return json.dumps({"reason": "as it seems", "score": self._chance.randint(0, 10)})
        serial, words = f"s-{next(self._serials)};", self._chance.choices(WORDS, k=self._chance.randint(4, 30))
        if str(body["messages"][-1].get("content")).startswith("Continue the solution"):  # a step of a search
            return " ".join([serial, *words[:6], self._chance.choice(["", "[done]"])])[: 4 * longest]
        return " ".join([bill.question, serial, f"The answer is {self._chance.randint(1, 4)}.", *words])[: 4 * longest]

    # --- how it may go ------------------------------------------------------------------------------------------------

    async def _well(
        self, request: web.Request, bill: Bill, texts: list[str], pace_s: float = 0.002, usage: Any = ...
    ) -> web.StreamResponse:
        bill.accepted = True
        whole = {"prompt_tokens": bill.tokens_in, "completion_tokens": sum(map(tokens, texts))} if usage is ... else usage
        if bill.streamed:
            response = await _opened(request)
            await self._streamed(response, bill, texts, pace_s)
            for index in range(len(texts)):
                await _event(response, {"index": index, "delta": {}, "finish_reason": "stop"})
            bill.tokens_out = sum(map(tokens, texts))
            await response.write(b"data: " + json.dumps({"choices": [], "usage": whole}).encode() + b"\n\ndata: [DONE]\n\n")
        else:
            await self._produced(bill, texts, pace_s)
            bill.tokens_out = sum(map(tokens, texts))
            response = web.Response(body=_completion(texts, whole), content_type="application/json")
            await response.prepare(request)
            await response.write_eof()
        bill.confirmed = usage is ...
        return response

    async def _slow(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        return await self._well(request, bill, texts, self._chance.uniform(0.03, 0.2))

    async def _garbage(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        return await self._well(request, bill, texts, usage=self._chance.choice(GARBAGE))

    async def _error(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "out of memory"}}, status=self._chance.choice([500, 502, 503]))

    async def _busy(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "slower"}}, status=429, headers={"Retry-After": self._chance.choice(["1", "2"])})

    async def _reset(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _hang(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        bill.accepted = True
        if bill.streamed and self._chance.random() < 0.5:
            await self._streamed(await _opened(request), bill, [text[: len(text) // 2] for text in texts], 0.002)
        await asyncio.sleep(120)
        return web.Response()

    async def _malformed(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        bill.accepted = True
        if bill.streamed:
            response = await _opened(request)
            await self._streamed(response, bill, [text[: len(text) // 2] for text in texts], 0.002)
            await response.write(b'data: {"choices": [{"del\n\n')
            return response
        await self._produced(bill, texts, 0.002)
        return web.Response(body=_completion(texts, None)[:-20], content_type="application/json")

    async def _cut(self, request: web.Request, bill: Bill, texts: list[str]) -> web.StreamResponse:
        bill.accepted = True
        assert request.transport is not None
        if bill.streamed:
            response = await _opened(request)
            await self._streamed(response, bill, [text[: self._chance.randint(0, len(text))] for text in texts], 0.002)
            if self._chance.random() < 0.3:
                await response.write(b'data: {"error": {"message": "the engine died"}}\n\n')
            else:
                await response.write(b'data: {"choices": [{"index": 0, "del')
        else:
            await self._produced(bill, texts, 0.002)
            body = _completion(texts, None)
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
        if self._chance.random() < 0.5:
            request.transport.abort()
        else:
            request.transport.close()
        return response

    # --- parts of it --------------------------------------------------------------------------------------------------

    async def _streamed(self, response: web.StreamResponse, bill: Bill, texts: list[str], pace_s: float) -> None:
        """Word by word, of all choices in turn."""
        made = 0
        for words in itertools.zip_longest(*(re.findall(r"\S+\s*", text) for text in texts)):
            await asyncio.sleep(pace_s)
            for index, word in enumerate(words):
                if word is not None:
                    made += len(word)
                    bill.tokens_out = -(-made // 4)
                    await _event(response, {"index": index, "delta": {"content": word}})

    async def _produced(self, bill: Bill, texts: list[str], pace_s: float) -> None:
        """The same, unseen."""
        made = 0
        for words in itertools.zip_longest(*(re.findall(r"\S+\s*", text) for text in texts)):
            await asyncio.sleep(pace_s)
            made += sum(len(word) for word in words if word is not None)
            bill.tokens_out = -(-made // 4)


def tokens(text: str) -> int:
    """By the rule of four bytes."""
    return -(-len(text.encode()) // 4)


def _completion(texts: list[str], usage: Any) -> bytes:
    choices = [{"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for i, text in enumerate(texts)]
    return json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": choices, "usage": usage}).encode()


async def _opened(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def _event(response: web.StreamResponse, choice: Mapping[str, Any]) -> None:
    await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")


async def serve(seed: int) -> None:
    """Until it is told to stop; says its port first."""
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # that connections break is what it is for
    runner = web.AppRunner(Provider(seed).app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=0)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(options.parse_args().seed))
