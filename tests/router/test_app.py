"""The HTTP application before a scripted pipeline: endpoints, streams, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from adapters.errors import BackendMalformed, BackendRefused, BackendTimeout, BackendUnavailable
from adapters.types import Delta
from router.apis import api_of
from router.app import create_app
from router.errors import BackendFailed, DeadlineExceeded, InvalidRequest, OverBudget, UnknownModel
from router.lessons import Given
from router.options import ServerOptions
from router.render import comment
from tests.router.doubles import ScriptedPipeline, candidate
from tests.router.serving import served

CHAT = "/v1/chat/completions"
BODY = {"model": "auto", "messages": [{"role": "user", "content": "Use 4 9 10 13 to make 24."}]}
PROMPT = str(BODY["messages"][0]["content"])  # type: ignore[index]


@asynccontextmanager
async def client(pipeline: ScriptedPipeline, **server: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(pipeline, ServerOptions(**server))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://outlay") as http:
        yield http


async def ask(pipeline: ScriptedPipeline, path: str = CHAT, server: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
    async with client(pipeline, **(server or {})) as http:
        return await http.post(path, json={**BODY, **body})


async def get(path: str, pipeline: ScriptedPipeline | None = None) -> httpx.Response:
    async with client(pipeline or ScriptedPipeline()) as http:
        return await http.get(path)


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream without comments; the last must be [DONE]."""
    lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


class Disconnecting:
    """The ASGI side of a client that sends a request and leaves when told to."""

    def __init__(self, **body: Any) -> None:
        self.body = json.dumps({**BODY, **body}).encode()
        self.leave = asyncio.Event()
        self.sent: list[bytes] = []
        self.first_byte = asyncio.Event()
        self.kept_alive = asyncio.Event()
        self._read = False

    async def receive(self) -> dict[str, Any]:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message.get("body", b""))
        if message.get("body"):
            self.first_byte.set()
        if message.get("body") == comment("working"):
            self.kept_alive.set()

    async def request(self, pipeline: ScriptedPipeline, **server: Any) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST", "path": CHAT,
            "raw_path": CHAT.encode(), "query_string": b"", "root_path": "", "scheme": "http", "server": ("outlay", 80),
            "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        await create_app(pipeline, ServerOptions(**server))(scope, self.receive, self.send)


# --- plain answers ------------------------------------------------------------------------------------------------------


async def test_a_plain_answer() -> None:
    """The answer, its usage and its decision in the body; id, plan, model and cost in the headers."""
    pipeline = ScriptedPipeline((candidate("6*4=24"),))
    response = await ask(pipeline, outlay={"max_cost_usd": 0.5})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "6*4=24"
    assert response.headers["x-outlay-decision-id"] == response.json()["outlay"]["id"] == pipeline.asks[0].id
    assert response.headers["x-outlay-plan"] == "single(small)"
    assert pipeline.asks[0].max_cost_usd == 0.5


async def test_header_twins_reach_the_pipeline() -> None:
    """Extras may come as headers, whatever their case."""
    pipeline = ScriptedPipeline()
    async with client(pipeline) as http:
        await http.post(CHAT, json=BODY, headers={"X-Outlay-Max-Cost-USD": "0.25"})
    assert pipeline.asks[0].max_cost_usd == 0.25


# --- feedback -----------------------------------------------------------------------------------------------------------


async def give(pipeline: ScriptedPipeline | None = None, **body: Any) -> httpx.Response:
    async with client(pipeline or ScriptedPipeline()) as http:
        return await http.post("/v1/feedback", json=body)


@pytest.mark.parametrize(
    ("said", "label", "candidate"),
    [({"label": 1}, 1.0, 0), ({"label": 0, "candidate": 2}, 0.0, 2), ({"score": 0.25}, 0.25, 0), ({"label": 1, "candidate": None}, 1.0, 0)],
)
async def test_feedback_is_taken_by_either_id(said: dict[str, Any], label: float, candidate: int) -> None:
    """A label or a score, for one of the choices; the completion's id does as well as the decision's."""
    for id in ("dec_known", "chatcmpl-known"):
        pipeline = ScriptedPipeline()
        response = await give(pipeline, decision_id=id, **said)
        assert pipeline.given == [Given("dec_known", label, candidate)]
        right = {"object": "feedback", "decision_id": "dec_known", "candidate": candidate, "label": label, "status": "recorded"}
        assert (response.status_code, response.json()) == (200, right)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"label": 1}, "decision_id", "x-outlay-decision-id"),
        ({"decision_id": 7, "label": 1}, "decision_id", "found 7"),
        ({"decision_id": "dec_known"}, "label", "one of them"),
        ({"decision_id": "dec_known", "label": 1, "score": 0.5}, "label", "one of them"),
        ({"decision_id": "dec_known", "label": 2}, "label", "0 to 1"),
        ({"decision_id": "dec_known", "label": None}, "label", "0 or 1"),
        ({"decision_id": "dec_known", "score": 1.5}, "score", "0 to 1"),
        ({"decision_id": "dec_known", "label": 1, "candidate": -1}, "candidate", "0 to 127"),
        ({"decision_id": "dec_known", "label": 1, "comment": "nice"}, "comment", "have 'candidate'"),
    ],
)
async def test_feedback_that_says_nothing_clear_is_refused(body: dict[str, Any], param: str, says: str) -> None:
    """In OpenAI's shape, with the field and what would be right."""
    response = await give(**body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"]


async def test_feedback_on_what_is_not_known_is_not_found() -> None:
    """404, as for the decision itself."""
    response = await give(decision_id="dec_none", label=1)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "decision_not_found")


