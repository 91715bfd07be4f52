"""Other people's clients, as they are: LangChain's ChatOpenAI, and LiteLLM as a client of an OpenAI-compatible server."""

from __future__ import annotations

from typing import Any

from tests.adapters.stub_server import StubServer


async def test_langchain_is_at_home(gateway: str, stub: StubServer) -> None:
    """Plain, streamed, with tools, and with structured output."""
    import httpx
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    class Weather(BaseModel):
        """The weather of a city."""

        city: str

    async with httpx.AsyncClient() as http:  # its own one would stay open in a cache of LangChain's

        def chat(model: str, **more: Any) -> Any:
            return ChatOpenAI(model=model, base_url=gateway, api_key="none", max_retries=0, http_async_client=http, **more)

        answer = await chat("auto", temperature=0.3).ainvoke("hello there")
        assert len(answer.content.split()) == 8
        assert answer.usage_metadata["output_tokens"] == 8
        chunks = [chunk async for chunk in chat("words", stream_usage=True).astream("hello there")]
        assert len("".join(chunk.content for chunk in chunks).split()) == 8
        assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 8
        called = await chat("tools").bind_tools([Weather]).ainvoke("weather?")
        assert called.tool_calls[0]["args"] == {"city": "Berlin"}
        assert stub.requests[-1]["tools"][0]["function"]["name"] == "Weather"


async def test_litellm_is_at_home(gateway: str, stub: StubServer) -> None:
    """Plain and streamed, tools and usage, as any OpenAI-compatible provider."""
    from adapters.litellm import import_litellm

    litellm = import_litellm()

    async def ask(model: str, **more: Any) -> Any:
        messages = [{"role": "user", "content": "hello there"}]
        server = {"api_base": gateway, "api_key": "none", "num_retries": 0, "_skip_mcp_handler": True}  # which needs a package of its own
        return await litellm.acompletion(model=f"openai/{model}", messages=messages, **server, **more)

    plain = await ask("outlay/balanced", metadata={"a": "b"}, seed=3)
    assert (len(plain.choices[0].message.content.split()), plain.usage.completion_tokens) == (8, 8)
    assert stub.requests[-1]["seed"] == 3
    pieces = [chunk async for chunk in await ask("words", stream=True)]
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in pieces).split()) == 8
    called = await ask("tools", tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
    assert called.choices[0].message.tool_calls[0].function.arguments == '{"city": "Berlin"}'
    await litellm.close_litellm_async_clients()
