"""OpenAI's responses and Anthropic's messages, by LiteLLM's translation from and to chat completions; not by hand.

The only file that knows where LiteLLM keeps these translators: they are no part of its documented interface and have moved before, so the
lower bound of the dependency is the version that the tests ran with, and the tests are the two vendors' own clients. Importing
LiteLLM takes some seconds and 160 MB, so this file is imported by the first request that needs it (`apis.py`), in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from adapters.litellm import import_litellm
from router import render, wire
from router.apis import Batches
from router.errors import InvalidRequest, RouterError
from router.pipeline_types import ContinueFrom
from router.purse import Purse

import_litellm()  # before the modules below, which import it themselves and would let it call home

from litellm.llms.anthropic.pass_through.adapters.streaming_iterator import AnthropicStreamWrapper  # noqa: E402
from litellm.llms.anthropic.pass_through.adapters.transformation import AnthropicAdapter  # noqa: E402
from litellm.responses.litellm_completion_transformation import transformation  # noqa: E402
from litellm.responses.litellm_completion_transformation.streaming_iterator import LiteLLMCompletionStreamingIterator  # noqa: E402
from litellm.types.llms.openai import ResponsesAPIOptionalRequestParams  # noqa: E402
from litellm.types.utils import ModelResponse, ModelResponseStream  # noqa: E402

LiteLLMCompletionResponsesConfig = transformation.LiteLLMCompletionResponsesConfig

NOT_READ = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What LiteLLM raises for a body that is not of the API's shape."""

OURS = ("outlay", "cache", "stream")
RESPONSES_FIELDS = {*ResponsesAPIOptionalRequestParams.__annotations__, "model", "input", "service_tier", *OURS}
TOOLS = ("function", "custom", "web_search", "web_search_preview")
"""Kinds of tools that chat completions have an equivalent of; LiteLLM would leave out the others without a word."""


