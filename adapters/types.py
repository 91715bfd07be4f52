"""The types that cross the border to everything outside the process: a chat request, what came back, what it cost.

A `ChatRequest` is parsed once, at the HTTP edge. Fields that Outlay looks at are typed; all others travel in `extra`, untouched.
A `Call` is the record of one call while it happens: the adapter writes into it as it goes, so a call that is cancelled
or fails half-way is still paid for what it produced, and answers that were finished by then are not lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]
"""One chat message in OpenAI's wire shape: `role`, `content` (text or parts), `tool_calls`, ..."""


def text_of(message: Message) -> str:
    """The text of a message: its string content, or its text parts joined; images and files have none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if part.get("type") == "text")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion to be made. `None` means that the client did not say; the backend's own default holds."""

    messages: tuple[Message, ...]
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    continue_final: bool = False
    """The last message is the beginning of an assistant's answer; the backend goes on from its last character."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Everything else of the request's body (tools, response_format, user, ...), passed on as it came."""

    def but(self, **changes: Any) -> ChatRequest:
        """The same request with some fields changed."""
        return replace(self, **changes)

    @property
    def prompt(self) -> str:
        """The text of the last user message: what an answer is an answer to."""
        return next((text_of(m) for m in reversed(self.messages) if m.get("role") == "user"), "")


def token_entry(text: str, logprob: float) -> Mapping[str, Any]:
    """A token as OpenAI's `logprobs.content` has it; which tokens were nearly drawn instead is not known here."""
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace")), "top_logprobs": []}


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer. `text` never holds an error."""

    text: str
    finish_reason: str = "stop"
    """OpenAI's values (stop, length, tool_calls, content_filter), or `cancelled` for a part cut off by the caller."""
    logprobs: tuple[float, ...] | None = None
    """Natural-log probability of each output token, where the request asked for it and the backend can."""
    tokens: tuple[Mapping[str, Any], ...] | None = None
    """With `logprobs`: OpenAI's entry for each token (`token`, `logprob`, `bytes`, `top_logprobs`), where its text is known too."""
    message: Message | None = None
    """The backend's whole message where there is more to it than text (tool calls, refusals, reasoning)."""
    stopped_by: str | None = None
    """The stop string that ended it (not part of `text`); None at the model's own end, or where the backend does not say."""

    @property
    def withheld(self) -> str:
        """Why it is no answer, or only the beginning of one: `content_filter`, or a `refusal` in its place; empty if it is one."""
        if self.finish_reason == "content_filter":
            return "content_filter"
        return "refusal" if not self.text and (self.message or {}).get("refusal") else ""


@dataclass(frozen=True, slots=True)
class Delta:
    """One event of a stream: a piece of text of choice `index`, or its end (`finish_reason`), or both."""

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    logprobs: tuple[float, ...] | None = None
    tokens: tuple[Mapping[str, Any], ...] | None = None
    """As in `Choice`."""
    fields: Mapping[str, Any] | None = None
    """Other fields of the backend's delta (tool_calls, refusal, ...), as they came."""
    comment: str = ""
    """Not part of an answer: a word on how the work goes, for a client that asked for it."""

    @property
    def says(self) -> bool:
        """Whether an answer has begun with it: with more than its end, or than a refusal."""
        return bool(self.text or (self.fields or {}).keys() - {"refusal"})


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input_usd_per_mtok: float = field(default=0.0, metadata={"description": "what is read"})
    output_usd_per_mtok: float = field(default=0.0, metadata={"description": "what is written"})
    cached_input_usd_per_mtok: float | None = field(
        default=None, metadata={"description": "input that a cache of read prompts spared; unset: as any other input"}
    )

    def cost_usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
        """What so many tokens cost, in US dollars; `cached_tokens` are a part of the input."""
        cached = self.input_usd_per_mtok if self.cached_input_usd_per_mtok is None else self.cached_input_usd_per_mtok
        read_usd = (input_tokens - cached_tokens) * self.input_usd_per_mtok + cached_tokens * cached
        return (read_usd + output_tokens * self.output_usd_per_mtok) / 1e6


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the requests that a call made of what stands behind a backend's name, as it was paid for."""

    deployment: str
    kind: Literal["first", "retry", "hedge", "fallback"]
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_s: float
    """Until it began to answer, for a stream; else until it was over."""
    outcome: str
    """`ok`, `cancelled`, or the name of the error."""
    cached_tokens: int = 0
    cause: str = ""
    """Of a failure by no fault of the request: what is known of it but the words of others. For the operator's log, and nobody else."""


