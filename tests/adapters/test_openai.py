"""The fast path: what is sent, what is understood of the answer, and what happens when the server misbehaves."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import adapters
from adapters import openai as openai_module
from adapters import sse
from adapters.errors import BackendError, BackendMalformed, BackendRefused, BackendTimeout, BackendUnavailable, MissingExtra
from adapters.guarded import Guarded
from adapters.openai import OpenAIBackend, OpenAIOptions
from adapters.openai_wire import count, retry_after_s
from adapters.pricing import estimate_input_tokens, listed
from adapters.scripted import scripted
from adapters.sse import EventParser
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import BackendConformance, Failure, answered, streamed
from tests.adapters.stub_server import TOOL_CALL, StubServer

ASK = ChatRequest(messages=({"role": "user", "content": "hello there"},), seed=7)
Make = Callable[..., OpenAIBackend]


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as server:
        yield server


@pytest.fixture
async def make(stub: StubServer) -> AsyncIterator[Make]:
    """Backends of the stub server by model and options, closed at the end."""
    made: list[OpenAIBackend] = []

    def build(model: str = "words", **options: Any) -> OpenAIBackend:
        made.append(OpenAIBackend("remote", OpenAIOptions(model=model, base_url=options.pop("base_url", stub.url), **options)))
        return made[-1]

    yield build
    for backend in made:
        await backend.aclose()


class TestConformance(BackendConformance):
    """Any OpenAI-compatible server is a backend like any other."""

    ask = ASK

    @pytest.fixture
    async def backend(self, make: Make) -> OpenAIBackend:
        return make(price={"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}, continues_prefix="vllm")

    @pytest.fixture
    async def failures(self, make: Make) -> list[Failure]:
        nobody = make(base_url="http://127.0.0.1:9/v1")
        return [(nobody, ASK, BackendUnavailable), *((make(model), ASK, error) for model, error in FAILURES.items())]


class TestGuardedConformance(TestConformance):
    """A guard around a backend changes nothing of it."""

    @pytest.fixture
    async def backend(self, make: Make) -> Guarded:  # type: ignore[override]
        return Guarded(make(continues_prefix="vllm"), timeout_s=30, max_concurrency=4, max_waiting=8)


FAILURES: dict[str, type[BackendError]] = {
    "status-302": BackendMalformed,
    "status-400": BackendRefused,
    "status-401": BackendRefused,
    "status-403": BackendRefused,
    "status-404": BackendRefused,
    "status-408": BackendUnavailable,
    "status-409": BackendUnavailable,
    "status-422": BackendRefused,
    "status-429": BackendUnavailable,
    "status-500": BackendUnavailable,
    "status-503": BackendUnavailable,
    "html": BackendMalformed,
    "bad-json": BackendMalformed,
    "empty": BackendMalformed,
    "error-event": BackendMalformed,
    "cut": BackendMalformed,
}


async def failure(backend: OpenAIBackend, request: ChatRequest = ASK, call: Call | None = None) -> BackendError:
    with pytest.raises(BackendError) as raised:
        await backend.complete(request, call or Call(Price()))
    return raised.value


# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_only_what_the_client_said_is_sent(make: Make, stub: StubServer) -> None:
    """Fields left open are not in the body; typed ones are there by OpenAI's names; unknown ones travel as they came."""
    await answered(make("openai/words"), ChatRequest(messages=ASK.messages))
    assert stub.requests[-1] == {"model": "words", "messages": [{"role": "user", "content": "hello there"}]}
    said = ASK.but(n=2, temperature=0.0, top_p=0.5, max_tokens=9, stop=("\n",), logprobs=True, extra={"tools": [], "user": "u"})
    await answered(make(), said)
    sent = {k: v for k, v in stub.requests[-1].items() if k not in ("model", "messages")}
    assert sent == {
        "n": 2, "temperature": 0.0, "top_p": 0.5, "max_tokens": 9, "stop": ["\n"], "seed": 7, "logprobs": True, "tools": [], "user": "u",
    }  # fmt: skip


