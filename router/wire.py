"""The way in: the body and headers of a chat request become an `Ask`, once; behind this file nobody reads a raw body.

What Outlay acts on is checked, with a message that says what would be right. What it only passes on (the content of messages, tools,
`response_format`, fields it has never heard of) is not looked into: the backend knows better, and a deep check costs more
than the rest of the way. The way out is `render.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, NoReturn

import orjson

from adapters.traceparent import HEADER
from adapters.types import ChatRequest, Message
from difficulty.frozen import frozen
from router.errors import InvalidRequest, have_instead
from router.extras import parse_extras
from router.lessons import Given
from router.pipeline_types import Ask
from router.purse import NO_PURSE, Purse

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_N = 128
MAX_STOPS = 16
INT64 = 1 << 63

HANDLED = frozenset(
    {"model", "messages", "n", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "logprobs"}
    | {"stream", "stream_options", "outlay", "cache"}
)
"""Fields of the body that become typed; every other one travels in `ChatRequest.extra`."""


FEEDBACK_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "decision_id": {"type": "string", "minLength": 1, "description": "from x-outlay-decision-id; the id of the completion does too"},
        "label": {"type": "integer", "enum": [0, 1], "description": "1: the answer is right"},
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "instead of a label, how right it is"},
        "candidate": {"type": "integer", "minimum": 0, "maximum": MAX_N - 1, "description": "index of the choice that is judged"},
    },
    "required": ["decision_id"],
    "oneOf": [{"required": ["label"]}, {"required": ["score"]}],
    "additionalProperties": False,
}
"""The body of `POST /v1/feedback`, as the OpenAPI document shows it. Comments are not taken: nothing here would read them."""


@frozen
class Incoming:
    """A parsed request: what is asked, and how the answer is to be sent."""

    ask: Ask
    stream: bool = False
    include_usage: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)
    """The body as the client sent it, where it was translated into a chat request."""

    def but(self, **changes: Any) -> Incoming:
        """The same with some fields changed."""
        return replace(self, **changes)


def parse(raw: bytes, headers: Mapping[str, str], *, max_messages: int = 2048, purse: Purse = NO_PURSE) -> Incoming:
    """The request in a body and its headers (names in lower case), and who pays for it. Raises InvalidRequest."""
    return parse_body(parse_json(raw), headers, max_messages=max_messages, purse=purse)


def parse_body(body: Mapping[str, Any], headers: Mapping[str, str], *, max_messages: int = 2048, purse: Purse = NO_PURSE) -> Incoming:
    """The same, of a body that was read. Raises InvalidRequest."""
    stream, include_usage = _streaming(body)
    request = ChatRequest(
        messages=_messages(body.get("messages"), max_messages),
        n=_integer(body, "n", 1, MAX_N) or 1,
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        max_tokens=_max_tokens(body),
        stop=_stop(body.get("stop")),
        seed=_integer(body, "seed", -INT64, INT64 - 1),
        logprobs=_flag(body, "logprobs"),
        extra={key: value for key, value in body.items() if key not in HANDLED},
    )
    store, trace = request.n > 1 or body.get("store") is True, headers.get(HEADER, "")
    ask = Ask(request, _model(body), store=store, traceparent=trace, purse=purse, **parse_extras(body, headers))
    return Incoming(ask, stream, include_usage)


def parse_feedback(raw: bytes) -> Given:
    """What a client says of an answer. Raises InvalidRequest."""
    body, known = parse_json(raw), FEEDBACK_SCHEMA["properties"]
    for name in body.keys() - known.keys():
        raise InvalidRequest(f"no field '{name[:40]}'; {have_instead(name, known)}", param=name[:40])
    id = body.get("decision_id")
    if not isinstance(id, str) or not id:
        _refuse("decision_id", "the id of a decision, as in the header x-outlay-decision-id", id)
    if ("label" in body) == ("score" in body):
        raise InvalidRequest("give a label (0 or 1) or a score (0 to 1), one of them", param="label")
    label = _number(body, "score", 0, 1) if "score" in body else _integer(body, "label", 0, 1)
    if label is None:
        _refuse("label", "0 or 1, or score a number from 0 to 1", None)
    return Given(id.replace("chatcmpl-", "dec_", 1), float(label), _integer(body, "candidate", 0, MAX_N - 1) or 0)


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. NaN and infinities, which JSON does not have, are refused; so are lone surrogates, which no UTF-8 has."""
    try:
        body = _read(raw)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {_name(body)}", code="invalid_json")
    return body


