"""What the OpenAPI document (`/openapi.json`) says of each endpoint: bodies, answers and errors.

Handlers read bodies themselves (`wire.py`, `translations.py`), so this is a description, held to them by a test that asks the application
whatever this allows, and more. Bodies are open: fields that are not named here are passed on to the backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.wire import FEEDBACK_SCHEMA, INT64, MAX_N, MAX_STOPS, ROLES

Schema = Mapping[str, Any]


def _nullable(**schema: Any) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


MODEL: Schema = {"type": "string", "minLength": 1, "description": "auto, outlay/<policy>, or a backend's name", "default": "auto"}
STREAM: Schema = _nullable(type="boolean", description="answer with server-sent events")
MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": list(ROLES)},
        "content": {
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}},
                {"type": "null"},
            ]
        },
    },
    "required": ["role"],
}
OURS: dict[str, Schema] = {
    "outlay": {"type": "object", "description": "limits, plan and cache of this request; header twins are x-outlay-*"},
    "cache": {"type": "object", "description": "LiteLLM's cache controls"},
}
CHAT: Schema = {
    "type": "object",
    "properties": {
        "model": MODEL,
        "messages": {"type": "array", "items": MESSAGE, "minItems": 1},
        "n": _nullable(type="integer", minimum=1, maximum=MAX_N, description="of a policy: the best distinct answers, n at most"),
        "temperature": _nullable(type="number", minimum=0, maximum=2, description="0: no plan of several samples is bought"),
        "top_p": _nullable(type="number", minimum=0, maximum=1),
        "max_tokens": _nullable(type="integer", minimum=1, maximum=INT64 - 1),
        "max_completion_tokens": _nullable(type="integer", minimum=1, maximum=INT64 - 1),
        "stop": {
            "oneOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_STOPS},
                {"type": "null"},
            ]
        },
        "seed": _nullable(type="integer", minimum=-INT64, maximum=INT64 - 1),
        "logprobs": _nullable(type="boolean"),
        "stream": STREAM,
        **OURS,
    },
    "required": ["messages"],
}
RESPONSES: Schema = {
    "type": "object",
    "properties": {
        "model": MODEL,
        "input": {"oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
        "instructions": _nullable(type="string"),
        "previous_response_id": _nullable(type="string"),
        "stream": STREAM,
        **OURS,
    },
    "required": ["input"],
}
MESSAGES: Schema = {
    "type": "object",
    "properties": {
        "model": MODEL,
        "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "max_tokens": {"type": "integer", "minimum": 1},
        "stream": STREAM,
        **OURS,
    },
    "required": ["messages", "max_tokens"],
}
PROMPT: Schema = {
    **MESSAGES,
    "properties": {name: schema for name, schema in MESSAGES["properties"].items() if name not in ("max_tokens", "stream")},
    "required": ["messages"],
}
BODIES: Mapping[str, Schema] = {
    "/v1/chat/completions": CHAT,
    "/v1/route": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": PROMPT,
    "/v1/feedback": FEEDBACK_SCHEMA,
}
STREAMING = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
PROBES = ("/health", "/ready")
TEXT = ("/metrics",)
"""Answered in Prometheus' text format, not in JSON."""

ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type"],
        },
        "outlay": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    },
    "required": ["error"],
}
ERRORS = {
    "400": "the request must be changed; `param` says where",
    "401": "no API key, or an unknown one",
    "402": "the budget of the API key is spent",
    "403": "the API key may not do this",
    "404": "no such model, decision or path",
    "409": "said otherwise before",
    "413": "the body is over the server's limit",
    "429": "over a limit of the API key; `Retry-After` says until when",
    "500": "a fault of this server, logged under the id in the message",
    "502": "every backend failed",
    "503": "overloaded, or no backend is there; worth another try",
    "504": "no answer before the deadline",
}


def operation(path: str) -> dict[str, Any]:
    """What is said of the endpoint of a path, beside what FastAPI finds by itself."""
    kinds = ["text/plain"] if path in TEXT else ["application/json", *(["text/event-stream"] if path in STREAMING else [])]
    answer = {"description": "the answer", "content": {kind: {"schema": {"type": "object"} if "json" in kind else {}} for kind in kinds}}
    errors = {status: {"description": text, "content": {"application/json": {"schema": ERROR}}} for status, text in ERRORS.items()}
    said: dict[str, Any] = {"responses": {"200": answer} | ({} if path in PROBES else errors)}
    if path in PROBES:
        said["responses"]["503"] = {**answer, "description": "no backend is up"}
    if path in BODIES:
        said["requestBody"] = {"required": True, "content": {"application/json": {"schema": BODIES[path]}}}
    return said
