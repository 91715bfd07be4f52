"""Any OpenAI-compatible server (OpenAI, vLLM, Ollama, llama.cpp, OpenRouter, ...) over kept connections: the fast path.

What goes over the wire is in `openai_wire.py`, how in `http_client.py`; time limits and concurrency are applied around it, by `guarded.py`.

Tokens are the provider's, else estimated. A call whose answer nobody waited for is charged its prompt, and what had come of a stream;
what a plain answer had likely come to is known to its pool (`pool.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from adapters.errors import AdapterError, BackendError, BackendMalformed, BackendUnavailable
from adapters.fast_json import dumps, loads
from adapters.http_client import NotHttp, Posted, Response, Server
from adapters.openai_wire import StreamReader, body_of, code_of, error_for, message_of, read_answer, retry_after_s, unreached, with_usage
from adapters.options import BY_FILE, RemoteOptions, redacted, resolve_secret, without_password
from adapters.pricing import estimate_input_tokens, listed
from adapters.sse import EventParser, LineTooLong
from adapters.traceparent import trace_headers
from adapters.types import Call, ChatRequest, Choice, Delta, Features, Price

OPENAI = "https://api.openai.com/v1"
MAX_ANSWER_BYTES = 64 << 20
"""A server that does not stop sending is stopped here."""
TOO_LONG = f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB"
END_OF_STREAM_S = 0.1
CONNECT_S = 5.0
"""A server that is there takes a connection sooner; OpenAI's own client waits as long. What it is asked then takes the time it takes."""
VLLM_CONTINUES = {"continue_final_message": True, "add_generation_prompt": False}


class OpenAIOptions(RemoteOptions):
    """How to reach a server, and what it can do that cannot be asked."""

    kind: Literal["openai"] = "openai"
    model: str = Field(min_length=1, description="the server's name for it; one `openai/` before it is cut off")
    base_url: Annotated[str, BY_FILE] = Field(OPENAI, pattern="^https?://", description="up to and without /chat/completions")
    api_key: Annotated[SecretStr | None, BY_FILE] = Field(
        None, description="the server's key, or os.environ/NAME; unset: OPENAI_API_KEY for OpenAI itself, none for others"
    )
    headers: Annotated[dict[str, SecretStr], BY_FILE] = Field({}, description="sent with each request; values may be os.environ/NAME")
    native_n: bool = Field(True, description="the server draws several answers in one call")
    continues_prefix: Literal[False, "vllm"] = Field(False, description="vllm: a begun answer is continued, by vLLM's two extra fields")
    logprobs: bool = Field(True, description="the server gives log-probabilities")
    stream_usage: bool = Field(True, description="ask a stream for its usage (`stream_options`); off for servers that refuse the field")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None, description="unset: max_completion_tokens for OpenAI itself, whose newer models know only that, else max_tokens"
    )

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")


class OpenAIBackend:
    """One model of one server. Connections are opened with the first call, in the loop that makes it."""

    def __init__(self, name: str, options: OpenAIOptions) -> None:
        self.name = name
        self._options = options
        self._model = options.model.removeprefix("openai/")
        line = listed(f"openai/{self._model}") or listed(self._model)
        self.price = options.price or (line.price if line else Price())
        context = options.max_context or (line.max_context if line else None)
        can = (bool(options.continues_prefix), options.native_n, options.logprobs)
        self.features = Features(*can, context, options.max_tokens, options.caches_prefix, line.max_output if line else None)
        self.address, self.has_own_price = options.base_url, options.price is not None
        secrets = _secret_headers(name, options)
        try:
            headers = {"Content-Type": "application/json", **secrets}
            self._server = Server(f"{options.base_url}/chat/completions", headers, connect_s=min(CONNECT_S, options.timeout_s))
        except ValueError as error:
            raise AdapterError(f"backends.{name}: {error}") from None
        self.unsaid = [*(value.removeprefix("Bearer ") for value in secrets.values()), urlsplit(options.base_url).netloc]
        """What no caller is to read, whatever the server says."""
        self._max_tokens_field = options.max_tokens_field or ("max_completion_tokens" if options.base_url == OPENAI else "max_tokens")

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """One call for all `n` answers; a server that gives fewer is taken at what it gave."""
        with _Exchange(self, call) as exchange:
            async with self._post(self._body(request), request, call) as response:
                await exchange.accepted(response)
                read_answer(self.name, await self._json(response), call)

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The answers as they come. A server that does not stream is heard out, and its answers given whole."""
        body = self._body(request)
        body = with_usage(body) if self._options.stream_usage else {**body, "stream": True}
        with _Exchange(self, call) as exchange:
            async with self._post(body, request, call) as response:
                await exchange.accepted(response)
                if response.content_type != "text/event-stream":
                    read_answer(self.name, await self._json(response), call)
                    for index, choice in enumerate(call.choices):
                        yield _whole(choice, index)
                    return
                events, cancelled = _Events(self, call), False
                try:
                    async for chunk in response.pieces():
                        for delta in events.feed(chunk):
                            yield delta
                        if events.done:
                            break
                    for delta in events.finish():
                        yield delta
                except (asyncio.CancelledError, GeneratorExit):
                    cancelled = True
                    raise
                finally:
                    events.reader.end(cancelled)
                await _drain(response)

    def count_tokens(self, request: ChatRequest) -> int:
        """An estimate: about four bytes a token."""
        return estimate_input_tokens(request)

    async def aclose(self) -> None:
        """Close the connections; calls under way fail, later ones are refused."""
        self._server.close()

    # --- a request ------------------------------------------------------------------------------------------------

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body = body_of(request, self._model, self._options.max_tokens, self._max_tokens_field)
        if not request.continue_final:
            return body
        assert self.features.continues_prefix, "who asks for a continuation looks at the features first"
        return {**body, **VLLM_CONTINUES}

    def _post(self, body: Mapping[str, Any], request: ChatRequest, call: Call) -> Posted:
        """A response; leaving it closes an unread answer. From here on the prompt is charged."""
        if self._server.closed:
            raise BackendUnavailable(self.name, "it has been closed")
        call.input_tokens, call.estimated = self.count_tokens(request), True
        return self._server.post(dumps(body), trace_headers())

    # --- an answer ------------------------------------------------------------------------------------------------

    async def _json(self, response: Response) -> Any:
        body = await self._read(response)
        try:
            return loads(body)
        except ValueError:
            raise BackendMalformed(
                self.name, f"an answer that is not JSON ({response.content_type}): {self.excerpt(body)}", because="not JSON"
            ) from None

    async def _read(self, response: Response) -> bytes:
        body = bytearray()
        async for chunk in response.pieces():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise BackendMalformed(self.name, TOO_LONG, because="too long")
        return bytes(body)

    # --- an error -------------------------------------------------------------------------------------------------

    async def failure(self, response: Response) -> BackendError:
        """The error that this response is, in the provider's words as far as they can be read."""
        try:
            payload = loads(await self._read(response))
        except ValueError:
            payload = None
        said = message_of(payload) or response.reason
        return error_for(self.name, response.status, said, code_of(payload), retry_after_s(response.headers))

    def excerpt(self, body: bytes) -> str:
        """The beginning of what a server sent, fit for a message."""
        return repr(redacted(body[:80].decode("utf-8", "replace"), self.unsaid))


