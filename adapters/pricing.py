"""What tokens cost where no price is configured, and how many there are where nobody has counted them.

Prices and context lengths are LiteLLM's, read from the JSON file in its package: importing LiteLLM takes 2.6 s of CPU, reading
the file 25 ms. Nothing is fetched from the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapters.types import ChatRequest, Message, Price, text_of

PRICE_LIST = "model_prices_and_context_window_backup.json"
BYTES_PER_TOKEN = 4
"""Of English text in the usual vocabularies; bytes rather than characters, because other scripts take more tokens a character."""
TOKENS_PER_MESSAGE = 4
TOKENS_PER_ATTACHMENT = 1000
"""An image, a file: of the order of what providers charge for a picture of one megapixel."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One model's line in the price list; tokens where it says."""

    price: Price
    max_context: int | None
    max_output: int | None
    provider: str


def listed(model: str) -> Listing | None:
    """The line of a model by LiteLLM's name for it: as written, or without the provider's prefix if it is that provider's model."""
    lines = _price_list()
    if model in lines:
        return lines[model]
    provider, _, name = model.partition("/")
    line = lines.get(name)
    return line if line is not None and line.provider == provider else None


@cache
def _price_list() -> Mapping[str, Listing]:
    """The whole list, empty where LiteLLM is not installed; only what is asked here is kept of its 3 MB."""
    package = find_spec("litellm")
    if package is None or package.origin is None:
        return {}
    lines = json.loads(Path(package.origin).with_name(PRICE_LIST).read_text(encoding="utf-8"))
    return dict(_chat_models(lines))


def _chat_models(lines: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Listing]]:
    for name, line in lines.items():
        if line.get("mode") in ("chat", "responses", "completion") and "input_cost_per_token" in line:
            read, written = (float(line.get(key) or 0) * 1e6 for key in ("input_cost_per_token", "output_cost_per_token"))
            cached = line.get("cache_read_input_token_cost")
            price = Price(read, written, None if cached is None else min(float(cached) * 1e6, read))
            context, output = (
                size if isinstance(size := line.get(key), int) else None for key in ("max_input_tokens", "max_output_tokens")
            )
            yield name, Listing(price, context, output, str(line.get("litellm_provider")))


_counted: tuple[tuple[Message, ...], Mapping[str, Any], int] = ((), {}, 0)
"""The last request that was counted, and its tokens: it is asked for once for each thing that its price is needed for."""


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has; at least one if there is any text."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // BYTES_PER_TOKEN)


def estimate_input_tokens(request: ChatRequest) -> int:
    """About how many tokens a request has: its messages with what frames them, its attachments, the tools it declares."""
    global _counted
    messages, extra, tokens = _counted
    if messages is not request.messages or extra is not request.extra:
        tools = request.extra.get("tools")
        tokens = sum(map(_message_tokens, request.messages)) + (estimate_tokens(json.dumps(tools)) if tools else 0)
        _counted = request.messages, request.extra, tokens
    return tokens


def _message_tokens(message: Message) -> int:
    content, calls = message.get("content"), message.get("tool_calls")
    parts = content if isinstance(content, list | tuple) else ()
    attachments = sum(1 for part in parts if part.get("type") != "text")
    called = estimate_tokens(json.dumps(calls)) if calls else 0
    return TOKENS_PER_MESSAGE + estimate_tokens(text_of(message)) + TOKENS_PER_ATTACHMENT * attachments + called
