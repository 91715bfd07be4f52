"""The options of a configuration that are the router's own. What a backend, verifier or policy takes stands beside each of those."""

from __future__ import annotations

from pydantic import Field, model_validator

from adapters.options import PriceOption
from adapters.types import Price
from difficulty.service import ProbeServiceOptions
from policies.plans import Frozen


class ServerOptions(Frozen):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="0.0.0.0 to be reached from other machines")
    port: int = Field(8080, ge=0, le=65535, description="0: any free one")
    max_body_mb: float = Field(10, gt=0, description="larger requests are refused with 413")
    max_messages: int = Field(2048, ge=1)
    first_event_s: float = Field(
        0.3, ge=0, description="a stream waits so long for its first news, so that a refusal gets its own status; then the role is sent"
    )
    keep_alive_s: float = Field(10, gt=0, description="between the comments that keep a silent stream's connection open")
    log_prompts: bool = Field(False, description="write the last user message into the log")


class ProbeOptions(ProbeServiceOptions):
    """Who estimates how hard a prompt is. Without an encoder it is the heuristic, which reads lengths and operators and needs no model."""

    encoder: str | None = Field(None, description="a local model by path or hub name, whose hidden states are read; such as fleet/small")
    artifact: str | None = Field(None, description="folder that `outlay fit` wrote")
    threads: int = Field(1, ge=1, description="of the encoder")
    when_unavailable: str | None = Field(None, description="backend that answers while the probe is down; unset: the heuristic estimates")
    price: PriceOption = Price()

    @model_validator(mode="after")
    def _both_or_neither(self) -> ProbeOptions:
        if (self.encoder is None) != (self.artifact is None):
            there, lacking = ("encoder", "artifact") if self.artifact is None else ("artifact", "encoder")
            raise ValueError(f"{there} is given without {lacking}; give both, or neither for the heuristic")
        return self


REDIS = "redis://host:6379/0 to share it between processes"
URL = r"^(memory|rediss?|unix)://"


class BudgetOptions(Frozen):
    """Where budgets over time are counted."""

    url: str = Field("memory://", pattern=URL, description=f"memory://, where each process has the whole budget to itself; or {REDIS}")


class CacheOptions(Frozen):
    """Where answers are kept for requests that are equal in all that matters."""

    url: str = Field("memory://", pattern=URL, description=f"memory://, or {REDIS}")
    ttl_s: float = Field(3600, gt=0)