class _Exchange:
    """What a failure means: before the server has accepted the request it costs nothing, after that an answer was cut off."""

    def __init__(self, backend: OpenAIBackend, call: Call) -> None:
        self._backend, self._call, self._accepted = backend, call, False

    def __enter__(self) -> _Exchange:
        return self

    async def accepted(self, response: Response) -> None:
        """The server has answered. Raises what it says where it refuses."""
        if response.status != 200:
            _free(self._call)
            raise await self._backend.failure(response)
        self._accepted = True

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if self._backend.has_own_price:
            self._call.reported_usd = None  # a configured price is the price
        if isinstance(error, BackendError):
            error.mask(self._backend.unsaid)
        if not isinstance(error, OSError):
            return
        name, kind = self._backend.name, type(error).__name__
        if self._accepted:
            raise BackendMalformed(name, f"the answer was cut off ({kind})", because=kind) from None
        _free(self._call)
        if isinstance(error, NotHttp):
            raise BackendMalformed(
                name, "what came is no HTTP response", because=f"{kind} at {without_password(self._backend.address)}"
            ) from None
        raise unreached(name, kind, self._backend.address) from None


class _Events:
    """The bytes of one stream, as deltas."""

    def __init__(self, backend: OpenAIBackend, call: Call) -> None:
        self.reader = StreamReader(backend.name, call)
        self.done = False
        self._backend, self._parser, self._size = backend, EventParser(), 0

    def feed(self, chunk: bytes) -> Iterator[Delta]:
        """The deltas that this chunk completes."""
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise BackendMalformed(self._backend.name, TOO_LONG, because="too long")
        try:
            events = self._parser.feed(chunk)
        except LineTooLong as error:
            raise BackendMalformed(self._backend.name, str(error), because="too long") from None
        for data in events:
            yield from self._read(data)

    def finish(self) -> Iterator[Delta]:
        """What remains when the server has ended the stream; BackendMalformed if it was cut off."""
        for data in self._parser.finish():
            yield from self._read(data)
        yield from self.reader.finish(self.done)

    def _read(self, data: str) -> Iterator[Delta]:
        self.done = self.done or data == "[DONE]"
        if self.done:
            return
        try:
            event = loads(data)
        except ValueError:
            raise BackendMalformed(
                self._backend.name, f"an event that is not JSON: {self._backend.excerpt(data.encode())}", because="not JSON"
            ) from None
        yield from self.reader.read(event)


async def _drain(response: Response) -> None:
    """Read the end of a stream after its last event, so that the connection can be used again; it is not waited for long."""
    with suppress(OSError):  # a TimeoutError is one, and an end that was promised and does not come
        async with asyncio.timeout(END_OF_STREAM_S):
            async for _ in response.pieces():
                pass


def _free(call: Call) -> None:
    """A request that was not accepted costs nothing."""
    call.input_tokens, call.cached_tokens, call.estimated = 0, 0, False


def _secret_headers(name: str, options: OpenAIOptions) -> dict[str, str]:
    """The configured headers. OPENAI_API_KEY is taken without being named, but only for the server that it belongs to."""
    headers = {key: resolve_secret(value.get_secret_value(), f"backends.{name}.headers.{key}") for key, value in options.headers.items()}
    if options.api_key is not None:
        key = resolve_secret(options.api_key.get_secret_value(), f"backends.{name}.api_key")
    else:
        key = os.environ.get("OPENAI_API_KEY", "") if options.base_url == OPENAI else ""
    return {"Authorization": f"Bearer {key.strip()}", **headers} if key else headers


def _whole(choice: Choice, index: int) -> Delta:
    """A finished choice as the one event of its stream."""
    fields = {k: v for k, v in (choice.message or {}).items() if k not in ("role", "content") and v is not None}
    return Delta(choice.text, index, choice.finish_reason, choice.logprobs, choice.tokens, fields or None)
