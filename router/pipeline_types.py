"""What the HTTP layer and the pipeline say to each other: an `Ask` goes in, an `Outcome` comes out.

`wire.py` builds asks from requests and renders outcomes; `pipeline.py` does all that lies between and knows nothing of HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from adapters.types import ChatRequest, Delta
from difficulty.frozen import frozen
from policies.plans import Plan
from router.candidates import Candidate
from router.errors import RouterError
from router.keys import NOBODY, Key
from router.lessons import Given, Judged
from router.purse import Purse

Sink = Callable[[Delta], Awaitable[None]]
"""Where a live answer's deltas go. Only an answer that will be the outcome may go there: what a client has read cannot be taken back."""


@runtime_checkable
class Revocable(Protocol):
    """A sink that knows what of its deltas has gone out to the client."""

    def take_back(self) -> bool:
        """Forget all words, if none has gone out; whether none has."""


def taken_back(sink: Sink) -> bool:
    """Whether what was written to it is as if it had never been; not where the sink cannot say."""
    return isinstance(sink, Revocable) and sink.take_back()


def new_decision_id() -> str:
    """An id for one decision: `dec_` and 96 random bits."""
    return f"dec_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class CacheControl:
    """What the client wants of the cache, under LiteLLM's names (`no-cache`, `no-store`, `ttl`, `s-maxage`, `namespace`)."""

    no_cache: bool = False
    """Do not answer from the cache."""
    no_store: bool = False
    """Do not put the answer into the cache."""
    ttl_s: float | None = None
    """How long the answer may be kept."""
    s_maxage_s: float | None = None
    """Take no cached answer older than this."""
    namespace: str | None = None

    @property
    def shares(self) -> bool:
        """Whether the answer may come from an equal request that is under way, and go to one."""
        return not self.no_cache and not self.no_store


@dataclass(frozen=True, slots=True)
class ContinueFrom:
    """The answer that a request goes on from: a candidate of a past decision."""

    decision_id: str
    candidate: int = 0
    param: str = "outlay.continue_from"
    """Where the client said so, for messages."""


@frozen
class Ask:
    """One request as the router understands it. `None` means that the client did not say; the policy's value holds."""

    request: ChatRequest
    model: str
    """As the client named it: `auto`, `outlay/<policy or split>`, or a backend's name."""
    max_cost_usd: float | None = None
    deadline_s: float | None = None
    first_token_s: float | None = None
    """Of a stream: when the first word of the answer must be out."""
    min_quality: float | None = None
    plan: Plan | None = None
    """Forces this one plan."""
    tags: Mapping[str, str] = field(default_factory=dict)
    cache: CacheControl = CacheControl()
    session: str | None = None
    continue_from: ContinueFrom | None = None
    store: bool = False
    """Remember the conversation, so that a later request can go on from one of its answers."""
    verbose: bool = False
    traceparent: str = ""
    """The header of that name: the trace that the client's request belongs to."""
    purse: Purse = field(default_factory=Purse, compare=False)
    """Who asks, and what they may spend; bottomless, and nobody's, where the server asks for no keys."""
    id: str = field(default_factory=new_decision_id)
    """The decision's id, made here so that a stream can name it in its headers; the outcome carries the same."""


@frozen
class Outcome:
    """What goes out: the answer, what it cost, and why it was bought."""

    id: str
    """The ask's id."""
    candidates: tuple[Candidate, ...]
    """`request.n` of them, best first."""
    model: str
    """Backend that produced the answer."""
    plan: str
    """Key of the plan whose answer this is."""
    policy: str
    digest: str
    """Of the policy: what it said when this was decided."""
    input_tokens: int
    """Over all calls, as `output_tokens`."""
    output_tokens: int
    cost_usd: float
    baseline_usd: float | None
    """What the policy's baseline plan would have cost; None where there is none."""
    latency_s: float
    overhead_s: float
    """Part of `latency_s` in which the request waited for no backend and no verifier."""
    truncated_by: str | None
    """The limit that ended the work early: `cost`, `deadline`, or None."""
    cached: bool
    degraded: tuple[str, ...]
    """What failed and was done without (`verifier:reward`, `probe`), and what the answer lacks (`form`, `content_filter`, `refusal`)."""
    decision: Mapping[str, Any]
    """The decision block, ready for JSON: cause, estimate, plans considered, actions, calls."""
    cached_tokens: int = 0
    """Of `input_tokens`: what backends and verifiers read from their caches."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One name that a client may put in `model`."""

    id: str
    kind: Literal["policy", "split", "backend"]
    description: str = ""


class Pipeline(Protocol):
    """One request, through all of it. Errors are `router.errors.RouterError`; cancelling the awaiting task cancels the work."""

    async def answer(self, ask: Ask, sink: Sink | None = None) -> Outcome:
        """Decide, run, decide again, until the answer is worth sending. A live answer is written to `sink` while it comes."""

    async def route(self, ask: Ask) -> Mapping[str, Any]:
        """Decide without generating: the decision block that `answer` would start from."""

    async def decision(self, id: str, owner: str = "") -> Mapping[str, Any] | None:
        """A past decision by its id, while it is remembered; another owner's is none."""

    async def feedback(self, given: Given) -> Judged:
        """Count what somebody says of an answer that went out."""

    def models(self, key: Key = NOBODY) -> Sequence[ModelCard]:
        """Every name that `Ask.model` may hold, by this key."""

    def count_tokens(self, ask: Ask) -> int:
        """Length of the prompt, as the policy's first backend counts it. Raises UnknownModel."""

    def refused(self, error: RouterError) -> None:
        """Count an error that went out instead of an answer."""

    def measured(self) -> bytes:
        """What was counted and how everything stands, in Prometheus' text format."""

    async def ready(self) -> Mapping[str, str]:
        """Each component (`backend:<name>`, `verifier:<name>`, `probe`, `log:<sink>`, `drift:<test>`) with `ok`, or with what is wrong."""

    async def aclose(self) -> None:
        """Release backends, verifiers, probe and cache."""
