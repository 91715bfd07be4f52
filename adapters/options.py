"""What the options of all adapters share: strictness, prices, and secrets that are named rather than written.

Each adapter's own options stand beside the adapter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapters.errors import MissingExtra
from adapters.types import Price

ENVIRONMENT = "os.environ/"
"""LiteLLM's way to name a secret in a configuration: `os.environ/OPENAI_API_KEY`."""


class Options(BaseModel):
    """Base of everything parsed from a configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _not_negative(price: Price) -> Price:
    if min(price.input_usd_per_mtok, price.output_usd_per_mtok) < 0:
        raise ValueError("a price is zero or more US dollars for a million tokens")
    return price


PriceOption = Annotated[Price, AfterValidator(_not_negative)]


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


class RemoteOptions(Options):
    """What all backends behind a network share. `guarded.py` applies the time and the concurrency."""

    model: str = Field(min_length=1)
    price: PriceOption | None = Field(None, description="unset: that of LiteLLM's price list, where the model is on it, else nothing")
    timeout_s: float = Field(60, gt=0, description="for a plain answer as a whole, for a stream until each next piece")
    max_concurrency: int = Field(256, ge=1, description="calls under way at once")
    max_waiting: int = Field(1024, ge=0, description="calls that may wait for their turn; more are turned away at once")
    max_tokens: int | None = Field(None, ge=1, description="of an answer, where the request does not say")
    max_context: int | None = Field(None, ge=1, description="tokens of prompt and answer; unset: that of the price list, if known")
