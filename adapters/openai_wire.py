"""OpenAI's chat completions on the wire: a request's body, and what an answer, a stream or an error says. No I/O here.

Used by `openai.py` and by `litellm.py`, whose library gives everything in this shape. What a server leaves out is estimated; what it
says beyond the protocol is passed on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard

from adapters.errors import BackendError, BackendMalformed, BackendRefused, BackendUnavailable
from adapters.options import without_password
from adapters.pricing import BYTES_PER_TOKEN
from adapters.types import Call, ChatRequest, Choice, Delta, Message, text_of

RETRYABLE = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
NOT_TEXT = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an answer raises when it is not of the expected shape."""
MOST = 10**8
"""Tokens, or dollars, that no single answer comes to: usage that says more is a slip, and would empty a budget for good."""


def body_of(request: ChatRequest, model: str, max_tokens: int | None, max_tokens_field: str = "max_tokens") -> dict[str, Any]:
    """The body of a request: what the client said and nothing else, but for the backend's own `max_tokens` where it did not say."""
    said = {
        "n": request.n if request.n > 1 else None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        max_tokens_field: request.max_tokens or max_tokens,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "logprobs": request.logprobs or None,
    }
    rest = {name: value for name, value in said.items() if value is not None}
    return {**request.extra, "model": model, "messages": list(request.messages), **rest}


