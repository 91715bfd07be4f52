"""The APIs that are spoken here: OpenAI's chat completions natively, its responses and Anthropic's messages by translation.

All three stand before the same pipeline: an API turns a body into an `Incoming`, and a completion or the chunks of one into what its own
clients read. The two that are translated are in `translations.py`, and are imported when the first such request comes.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from router import render, wire
from router.errors import RouterError
from router.purse import Purse

Batches = AsyncIterator[list[dict[str, Any]] | str]
"""The chunks of a stream as they come, some at once; a text is a comment, which also keeps a silent connection alive."""


class Api(Protocol):
    """One way of asking, and of being answered."""

    end: bytes
    """What closes a stream, after its last event."""

    def parse(self, raw: bytes, headers: Mapping[str, str], *, max_messages: int, purse: Purse) -> wire.Incoming:
        """The request in a body and its headers, and who pays for it. Raises InvalidRequest."""

    def whole(self, incoming: wire.Incoming, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """A plain answer, from a chat completion."""

    def events(self, incoming: wire.Incoming, batches: Batches) -> AsyncIterator[bytes]:
        """A stream, from the chunks of a chat completion."""

    def error(self, error: RouterError) -> Mapping[str, Any]:
        """The body of an error."""

    def broken(self, error: RouterError) -> bytes:
        """The event by which a stream says that it fails."""


class Chat:
    """OpenAI's chat completions."""

    end = render.DONE

    def parse(self, raw: bytes, headers: Mapping[str, str], *, max_messages: int, purse: Purse) -> wire.Incoming:
        """As `wire.py` reads it."""
        return wire.parse(raw, headers, max_messages=max_messages, purse=purse)

    def whole(self, incoming: wire.Incoming, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """As it is."""
        return completion

    async def events(self, incoming: wire.Incoming, batches: Batches) -> AsyncIterator[bytes]:
        """Each chunk as an event."""
        async for batch in batches:
            yield render.comment(batch) if isinstance(batch, str) else b"".join(map(render.event, batch))

    def error(self, error: RouterError) -> Mapping[str, Any]:
        """OpenAI's shape."""
        return render.error_body(error)

    def broken(self, error: RouterError) -> bytes:
        """The same, as an event."""
        return render.event(render.error_body(error))


CHAT = Chat()
TRANSLATED = {"/v1/responses": "Responses", "/v1/messages": "Messages", "/v1/messages/count_tokens": "Prompts"}
"""By path: the class of `translations.py`."""


async def api_of(path: str) -> Api:
    """The API of a path, also of one that it does not have.

    The first of the translated ones takes some seconds, in which other requests go on: LiteLLM is imported.
    """
    name = TRANSLATED.get(path) or ("Messages" if path.startswith("/v1/messages/") else None)
    if name is None:
        return CHAT
    translations = await asyncio.to_thread(importlib.import_module, "router.translations")
    api: Api = getattr(translations, name)()
    return api
