"""What came back, read as each API's clients read it: the texts of an answer, a clean refusal, or what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

REASONS = {"stop", "length"}


class Wrong(Exception):
    """It is neither an answer nor a refusal as the API has them."""


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    texts: tuple[str, ...] = ()
    error: str = ""
    """Code or type of an error, that of a broken stream too; empty where there is an answer."""
    block: Mapping[str, Any] | None = None
    """The decision block, where it came along."""


def read(api: str, status: int, kind: str, body: bytes) -> Answer:
    """Of a response that is over. Raises Wrong."""
    try:
        if status != 200:
            return Answer(error=_error(api, json.loads(body)))
        return STREAMED[api](list(_events(body))) if kind.startswith("text/event-stream") else PLAIN[api](json.loads(body))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Wrong(f"{api} {status}: {type(error).__name__} {error} in {body[-300:]!r}") from error


def _need(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _error(api: str, payload: Any) -> str:
    error = payload["error"]
    if api == "messages":
        _need(payload["type"] == "error" and error["message"], "an error that is not Anthropic's")
        return str(error["type"])
    _need({"message", "type", "param", "code"} <= error.keys() and error["message"], "an error that is not OpenAI's")
    return str(error["code"])


# --- plain --------------------------------------------------------------------------------------------------------------


def _chat(payload: Any) -> Answer:
    _need(payload["object"] == "chat.completion", "no completion")
    _need(payload["usage"]["total_tokens"] >= 0, "no usage")
    _need([choice["index"] for choice in payload["choices"]] == list(range(len(payload["choices"]))), "choices out of order")
    _need(payload["choices"] and all(choice["finish_reason"] in REASONS for choice in payload["choices"]), "no end")
    return Answer(tuple(choice["message"]["content"] for choice in payload["choices"]), block=payload["outlay"])


def _responses(payload: Any) -> Answer:
    _need(payload["object"] == "response" and payload["status"] in ("completed", "incomplete"), "no response")
    parts = [part["text"] for item in payload["output"] for part in item.get("content") or ()]
    return Answer(("".join(parts),), block=payload["outlay"])


def _messages(payload: Any) -> Answer:
    _need(payload["type"] == "message" and payload["role"] == "assistant", "no message")
    return Answer(("".join(part["text"] for part in payload["content"]),), block=payload["outlay"])


# --- streamed -----------------------------------------------------------------------------------------------------------


def _events(body: bytes) -> Iterator[Any]:
    """The data of each event, comments left out. Raises ValueError where the stream ends in the middle of one."""
    _need(body.endswith(b"\n\n"), "the stream ends in mid-event")
    for event in body[:-2].split(b"\n\n"):
        data = [line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")]
        if data:
            yield "[DONE]" if data == [b"[DONE]"] else json.loads(b"\n".join(data))


def _chat_stream(events: list[Any]) -> Answer:
    _need(events and events.pop() == "[DONE]", "no [DONE]")
    texts: dict[int, str] = {}
    ended, block = set(), None
    for event in events:
        if "error" in event:
            _need(event is events[-1], "more after an error")
            return Answer(error=_error("chat", event))
        block = event["choices"][0].get("outlay", block) if event["choices"] else block
        block = event.get("outlay", block)
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
            ended |= {choice["index"]} if choice["finish_reason"] in REASONS else set()
    _need(texts and ended == texts.keys(), f"choices {sorted(texts)} but ends {sorted(ended)}")
    return Answer(tuple(texts[index] for index in sorted(texts)), block=block)


def _responses_stream(events: list[Any]) -> Answer:
    if events[-1]["type"] == "error":
        return Answer(error=str(events[-1]["code"]))
    _need(events[-1]["type"] in ("response.completed", "response.incomplete"), f"ends with {events[-1]['type']}")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    return Answer((text,), block=events[-1]["response"].get("outlay"))


def _messages_stream(events: list[Any]) -> Answer:
    if events[-1]["type"] == "error":
        return Answer(error=_error("messages", events[-1]))
    _need(events[-1]["type"] == "message_stop", f"ends with {events[-1]['type']}")
    text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    return Answer((text,), block=next((event["outlay"] for event in events if "outlay" in event), None))


PLAIN: Mapping[str, Callable[[Any], Answer]] = {"chat": _chat, "responses": _responses, "messages": _messages}
STREAMED: Mapping[str, Callable[[list[Any]], Answer]] = {
    "chat": _chat_stream, "responses": _responses_stream, "messages": _messages_stream,
}  # fmt: skip
