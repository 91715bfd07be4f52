"""What a request may say beyond OpenAI's fields: the `outlay` object of the body, the `x-outlay-*` headers, the `cache` object.

The body wins over a header, and both over the policy; that neither gets looser than the policy is the pipeline's business.
An address of an upstream is not among them, and never will be: a caller does not say where this server connects to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policies.plans import Plan
from router.errors import InvalidRequest, have_instead
from router.pipeline_types import CacheControl, ContinueFrom

HEADER = "x-outlay-"


class CacheExtras(BaseModel):
    """The `cache` object, under LiteLLM's names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    no_cache: bool = Field(False, alias="no-cache")
    no_store: bool = Field(False, alias="no-store")
    ttl: float | None = Field(None, gt=0, allow_inf_nan=False)
    s_maxage: float | None = Field(None, ge=0, alias="s-maxage", allow_inf_nan=False)
    namespace: str | None = Field(None, min_length=1, max_length=128)


class ContinueFromExtras(BaseModel):
    """The `continue_from` object."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    decision_id: str = Field(min_length=1, max_length=256)
    candidate: int = Field(0, ge=0, description="index of the choice that was taken")


class Extras(BaseModel):
    """The `outlay` object."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_cost_usd: float | None = Field(None, ge=0, allow_inf_nan=False)
    deadline_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    first_token_ms: float | None = Field(None, gt=0, allow_inf_nan=False, description="of a stream: until the first word of the answer")
    min_quality: float | None = Field(None, ge=0, le=1)
    plan: Plan | None = None
    tags: dict[str, str] = Field(default_factory=dict, max_length=64)
    cache: CacheExtras = CacheExtras()
    session: str | None = Field(None, min_length=1, max_length=256)
    continue_from: ContinueFromExtras | None = None
    verbose: bool = False


def parse_extras(body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """The fields of an `Ask` that are not OpenAI's. Raises InvalidRequest."""
    given = {**_from_headers(headers), **_object(body, "outlay")}
    if "cache" in body:
        given["cache"] = {**_object(body, "cache"), **_object(given, "cache", "outlay.cache")}
    return _as_ask(_validate(given)) if given else {}


def _as_ask(extras: Extras) -> dict[str, Any]:
    cache = extras.cache
    return {
        "max_cost_usd": extras.max_cost_usd,
        "deadline_s": None if extras.deadline_ms is None else extras.deadline_ms / 1000,
        "first_token_s": None if extras.first_token_ms is None else extras.first_token_ms / 1000,
        "min_quality": extras.min_quality,
        "plan": extras.plan,
        "tags": extras.tags,
        "cache": CacheControl(cache.no_cache, cache.no_store, cache.ttl, cache.s_maxage, cache.namespace),
        "session": extras.session,
        "continue_from": (base := extras.continue_from) and ContinueFrom(base.decision_id, base.candidate),
        "verbose": extras.verbose,
    }


def _object(body: Mapping[str, Any], key: str, param: str | None = None) -> dict[str, Any]:
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"{param or key} must be an object", param=param or key)
    return value or {}


def _validate(given: dict[str, Any]) -> Extras:
    try:
        return Extras.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _refusal(first["loc"], first["type"], first["msg"]) from None


def _refusal(loc: tuple[int | str, ...], kind: str, message: str) -> InvalidRequest:
    param = ".".join(["outlay", *map(str, loc)])
    if kind == "extra_forbidden" and len(loc) == 1:
        message = f"no such field; {have_instead(str(loc[0]), Extras.model_fields)}"
    return InvalidRequest(f"{param}: {message.removeprefix('Value error, ')}", param=param)


# --- the header twins ---------------------------------------------------------------------------------------------------


def _from_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The `outlay` object that the headers spell."""
    ours = [name for name in headers if name.startswith(HEADER)]
    for name in ours:
        if name.removeprefix(HEADER) not in READERS:
            raise InvalidRequest(f"no such header '{name}'; {have_instead(name, map(HEADER.__add__, READERS))}", param=name)
    found = {key: read(key, headers[HEADER + key]) for key, read in READERS.items() if HEADER + key in headers} if ours else {}
    if "x-session-id" in headers:
        found.setdefault("session", headers["x-session-id"])
    return {key.replace("-", "_"): value for key, value in found.items()}


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"{HEADER}{key} must be a number; found '{text[:40]}'", param=HEADER + key) from None


def _text(key: str, text: str) -> str:
    return text


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise InvalidRequest(f"{HEADER}{key} must be true or false; found '{text[:40]}'", param=HEADER + key)
    return text.lower() in ("true", "1")


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{HEADER}{key} must be JSON, such as " + '{"single": {"backend": "small"}}', param=HEADER + key) from None


def _pairs(key: str, text: str) -> dict[str, str]:
    """`task=chat, team=web`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals and name.strip() for name, equals, _ in pairs):
        raise InvalidRequest(f"{HEADER}{key} must read name=value, name=value; found '{text[:40]}'", param=HEADER + key)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cache(key: str, text: str) -> dict[str, Any]:
    """`no-store, ttl=60`."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    timed = ("ttl", "s-maxage")
    return {name: (_number(key, value) if name in timed else value) if equals else True for name, equals, value in pairs}


READERS = {
    "max-cost-usd": _number,
    "deadline-ms": _number,
    "first-token-ms": _number,
    "min-quality": _number,
    "plan": _json,
    "tags": _pairs,
    "cache": _cache,
    "session": _text,
    "continue-from": _json,
    "verbose": _flag,
}
"""By the end of a header's name: how its text becomes the value that the body would have had."""
