"""What a client sends reaches the backend, and what the backend says reaches the client: the `openai` package, the real application and
pipeline, and a server of OpenAI's protocol behind them.

Two ways are tried: by the backend's name, and by a policy that decides.
"""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.adapters.stub_server import TOOL_CALL, StubServer

USER = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": False}}


MESSAGES: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "name": "ann", "content": [
        {"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, {"type": "file", "file": {"file_id": "f1"}}]},
    {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL, {**TOOL_CALL, "id": "call_2"}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "sun"}]},
    {"role": "assistant", "content": "Mixed.", "refusal": None, "reasoning_content": "hm", "thinking_blocks": [{"signature": "s"}]},
    {"role": "user", "content": "and \u2028 tomorrow? \U0001f327"},
]  # fmt: skip
FIELDS: dict[str, Any] = {
    "temperature": 0.3, "top_p": 0.9, "max_completion_tokens": 50, "stop": ["END", "\n\n"], "seed": 7, "logprobs": True, "top_logprobs": 2,
    "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}},
    "reasoning_effort": "low", "metadata": {"a": "b"}, "user": "u1", "frequency_penalty": 0.5, "presence_penalty": 0.25,
    "logit_bias": {"50256": -100}, "service_tier": "flex", "store": False, "prediction": {"type": "content", "content": "x"},
}  # fmt: skip


@pytest.mark.parametrize("model", ["words", "auto", "outlay/tools"])
@pytest.mark.parametrize("stream", [False, True])
async def test_everything_that_is_sent_arrives(client: openai.AsyncOpenAI, stub: StubServer, model: str, stream: bool) -> None:
    """All roles and kinds of content, every field of OpenAI's, and one that nobody knows; streamed or not, whoever decides."""
    create: Any = client.chat.completions.create
    answer = await create(model=model, messages=MESSAGES, **FIELDS, stream=stream, extra_body={"made_up": {"deep": [1, None]}})
    if stream:
        assert [chunk async for chunk in answer]
    (sent,) = stub.requests
    expected = {**FIELDS, "max_tokens": FIELDS["max_completion_tokens"], "made_up": {"deep": [1, None]}, "messages": MESSAGES}
    del expected["max_completion_tokens"]
    assert {key: value for key, value in sent.items() if key not in ("model", "stream", "stream_options")} == expected


async def test_n_is_the_backends_where_it_is_named(client: openai.AsyncOpenAI, stub: StubServer) -> None:
    """One call with `n`, and all its choices, each once."""
    answer = await client.chat.completions.create(model="words", messages=USER, n=3, seed=1)  # type: ignore[arg-type]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert [request["n"] for request in stub.requests] == [3]


@pytest.mark.parametrize("model", ["tools", "outlay/tools"])
async def test_a_tool_call_comes_back_whole_and_in_pieces(client: openai.AsyncOpenAI, model: str) -> None:
    """Plain and streamed it is the backend's own, in the backend's own pieces, with its finish reason."""
    create: Any = client.chat.completions.create
    plain = (await create(model=model, messages=USER, tools=[TOOL])).choices[0]
    assert (plain.finish_reason, plain.message.content, plain.message.tool_calls[0].model_dump()) == ("tool_calls", None, TOOL_CALL)
    chunks = [c async for c in await create(model=model, messages=USER, tools=[TOOL], stream=True)]
    calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    assert [call.function.arguments for call in calls] == ["", '{"city"', ': "Berlin"}']
    assert (calls[0].id, calls[0].function.name, chunks[-1].choices[0].finish_reason) == ("call_1", "weather", "tool_calls")


async def test_reasoning_comes_back(client: openai.AsyncOpenAI) -> None:
    """Fields that OpenAI's protocol does not have are the backend's business, and the client's."""
    create: Any = client.chat.completions.create
    plain = await create(model="odd-fields", messages=USER)
    assert (plain.choices[0].message.content, plain.choices[0].message.reasoning_content) == ("5", "two and three")
    deltas = [c.choices[0].delta async for c in await create(model="odd-fields", messages=USER, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "two and three"


@pytest.mark.parametrize("model", ["words", "auto"])
async def test_log_probabilities_come_back_with_their_tokens(client: openai.AsyncOpenAI, model: str) -> None:
    """Joined, the tokens of a stream are its text; plain answers have them too."""
    create: Any = client.chat.completions.create
    plain = (await create(model=model, messages=USER, logprobs=True)).choices[0]
    assert [token.token for token in plain.logprobs.content] == plain.message.content.split()
    chunks = [c.choices[0] async for c in await create(model=model, messages=USER, logprobs=True, stream=True)]
    told = [token.token for choice in chunks if choice.logprobs for token in choice.logprobs.content]
    assert "".join(told) == "".join(choice.delta.content or "" for choice in chunks)


async def test_finish_reasons_and_usage_are_the_backends(client: openai.AsyncOpenAI) -> None:
    """`length` stays `length`, plain and streamed; the usage comes at the end of a stream that asks for it."""
    create: Any = client.chat.completions.create
    plain = await create(model="words", messages=USER, max_tokens=2)
    assert (plain.choices[0].finish_reason, plain.usage.completion_tokens) == ("length", 2)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [c async for c in await create(model="words", messages=USER, max_tokens=2, **options)]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens, chunks[-1].usage.prompt_tokens) == ([], 2, 2)
