"""Clients of every kind, by a seeded dice: what they ask, when they leave, and what each saw. What it means is for `laws.py` to say."""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.soak.answers import Answer, Wrong, read
from benchmarks.soak.provider import QUESTION, SERIAL
from benchmarks.soak.stage import LAST_S, MOST_S, Stage

GRACE_S = 30.0
"""Beyond its deadline a request may take so long to end, on a machine that is busy; later is a hang."""
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
OWNERS = {"red": "red", "crimson": "red", "blue": "blue", "green": "green", "poor": "poor", "last": "last"}
"""By key: whose cache it shares."""


@dataclass
class Seen:
    """One request as its client saw it."""

    kind: str
    key: str
    question: str
    ending: str
    """`answered`, `refused`, `left`; or `wrong`, for `why`."""
    began: float
    seconds: float = 0.0
    status: int = 0
    code: str = ""
    why: str = ""
    texts: tuple[str, ...] = ()
    block: Mapping[str, Any] | None = None

    @property
    def serials(self) -> set[str]:
        """Of every answer in it."""
        return {serial for text in self.texts for serial in SERIAL.findall(text)}


@dataclass
class Clients:
    """All that ask, each time one of the gateways."""

    stage: Stage
    http: aiohttp.ClientSession
    chance: random.Random
    seen: list[Seen] = field(default_factory=list)
    asked: deque[tuple[str, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=200))
    """Key and body of late plain requests, to be asked again."""
    decided: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=500))
    """Key and id of late decisions, to be judged and gone on from."""
    on_end: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.among = self.stage.gateways
        self._kinds: dict[Callable[[], Awaitable[object]], int] = {
            self._plain: 24,
            self._streamed: 18,
            self._several: 8,
            self._translated: 9 * self.stage.whole,
            self._route: 3,
            self._feedback: 5,
            self._look: 3,
            self._equal: 4,
            self._again: 6,
            self._leaver: 10,
            self._malformed: 5,
            self.poor: 5,
            self._named: 4,
            self._gone_on: 3,
        }

    async def ask_until(self, over: Callable[[], bool], concurrency: int) -> None:
        """So many at once, one after the other."""

        async def one() -> None:
            while not over():
                (kind,) = self.chance.choices([*self._kinds], [*self._kinds.values()])
                await kind()

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(one())

    # --- kinds --------------------------------------------------------------------------------------------------------

    async def _plain(self) -> None:
        key, body = self._key(), self._body()
        await self.ask("plain", key, body)
        self.asked.append((key, body))

    async def _streamed(self) -> None:
        await self.ask("stream", self._key(), {**self._body(), "stream": True, **self._maybe({"outlay": {"first_token_ms": 1500}}, 0.2)})

    async def _several(self) -> None:
        await self.ask("n=3", self._key(), {**self._body(), "n": 3, **self._maybe({"stream": True}, 0.4)})

    async def _translated(self) -> None:
        """OpenAI's responses and Anthropic's messages."""
        body, stream = self._body(), self._maybe({"stream": True}, 0.5)
        if self.chance.random() < 0.5:
            text = body["messages"][0]["content"]
            await self.ask("responses", self._key(), {"model": body["model"], "input": text, **stream}, api="responses")
        else:
            await self.ask("messages", self._key(), {**body, "max_tokens": 60, **stream}, api="messages")

    async def _route(self) -> None:
        await self._other("route", self._key(), "POST", "/v1/route", {200}, json=self._body())

    async def _feedback(self) -> None:
        if self.decided:
            key, id = self.chance.choice(self.decided)
            judged = {"decision_id": id, "label": self.chance.randint(0, 1)}
            # While Redis is gone, what it remembered of answers is unknown; what it lost stays so.
            await self._other("feedback", key, "POST", "/v1/feedback", {200, 404, 503}, json=judged)

    async def _look(self) -> None:
        """At a decision of one's own, and at one of another tenant's, which is none."""
        if self.decided:
            key, id = self.chance.choice(self.decided)
            await self._other("decision", key, "GET", f"/v1/decisions/{id}", {200, 404})
            stranger = self.chance.choice([name for name, owner in OWNERS.items() if owner != OWNERS[key]])
            await self._other("another's decision", stranger, "GET", f"/v1/decisions/{id}", {404})

    async def _equal(self) -> None:
        """The same at once, from keys of one tenant and of another; some of them leave."""
        body = {**self._body(), **self._maybe({"stream": True}, 0.4)}
        keys = ["red", "crimson", "red", "blue"]
        leaves = [self.chance.uniform(0.01, 0.5) if self.chance.random() < 0.3 else None for _ in keys]
        await asyncio.gather(*(self.ask("equal", key, body, leaves_s=leave) for key, leave in zip(keys, leaves, strict=True)))

    async def _again(self) -> None:
        """What was asked before, by the same key or by any other."""
        if self.asked:
            key, body = self.chance.choice(self.asked)
            await self.ask("again", self.chance.choice([key, self._key()]), {**body, **self._maybe({"stream": True}, 0.3)})

    async def _leaver(self) -> None:
        body = {**self._body(), **self._maybe({"stream": True}, 0.5)}
        await self.ask("leaver", self._key(), body, leaves_s=self.chance.expovariate(5))

    async def _named(self) -> None:
        """A backend by its name, once with a plan of one's own."""
        body = self._body(self.chance.choice(["large", "small"]))
        plan = {"best_of_n": {"backend": "small", "n": 3, "select": "majority"}}
        planned = {"model": "auto", "outlay": {"plan": plan, "max_cost_usd": 0.01}}
        await self.ask("named", self._key(), {**body, **self._maybe(planned, 0.4)})

    async def _gone_on(self) -> None:
        """A conversation that goes on by its decision's id; it is forgotten with Redis."""
        key, body = self._key(), self._body()
        first = await self.ask("stored", key, {**body, "store": True})
        if first.block is not None:
            again = {**self._body(), "outlay": {"continue_from": {"decision_id": first.block["id"]}}}
            await self.ask("gone on", key, again, also=first.question)

    async def poor(self) -> Seen:
        """All alike, so that it can be said which of them the key's money pays for."""
        return await self.ask("poor", "poor", {**self.said(), "model": "small", "max_tokens": 60, "cache": {"no-cache": True}})

    async def _malformed(self) -> None:
        """Each has to be told what is wrong, and costs nothing."""
        key, body = self._key(), {**self._body(), "max_tokens": 40}
        wrong: list[tuple[int, dict[str, Any]]] = [
            (400, {"data": b'{"model": '}),
            (400, {"data": b"\xff\xfe"}),
            (400, {"json": {**body, "messages": []}}),
            (400, {"json": {**body, "temperature": 9}}),
            (400, {"json": {**body, "outlay": {"max_cost": 1}}}),
            (404, {"json": {**body, "model": "no-such"}}),
            (413, {"data": b'{"messages": "' + b"x" * 300_000 + b'"}'}),
        ]
        status, sent = self.chance.choice(wrong)
        api = self.chance.choice(["chat", *(["messages"] * self.stage.whole)])
        await self._other("malformed", key, "POST", PATHS[api], {status}, api=api, **sent)
        if self.chance.random() < 0.3:
            await self._other("stranger", "", "POST", PATHS["chat"], {401}, json=body)

    # --- what is sent -------------------------------------------------------------------------------------------------

    def said(self) -> dict[str, Any]:
        """A question of its own."""
        return {"messages": [{"role": "user", "content": self._question()}]}

    def _key(self) -> str:
        return self.chance.choice(["red", "crimson", "blue", "green"])

    def _question(self) -> str:
        return f"q-{''.join(self.chance.choices(string.ascii_lowercase, k=12))} What is the answer?"

    def _body(self, model: str | None = None) -> dict[str, Any]:
        policies = ["auto", "outlay/paced", "outlay/voted", "outlay/revised", "outlay/best", *(["outlay/searched"] * self.stage.whole)]
        text = " ".join([self._question(), *(["and think of it well."] * self.chance.randint(0, 10))])
        return {
            "model": model or self.chance.choices(policies, [6, 4, 2, 1, 2, *([1] * self.stage.whole)])[0],
            "messages": [{"role": "user", "content": text}],
            **self._maybe({"max_tokens": 40}, 0.3),
            **self._maybe({"seed": 7}, 0.1),
            **self._maybe({"outlay": {"deadline_ms": 1000}}, 0.1),
            **self._maybe({"temperature": 0}, 0.05),
        }

    def _url(self, path: str) -> str:
        return self.chance.choice(self.among).url + path

    def _maybe(self, fields: dict[str, Any], chance: float) -> dict[str, Any]:
        return fields if self.chance.random() < chance else {}

    # --- how it goes --------------------------------------------------------------------------------------------------

    async def ask(
        self, kind: str, key: str, body: dict[str, Any], *, api: str = "chat", leaves_s: float | None = None, also: str = ""
    ) -> Seen:
        """One request for an answer, to its end, or until the client leaves. `also` is a question that the answer may speak of."""
        found = QUESTION.search(str(body))
        seen = Seen(kind, key, found[0] if found else "", "left", time.monotonic())
        try:
            async with asyncio.timeout(leaves_s):
                answer = await self._sent(seen, api, body)
            if answer is not None:
                self._judged(seen, answer, {seen.question, also})
        except TimeoutError:
            pass
        return self._noted(seen)

    async def _sent(self, seen: Seen, api: str, body: dict[str, Any]) -> Answer | None:
        headers = {"authorization": f"Bearer {self.stage.keys.secrets[seen.key]}"}
        most_s = GRACE_S + (LAST_S if seen.key == "last" else MOST_S)
        try:
            async with asyncio.timeout(most_s) as limit:
                async with self.http.post(self._url(PATHS[api]), json=body, headers=headers) as response:
                    raw = await response.read()
            seen.status = response.status
            return read(api, response.status, response.content_type, raw)
        except TimeoutError:
            if not limit.expired():
                raise
            seen.ending, seen.why = "wrong", f"no end within {most_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            seen.ending, seen.why = "wrong", f"the connection broke: {type(error).__name__} {error}"
        except Wrong as error:
            seen.ending, seen.why = "wrong", str(error)
        return None

    def _judged(self, seen: Seen, answer: Answer, questions: set[str]) -> None:
        seen.code, seen.texts, seen.block = answer.error, answer.texts, answer.block
        seen.ending = "refused" if answer.error else "answered"
        strange = {name for text in answer.texts for name in QUESTION.findall(text)} - questions
        if answer.error in ("internal_error", "None") or seen.status == 500:
            seen.ending, seen.why = "wrong", f"an error of our own: {answer.error}"
        elif strange:
            seen.ending, seen.why = "wrong", f"it speaks of {', '.join(strange)}, which nobody asked here"
        elif any(not (text.startswith(seen.question) or seen.question.startswith(text)) for text in answer.texts):
            seen.ending, seen.why = "wrong", f"no answer to {seen.question}: {answer.texts}"
        elif answer.block is not None:
            self.decided.append((seen.key, answer.block["id"]))

    async def _other(self, kind: str, key: str, method: str, path: str, allowed: set[int], *, api: str = "chat", **sent: Any) -> None:
        """A request that gets no answer of a model; it has to come back with one of these statuses, or with a 503 that says why."""
        seen = Seen(kind, key, "", "wrong", time.monotonic())
        secret = self.stage.keys.secrets.get(key, "sk-outlay-00000000-" + "x" * 43)
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        try:
            async with asyncio.timeout(MOST_S + GRACE_S):
                async with self.http.request(method, self._url(path), headers=headers, **sent) as response:
                    raw = await response.read()
            seen.status = response.status
            if response.status != 200:
                seen.code = read(api, response.status, response.content_type, raw).error
            seen.ending = "refused" if seen.code else "answered"
            if response.status not in {*allowed, 503}:
                seen.ending, seen.why = "wrong", f"{kind}: {response.status} {raw[:200]!r}"
        except (Wrong, TimeoutError, aiohttp.ClientError, OSError) as error:
            seen.why = f"{kind}: {type(error).__name__} {error}"
        self._noted(seen)

    def _noted(self, seen: Seen) -> Seen:
        seen.seconds = time.monotonic() - seen.began
        self.seen.append(seen)
        self.on_end()
        return seen
