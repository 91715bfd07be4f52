"""What the options of all adapters share: strictness, prices, and secrets that are named rather than written.

Each adapter's own options stand beside the adapter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapters.errors import MissingExtra
from adapters.types import Price

ENVIRONMENT = "os.environ/"
"""LiteLLM's way to name a secret in a configuration: `os.environ/OPENAI_API_KEY`."""


BY_FILE = "by file"
"""Marks an option that names code, a model, a file, an address or a secret: `Annotated[str, BY_FILE]`. Only the configuration's file may
say a new one, and the marked options of one part belong together; no admin key does that over HTTP."""


class Options(BaseModel):
    """Base of everything parsed from a configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _not_negative(price: Price) -> Price:
    cached = price.input_usd_per_mtok if price.cached_input_usd_per_mtok is None else price.cached_input_usd_per_mtok
    if min(price.input_usd_per_mtok, price.output_usd_per_mtok, cached) < 0:
        raise ValueError("a price is zero or more US dollars for a million tokens")
    if cached > price.input_usd_per_mtok:  # what is set aside for a call counts on it
        raise ValueError("cached_input_usd_per_mtok is at most input_usd_per_mtok")
    return price


PriceOption = Annotated[Price, AfterValidator(_not_negative), Field(description="what its tokens are charged; unset: nothing")]


def resolve_secret(value: str, where: str) -> str:
    """The value itself, or that of the environment variable it names; `where` is the configuration key, for the message."""
    if not value.startswith(ENVIRONMENT):
        return value
    variable = value.removeprefix(ENVIRONMENT)
    if not os.environ.get(variable):
        raise MissingExtra(f"{where}: the environment variable {variable} is not set; export it, or name another one")
    return os.environ[variable]


def redacted(text: str, secrets: Iterable[str]) -> str:
    """A text of somebody else's without the secrets that were sent; some servers repeat what they got."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def without_password(url: str) -> str:
    """Where it is, not how to get in."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


FallbackOn = Literal["failure", "context_length", "content_filter"]


class Resilience(Options):
    """How a backend behind a network stays up when something fails or is slow."""  # `pool.py` sees to it, then `fallbacks.py`

    attempts: int = Field(2, ge=1, le=10, description="requests at most for one answer, the first and a hedge included")
    allowed_fails: int = Field(3, ge=1, description="failures in a row after which a deployment is left alone")
    cooldown_s: float = Field(30, gt=0, description="how long it is left alone; then one request tries whether it is back")
    hedge: float = Field(
        0,
        ge=0,
        le=0.5,
        description="share of requests asked a second time beside, where slower than 95 % of the last ones; 0.05 is usual",
    )
    fallbacks: tuple[str, ...] = Field((), description="backends that answer in its place, in this order; their own are not followed")
    fallback_on: frozenset[FallbackOn] = Field(
        frozenset({"failure"}),
        description="failure: down, or refuses our key; context_length: prompt too long; content_filter: filtered or refused",
    )


class RemoteOptions(Resilience):
    """What all backends behind a network share."""  # `guarded.py` applies the time and the concurrency

    model: Annotated[str, BY_FILE] = Field(
        min_length=1, description="provider and model, by LiteLLM's name for it, such as `anthropic/claude-sonnet-4-5`"
    )
    price: PriceOption | None = Field(
        None, description="what its tokens are charged; unset: that of LiteLLM's price list, where the model is on it, else nothing"
    )
    timeout_s: float = Field(60, gt=0, description="for a plain answer as a whole, for a stream until each next piece")
    max_concurrency: int = Field(256, ge=1, description="calls under way at once")
    max_waiting: int = Field(1024, ge=0, description="calls that may wait for their turn; more are turned away at once")
    max_tokens: int | None = Field(
        None, ge=1, description="of an answer, where the request does not say; unset: as long as model and money allow, see docs/operate.md"
    )
    max_context: int | None = Field(None, ge=1, description="tokens of prompt and answer; unset: that of the price list, if known")
    caches_prefix: bool = Field(False, description="the server reads a prompt that it has just read from its cache: plans count on it")