class Responses:
    """`POST /v1/responses`."""

    end = b""

    def parse(self, raw: bytes, headers: Mapping[str, str], *, max_messages: int, purse: Purse) -> wire.Incoming:
        """The request as a chat request; fields that the API does not have are passed on. Raises InvalidRequest."""
        said = wire.parse_json(raw)
        _check_responses(said)
        api_request = {name: value for name, value in said.items() if name not in ("model", "input", *OURS)}
        with _reading("the responses API"):
            chat = LiteLLMCompletionResponsesConfig.transform_responses_api_request_to_chat_completion_request(
                model=said.get("model") or "auto",
                input=said.get("input") or [],
                responses_api_request=api_request,
                metadata=said.get("metadata"),
                service_tier=said.get("service_tier"),
            )
        chat |= {name: value for name, value in said.items() if name not in RESPONSES_FIELDS or name in OURS}
        return _remembered(_incoming(chat, said, headers, max_messages, purse))

    def whole(self, incoming: wire.Incoming, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """The response object, with the decision block."""
        response = LiteLLMCompletionResponsesConfig.transform_chat_completion_response_to_responses_api_response(
            request_input=incoming.said.get("input") or [],
            responses_api_request=_without_ours(incoming.said),
            chat_completion_response=ModelResponse(**_one_choice(completion)),
        )
        found = response.model_dump(mode="json", exclude_none=False)
        found["usage"]["output_tokens_details"] = found["usage"]["output_tokens_details"] or {"reasoning_tokens": 0}  # as streams have it
        return {**found, "id": _id("resp_", incoming), "outlay": completion["outlay"]}

    def events(self, incoming: wire.Incoming, batches: Batches) -> AsyncIterator[bytes]:
        """Its events, each under its name."""

        def translator(chunks: _Chunks) -> AsyncIterator[Any]:
            translated: AsyncIterator[Any] = LiteLLMCompletionStreamingIterator(
                model=incoming.ask.model,
                litellm_custom_stream_wrapper=chunks,
                request_input=incoming.said.get("input") or [],
                responses_api_request=_without_ours(incoming.said),
            )
            return translated

        def event(translated: Any, numbered: int, block: Any) -> dict[str, Any]:
            found: dict[str, Any] = translated.model_dump(mode="json", exclude_none=False) | {"sequence_number": numbered}
            if isinstance(found.get("response"), dict):
                found["response"]["id"] = _id("resp_", incoming)
                found["response"] |= {"outlay": block} if block else {}
            return found

        return _translated(batches, translator, event)

    def error(self, error: RouterError) -> Mapping[str, Any]:
        """OpenAI's shape."""
        return render.error_body(error)

    def broken(self, error: RouterError) -> bytes:
        """Its `error` event."""
        said = {"type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": 0}
        return _named(said | render.beside_error(error))


class Messages:
    """`POST /v1/messages`."""

    end = b""

    def parse(self, raw: bytes, headers: Mapping[str, str], *, max_messages: int, purse: Purse) -> wire.Incoming:
        """The request as a chat request. Raises InvalidRequest."""
        return self._read(wire.parse_json(raw), headers, max_messages, purse)

    def _read(self, said: dict[str, Any], headers: Mapping[str, str], max_messages: int, purse: Purse) -> wire.Incoming:
        _check_messages(said)
        with _reading("the messages API"):
            body = {"model": "auto"} | {name: value for name, value in said.items() if name not in OURS}
            chat, names = AnthropicAdapter().translate_completion_input_params_with_tool_mapping(body)
        chat = {**chat, **{name: said[name] for name in OURS if name in said}}
        return _incoming(chat, {**said, "tool_names": names}, headers, max_messages, purse)

    def whole(self, incoming: wire.Incoming, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """The message object, with the decision block."""
        answer = ModelResponse(**_one_choice(completion))
        message = AnthropicAdapter().translate_completion_output_params(answer, incoming.said["tool_names"])
        return {**message, "id": _id("msg_", incoming), "outlay": completion["outlay"]}

    def events(self, incoming: wire.Incoming, batches: Batches) -> AsyncIterator[bytes]:
        """Its events, each under its name."""

        def translator(chunks: _Chunks) -> AsyncIterator[Any]:
            translated: AsyncIterator[Any] = AnthropicStreamWrapper(
                completion_stream=chunks, model=incoming.ask.model, tool_name_mapping=incoming.said["tool_names"]
            )
            return translated

        def event(translated: Any, numbered: int, block: Any) -> dict[str, Any]:
            found: dict[str, Any] = dict(translated)
            if found["type"] == "message_start":
                found["message"] = {**found["message"], "id": _id("msg_", incoming)}
            return found | ({"outlay": block} if block and found["type"] == "message_delta" else {})

        return _translated(batches, translator, event)

    def error(self, error: RouterError) -> Mapping[str, Any]:
        """Anthropic's shape, whose types follow from the status."""
        kind = ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        said = {"type": kind, "message": error.message, "code": error.code, "param": error.param}
        return {"type": "error", "error": said, **render.beside_error(error)}

    def broken(self, error: RouterError) -> bytes:
        """The same, as an event."""
        return _named(self.error(error))


class Prompts(Messages):
    """`POST /v1/messages/count_tokens`: a message's prompt, of which nothing is answered."""

    def parse(self, raw: bytes, headers: Mapping[str, str], *, max_messages: int, purse: Purse) -> wire.Incoming:
        """As a message of the shortest answer. Raises InvalidRequest."""
        return self._read({**wire.parse_json(raw), "max_tokens": 1}, headers, max_messages, purse)


ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Forgetful:
    """In the place of LiteLLM's memory of tool calls: it is one for the whole process, so a caller who sends the result of a call that he
    never got, by its id, would be given the call of somebody else. A conversation is remembered by `threads.py`, by tenant."""

    def get_cache(self, key: str) -> None:
        """Nothing is known."""

    def set_cache(self, **_: Any) -> None:
        """Nothing is kept."""


transformation.TOOL_CALLS_CACHE = Forgetful()

# --- the way in ---------------------------------------------------------------------------------------------------------


def _check_responses(said: Mapping[str, Any]) -> None:
    """What LiteLLM would pass over without a word."""
    if not said.get("input"):
        raise InvalidRequest("input is missing; send a text or a list of items", param="input", code="missing_required_parameter")
    if not isinstance(said.get("input", ""), str | list):
        raise InvalidRequest("input must be a text or a list of items", param="input")
    for name in ("background", "conversation", "prompt"):
        if said.get(name):
            raise InvalidRequest(f"{name} is not supported here; send the whole request, and wait for its answer", param=name)
    tools = said.get("tools") or []
    for i, tool in enumerate(tools if isinstance(tools, list) else [None]):
        if not isinstance(tool, dict) or tool.get("type") not in TOOLS:
            raise InvalidRequest(f"tools[{i}]: the kinds of tools that are supported here are {', '.join(TOOLS)}", param=f"tools[{i}]")


def _check_messages(said: Mapping[str, Any]) -> None:
    if not isinstance(said.get("messages"), list) or not said["messages"]:
        raise InvalidRequest("messages: a list with at least one message is required", param="messages")
    longest = said.get("max_tokens")
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise InvalidRequest("max_tokens: a whole number of at least 1 is required", param="max_tokens")


@contextmanager
def _reading(api: str) -> Iterator[None]:
    """A body that cannot be translated is the caller's to change."""
    try:
        yield
    except NOT_READ as error:
        raise InvalidRequest(f"the body is not of the shape of {api}: {type(error).__name__}: {str(error)[:200]}") from None


def _incoming(chat: dict[str, Any], said: Mapping[str, Any], headers: Mapping[str, str], max_messages: int, purse: Purse) -> wire.Incoming:
    """The translated request, read as any other; its usage is always wanted, since both APIs give it with every stream."""
    rest = {name: value for name, value in chat.items() if name not in ("stream", "stream_options")}
    stream = {"stream": True, "stream_options": {"include_usage": True}} if said.get("stream") else {}
    if not isinstance(said.get("stream", False), bool | None):
        raise InvalidRequest("stream must be true or false", param="stream")
    incoming = wire.parse_body({**rest, **stream}, headers, max_messages=max_messages, purse=purse)
    return incoming.but(said=said)


def _remembered(incoming: wire.Incoming) -> wire.Incoming:
    """The responses API stores unless it is told not to, and goes on from a response by its id."""
    ask, id = replace(incoming.ask, store=incoming.said.get("store") is not False), incoming.said.get("previous_response_id")
    if id is not None:
        if not isinstance(id, str):
            raise InvalidRequest("previous_response_id must be the id of a response", param="previous_response_id")
        ask = replace(ask, continue_from=ContinueFrom("dec_" + id.removeprefix("resp_"), param="previous_response_id"))
    return incoming.but(ask=ask)


def _without_ours(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in ("outlay", "cache")}


def _id(prefix: str, incoming: wire.Incoming) -> str:
    """The decision's id under the API's prefix."""
    return prefix + incoming.ask.id.removeprefix("dec_")


# --- the way out --------------------------------------------------------------------------------------------------------


def _one_choice(completion: Mapping[str, Any]) -> dict[str, Any]:
    """The completion as LiteLLM's type takes it: neither API has several choices."""
    choice = {name: value for name, value in completion["choices"][0].items() if name != "outlay"}
    return {**{name: value for name, value in completion.items() if name != "outlay"}, "choices": [choice]}


class _Chunks:
    """Our chunks as LiteLLM's own stream gives them; notes the decision block as it passes, and passes comments by."""

    logging_obj = None

    def __init__(self, batches: Batches, on_comment: Callable[[str], None]) -> None:
        self._batches, self._on_comment = batches, on_comment
        self._waiting: list[dict[str, Any]] = []
        self.block: Any = None

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> Any:
        while not self._waiting:
            batch = await anext(self._batches)
            if isinstance(batch, str):
                self._on_comment(batch)
            else:
                self._waiting.extend(batch)
        chunk = self._waiting.pop(0)
        self.block = chunk.pop("outlay", self.block)
        return ModelResponseStream(**chunk)


async def _translated(
    batches: Batches, translator: Callable[[_Chunks], AsyncIterator[Any]], event: Callable[[Any, int, Any], dict[str, Any]]
) -> AsyncIterator[bytes]:
    """The events of a translator, and comments while it has none. Raises what the pipeline raises."""
    ready: asyncio.Queue[bytes | None] = asyncio.Queue()
    chunks = _Chunks(batches, lambda comment: ready.put_nowait(render.comment(comment)))

    async def translate() -> None:
        try:
            number = 0
            async for translated in translator(chunks):
                ready.put_nowait(_named(event(translated, number, chunks.block)))
                number += 1
        finally:
            ready.put_nowait(None)

    translating = asyncio.ensure_future(translate())
    try:
        while (piece := await ready.get()) is not None:
            yield piece
        translating.result()
    finally:
        translating.cancel()


def _named(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + render.event(event)
