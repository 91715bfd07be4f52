"""LiteLLM as a backend: offline, with its own mock answers and with the stub server behind its OpenAI provider."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import adapters.litellm
from adapters.errors import BackendError, BackendMalformed, BackendRefused, BackendTimeout, BackendUnavailable, MissingExtra
from adapters.guarded import Guarded
from adapters.litellm import LiteLLMBackend, LiteLLMOptions
from adapters.pricing import estimate_input_tokens
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import BackendConformance, Failure, answered, streamed
from tests.adapters.stub_server import TOOL_CALL, StubServer, free_port

# LiteLLM's own types make pydantic warn when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ASK = ChatRequest(messages=({"role": "user", "content": "hello there"},), seed=7)
Make = Callable[..., LiteLLMBackend]


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as server:
        yield server


@pytest.fixture
async def make(stub: StubServer) -> AsyncIterator[Make]:
    """Backends that reach the stub server by LiteLLM's OpenAI provider."""

    def build(model: str = "words", **options: Any) -> LiteLLMBackend:
        options = {"api_key": "sk-very-secret", "api_base": stub.url, **options}
        return LiteLLMBackend("remote", LiteLLMOptions.model_validate({"model": f"openai/{model}", **options}))

    yield build
    await adapters.litellm.import_litellm().close_litellm_async_clients()


def mocked(answer: Any, **options: Any) -> LiteLLMBackend:
    options = {"model": "openai/gpt-4o-mini", "litellm_params": {"mock_response": answer}, **options}
    return LiteLLMBackend("mock", LiteLLMOptions.model_validate(options))