async def test_the_openapi_document_says_what_feedback_takes() -> None:
    """Its body, field by field."""
    document = (await get("/openapi.json")).json()
    body = document["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"].keys() == {"decision_id", "label", "score", "candidate"}


# --- streams ------------------------------------------------------------------------------------------------------------


async def test_a_live_answer_streams_delta_by_delta() -> None:
    """The role first, then each delta as it came, then the finish reason with the decision; the text is sent once."""
    pipeline = ScriptedPipeline((candidate("6*4=24"),), [Delta("6*"), Delta("4=24"), Delta(finish_reason="stop")])
    response = await ask(pipeline, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    role, first, second, end = events(response)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [first["choices"][0]["delta"], second["choices"][0]["delta"]] == [{"content": "6*"}, {"content": "4=24"}]
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["outlay"]["id"] == response.headers["x-outlay-decision-id"] == pipeline.asks[0].id
    assert len({chunk["id"] for chunk in (role, first, second, end)}) == 1


async def test_a_winner_streams_word_by_word_once_known() -> None:
    """A plan of many calls has nothing to show before its end; then the winner goes out in pieces of a word."""
    chunks = events(await ask(ScriptedPipeline((candidate("a few words"),)), stream=True))
    assert text_of(chunks) == "a few words"
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["", "a ", "few ", "words", None]


async def test_what_a_live_answer_lacked_is_added_at_its_end() -> None:
    """Where the outcome goes on after the last delta, the client gets the rest."""
    chunks = events(await ask(ScriptedPipeline((candidate("one two"),), [Delta("one")]), stream=True))
    assert text_of(chunks) == "one two"


async def test_an_answer_that_changed_after_it_was_sent_is_an_error() -> None:
    """What a client has read cannot be taken back, so a different outcome is not glued to it."""
    *_, last = events(await ask(ScriptedPipeline((candidate("two"),), [Delta("one")]), stream=True))
    assert last["error"]["code"] == "stream_broken"


async def test_tool_calls_stream_live_or_at_the_end() -> None:
    """Deltas with tool calls pass unchanged; a tool call of a known winner gets the index that clients need; neither is sent twice."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    won = candidate("", finish_reason="tool_calls", message={"role": "assistant", "content": None, "tool_calls": [call]})
    live = [Delta(fields={"tool_calls": [{"index": 0, **call}]}), Delta(finish_reason="tool_calls")]
    for deltas in ([], live):
        chunks = events(await ask(ScriptedPipeline((won,), deltas), stream=True))
        found = [c["choices"][0]["delta"]["tool_calls"] for c in chunks if "tool_calls" in c["choices"][0]["delta"]]
        assert found == [[{"index": 0, **call}]]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_several_choices_stream_side_by_side() -> None:
    """Each of `n` choices has its own role, text and finish reason under its index."""
    chunks = events(await ask(ScriptedPipeline((candidate("one"), candidate("two"))), stream=True, n=2))
    assert (text_of(chunks, 0), text_of(chunks, 1)) == ("one", "two")
    roles = [c["choices"][0]["index"] for c in chunks if "role" in c["choices"][0]["delta"]]
    assert roles == [0, 1]


@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_comes_with_a_stream_only_on_request(wanted: bool) -> None:
    """`stream_options.include_usage` adds one chunk without choices."""
    chunks = events(await ask(ScriptedPipeline(), stream=True, stream_options={"include_usage": wanted}))
    assert ([c["usage"]["total_tokens"] for c in chunks if c.get("usage")] == [42]) is wanted


async def test_a_refusal_at_once_keeps_its_status_in_a_stream() -> None:
    """Within `first_event_s` nothing was promised to the client, so an error is an ordinary response."""
    response = await ask(ScriptedPipeline(error=UnknownModel("smal", ["small"])), stream=True)
    assert response.status_code == 404
    assert "did you mean 'small'" in response.json()["error"]["message"]


async def test_a_late_failure_in_a_stream_is_an_event() -> None:
    """After the first event an error comes as an event in OpenAI's shape, and the stream still ends with [DONE]."""
    pipeline, browser = ScriptedPipeline(error=BackendUnavailable("small", "gone"), wait=asyncio.Event()), Disconnecting(stream=True)
    request = asyncio.ensure_future(browser.request(pipeline, first_event_s=0))
    await browser.first_byte.wait()
    assert pipeline.wait is not None
    pipeline.wait.set()
    await request
    role, error = (json.loads(piece[6:]) for piece in browser.sent[1:-1])
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert error["error"]["code"] == "backend_unavailable"
    assert browser.sent[-1] == b"data: [DONE]\n\n"


async def test_a_silent_stream_is_kept_alive() -> None:
    """While there is nothing to say, comments go out every `keep_alive_s`, which clients skip."""
    pipeline, browser = ScriptedPipeline(wait=asyncio.Event()), Disconnecting(stream=True)
    request = asyncio.ensure_future(browser.request(pipeline, first_event_s=0, keep_alive_s=0.001))
    await browser.kept_alive.wait()
    assert pipeline.wait is not None
    pipeline.wait.set()
    await request
    assert browser.sent[-1] == b"data: [DONE]\n\n"


# --- clients that leave -------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_cancels_its_work() -> None:
    """Nobody pays for an answer that nobody will read."""
    pipeline, browser = ScriptedPipeline(wait=asyncio.Event()), Disconnecting()
    request = asyncio.ensure_future(browser.request(pipeline))
    await pipeline.started.wait()
    assert not pipeline.cancelled.is_set()
    browser.leave.set()
    await request
    assert pipeline.cancelled.is_set()


async def test_a_client_that_leaves_a_stream_cancels_its_work(caplog: pytest.LogCaptureFixture) -> None:
    """The same in the middle of a stream; the log says that it was abandoned."""
    pipeline, browser = ScriptedPipeline(deltas=[Delta("6*")], wait=asyncio.Event()), Disconnecting(stream=True)
    with caplog.at_level(logging.INFO, "outlay"):
        request = asyncio.ensure_future(browser.request(pipeline))
        await browser.first_byte.wait()
        browser.leave.set()
        await request
    assert pipeline.cancelled.is_set()
    assert f"{pipeline.asks[0].id} abandoned" in caplog.text


async def test_a_cancelled_request_cancels_its_work() -> None:
    """When the server stops a request in the grace of a stream, the pipeline stops too."""
    pipeline, browser = ScriptedPipeline(wait=asyncio.Event()), Disconnecting(stream=True)
    request = asyncio.ensure_future(browser.request(pipeline, first_event_s=60))
    await pipeline.started.wait()
    request.cancel()
    await asyncio.wait([request])
    assert pipeline.cancelled.is_set()


# --- errors -------------------------------------------------------------------------------------------------------------

FAILURES: list[tuple[Exception, int, str]] = [
    (InvalidRequest("no", param="n"), 400, "invalid_value"),
    (UnknownModel("x", ["small"]), 404, "model_not_found"),
    (OverBudget("too dear", 1e-6, 2e-6, asked=True), 400, "budget_exceeded"),
    (DeadlineExceeded("too late"), 504, "deadline_exceeded"),
    (BackendRefused("small", "cannot read 'hello'", code="unreadable_prompt"), 400, "unreadable_prompt"),
    (BackendRefused("small", "check api_key", status=401), 502, "backend_failed"),
    (BackendUnavailable("small", "busy", retry_after_s=3), 503, "backend_unavailable"),
    (BackendTimeout("small", "slow"), 504, "backend_timeout"),
    (BackendMalformed("small", "html"), 502, "backend_failed"),
    (KeyError("inner secret"), 500, "internal_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "code"), FAILURES)
async def test_every_failure_has_openais_shape(error: Exception, status: int, code: str, stream: bool) -> None:
    """Whatever fails, the client gets a status that fits and an error object; our own faults show no details."""
    response = await ask(ScriptedPipeline(error=error), stream=stream)
    found = response.json()["error"]
    assert (response.status_code, found["code"]) == (status, code)
    assert set(found) == {"message", "type", "param", "code"}
    assert "inner secret" not in response.text
    assert response.headers.get("retry-after") == ("3" if status == 503 else None)


@pytest.mark.parametrize(("deltas", "stream"), [((), False), ((), True), ((Delta("10-"),), True)])
@pytest.mark.parametrize("error", [KeyError("inner"), asyncio.CancelledError("inner"), ExceptionGroup("inner", [KeyError("inner")])])
async def test_our_own_fault_is_logged_under_the_decisions_id_that_the_client_got(
    error: BaseException, deltas: tuple[Delta, ...], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller cannot see what broke, but can say which line of the log tells; so also where a stream had begun, and where what came was
    a cancellation that nobody asked for."""
    pipeline = ScriptedPipeline(error=error, deltas=deltas)
    response = await ask(pipeline, stream=stream)
    id = pipeline.asks[0].id
    assert f"internal error {id}; the server's log says more" in response.text
    assert f"{id} failed" in caplog.text
    assert f"{id} answered 500 internal_error" in caplog.text
    assert f"{type(error).__name__}: " in caplog.text
    assert "inner" in caplog.text


async def test_our_own_fault_before_there_is_a_decision_has_an_id_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """What breaks at an endpoint that decides nothing is found as well."""
    pipeline = ScriptedPipeline()
    pipeline.models = None  # type: ignore[assignment,method-assign]
    async with client(pipeline) as http:
        response = await http.get("/v1/models")
    id = response.json()["error"]["message"].split()[2].rstrip(";")
    assert (response.status_code, id[:4]) == (500, "err_")
    assert f"{id} failed" in caplog.text
    assert "TypeError" in caplog.text


async def test_a_bad_body_never_reaches_the_pipeline() -> None:
    """A request that must be changed costs nothing."""
    pipeline = ScriptedPipeline()
    response = await ask(pipeline, temperature=9)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "temperature"
    assert pipeline.asks == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, BODY),
        ("/v1/responses", {"model": "auto", "input": "why?"}),
        ("/v1/messages", {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "why?"}]}),
    ],
)
async def test_a_failure_names_the_decision_that_was_made(path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """In body, header and log, where there is one; of a stream that had begun in the event that ends it."""
    for id in (None, "dec_1"):
        failure = BackendFailed("all are down", status=503)
        failure.decision_id = id
        async with client(ScriptedPipeline(error=failure)) as http:
            response = await http.post(path, json=body)
        event = (await api_of(path)).broken(failure).decode()
        assert (response.status_code, response.headers.get("x-outlay-decision-id")) == (503, id)
        assert {'"outlay":{"id":"dec_1"}' in said for said in (response.text, event)} == {bool(id)}
        assert ("dec_1 answered 503" in caplog.text) == bool(id)


async def test_only_json_is_taken() -> None:
    """A web page can post text to any address without asking, but not JSON; so nothing else is read."""
    async with client(ScriptedPipeline()) as http:
        response = await http.post(CHAT, content=json.dumps(BODY), headers={"content-type": "text/plain"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_content_type")


async def test_a_body_over_the_limit_is_refused_and_read_no_further() -> None:
    """`max_body_mb` bounds what is held in memory, also where no length was declared."""
    read = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b" " * 1000

    async with client(ScriptedPipeline(), max_body_mb=0.01) as http:
        response = await http.post(CHAT, content=flood(), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert read < 20


async def test_max_messages_is_the_servers() -> None:
    """`max_messages` of the configuration is what requests are held to."""
    assert (await ask(ScriptedPipeline(), server={"max_messages": 1}, messages=BODY["messages"] * 2)).status_code == 400  # type: ignore[operator]
    assert (await ask(ScriptedPipeline(), server={"max_messages": 2}, messages=BODY["messages"] * 2)).status_code == 200  # type: ignore[operator]


async def test_unknown_paths_and_methods_have_openais_shape() -> None:
    """404 and 405 say which paths and methods there are."""
    missing, wrong = await get("/v1/completions"), await get(CHAT)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert CHAT in missing.json()["error"]["message"]
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "use POST" in wrong.json()["error"]["message"]


# --- the other endpoints ------------------------------------------------------------------------------------------------


async def test_models_are_policies_and_backends() -> None:
    """Everything that may stand in `model` is listed, and can be looked up, slashes included."""
    listed = (await get("/v1/models")).json()
    assert [m["id"] for m in listed["data"]] == ["auto", "outlay/balanced", "small"]
    one = (await get("/v1/models/outlay/balanced")).json()
    assert (one["object"], one["outlay"]) == ("model", {"kind": "policy", "description": "the cheapest that does"})
    assert (await get("/v1/models/outlay/balancd")).status_code == 404


async def test_route_decides_without_answering() -> None:
    """`/v1/route` takes the same body and returns the decision alone."""
    pipeline = ScriptedPipeline()
    response = await ask(pipeline, "/v1/route")
    assert response.json()["generated"] is False
    assert response.headers["x-outlay-decision-id"] == pipeline.asks[0].id
    assert (await ask(ScriptedPipeline(error=UnknownModel("x", [])), "/v1/route")).status_code == 404


async def test_a_decision_is_found_by_its_id() -> None:
    """A past decision while it is remembered; 404 otherwise."""
    assert (await get("/v1/decisions/dec_known")).json()["cause"] == "utility"
    assert (await get("/v1/decisions/dec_other")).json()["error"]["code"] == "decision_not_found"


@pytest.mark.parametrize(
    ("components", "status", "word"),
    [
        ({"backend:a": "ok", "cache": "ok"}, 200, "ready"),
        ({"backend:a": "ok", "backend:b": "refused", "cache": "gone"}, 200, "degraded"),
        ({"backend:a": "gone", "cache": "ok"}, 503, "unready"),
    ],
)
async def test_ready_means_that_a_backend_can_answer(components: dict[str, str], status: int, word: str) -> None:
    """Only when no backend is up should a balancer look elsewhere; whatever else is down is done without."""
    response = await get("/ready", ScriptedPipeline(components=components))
    assert (response.status_code, response.json()["status"], response.json()["components"]) == (status, word, components)


async def test_health_asks_nobody() -> None:
    """The process lives, even when nothing behind it does."""
    assert (await get("/health", ScriptedPipeline(components={"backend:a": "gone"}))).json() == {"status": "ok"}


async def test_the_application_closes_the_pipeline() -> None:
    """At shutdown backends and connections are released."""
    pipeline = ScriptedPipeline()
    app = create_app(pipeline)
    async with app.router.lifespan_context(app):
        assert not pipeline.closed
    assert pipeline.closed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("log_prompts", [False, True])
async def test_prompts_are_logged_only_if_asked(log_prompts: bool, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each answer says what was bought; what was asked is in it only with `log_prompts`."""
    pipeline = ScriptedPipeline()
    with caplog.at_level(logging.INFO, "outlay"):
        await ask(pipeline, stream=stream, server={"log_prompts": log_prompts})
    assert f"{pipeline.asks[0].id} policy='balanced' plan='single(small)'" in caplog.text
    assert (PROMPT in caplog.text) is log_prompts


async def test_logged_prompts_are_redacted(caplog: pytest.LogCaptureFixture) -> None:
    """Addresses, keys and card numbers are gone, also of what stands where the prompt is cut."""
    secret = "sk-proj-abcDEF1234567890abcd"
    prompt = f"mail ann@example.org, card 4111 1111 1111 1111, {'word ' * 28}{secret}"
    with caplog.at_level(logging.INFO, "outlay"):
        await ask(ScriptedPipeline(), messages=[{"role": "user", "content": prompt}], server={"log_prompts": True})
    assert "mail [email], card [number], word" in caplog.text
    assert "ann@" not in caplog.text
    assert "4111" not in caplog.text
    assert secret[:5] not in caplog.text


# --- a real client ------------------------------------------------------------------------------------------------------


async def test_the_openai_client_is_at_home() -> None:
    """OpenAI's own package reads our answers, streams, model list and errors."""
    import openai

    pipeline = ScriptedPipeline((candidate("6*4=24 is it"),))
    async with served(pipeline) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as http:
        create: Callable[..., Any] = http.chat.completions.create
        plain = await create(**BODY, extra_body={"outlay": {"min_quality": 0.5}})
        assert (plain.choices[0].message.content, plain.usage.total_tokens) == ("6*4=24 is it", 42)
        assert (plain.outlay["cause"], pipeline.asks[0].min_quality) == ("utility", 0.5)

        stream = await create(**BODY, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "6*4=24 is it"
        assert chunks[-1].usage.total_tokens == 42

        assert [model.id async for model in http.models.list()] == ["auto", "outlay/balanced", "small"]

        with pytest.raises(openai.BadRequestError) as bad:
            await create(**BODY, temperature=5)
        assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
        pipeline.error = UnknownModel("x", ["small"])
        with pytest.raises(openai.NotFoundError):
            await create(**BODY, stream=True)
        pipeline.error, pipeline.deltas = BackendUnavailable("small", "gone"), [Delta("6")]
        pipeline.wait = asyncio.Event()
        stream = await create(**BODY, stream=True)
        pipeline.wait.set()
        with pytest.raises(openai.APIError, match="gone"):
            _ = [chunk async for chunk in stream]