def with_usage(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a streamed request whose last event gives the tokens."""
    return {**body, "stream": True, "stream_options": {**(body.get("stream_options") or {}), "include_usage": True}}


# --- what an answer says ----------------------------------------------------------------------------------------------


def read_answer(backend: str, payload: Any, call: Call) -> None:
    """Put the choices and the usage of a plain answer into `call`; BackendMalformed if it is none. Its usage counts in any case."""
    counted = count(payload.get("usage") if isinstance(payload, dict) else None, call)
    name(payload, call)
    try:
        if not payload["choices"]:
            raise BackendMalformed(backend, "an answer without choices", because="no choices")
        choices = [_choice(choice) for choice in payload["choices"]]
    except NOT_TEXT:
        if not counted:
            call.output_tokens, call.estimated = _tokens_of(payload), True
        said = message_of(payload) or "no choices"
        raise BackendMalformed(backend, f"an answer in a shape that is not OpenAI's: {said}", because="not OpenAI's shape") from None
    call.choices.extend(choices)
    if not counted:
        call.output_tokens, call.estimated = sum(_tokens_of(choice.message or choice.text) for choice in choices), True


def count(usage: Any, call: Call) -> bool:
    """Take over a provider's usage, and its own figure of the cost (OpenRouter gives one, in US dollars); False if it gives no usage."""
    if not isinstance(usage, dict):
        return False
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (_is_count(tokens_in) and _is_count(tokens_out)):
        return False
    call.input_tokens, call.output_tokens, call.estimated = tokens_in, tokens_out, False
    call.cached_tokens = min(_cached(usage), tokens_in)
    if isinstance(cost := usage.get("cost"), int | float) and not isinstance(cost, bool) and 0 <= cost < MOST:
        call.reported_usd = float(cost)
    return True


def _cached(usage: Mapping[str, Any]) -> int:
    """Input tokens that a provider says it read from its cache: by OpenAI's name (vLLM's, LiteLLM's too), or by DeepSeek's."""
    details = usage.get("prompt_tokens_details")
    said = details.get("cached_tokens") if isinstance(details, dict) else None
    said = usage.get("prompt_cache_hit_tokens") if said is None else said
    return said if _is_count(said) else 0


def _is_count(tokens: Any) -> TypeGuard[int]:
    return isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < MOST


def name(payload: Any, call: Call) -> None:
    """Take over what the provider calls the model that answered."""
    if isinstance(payload, dict) and isinstance(model := payload.get("model"), str):
        call.model = model[:200]


def _choice(choice: Mapping[str, Any]) -> Choice:
    message = choice["message"]
    reason = choice.get("finish_reason") or "stop"
    tokens = _tokens(choice)
    return Choice(text_of(message), str(reason), _logprobs(tokens), tokens, _more_than_text(message), _stopped_by(choice))


def _tokens_of(value: Any) -> int:
    """An estimate, of all the text in a value."""
    return -(-_size(value) // BYTES_PER_TOKEN)


def _size(value: Any) -> int:
    """Bytes of all the text in a value: what was generated, without the names and braces around it."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return sum(_size(item) for item in value.values())
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0


def _more_than_text(message: Message) -> Message | None:
    """The message, if it has more to it than a role and a text."""
    said = {name for name, value in message.items() if value not in (None, [], {}, "")}
    return message if said - {"role", "content"} or not isinstance(message.get("content"), str | None) else None


def _tokens(choice: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    return tuple((choice.get("logprobs") or {}).get("content") or ()) or None


def _logprobs(tokens: Sequence[Mapping[str, Any]] | None) -> tuple[float, ...] | None:
    return tuple(float(token["logprob"]) for token in tokens) if tokens else None


def _stopped_by(choice: Mapping[str, Any]) -> str | None:
    """vLLM says which stop string it was (or the number of a stop token, which is no string)."""
    reason = choice.get("stop_reason")
    return reason if isinstance(reason, str) else None


# --- what a stream says -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """One choice of a stream, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Mapping[str, Any]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    stopped_by: str | None = None

    def choice(self, finish_reason: str) -> Choice:
        text = "".join(self.texts)
        message = {"role": "assistant", "content": text or None, **_without_numbers(self.fields)} if self.fields else None
        tokens = tuple(self.tokens) or None
        return Choice(text, finish_reason, _logprobs(tokens), tokens, message, self.stopped_by)


class StreamReader:
    """Turns the events of a stream into deltas, and counts and assembles while they pass.

    `end` is called once the stream is over, however it ended.
    """

    def __init__(self, backend: str, call: Call) -> None:
        self._backend, self._call = backend, call
        self._parts: dict[int, _Part] = {}
        self._bytes = 0
        self._counted = False

    def read(self, event: Any) -> list[Delta]:
        """The deltas of one event."""
        try:
            if event.get("error"):
                raise BackendMalformed(
                    self._backend, f"the stream broke off with an error: {message_of(event)}", because="an error in the stream"
                )
            deltas = [self._delta(choice) for choice in event.get("choices") or ()]
        except NOT_TEXT:
            raise BackendMalformed(self._backend, "an event of the stream is not in OpenAI's shape", because="not OpenAI's shape") from None
        self._counted = count(event.get("usage"), self._call) or self._counted
        if not self._call.model:
            name(event, self._call)
        return [delta for delta in deltas if delta.text or delta.fields or delta.finish_reason or delta.logprobs]

    def finish(self, done: bool) -> list[Delta]:
        """The stream is over, with its `[DONE]` or without it. Choices that never said why they ended have ended now, or were cut off."""
        unfinished = [index for index, part in self._parts.items() if part.finish_reason is None]
        if not self._parts or (unfinished and not done):
            said = "the stream was cut off" if self._parts or not done else "a stream without choices"
            raise BackendMalformed(self._backend, said, because=said)
        for index in unfinished:
            self._parts[index].finish_reason = "stop"
        return [Delta(index=index, finish_reason="stop") for index in unfinished]

    def end(self, cancelled: bool) -> None:
        """Put the choices into the call: those that are finished, and if the caller broke off, the others as cancelled."""
        for _, part in sorted(self._parts.items()):
            if part.finish_reason is not None or cancelled:
                self._call.choices.append(part.choice(part.finish_reason or "cancelled"))

    def _delta(self, choice: Mapping[str, Any]) -> Delta:
        index, delta = int(choice.get("index") or 0), choice.get("delta") or {}
        part = self._parts.setdefault(index, _Part())
        text, tokens = text_of(delta), _tokens(choice)
        fields = {k: v for k, v in delta.items() if k not in ("role", "content") and v is not None and v != []}
        reason = choice.get("finish_reason") if part.finish_reason is None else None
        part.texts.append(text)
        part.tokens.extend(tokens or ())
        _merge(part.fields, fields)
        part.finish_reason, part.stopped_by = reason or part.finish_reason, _stopped_by(choice) or part.stopped_by
        self._estimate((text, fields))
        return Delta(text, index, reason, _logprobs(tokens), tokens, fields or None)

    def _estimate(self, piece: Any) -> None:
        """Count as the text comes, so that a stream that is cut off is paid for; the usage at the end replaces it."""
        if not self._counted:
            self._bytes += _size(piece)
            self._call.output_tokens, self._call.estimated = -(-self._bytes // BYTES_PER_TOKEN), True


def _merge(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a delta's fields to those before: texts are joined, numbered lists (tool calls) merged by their number, others replaced."""
    for name, value in piece.items():
        if isinstance(value, dict):
            _merge(whole.setdefault(name, {}), value)
        elif isinstance(value, list):
            _merge_list(whole.setdefault(name, []), value)
        elif isinstance(value, str) and name not in ("id", "type", "name"):
            whole[name] = whole.get(name, "") + value
        elif value is not None:
            whole[name] = value


def _merge_list(whole: list[Any], pieces: Sequence[Any]) -> None:
    """Lists of numbered items grow item by item; others by what comes."""
    for piece in pieces:
        number = piece.get("index") if isinstance(piece, dict) else None
        begun = next((item for item in whole if number is not None and item.get("index") == number), None)
        if begun is None:
            whole.append(begun := {} if isinstance(piece, dict) else piece)
        if isinstance(piece, dict):
            _merge(begun, piece)  # into a dict of our own: the piece is on its way to the client


def _without_numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The assembled fields as a plain answer has them: the numbers were for the assembly."""
    return {name: [_unnumbered(item) for item in value] if isinstance(value, list) else value for name, value in fields.items()}


def _unnumbered(item: Any) -> Any:
    return {name: value for name, value in item.items() if name != "index"} if isinstance(item, dict) else item


# --- what an error says -----------------------------------------------------------------------------------------------


def message_of(payload: Any) -> str:
    """A provider's message in an error body, in one of the shapes that servers use; empty where there is none."""
    for said in _error_parts(payload):
        if isinstance(said, str) and said.strip():
            return said.strip()[:500]
    return ""


def code_of(payload: Any) -> str | None:
    """A provider's code for an error: `context_length_exceeded`, ..."""
    error = payload.get("error") if isinstance(payload, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _error_parts(payload: Any) -> Iterator[Any]:
    if not isinstance(payload, dict):
        yield payload
        return
    error = payload.get("error")
    yield error.get("message") if isinstance(error, dict) else error
    yield payload.get("message")
    yield payload.get("detail")


def error_for(backend: str, status: int, message: str, code: str | None = None, retry_after_s: float | None = None) -> BackendError:
    """The error that an HTTP status means. A rejected key is for the operator to mend, so the message names the configuration."""
    if status in RETRYABLE or status >= 500:
        return BackendUnavailable(backend, f"status {status}: {message or 'no reason given'}", retry_after_s=retry_after_s, status=status)
    if status in (401, 403):
        said = f": {message}" if status == 403 and message else ""
        message = f"the provider does not accept the key ({status}{said}); check backends.{backend}.api_key"
        return BackendRefused(backend, message, status=status, code="backend_auth")
    if 300 <= status < 400:
        return BackendMalformed(backend, f"status {status}, a redirection; give the final address as base_url", status=status)
    return BackendRefused(backend, message or f"status {status} without a reason", status=status, code=code)


def unreached(backend: str, kind: str, address: str) -> BackendUnavailable:
    """There is no connection. Where to is for the operator's log alone: a caller has nothing to do with addresses."""
    return BackendUnavailable(backend, f"no connection ({kind})", because=f"{kind} at {without_password(address)}" if address else kind)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date; None if it does not say."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return max(0.0, milliseconds / 1000)
    said = headers.get("retry-after") or headers.get("Retry-After", "")
    if (seconds := _number(said)) is not None:
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