class TestConformance(BackendConformance):
    """A provider behind LiteLLM is a backend like any other."""

    ask = ASK

    @pytest.fixture
    async def backend(self, make: Make) -> LiteLLMBackend:
        return make(price={"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}, logprobs=True, continues_prefix=True)

    @pytest.fixture
    async def failures(self, make: Make) -> list[Failure]:
        kinds: dict[str, type[BackendError]] = {
            "status-400": BackendRefused,
            "status-401": BackendRefused,
            "status-429": BackendUnavailable,
            "status-500": BackendUnavailable,
        }
        return [(make(model), ASK, error) for model, error in kinds.items()]


def test_litellm_is_imported_by_the_backend_and_not_by_the_module() -> None:
    """A configuration without this kind starts without LiteLLM; the module is ours, and does not shadow the library."""
    code = "import sys, adapters.litellm as ours; print('litellm' in sys.modules, ours.LiteLLMBackend.__module__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "adapters.litellm"]
    assert adapters.litellm.import_litellm().__name__ == "litellm"
    assert hasattr(adapters.litellm.import_litellm(), "acompletion")


async def test_the_price_map_prices_a_call_unless_a_price_is_configured() -> None:
    """LiteLLM's figure is the cost where no price is given; with one, the tokens are charged by it; plain and streamed."""
    for ask in (answered, streamed):
        (by_map, by_price) = [await ask(backend, ASK) for backend in (mocked("a b c"), mocked("a b c", price={"output_usd_per_mtok": 1e6}))]
        by_map, by_price = [call[0] if isinstance(call, tuple) else call for call in (by_map, by_price)]
        price = mocked("x").price
        assert price.input_usd_per_mtok == pytest.approx(0.15)
        assert by_map.reported_usd == pytest.approx(price.cost_usd(by_map.input_tokens, by_map.output_tokens))
        assert by_price.reported_usd is None
        assert by_price.cost_usd == by_price.output_tokens > 0


MOCKS: dict[str, tuple[type[BackendError], str | None]] = {
    "litellm.RateLimitError": (BackendUnavailable, None),
    "litellm.InternalServerError": (BackendUnavailable, None),
    "litellm.ContextWindowExceededError": (BackendRefused, "context_length_exceeded"),
}


@pytest.mark.parametrize("mock", MOCKS)
async def test_litellms_errors_become_ours(mock: str) -> None:
    """Overload is retryable, a prompt that is too long is refused with OpenAI's code; nothing that was not answered is charged."""
    call, (error, code) = Call(Price(1, 1)), MOCKS[mock]
    with pytest.raises(error) as raised:
        await mocked(mock).complete(ASK, call)
    assert getattr(raised.value, "code", None) == code
    assert call.cost_usd == 0


async def test_an_unknown_provider_is_refused_in_one_line() -> None:
    """A model name that LiteLLM does not know is the operator's error, said briefly."""
    with pytest.raises(BackendRefused, match="LLM Provider NOT provided") as raised:
        await answered(mocked(None, model="nosuch/model", litellm_params={}), ASK)
    assert "\n" not in str(raised.value)
    assert raised.value.status == 404, "not 400, which would make it the caller's"


async def test_a_key_is_never_shown(make: Make) -> None:
    """A server that repeats the key does not get it into our message; a rejected one names the configuration."""
    for model, said in (("status-400", "no, because"), ("status-401", "backends.remote.api_key")):
        with pytest.raises(BackendRefused, match=said) as raised:
            await answered(make(model), ASK)
        assert "very-secret" not in str(raised.value)
    with pytest.raises(MissingExtra, match="NO_SUCH_KEY"):
        make(litellm_params={"aws_secret_access_key": "os.environ/NO_SUCH_KEY"})


@pytest.mark.parametrize("model", ["hosted_vllm/x", "openai/x", "anthropic/claude-3-5-sonnet-20241022"])
@pytest.mark.parametrize("how", [answered, streamed])
async def test_where_nobody_answers_is_for_the_log_alone(model: str, how: Any) -> None:
    """LiteLLM's words for a connection that was not to be had name the address; ours for a client do not."""
    address = f"http://127.0.0.1:{free_port()}/v1"
    backend = LiteLLMBackend("remote", LiteLLMOptions(model=model, api_key="very-secret", api_base=address))
    with pytest.raises(BackendUnavailable) as raised:
        await how(backend, ASK.but(seed=None))
    assert str(raised.value) == "backend 'remote': no connection (ClientConnectorError)"
    assert raised.value.brief == f"BackendUnavailable (ClientConnectorError at {address})"
    await adapters.litellm.import_litellm().close_litellm_async_clients()


async def test_litellm_does_not_retry(make: Make, stub: StubServer) -> None:
    """One call of ours is one call of the provider's, also when it fails."""
    with pytest.raises(BackendUnavailable) as raised:
        await answered(make("status-429"), ASK)
    assert len(stub.requests) == 1
    assert raised.value.retry_after_s == 7


async def test_parameters_pass_through(make: Make, stub: StubServer) -> None:
    """`litellm_params` reach the provider, `max_tokens` is a default, a begun answer is marked as a prefix."""
    backend = make(litellm_params={"extra_headers": {"x-team": "blue"}}, max_tokens=2, continues_prefix=True)
    begun = ASK.but(messages=(*ASK.messages, {"role": "assistant", "content": "so"}), continue_final=True)
    assert (await answered(backend, begun)).output_tokens == 2
    assert (stub.headers[-1]["x-team"], stub.requests[-1]["max_tokens"]) == ("blue", 2)
    assert stub.requests[-1]["messages"][-1]["prefix"] is True


async def test_what_a_provider_does_not_support_is_refused_or_dropped() -> None:
    """`drop_params` decides: without it an unsupported parameter refuses the request, with it the answer comes."""
    odd = ASK.but(logprobs=True)
    with pytest.raises(BackendRefused, match="logprobs"):
        await answered(mocked("x", model="anthropic/claude-haiku-4-5"), odd)
    assert (await answered(mocked("x", model="anthropic/claude-haiku-4-5", drop_params=True), odd)).choices


async def test_tool_calls_come_whole(make: Make) -> None:
    """The same message, plain and streamed."""
    asked = ASK.but(extra={"tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]})
    plain, (live, _) = await answered(make("tools"), asked), await streamed(make("tools"), asked)
    for choice in (plain.choices[0], live.choices[0]):
        assert choice.finish_reason == "tool_calls"
        (called,) = (choice.message or {})["tool_calls"]
        assert {**called["function"]} == TOOL_CALL["function"]


async def test_a_broken_answer_is_no_answer(make: Make) -> None:
    """HTML, half JSON and one that breaks off raise one of our retryable errors, and leave no choice; of an answer, if half, the prompt is
    charged."""
    for model, charged in (("html", 0), ("bad-json", estimate_input_tokens(ASK)), ("cut", estimate_input_tokens(ASK))):
        call = Call(Price())
        with pytest.raises((BackendMalformed, BackendUnavailable)):
            await make(model).complete(ASK, call)
        assert (call.choices, call.input_tokens, call.estimated) == ([], charged, bool(charged))


async def test_a_request_that_no_provider_took_is_free(make: Make, stub: StubServer) -> None:
    """Nobody listens, or the answer is a status; a provider that took it and then kept silent may charge it."""
    cases = [(make(api_base="http://127.0.0.1:9"), 0), (make("status-500"), 0), (make("slow", timeout_s=0.3), estimate_input_tokens(ASK))]
    for backend, charged in cases:
        call = Call(Price())
        with pytest.raises((BackendUnavailable, BackendTimeout)):
            await backend.complete(ASK, call)
        assert (call.input_tokens, call.estimated) == (charged, bool(charged))


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_silent_provider_is_given_up(make: Make, stub: StubServer, streaming: bool) -> None:
    """The guard's time limit ends the call and its connection; the prompt stays charged by estimate."""
    guarded, call = Guarded(make("slow"), timeout_s=0.3, max_concurrency=1, max_waiting=0), Call(Price())
    with pytest.raises(BackendTimeout):
        await (anext(guarded.stream(ASK, call)) if streaming else guarded.complete(ASK, call))
    await asyncio.wait_for(stub.disconnected.wait(), 5)
    assert call.input_tokens == estimate_input_tokens(ASK)


async def test_leaving_a_stream_keeps_what_came(make: Make, stub: StubServer) -> None:
    """Closed half-way, the stream's connection is closed too, and the part is kept as cancelled."""
    stream = make("slow-stream").stream(ASK, call := Call(Price()))
    assert (await anext(stream)).text == "river"
    await stub.started.wait()
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(stub.disconnected.wait(), 5)
    assert [(c.text, c.finish_reason) for c in call.choices] == [("river", "cancelled")]


# --- what a caller may say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["api_base", "base_url", "api_key", "extra_headers", "mock_response", "custom_llm_provider", "fallbacks", "proxy"]
)
async def test_a_caller_cannot_tell_litellm_where_to_go(make: Make, stub: StubServer, name: str) -> None:
    """LiteLLM takes addresses, keys and more beside a request's fields; from a caller they are refused, and nothing is sent anywhere."""
    async with StubServer() as elsewhere:
        request = ASK.but(extra={name: elsewhere.url})
        with pytest.raises(BackendRefused, match=f"'{name}'") as refused:
            await answered(make(), request)
        with pytest.raises(BackendRefused):
            await streamed(make(), request)
        assert refused.value.status == 400
        assert elsewhere.requests == stub.requests == []


async def test_a_field_that_the_operator_lets_through_reaches_the_provider(make: Make, stub: StubServer) -> None:
    """`request_fields` adds to OpenAI's own fields; LiteLLM sends them on."""
    request = ASK.but(extra={"top_k": 3, "reasoning_effort": "low"})
    with pytest.raises(BackendRefused, match="'top_k'"):
        await answered(make(), request)
    await answered(make(request_fields=["top_k"], litellm_params={"allowed_openai_params": ["reasoning_effort"]}), request)
    (sent,) = stub.requests
    assert sent["top_k"] == 3


@pytest.mark.parametrize("asked_for", [False, True])
def test_litellm_logs_nothing_of_a_request_unless_told_to(asked_for: bool) -> None:
    """It would warn of an image that it does not fetch by naming it; an operator who sets its own variable sees that."""
    code = """
import asyncio, logging
from adapters.errors import BackendError
from adapters.litellm import LiteLLMBackend, LiteLLMOptions
from adapters.types import Call, ChatRequest, Price
logging.basicConfig(level=logging.INFO)
backend = LiteLLMBackend("remote", LiteLLMOptions(model="anthropic/claude-3-5-sonnet-20241022", api_key="k", api_base="http://127.0.0.1:9"))
image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/of-somebody.png"}}
try:
    asyncio.run(backend.complete(ChatRequest(({"role": "user", "content": [image]},)), Call(Price())))
except BackendError:
    print("refused")
"""
    told = {"LITELLM_LOG": "INFO"} if asked_for else {}
    env = {name: value for name, value in os.environ.items() if name != "LITELLM_LOG"} | told
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert ran.stdout.split()[-1] == "refused"
    assert ("of-somebody" in ran.stdout + ran.stderr) is asked_for
