"""The responses API and Anthropic's messages on the same pipeline, by the vendors' own clients: what arrives, what comes back, what fails.

The translation itself is LiteLLM's; these tests are what would tell that it moved or changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.adapters.stub_server import StubServer

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
TOOL: Any = {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
async def claude(gateway: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.removesuffix("/v1"), api_key="none", max_retries=0) as http:
        yield http


# --- OpenAI's responses -------------------------------------------------------------------------------------------------


async def test_a_response_with_everything(client: openai.AsyncOpenAI, stub: StubServer) -> None:
    """What was asked reaches the backend in chat completions' words, unknown fields too; the answer has id, usage and decision."""
    response = await client.responses.create(
        model="words", input=HELLO, instructions="Be kind.", max_output_tokens=3, temperature=0.5, top_p=0.9, tools=[FUNCTION],
        tool_choice="required", parallel_tool_calls=False, reasoning={"effort": "low"}, metadata={"a": "b"}, user="u", service_tier="flex",
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}},
        extra_body={"seed": 3, "made_up": 1, "outlay": {"min_quality": 0.5}},
    )  # fmt: skip
    function = {"name": "weather", "description": "", "parameters": {"type": "object"}, "strict": False}
    assert stub.requests == [{
        "model": "words", "messages": [{"role": "system", "content": "Be kind."}, *HELLO], "max_tokens": 3, "temperature": 0.5,
        "tools": [{"type": "function", "function": function}], "tool_choice": "required", "parallel_tool_calls": False,
        "reasoning_effort": "low", "metadata": {"a": "b"}, "user": "u", "service_tier": "flex", "seed": 3, "made_up": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}},
        "top_p": 0.9,
    }]  # fmt: skip
    assert len(response.output_text.split()) == 3
    assert (response.status, response.usage and response.usage.output_tokens) == ("incomplete", 3)
    block = (response.model_extra or {})["outlay"]
    assert response.id.removeprefix("resp_") == block["id"].removeprefix("dec_")


async def test_a_response_streams_its_own_events(client: openai.AsyncOpenAI) -> None:
    """From `created` to `completed`, numbered, the text in between as it came; the last one holds the whole, its id, and the decision."""
    events = [event async for event in await client.responses.create(model="words", input="hello", stream=True)]
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == last.response.output_text
    assert len({event.response.id for event in events if event.type in ("response.created", "response.completed")}) == 1
    assert last.response.outlay["plan"] == "single(words)"
    assert last.response.usage.output_tokens == 8
    plain = await client.responses.create(model="words", input="hello")
    assert plain.usage is not None
    assert plain.usage.output_tokens_details.reasoning_tokens == last.response.usage.output_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_calls_tools(client: openai.AsyncOpenAI, stream: bool) -> None:
    """The call with its arguments, whole or in pieces."""
    create: Any = client.responses.create
    if stream:
        events = [event async for event in await create(model="tools", input="hello", tools=[FUNCTION], stream=True)]
        assert "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta") == '{"city": "Berlin"}'
        response = events[-1].response
    else:
        response = await create(model="tools", input="hello", tools=[FUNCTION])
    (call,) = response.output
    assert (call.type, call.call_id, call.name, call.arguments) == ("function_call", "call_1", "weather", '{"city": "Berlin"}')


async def test_a_response_goes_on_from_another(client: openai.AsyncOpenAI, stub: StubServer) -> None:
    """By `previous_response_id`, streamed or not, with the results of a tool; not where storing was refused, nor from an unknown one."""
    first = await client.responses.create(model="tools", input="hello", tools=[FUNCTION], instructions="Old.")
    result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    second = await client.responses.create(model="words", input=[result], previous_response_id=first.id, instructions="New.")
    sent = stub.requests[-1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert (sent[0]["content"], sent[2]["tool_calls"][0]["id"], sent[3]["content"]) == ("New.", "call_1", "rain")
    stream = await client.responses.create(model="words", input="and?", previous_response_id=second.id, stream=True)
    assert [event async for event in stream]
    assert len(stub.requests[-1]["messages"]) == 6
    forgotten = await client.responses.create(model="words", input="hello", store=False)
    for id in (forgotten.id, "resp_none"):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.responses.create(model="words", input="and?", previous_response_id=id)
        assert unknown.value.param == "previous_response_id"


async def test_a_tool_call_is_nobody_elses(client: openai.AsyncOpenAI, stub: StubServer) -> None:
    """Who sends a result for a call that he never got is not given the call: it may be another tenant's."""
    await client.responses.create(model="tools", input="secret", tools=[FUNCTION])
    result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    await client.responses.create(model="words", input=[result])
    assert "Berlin" not in str(stub.requests[-1])


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"input": ""}, "input is missing"),
        ({"input": 5}, "a text or a list"),
        ({"background": True}, "background is not supported"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "function, custom"),
        ({"input": [{"type": "odd"}, 5]}, "responses API"),
        ({"previous_response_id": 5}, "previous_response_id must be"),
        ({"stream": "yes"}, "true or false"),
        ({"temperature": 5}, "0 to 2"),
    ],
)
async def test_a_response_that_cannot_be_made_is_refused(client: openai.AsyncOpenAI, stub: StubServer, fields: Any, hint: str) -> None:
    """In OpenAI's shape, before anything is spent; nothing is left out in silence."""
    create: Any = client.responses.create
    with pytest.raises(openai.BadRequestError, match=hint):
        await create(**{"model": "words", "input": "hello", **fields})
    assert not stub.requests


