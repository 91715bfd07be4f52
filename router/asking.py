"""`outlay ask`: one question, to a running gateway or to a router made for it in this process; the same body either way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from adapters.sse import EventParser
from adapters.types import Delta
from router import render, wire
from router.assembly import assemble
from router.config import load
from router.errors import InvalidRequest, RouterError
from router.pipeline import Router
from router.pipeline_types import Ask

Show = Callable[[str], object]


class Refused(RouterError):
    """The gateway answered with an error; the message is its own."""


def body_of(prompt: str, model: str, stream: bool = False) -> dict[str, Any]:
    """A chat request for one question."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}


def ask_of(prompt: str, model: str) -> Ask:
    """The same, as the pipeline takes it."""
    return wire.parse(render.dumps(body_of(prompt, model)), {}).ask


@asynccontextmanager
async def opened(config: Path) -> AsyncIterator[Router]:
    """The router of a configuration, released afterwards. Loaded first, so that no deadline runs while models are read from disk."""
    router = assemble(load(config))
    try:
        await router.load()
        yield router
    finally:
        await router.aclose()


async def here(config: Path, body: dict[str, Any], show: Show) -> dict[str, Any]:
    """Answer in this process; text goes to `show` as it comes. Returns the completion, decision block included."""
    incoming = wire.parse(render.dumps(body), {})
    shown: list[str] = []

    async def sink(delta: Delta) -> None:
        shown.append(delta.text)
        show(delta.text)

    async with opened(config) as router:
        outcome = await router.answer(incoming.ask, sink if incoming.stream else None)
    show(outcome.candidates[0].text.removeprefix("".join(shown)))
    return render.completion(outcome, 0)


async def there(url: str, body: dict[str, Any], show: Show, key: str | None = None) -> dict[str, Any]:
    """Ask the gateway at `url`, with a key if it wants one. Returns the completion, or the last chunk that carries the decision block."""
    import aiohttp

    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
    try:
        async with (
            aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"} if key else None) as session,
            session.post(address, json=body) as response,
        ):
            if response.status != 200:
                raise _refused(await response.text(), response.status, key)
            return await (_streamed if body["stream"] else _whole)(response, show)
    except aiohttp.InvalidURL:
        raise InvalidRequest(f"'{url}' is no address; write for example http://127.0.0.1:8080") from None
    except aiohttp.ClientError as error:
        raise Refused(f"no gateway answers at {url}: {error}; start one with `outlay serve`") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise Refused(f"what answers at {url} does not speak OpenAI's protocol") from None


async def _whole(response: Any, show: Show) -> dict[str, Any]:
    body: dict[str, Any] = await response.json()
    show(body["choices"][0]["message"]["content"] or "")
    return body


async def _streamed(response: Any, show: Show) -> dict[str, Any]:
    """Show the deltas; the chunk with the decision block is the result."""
    last: dict[str, Any] = {}
    parser = EventParser()
    async for piece in response.content.iter_any():
        for event in (json.loads(data) for data in parser.feed(piece) if data != "[DONE]"):
            if "error" in event:
                raise Refused(event["error"]["message"])
            for choice in event["choices"]:
                show(choice["delta"].get("content") or "")
            last = event if "outlay" in event else last
    return last


def _refused(text: str, status: int, key: str | None) -> Refused:
    hint = "; `outlay ask` takes it from OUTLAY_API_KEY" if status == 401 and not key else ""
    try:
        return Refused(json.loads(text)["error"]["message"] + hint)
    except (ValueError, KeyError, TypeError):
        return Refused(f"the gateway answered with status {status}: {text[:200]}")


def summary(block: dict[str, Any]) -> str:
    """One line under the answer: what was bought, what it cost, how long it took."""
    baseline, cut = block.get("baseline_usd"), block.get("truncated_by")
    saved = f" (baseline ${baseline:.6f})" if baseline is not None else ""
    parts = [block["plan"], f"${block['cost_usd']:.6f}{saved}", f"{block['latency_s'] * 1000:.0f} ms", block["id"]]
    if without := block.get("degraded"):
        parts.append(f"degraded: {', '.join(without)}")
    if block.get("cached"):
        parts.append(f"cached, from {block['cached_from']}")
    elif block.get("continued_from"):
        parts.append(f"goes on from {block['continued_from']}")
    return "  ·  ".join(parts + ([f"cut short by the {cut} limit"] if cut else []))
