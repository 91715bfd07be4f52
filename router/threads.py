"""What is remembered from one request to the next: conversations to be gone on with, and which backend a session is with.

A conversation is kept where somebody may come back to it: several choices were asked for, or `store` was (the responses API stores unless
told not to). A request that names one of its answers (`outlay.continue_from`, `previous_response_id`) begins where that answer ended,
so a person who chooses among candidates, and again among those that follow, walks a tree.

A backend is remembered for a turn that is open, one that ends with a tool call or holds signed reasoning, which no other model could go on
with: by the ids in it, and by the session's name where the client gives one. Kept in the cache, so in Redis where that is; each tenant
has names of its own. What is forgotten is done without: a conversation is said to be unknown, a turn is routed as if it were new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from adapters.cache import Cache
from adapters.types import Message, text_of
from router.errors import InvalidRequest, UnknownDecision
from router.options import SessionOptions
from router.pipeline_types import Ask, ContinueFrom, Outcome
from router.render import message as rendered

INSTRUCTIONS = ("system", "developer")


class Threads:
    """The memory between requests, for `options.ttl_s` after the last of them."""

    def __init__(self, cache: Cache, options: SessionOptions) -> None:
        self._cache, self._options = cache, options

    async def continued(self, ask: Ask) -> Ask:
        """The request with the conversation before it that it names. Raises UnknownDecision or InvalidRequest."""
        if ask.continue_from is None:
            return ask
        before = await self._conversation(ask.continue_from, ask.purse.owner)
        said = ask.request.messages
        fresh = [message for message in said if message["role"] in INSTRUCTIONS] if said[0]["role"] in INSTRUCTIONS else []
        kept = [message for message in before if not (fresh and message["role"] in INSTRUCTIONS)]
        rest = [message for message in said if message not in fresh]
        return replace(ask, request=ask.request.but(messages=(*fresh, *kept, *rest)))

    async def backend_of(self, ask: Ask) -> str | None:
        """The backend that this request should stay with; None where it may go anywhere."""
        marks = open_turn(ask.request.messages)
        session = f"session/{ask.session}" if ask.session and (marks or self._options.keep == "always") else None
        for name in (*(_turn(ask.request.messages, mark) for mark in marks), session):
            if name and (found := await self._cache.get(_key(ask.purse.owner, name))):
                return found.decode("utf-8", "replace")
        return None

    async def note(self, ask: Ask, outcome: Outcome) -> None:
        """Remember what a later request may ask for."""
        first = outcome.candidates[0].choice.message or {}
        names = [_turn(ask.request.messages, mark) for mark in _marks(first)]
        for name in [*names, *([f"session/{ask.session}"] if ask.session else [])]:
            await self._cache.set(_key(ask.purse.owner, name), outcome.model.encode(), self._options.ttl_s)
        if ask.store and not ask.cache.no_store:
            answers = [rendered(candidate.choice) for candidate in outcome.candidates]
            kept = json.dumps({"messages": ask.request.messages, "answers": answers}).encode()
            await self._cache.set(_key(ask.purse.owner, f"conversation/{ask.id}"), kept, self._options.ttl_s)

    async def _conversation(self, wanted: ContinueFrom, owner: str) -> list[dict[str, Any]]:
        """All messages up to and with the answer that was chosen."""
        found = await self._cache.get(_key(owner, f"conversation/{wanted.decision_id}"))
        if found is None:
            message = f"no conversation is remembered under '{wanted.decision_id[:80]}'; one is where n > 1 or store: true was sent"
            raise UnknownDecision(message, param=wanted.param)
        kept = json.loads(found)
        answers = kept["answers"]
        if wanted.candidate >= len(answers):
            raise InvalidRequest(f"candidate {wanted.candidate} of {len(answers)}; the first is 0", param=wanted.param)
        answer = {name: value for name, value in answers[wanted.candidate].items() if value is not None or name == "content"}
        return [*kept["messages"], answer]


def open_turn(messages: Sequence[Message]) -> list[str]:
    """The marks of the model's turn that the next answer goes on with, latest first; none where a person spoke last."""
    tail: list[Message] = []
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        tail.append(message)
    return [mark for message in tail if message.get("role") == "assistant" for mark in _marks(message)]


def _marks(message: Message) -> Iterator[str]:
    """What only the model that wrote it can go on with: calls that wait for their results, and reasoning under a signature."""
    yield from (f"call/{call['id']}" for call in _objects(message.get("tool_calls")) if isinstance(call.get("id"), str))
    for name in ("thinking_blocks", "reasoning_details"):
        for block in _objects(message.get(name)):
            signed = (block.get(field) for field in ("signature", "data", "encrypted_content"))
            yield from (f"signed/{mark}" for mark in signed if isinstance(mark, str) and mark)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []


def _turn(messages: Sequence[Message], mark: str) -> str:
    """A turn's name: its mark, and the question that it answers, since some servers call every conversation's first call `call_1`."""
    return f"turn/{mark}/{next((text_of(m) for m in reversed(messages) if m.get('role') == 'user'), '')}"


def _key(owner: str, name: str) -> str:
    return "thread/" + hashlib.sha256(json.dumps([owner, name]).encode()).hexdigest()