async def test_the_backends_max_tokens_holds_where_the_client_did_not_say(make: Make, stub: StubServer) -> None:
    """`max_tokens` is a default, under the name that the server understands."""
    backend = make(max_tokens=3, max_tokens_field="max_completion_tokens")
    assert (await answered(backend, ASK)).output_tokens == 3
    assert stub.requests[-1]["max_completion_tokens"] == 3
    assert (await answered(backend, ASK.but(max_tokens=2))).output_tokens == 2


async def test_a_stream_asks_for_its_usage_unless_told_not_to(make: Make, stub: StubServer) -> None:
    """With `stream_usage` the provider's tokens come with the stream; without it they are estimated, and marked so."""
    call, _ = await streamed(make(), ASK.but(extra={"stream_options": {"include_obfuscation": False}}))
    assert stub.requests[-1]["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert not call.estimated
    call, _ = await streamed(make(stream_usage=False), ASK)
    assert "stream_options" not in stub.requests[-1]
    assert call.estimated


async def test_vllm_is_asked_to_continue_in_its_own_way(make: Make, stub: StubServer) -> None:
    """`continues_prefix: vllm` sends vLLM's two fields for a begun answer, and only then."""
    backend = make(continues_prefix="vllm")
    await answered(backend, ASK)
    assert "continue_final_message" not in stub.requests[-1]
    await answered(backend, ASK.but(continue_final=True))
    assert stub.requests[-1]["continue_final_message"] is True
    assert stub.requests[-1]["add_generation_prompt"] is False
    assert not make().features.continues_prefix


async def test_connections_are_used_again(make: Make, stub: StubServer) -> None:
    """Plain calls and streams, one after the other, go over one connection."""
    backend = make()
    for _ in range(3):
        await answered(backend, ASK)
        await streamed(backend, ASK)
    assert len(stub.connections) == 1


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_a_key_is_sent_and_never_shown(make: Make, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the environment; options do not show it, and an error of a server that repeats it does not either."""
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    backend = make("status-400", api_key="os.environ/MY_KEY", headers={"x-team": "os.environ/MY_KEY", "x-org": "blue"})
    error = await failure(backend)
    assert (stub.headers[-1]["Authorization"], stub.headers[-1]["x-team"], stub.headers[-1]["x-org"]) == (
        "Bearer sk-very-secret", "sk-very-secret", "blue",
    )  # fmt: skip
    assert "no, because" in str(error)
    assert "sk-very-secret" not in str(error)
    with pytest.raises(BackendError, match=r"broke off with an error: \*\*\* of memory$"):
        await streamed(make("error-event", api_key="out"), ASK)
    there = make("html", base_url=stub.url)
    there.unsaid = ["nginx"]
    assert "nginx" not in str(await failure(there))
    assert "sk-plain" not in repr(OpenAIOptions(model="m", api_key="sk-plain", headers={"a": "sk-plain"}))


async def test_a_rejected_key_names_the_configuration(make: Make) -> None:
    """A 401 says which key of the configuration to check, and shows nothing of the key itself."""
    error = await failure(make("status-401", api_key="sk-very-secret"))
    assert "backends.remote.api_key" in str(error)
    assert "secret" not in str(error)


def test_a_key_that_is_not_set_is_said_at_once() -> None:
    """A named environment variable that does not exist stops the building, with its name and place."""
    with pytest.raises(MissingExtra, match=r"backends\.b\.api_key: the environment variable NO_SUCH_KEY is not set"):
        OpenAIBackend("b", OpenAIOptions(model="m", api_key="os.environ/NO_SUCH_KEY"))


async def test_openais_key_goes_to_openai_only(make: Make, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_API_KEY is not sent to another server unless the configuration says so."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    await answered(make(), ASK)
    assert "Authorization" not in stub.headers[-1]
    monkeypatch.setattr(openai_module, "OPENAI", stub.url)
    await answered(make(), ASK)
    assert stub.headers[-1]["Authorization"] == "Bearer sk-openai"


# --- what is understood -----------------------------------------------------------------------------------------------


async def test_fewer_choices_than_asked_for_are_taken(make: Make) -> None:
    """A server that ignores `n` gives what it gives; nothing is invented."""
    assert len((await answered(make("one-choice"), ASK.but(n=4))).choices) == 1


@pytest.mark.parametrize("ask", [answered, lambda b, r: streamed(b, r)])
async def test_tool_calls_come_whole(make: Make, ask: Callable[..., Any]) -> None:
    """A tool call is in the choice's message, also when its arguments came in pieces; no text is made of it."""
    call = await ask(make("tools"), ASK)
    (choice,) = (call[0] if isinstance(call, tuple) else call).choices
    assert choice.message == {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    assert (choice.text, choice.finish_reason) == ("", "tool_calls")


async def test_pieces_of_tool_calls_pass_through_a_stream(make: Make) -> None:
    """What the server's deltas hold beyond text is passed on as it came, with the numbers that clients assemble by."""
    call, deltas = await streamed(make("tools"), ASK)
    pieces = [delta.fields["tool_calls"][0] for delta in deltas if delta.fields]
    assert [piece["function"]["arguments"] for piece in pieces] == ["", '{"city"', ': "Berlin"}']
    assert all(piece["index"] == 0 for piece in pieces)
    assert call.output_tokens > 0


async def test_fields_beyond_the_protocol_are_kept(make: Make) -> None:
    """Reasoning is in the message, pieces joined; the stop string that vLLM reports is in the choice; both ways alike."""
    plain, (live, _) = await answered(make("odd-fields"), ASK), await streamed(make("odd-fields"), ASK)
    for choice in (plain.choices[0], live.choices[0]):
        assert (choice.text, choice.stopped_by) == ("5", "\n")
        assert (choice.message or {})["reasoning_content"] == "two and three"


async def test_tokens_that_are_not_reported_are_estimated(make: Make) -> None:
    """No usage, or an impossible one: about four bytes a token, and the call says that it is an estimate; plain and streamed agree."""
    plain, (live, _) = await answered(make("no-usage"), ASK), await streamed(make("no-usage"), ASK)
    expected = -(-len(plain.choices[0].text) // 4)
    assert (plain.output_tokens, plain.estimated) == (live.output_tokens, live.estimated) == (expected, True)
    assert plain.input_tokens == live.input_tokens == estimate_input_tokens(ASK)
    lied = await answered(make("lying-usage"), ASK)
    assert lied.estimated
    assert lied.cost_usd >= 0


@pytest.mark.parametrize("said", [-1, 10**30, 10**400, True, 1.5, "7", None])
def test_usage_that_is_no_count_is_none(said: Any) -> None:
    """Believed, one slip of a provider would empty a budget for good; and what no float holds would be a failure of our own."""
    assert not count({"prompt_tokens": said, "completion_tokens": 1}, Call(Price(1, 1)))
    assert not count({"prompt_tokens": 1, "completion_tokens": said}, Call(Price(1, 1)))


@pytest.mark.parametrize("said", ["1e999", "NaN", "-1", "true", "1" + "0" * 400])
def test_a_cost_that_is_no_amount_is_not_taken_over(said: str) -> None:
    """As JSON brings it; the tokens stand."""
    call = Call(Price(1e6, 1e6))
    assert count(json.loads(f'{{"prompt_tokens": 2, "completion_tokens": 1, "cost": {said}}}'), call)
    assert call.cost_usd == 3


async def test_the_providers_own_cost_counts_unless_a_price_is_configured(make: Make) -> None:
    """A cost in the usage is taken over; a configured price wins over it."""
    assert (await answered(make("paid"), ASK)).cost_usd == 0.25
    priced = await answered(make("paid", price={"output_usd_per_mtok": 1e6}), ASK)
    assert priced.cost_usd == priced.output_tokens


async def test_a_server_that_does_not_stream_is_heard_out(make: Make) -> None:
    """A plain answer to a streamed request is given as one event for each choice."""
    call, deltas = await streamed(make("plain-only"), ASK.but(n=2))
    assert [d.text for d in deltas] == [c.text for c in call.choices]
    assert [d.index for d in deltas] == [0, 1]


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_refusal_passes_on_what_the_provider_said(make: Make) -> None:
    """A 4xx has the provider's message, status and code, is final, and costs nothing."""
    call = Call(Price())
    error = await failure(make("status-422"), call=call)
    assert isinstance(error, BackendRefused)
    assert (error.status, error.code, error.detail) == (422, "code_422", "no, because of you")
    assert not error.retryable
    assert (call.input_tokens, call.estimated) == (0, False)


async def test_an_overloaded_server_says_when_to_come_back(make: Make) -> None:
    """A 429 is retryable and carries Retry-After; a 500 without one says nothing about it."""
    assert (await failure(make("status-429"))).retry_after_s == 7
    assert (await failure(make("status-500"))).retry_after_s is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_its_forms(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, milliseconds and nonsense; never a negative wait."""
    assert retry_after_s(headers) == expected


def test_retry_after_can_be_a_date() -> None:
    """An HTTP date is turned into seconds from now; one that has passed is no wait."""
    assert 50 < (retry_after_s({"Retry-After": formatdate(time.time() + 60, usegmt=True)}) or 0) <= 60
    assert retry_after_s({"Retry-After": formatdate(0, usegmt=True)}) == 0


async def test_a_cut_stream_is_paid_for_and_no_answer(make: Make) -> None:
    """The words before the cut were given and are counted; the half answer is not among the choices."""
    call, heard = Call(Price()), []

    async def listen() -> None:
        async for delta in make("cut").stream(ASK, call):
            heard.append(delta.text)

    with pytest.raises(BackendMalformed, match="cut off"):
        await listen()
    assert heard == ["river", " stone"]
    assert (call.output_tokens, call.choices, call.estimated) == (3, [], True)


async def test_a_stream_that_is_done_is_an_answer_whatever_its_connection_does_then(make: Make) -> None:
    """Its server promised more bytes than it sends; after `[DONE]` nothing is missing."""
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "river"}, "finish_reason": "stop"}]}\n\n'

    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n" + event + b"data: [DONE]\n\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(short, "127.0.0.1", 0) as server:
        call, _ = await streamed(make(base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"), ASK)
    assert [choice.text for choice in call.choices] == ["river"]


async def test_a_server_of_another_kind_is_said_to_be_one(make: Make) -> None:
    """There was a connection, so that is not what is missing; the log has where to."""

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        error = await failure(make(base_url=url))
    assert (error.detail, error.brief) == ("what came is no HTTP response", f"BackendMalformed (NotHttp at {url})")


async def test_a_flood_is_stopped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that does not end, or an answer that does not, is cut at a bound instead of filling the memory."""
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 3 << 20)
    with pytest.raises(BackendMalformed, match="a line of more"):
        await streamed(make("flood"), ASK)
    monkeypatch.setattr(openai_module, "MAX_ANSWER_BYTES", 2 << 20)
    with pytest.raises(BackendMalformed, match="MiB"):
        await streamed(make("flood"), ASK)
    assert isinstance(await failure(make("flood")), BackendMalformed)


async def test_cancelling_a_plain_call_closes_its_connection(make: Make, stub: StubServer) -> None:
    """The server sees the client go; the prompt is charged by estimate, since it may have been read."""
    call, backend = Call(Price(1, 1)), make("slow")
    task = asyncio.create_task(backend.complete(ASK, call))
    await stub.started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(stub.disconnected.wait(), 5)
    assert (call.input_tokens, call.output_tokens, call.estimated) == (estimate_input_tokens(ASK), 0, True)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_leaving_a_stream_closes_its_connection(make: Make, stub: StubServer, how: str) -> None:
    """Cancelled or closed half-way: the server is told at once, and what came is kept, marked as cancelled, and counted."""
    stream = make("slow-stream").stream(ASK, call := Call(Price()))
    first = [(await anext(stream)).text, (await anext(stream)).text]
    await stub.started.wait()
    if how == "closed":
        await stream.aclose()  # type: ignore[attr-defined]
    else:
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(stub.disconnected.wait(), 5)
    assert [(c.text, c.finish_reason) for c in call.choices] == [("".join(first), "cancelled")]
    assert call.output_tokens == 3


async def test_a_closed_backend_says_so(make: Make) -> None:
    """After `aclose` a call fails as unavailable; no new session is opened behind the owner's back."""
    backend = make()
    await answered(backend, ASK)
    await backend.aclose()
    assert "closed" in str(await failure(backend))


# --- the guard around it ----------------------------------------------------------------------------------------------


async def test_a_silent_server_is_given_up(make: Make, stub: StubServer) -> None:
    """No answer within `timeout_s`: the call fails as a timeout, the connection is closed, the prompt stays charged."""
    guarded, call = Guarded(make("slow"), timeout_s=0.05, max_concurrency=1, max_waiting=0), Call(Price())
    with pytest.raises(BackendTimeout, match=r"no answer within 0\.05 s"):
        await guarded.complete(ASK, call)
    await asyncio.wait_for(stub.disconnected.wait(), 5)
    assert call.input_tokens > 0


async def test_a_server_that_takes_no_connection_is_given_up_soon(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before `timeout_s`, which is for answers: here one that is silent while TLS is to begin."""
    monkeypatch.setattr(openai_module, "CONNECT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"https://127.0.0.1:{deaf.getsockname()[1]}/v1"
        error = await failure(make(base_url=address))
    assert error.brief == f"BackendUnavailable (TimeoutError at {address})"


async def test_a_stream_that_falls_silent_is_given_up(make: Make) -> None:
    """What came before the silence is kept as cancelled."""
    guarded, call = Guarded(make("slow-stream"), timeout_s=0.05, max_concurrency=1, max_waiting=0), Call(Price())
    stream = guarded.stream(ASK, call)
    assert [(await anext(stream)).text, (await anext(stream)).text] == ["river", " stone"]
    with pytest.raises(BackendTimeout):
        await anext(stream)
    assert [c.finish_reason for c in call.choices] == ["cancelled"]


async def test_the_queue_is_bounded() -> None:
    """One call under way, one waiting, the third is turned away at once; when the first ends, the second goes on."""
    never = scripted("double", never=True)
    guarded = Guarded(never, timeout_s=60, max_concurrency=1, max_waiting=1)
    first, second = (asyncio.create_task(guarded.complete(ASK, Call(Price()))) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailable, match="too many requests waiting"):
        await guarded.complete(ASK, Call(Price()))
    assert len(never.requests) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.sleep(0)
    assert len(never.requests) == 2
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


# --- events and prices ------------------------------------------------------------------------------------------------

EVENTS = ["a", '{"b": "ü"}', "line\nline", "[DONE]"]


@given(cuts=st.lists(st.integers(0, 200), max_size=12), end=st.sampled_from(["\n", "\r\n"]))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int], end: str) -> None:
    """Chunks may end anywhere, also inside a letter or a line end; comments, names and empty events are passed over."""
    noise = f": ping{end}{end}event: message{end}id: 1{end}{end}"
    text = noise + "".join("".join(f"data: {line}{end}" for line in event.split("\n")) + end + noise for event in EVENTS)
    data, bounds = text.encode(), sorted({0, *(c for c in cuts if c < len(text.encode())), len(text.encode())})
    parser = EventParser()
    assert [e for a, b in pairwise(bounds) for e in parser.feed(data[a:b])] == EVENTS


def test_the_last_event_needs_no_empty_line() -> None:
    """A stream that ends without its last line end still gives its last event."""
    parser = EventParser()
    assert parser.feed(b"data:x") == []
    assert parser.finish() == ["x"]


def test_prices_come_from_litellms_list_without_importing_it() -> None:
    """A known model has its price, its context and how much it can write; a configured price wins; an unknown model costs nothing."""
    known = OpenAIBackend("b", OpenAIOptions(model="openai/gpt-4o-mini"))
    assert known.price == Price(pytest.approx(0.15), pytest.approx(0.6), pytest.approx(0.075))
    assert (known.features.max_context, known.features.max_output) == (128000, 16384)
    assert OpenAIBackend("b", OpenAIOptions(model="gpt-4o-mini", price={"input_usd_per_mtok": 3}, max_context=5)).price == Price(3, 0)
    assert OpenAIBackend("b", OpenAIOptions(model="my-own")).price == Price()
    assert listed("anthropic/gpt-4o-mini") is None
    code = "import sys; from adapters.pricing import listed; assert listed('gpt-4o'); print('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_images_and_tools_are_in_the_estimate() -> None:
    """Attachments, declared tools and tool calls cost tokens before the call."""
    image = ChatRequest(messages=({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]},))
    assert estimate_input_tokens(image) > 1000
    assert estimate_input_tokens(ASK.but(extra={"tools": [TOOL_CALL] * 9})) > estimate_input_tokens(ASK) + len(json.dumps(TOOL_CALL)) * 2


@pytest.mark.parametrize("wrong", [{"base_url": "ftp://x"}, {"timeout_s": 0}, {"max_concurrency": 0}, {"apikey": "x"}, {"model": ""}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    """Unknown keys and impossible values do not pass."""
    with pytest.raises(ValidationError):
        OpenAIOptions(**{"model": "m", **wrong})


def test_the_package_is_ours() -> None:
    """Another project installs a package called adapters; this is not it."""
    assert adapters.__file__ is not None
    assert (openai_module.__name__, openai_module.OpenAIBackend.__module__) == ("adapters.openai", "adapters.openai")


@pytest.mark.parametrize(("model", "missed"), [("caching", 1), ("caching-deepseek", 1), ("caching-lies", 0), ("words", None)])
@pytest.mark.parametrize("price", [Price(10, 20, 1), Price(10, 20)])
async def test_cached_input_is_told_and_has_its_own_price(stub: StubServer, model: str, missed: int | None, price: Price) -> None:
    """Whatever name a server has for it, plain and streamed; where no price is given for it, it costs what any input does."""
    backend = OpenAIBackend("b", OpenAIOptions(model=model, base_url=stub.url, price=price))
    request = ChatRequest(({"role": "user", "content": "one two three four"},), seed=1)
    for call in (await answered(backend, request), (await streamed(backend, request))[0]):
        cached = 0 if missed is None else 4 - missed
        assert (call.input_tokens, call.cached_tokens) == (4, cached)
        cheap = 10 if price.cached_input_usd_per_mtok is None else 1
        assert call.cost_usd == pytest.approx(((4 - cached) * 10 + cached * cheap + call.output_tokens * 20) / 1e6)
    await backend.aclose()


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 100), st.floats(0, 1), st.floats(0, 100))
def test_a_cache_never_makes_a_call_dearer(read: int, part: int, written: int, usd: float, share: float, out_usd: float) -> None:
    """Of whatever size the cached part is, and however cheap: at most the full price, at least what is written costs."""
    price, cached = Price(usd, out_usd, usd * share), min(part, read)
    full, less = price.cost_usd(read, written), price.cost_usd(read, written, cached)
    assert price.cost_usd(0, written) - 1e-12 <= less <= full + 1e-12


@pytest.mark.parametrize("cached", [-1, 3.1])
def test_a_price_of_cached_input_is_between_nothing_and_that_of_any_input(cached: float) -> None:
    """What is set aside for a call is its price without a cache, so none may be dearer."""
    with pytest.raises(ValidationError, match=r"a price is zero or more|is at most input_usd_per_mtok"):
        OpenAIOptions(model="m", price={"input_usd_per_mtok": 3, "cached_input_usd_per_mtok": cached})
