"""The options of a configuration that are the router's own. What a backend, verifier or policy takes stands beside each of those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adapters.event_log import STREAM
from adapters.ledger import TIMEOUT_S, WhenDown
from adapters.options import BY_FILE, PriceOption
from adapters.types import Price
from difficulty.service import ProbeServiceOptions
from policies.plans import Frozen

Share = Annotated[float, Field(ge=0, le=1)]


class ServerOptions(Frozen):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 to be reached from other machines")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0: any free one")
    max_body_mb: float = Field(10, gt=0, description="larger requests are refused with 413")
    max_messages: int = Field(2048, ge=1, description="of one request; more are refused with 400")
    max_header_kb: int = Field(64, ge=1, description="of a request's headers together; larger ones are refused with 431")
    max_requests: int = Field(1000, ge=1, description="answers under way at once; more are turned away with 503 and Retry-After")
    drain_s: float = Field(30, ge=0, description="after SIGTERM, for what is under way to finish; then it is cancelled")
    decisions: int = Field(10_000, ge=0, description="past decisions that can be looked up; no more than 64 MiB of them are kept")
    first_event_s: float = Field(
        0.3, ge=0, description="a stream waits so long for its first news, so that a refusal gets its own status; then the role is sent"
    )
    keep_alive_s: float = Field(10, gt=0, description="between the comments that keep a silent stream's connection open")
    log_prompts: bool = Field(False, description="write the last user message into the log, redacted and cut")
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, with the decision's id")
    admin_may: Literal["read", "change", "extend"] = Field(
        "change",
        description="of the configuration, over HTTP. change: all but new code, models, files, addresses, secrets; extend: these too",
    )
    reload_s: float = Field(2, ge=0, description="between looks whether the configuration's file changed; 0: only SIGHUP reloads it")


class SessionOptions(Frozen):
    """How a conversation stays with its backend, and for how long it is remembered."""

    keep: Literal["open_turn", "always"] = Field(
        "open_turn",
        description="open_turn: while a tool call or signed reasoning is under way; always: all requests of one x-session-id",
    )
    ttl_s: float = Field(3600, gt=0, description="how long a conversation is remembered after its last request")


class ProbeOptions(ProbeServiceOptions):
    """Who estimates how hard a prompt is. Without an encoder it is the heuristic, which reads lengths and operators and needs no model."""

    encoder: Annotated[str | None, BY_FILE] = Field(
        None,
        description="a local model by path or hub name, whose hidden states are read; `onnx:` before a BERT's name runs it without torch",
    )
    artifact: Annotated[str | None, BY_FILE] = Field(
        None, description="folder that `outlay fit` wrote, or difficulty/general for backends never fitted for"
    )
    strength: Mapping[str, float] = Field(
        {}, description="by backend, for difficulty/general: 0 is about Mixtral 8x7B, 1 about GPT-4 Turbo; unset: by the order of prices"
    )
    required: bool = Field(True, description="false: where the encoder cannot be had on this machine, say so and go on with the heuristic")
    threads: int = Field(1, ge=1, description="of the encoder")
    when_unavailable: str | None = Field(None, description="backend that answers while the probe is down; unset: the heuristic estimates")
    price: PriceOption = Price()

    @model_validator(mode="after")
    def _both_or_neither(self) -> ProbeOptions:
        if (self.encoder is None) != (self.artifact is None):
            there, lacking = ("encoder", "artifact") if self.artifact is None else ("artifact", "encoder")
            raise ValueError(f"{there} is given without {lacking}; give both, or neither for the heuristic")
        if self.strength and self.artifact is None:
            raise ValueError("strength is given without artifact; it is for difficulty/general")
        return self


REDIS = "redis://host:6379/0 to share it between processes"
URL = r"^(memory|rediss?|unix)://"


class BudgetOptions(Frozen):
    """Where budgets over time are counted."""

    url: Annotated[str, BY_FILE] = Field(
        "memory://", pattern=URL, description=f"memory://, where each process has the whole budget to itself; or {REDIS}"
    )


class KeysOptions(Frozen):
    """Who may come in, and where it is kept what they spend."""

    path: str = Field(min_length=1, description="file that `outlay keys create` writes; it is read again when it changes")
    ledger: str = Field("memory://", pattern=URL, description=f"memory://, or {REDIS}")
    when_down: WhenDown = Field(
        "memory", description="while the ledger's Redis is gone: go on with what is known in memory, marked; or refuse"
    )
    timeout_s: float = Field(
        TIMEOUT_S, gt=0, description="past it the ledger's Redis is gone; time in which this process is too busy to read does not count"
    )
    lease_s: float = Field(600, gt=0, description="what a process that died held is free again after so long; longer than the longest call")
    wait_s: float = Field(5, ge=0, description="a request waits so long for others of its key, where only what they hold is in its way")


class SemanticOptions(Frozen):
    """When the answer to one question may go out for another that asks the same in other words."""

    encoder: Annotated[str, BY_FILE] = Field(
        "onnx:sentence-transformers/all-MiniLM-L6-v2", min_length=1, description="reads the questions; another one needs a threshold"
    )
    max_false_hits: float = Field(
        0.01, gt=0, lt=1, description="share of the questions that only look the same which may be taken for it: see docs/caches.md"
    )
    threshold: float | None = Field(None, gt=0, le=1, description="the similarity that is enough; unset: as max_false_hits has it")
    max_entries: int = Field(10_000, ge=1, description="questions kept in this process, and in each stream in Redis")
    ttl_s: float | None = Field(None, gt=0, description="how old an answer may be; unset: as old as the cache keeps it")
    timeout_s: float = Field(0.1, gt=0, description="a look takes no longer; past it, it is a miss")
    queue: int = Field(64, ge=1, description="questions that wait for the encoder; past it a look is a miss")
    threads: int = Field(1, ge=1, description="of the encoder")


class CacheOptions(Frozen):
    """Where answers are kept for requests that are equal in all that matters."""

    url: Annotated[str, BY_FILE] = Field("memory://", pattern=URL, description=f"memory://, or {REDIS}")
    ttl_s: float = Field(3600, gt=0, description="how long an answer is kept")
    semantic: SemanticOptions | None = Field(None, description="unset: only equal requests share answers")


class LogOptions(Frozen):
    """Where decisions go as events, beside the last ones in memory: a file, a Redis stream, or both. See docs/online.md."""

    path: Annotated[str | None, BY_FILE] = Field(None, description="JSON lines are appended here; rotated files stay beside it")
    max_mb: float = Field(100, gt=0, description="size at which the file is rotated; it is at midnight (UTC) too")
    keep: int = Field(30, ge=1, description="rotated files kept")
    redis: Annotated[str | None, BY_FILE] = Field(None, pattern=r"^(rediss?|unix)://", description="a Redis whose stream takes the events")
    stream: str = Field(STREAM, min_length=1, description="name of the stream")
    max_events: int = Field(100_000, ge=1, description="about so many are kept in the stream")
    queue: int = Field(10_000, ge=1, description="events waiting while file or Redis fails; past it they are dropped and counted")
    prompts: bool = Field(False, description="keep the text of prompts too, without e-mail addresses, keys and long numbers")

    @model_validator(mode="after")
    def _somewhere(self) -> LogOptions:
        if self.path is None and self.redis is None:
            raise ValueError("give a path, a redis URL, or both")
        return self


class FeedbackOptions(Frozen):
    """What `POST /v1/feedback` does beside being logged."""

    state: Annotated[str, BY_FILE] = Field(
        "memory://", description="where sums of labels are kept: memory://, a JSON file, or redis://host:6379/0 for replicas"
    )
    ttl_days: float = Field(7, gt=0, description="how long an answer can be judged; in memory, while the process lives")
    correct: bool = Field(False, description="shift what is believed of a backend in a domain by what the labels show")
    domain_tag: str = Field("domain", min_length=1, description="the tag of a request that names its domain")
    half_life_days: float = Field(30, gt=0, description="after so long a label counts half")
    prior_sd: float = Field(0.5, gt=0, description="how far off, in logits, to expect a backend to be before any label")
    max_shift: float = Field(2.0, ge=0, description="no shift of a logit is larger")
    refresh_s: float = Field(5, gt=0, description="between looks at the shared sums")


class DriftOptions(Frozen):
    """Sequential tests on what comes in and what comes out."""

    tolerance: float = Field(
        0.1, ge=0, lt=1, description="how far chances may be off, and the mean rank of prompts may move, without alarm"
    )
    alpha: float = Field(0.01, gt=0, lt=1, description="chance that a test ever gives alarm without cause")
    reference: int = Field(1000, ge=100, description="first requests with which later ones are compared")
    then: str | None = Field(
        None, description="backend that answers everything once chances or quality gave alarm; unset: alarms only tell"
    )


class ShadowOptions(Frozen):
    """A second opinion on some requests, after their answer has gone out."""

    backend: str = Field(description="whose opinion it is")
    share: float = Field(0.01, gt=0, le=1, description="share of the answered requests")
    max_usd_per_hour: float = Field(1.0, gt=0, description="what the calls and their scores may cost at worst")
    timeout_s: float = Field(60, gt=0, description="for the call and its score together")


class TracingOptions(Frozen):
    """Traces for OpenTelemetry: one span for each request, plan and call."""

    otlp: str | None = Field(
        None, pattern="^https?://", description="the collector's address for OTLP over HTTP; unset: OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    sample: float = Field(1.0, ge=0, le=1, description="share of requests; of one that comes with a traceparent its sampled flag decides")
    service_name: str = Field("outlay", min_length=1, description="what the traces are filed under")
    queue: int = Field(2048, ge=1, description="traces waiting for the collector; past it they are dropped and counted")
    prompts: bool = Field(False, description="show messages too, without e-mail addresses, keys and long numbers")


class MetricsOptions(Frozen):
    """What `GET /metrics` may show beside the rest."""

    by_key: bool = Field(False, description="spend by the id of each API key too; whoever scrapes sees them all")