async def _freely(backend: Backend, after_s: float, more: bool) -> bool:
    return True


def _never() -> bool:
    return False


@dataclass(slots=True)
class Call:
    """What one call to a backend or verifier has used and produced so far. Written by the adapter, read by the run."""

    price: Price
    scope: str = ""
    """Whose texts a cache of prompts may hold for this call: those read for calls of the same scope, and no others."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input: what was not computed, but read from a cache of prompts."""
    reported_usd: float | None = None
    """The provider's own figure, where it gives one; it wins over the price list."""
    estimated: bool = False
    """The tokens were counted or estimated here, because the provider did not report them."""
    model: str = ""
    """As the provider names what answered; empty where it does not say."""
    choices: list[Choice] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    """Each request made, where a backend may make several for one call."""
    may: Callable[[Backend, float, bool], Awaitable[bool]] = _freely
    """Whether a further attempt of this backend may begin after so many seconds; with `more`, the price of one is not yet set aside."""
    take_back: Callable[[], bool] = _never
    """Forgets what was streamed, if no client has a word of it; whether none has, so that another attempt may begin it anew."""

    def charge(self, part: Call) -> None:
        """Take over what a part of this call has used."""
        if part.reported_usd is not None or self.reported_usd is not None or part.price != self.price:
            self.reported_usd = self.cost_usd + part.cost_usd
        self.input_tokens += part.input_tokens
        self.output_tokens += part.output_tokens
        self.cached_tokens += part.cached_tokens
        self.estimated |= part.estimated
        self.model = part.model or self.model
        self.attempts += part.attempts

    @property
    def cost_usd(self) -> float:
        """What is to be paid for this call as it stands, in US dollars."""
        if self.reported_usd is not None:
            return self.reported_usd
        return self.price.cost_usd(self.input_tokens, self.output_tokens, self.cached_tokens)


@dataclass(frozen=True, slots=True)
class Features:
    """What a backend can do, for strategies that have more than one way."""

    continues_prefix: bool = False
    """Honours `ChatRequest.continue_final`."""
    native_n: bool = False
    """Draws `n` answers in one call, the prompt being read (and billed) once."""
    logprobs: bool = False
    max_context: int | None = None
    """Tokens of prompt and answer together, where known."""
    max_tokens: int | None = None
    """Output tokens of one answer at most where the request does not say, where known."""
    caches_prefix: bool = False
    """Keeps what it read and wrote: a prompt that begins with it is read from the cache so far (`Call.cached_tokens`)."""
    max_output: int | None = None
    """Output tokens of which the model is capable, whatever is asked for, where known."""


class Backend(Protocol):
    """A model that answers chat requests. Errors are `adapters.errors.BackendError`; cancelling the awaiting task cancels the work."""

    name: str
    price: Price
    features: Features

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """Append `request.n` choices to `call.choices` (each as it is finished, where the backend can) and count the tokens in `call`."""

    def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, token by token; at the end `call` holds the choices and the tokens as after `complete`."""

    def count_tokens(self, request: ChatRequest) -> int:
        """Input tokens of a request: exact for a local model, an estimate (about four characters a token) otherwise."""

    async def aclose(self) -> None:
        """Release connections, threads and memory."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one answer."""

    score: float | None
    """Raw score in [0, 1], higher is better; None where the verifier could not say."""
    steps: tuple[float, ...] = ()
    """A process reward model's score after each step (the chance that this prefix ends right), in order."""
    reason: str = ""
    cluster: str = ""
    """How the answer behaves, as a short string: those of one cluster are one answer to a vote. Empty where the verifier cannot tell."""


class Verifier(Protocol):
    """Scores answers to a request. Errors are `adapters.errors.VerifierError`."""

    name: str
    price: Price
    scores_prefixes: bool
    """Also scores unfinished answers (a process reward model): what a tree search needs."""

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each choice, in order; a set is passed whole because votes depend on all of it."""

    async def aclose(self) -> None:
        """Release connections, threads and memory."""