def _read(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:  # it is no JSON, or of a kind that the standard library takes beside it: UTF-16, a mark at its beginning
        body = json.loads(raw, parse_constant=_no_constant)
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(body, ensure_ascii=False).encode()
    return body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _model(body: Mapping[str, Any]) -> str:
    """The model asked for; a body without one leaves the choice to us, which is what `auto` says."""
    model = body.get("model", "auto")
    if not isinstance(model, str) or not model:
        _refuse("model", "a name such as 'auto', 'outlay/balanced', or a backend's", model)
    return model


# --- messages: their frame, not their content ---------------------------------------------------------------------------


def _messages(value: Any, most: int) -> tuple[Message, ...]:
    if value is None:
        message = 'messages is missing; send for example [{"role": "user", "content": "..."}]'
        raise InvalidRequest(message, param="messages", code="missing_required_parameter")
    if not isinstance(value, list) or not value:
        _refuse("messages", "a list with at least one message", value)
    if len(value) > most:
        raise InvalidRequest(f"messages has {len(value)} entries; this server takes {most}", param="messages", code="too_many_messages")
    for i, message in enumerate(value):
        _check_message(f"messages[{i}]", message)
    return tuple(value)


def _check_message(param: str, message: Any) -> None:
    if not isinstance(message, dict):
        _refuse(param, 'an object such as {"role": "user", "content": "..."}', message)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest(f"{param}.role: no role {role!r}; {have_instead(str(role), ROLES)}", param=f"{param}.role")
    if not (content is None or isinstance(content, str) or _is_parts(content)):
        _refuse(f"{param}.content", "a string, or a list of parts such as {'type': 'text', 'text': '...'}", content)


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content)


# --- plain fields -------------------------------------------------------------------------------------------------------


def _streaming(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether to stream, and whether with a last chunk for the usage."""
    stream, options = _flag(body, "stream"), body.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, dict):
        _refuse("stream_options", "an object such as {'include_usage': true}", options)
    if not stream:
        raise InvalidRequest("stream_options is only allowed together with stream: true", param="stream_options")
    return stream, _flag(options, "include_usage", "stream_options.include_usage")


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    """OpenAI's newer name wins over the older one, as it does there."""
    return _integer(body, "max_completion_tokens", 1, INT64) or _integer(body, "max_tokens", 1, INT64)


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        _refuse("stop", f"a string, or a list of at most {MAX_STOPS} strings, none of them empty", value)
    return tuple(stops)


def _flag(body: Mapping[str, Any], key: str, param: str | None = None) -> bool:
    value = body.get(key)
    if not (value is None or isinstance(value, bool)):
        _refuse(param or key, "true or false", value)
    return bool(value)


def _integer(body: Mapping[str, Any], key: str, least: int, most: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        _refuse(key, f"a whole number, {_bounds(least, most)}", value)
    return value


def _number(body: Mapping[str, Any], key: str, least: float, most: float) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or math.isnan(value):
        _refuse(key, f"a number, {_bounds(least, most)}", value)
    return float(value)


def _bounds(least: float, most: float) -> str:
    return f"at least {least}" if most >= INT64 else f"{least} to {most}"


def _refuse(param: str, right: str, found: Any) -> NoReturn:
    raise InvalidRequest(f"{param} must be {right}; found {_name(found)}", param=param)


def _name(value: Any) -> str:
    """What was found, short enough for a message, and without the content of a conversation."""
    kinds = {type(None): "null", dict: "an object", list: "a list", str: "a string"}
    kind = kinds.get(type(value))
    if kind is None:
        return json.dumps(value)[:40]
    return kind.replace("a ", "an empty ") if value in ("", []) else kind