# --- Anthropic's messages -----------------------------------------------------------------------------------------------


async def test_a_message_with_everything(claude: anthropic.AsyncAnthropic, stub: StubServer) -> None:
    """System, images, tools, results, thinking and its signature reach the backend; the answer is a message with id, usage and decision."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "rain"}]},
    ]  # fmt: skip
    message = await claude.messages.create(
        model="words", max_tokens=3, messages=turns, system="Be kind.", stop_sequences=["zz"], tools=[TOOL], tool_choice={"type": "any"},
        metadata={"user_id": "u1"}, extra_body={"top_k": 3, "temperature": 0.5, "outlay": {"min_quality": 0.5}},
    )  # fmt: skip
    (sent,) = stub.requests
    assert {k: sent[k] for k in ("max_tokens", "stop", "tool_choice", "user", "top_k", "temperature")} == {
        "max_tokens": 3, "stop": ["zz"], "tool_choice": "required", "user": "u1", "top_k": 3, "temperature": 0.5}  # fmt: skip
    system, user, assistant, tool = sent["messages"]
    assert (system["content"], user["content"][1]["image_url"]["url"]) == ("Be kind.", "data:image/png;base64,AA==")
    assert assistant["thinking_blocks"][0]["signature"] == "sig"
    assert (assistant["tool_calls"][0]["function"]["arguments"], tool["content"]) == ('{"a": 1}', "rain")
    assert (message.type, message.stop_reason, message.usage.output_tokens) == ("message", "max_tokens", 3)
    assert message.id.removeprefix("msg_") == (message.model_extra or {})["outlay"]["id"].removeprefix("dec_")


async def test_a_message_streams_its_own_events(claude: anthropic.AsyncAnthropic) -> None:
    """The client's own accumulator puts text, thinking, tool calls and usage together."""
    for model, check in (
        ("words", lambda m: (len(m.content[0].text.split()), m.usage.output_tokens) == (8, 8)),
        ("odd-fields", lambda m: (m.content[0].thinking, m.content[1].text) == ("two and three", "5")),
        ("tools", lambda m: (m.content[0].input, m.stop_reason) == ({"city": "Berlin"}, "tool_use")),
    ):
        async with claude.messages.stream(model=model, max_tokens=30, messages=HELLO, tools=[TOOL]) as stream:
            events = [event async for event in stream]
            assert check(await stream.get_final_message()), model
        assert (events[0].type, events[-1].type) == ("message_start", "message_stop")


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"model": "none"}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [5]}]}, anthropic.BadRequestError, "invalid_request_error"),
        ({"model": "status-400"}, anthropic.BadRequestError, "invalid_request_error"),
        ({"model": "status-503"}, anthropic.InternalServerError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_that_fails_fails_in_anthropics_shape(claude: Any, fields: Any, error: Any, kind: str, stream: bool) -> None:
    """With the error that Anthropic's client knows for it, whether or not it was to stream."""
    with pytest.raises(error) as caught:
        await claude.messages.create(**{"model": "words", "max_tokens": 5, "messages": HELLO, "stream": stream, **fields})
    assert (caught.value.body["type"], caught.value.body["error"]["type"]) == ("error", kind)


async def test_a_path_below_messages_fails_in_its_shape_too(gateway: str) -> None:
    """What is not JSON, what is not there, and what may not be done is said in the words of the API that was spoken to."""
    async with httpx.AsyncClient(base_url=gateway) as http:
        for method, path, status, kind in (
            ("POST", "/messages/batches", 404, "not_found_error"),
            ("GET", "/messages/batches/msgbatch_1", 404, "not_found_error"),
            ("GET", "/messages", 405, "invalid_request_error"),
        ):
            missed = await http.request(method, path)
            assert (missed.status_code, missed.json()["type"], missed.json()["error"]["type"]) == (status, "error", kind)
        assert "type" not in (await http.get("/message")).json()
        refused = await http.post("/messages", content=b"{", headers={"content-type": "application/json"})
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert refused.json()["type"] == "error"


async def test_the_tokens_of_a_message_are_counted_without_asking_anybody(claude: anthropic.AsyncAnthropic, stub: StubServer) -> None:
    """By the router's estimate: prompts, system texts and tools count; nobody is asked or paid, and errors are those of a message."""
    short = (await claude.messages.count_tokens(model="words", messages=HELLO)).input_tokens
    system = (await claude.messages.count_tokens(model="words", messages=HELLO, system="Be kind. " * 40)).input_tokens
    tools = (await claude.messages.count_tokens(model="auto", messages=HELLO, tools=[TOOL])).input_tokens
    assert 0 < short < tools
    assert system == pytest.approx(short + 90, abs=10)  # about four characters a token
    assert stub.requests == []
    with pytest.raises(anthropic.NotFoundError) as caught:
        await claude.messages.count_tokens(model="none", messages=HELLO)
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError):
        await claude.messages.count_tokens(model="words", messages=[])
