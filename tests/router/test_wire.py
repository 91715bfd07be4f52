"""The way in (`wire.py`, `extras.py`) and the way out (`render.py`)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import ChatRequest, Delta
from policies.plans import Single
from router import render, wire
from router.errors import InvalidRequest
from router.pipeline_types import Ask, CacheControl, ContinueFrom
from tests.router.doubles import candidate, outcome

USER = [{"role": "user", "content": "Use 4 9 10 13 to make 24."}]


def parse(body: Any = None, headers: dict[str, str] | None = None, /, **fields: Any) -> wire.Incoming:
    if body is None:
        body = {"model": "auto", "messages": USER, **fields}
    return wire.parse(body if isinstance(body, bytes) else json.dumps(body).encode(), headers or {})


def refusal(*args: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(*args, **fields)
    return caught.value


# --- what a request says ------------------------------------------------------------------------------------------------


def test_fields_that_outlay_acts_on_become_typed() -> None:
    """Every OpenAI field that a strategy or the run looks at is a typed field of the request."""
    found = parse(n=3, temperature=1, top_p=0.5, max_tokens=7, stop="\n", seed=5, logprobs=True)
    assert found.ask.request == ChatRequest(tuple(USER), 3, 1.0, 0.5, 7, ("\n",), 5, True)
    assert (found.ask.model, found.stream, found.include_usage) == ("auto", False, False)


def test_everything_else_travels_untouched() -> None:
    """Fields that Outlay does not know, and contents that it does not read, reach the backend as they came."""
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}, "odd": 1}], "name": "x"}]
    rest = {"tools": [{"type": "function"}], "response_format": {"type": "json_object"}, "reasoning_effort": "low", "made_up": [1, None]}
    request = parse({"model": "small", "messages": messages, **rest}).ask.request
    assert request.extra == rest
    assert list(request.messages) == messages


def test_newer_name_of_max_tokens_wins() -> None:
    """`max_completion_tokens` is what OpenAI calls it now; with both given it holds."""
    assert parse(max_completion_tokens=5).ask.request.max_tokens == 5
    assert parse(max_completion_tokens=5, max_tokens=9).ask.request.max_tokens == 5


def test_nulls_are_as_if_absent() -> None:
    """Clients send null for what they do not set."""
    assert parse(**dict.fromkeys(wire.HANDLED - {"model", "messages"})).ask.request == ChatRequest(tuple(USER))


def test_without_a_model_the_router_chooses() -> None:
    """A body without `model` means `auto`."""
    assert parse({"messages": USER}).ask.model == "auto"


def test_stream_with_usage_is_noticed() -> None:
    """`stream_options.include_usage` asks for one more chunk."""
    found = parse(stream=True, stream_options={"include_usage": True})
    assert (found.stream, found.include_usage) == (True, True)


def test_each_ask_has_an_id_of_its_own() -> None:
    """The decision's id is made with the ask, so that a stream can name it before there is a decision."""
    assert parse().ask.id != parse().ask.id


# --- what is wrong with a request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "hint"),
    [
        ({"messages": None}, "messages", "role"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "hi"}, "messages", "a list"),
        ({"messages": ["hi"]}, "messages[0]", "an object"),
        ({"messages": [{"role": "usr", "content": "hi"}]}, "messages[0].role", "did you mean 'user'"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "'user'"),
        ({"messages": [*USER, {"role": "user", "content": 7}]}, "messages[1].content", "a string"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content", "parts"),
        ({"model": 5}, "model", "outlay/balanced"),
        ({"model": ""}, "model", "auto"),
        ({"temperature": 2.5}, "temperature", "0 to 2"),
        ({"temperature": "hot"}, "temperature", "a string"),
        ({"temperature": True}, "temperature", "a number"),
        ({"top_p": -0.1}, "top_p", "0 to 1"),
        ({"n": 0}, "n", "1 to 128"),
        ({"n": 1.5}, "n", "whole number"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "at least 1"),
        ({"seed": 1 << 64}, "seed", "whole number"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop": 3}, "stop", "a list"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"logprobs": 1}, "logprobs", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": []}, "stream_options", "an object"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "true or false"),
        ({"outlay": 5}, "outlay", "an object"),
        ({"outlay": {"max_cost": 1}}, "outlay.max_cost", "did you mean 'max_cost_usd'"),
        ({"outlay": {"max_cost_usd": "1"}}, "outlay.max_cost_usd", "valid number"),
        ({"outlay": {"max_cost_usd": -1}}, "outlay.max_cost_usd", "greater than or equal to 0"),
        ({"outlay": {"deadline_ms": 0}}, "outlay.deadline_ms", "greater than 0"),
        ({"outlay": {"min_quality": 2}}, "outlay.min_quality", "less than or equal to 1"),
        ({"outlay": {"plan": {"best_of_n": {"backend": "small", "n": 4}}}}, "outlay.plan.best_of_n", "needs a verifier"),
        ({"outlay": {"plan": {"guess": {}}}}, "outlay.plan", "single"),
        ({"outlay": {"tags": {"task": 1}}}, "outlay.tags.task", "string"),
        ({"cache": True}, "cache", "an object"),
        ({"cache": {"no-cache": "yes"}}, "outlay.cache.no-cache", "boolean"),
    ],
)
def test_a_refusal_says_where_and_what_would_be_right(fields: dict[str, Any], param: str, hint: str) -> None:
    """Whatever is wrong with a request, the error names the place and shows what would have been right."""
    error = refusal(**fields)
    assert (error.status, error.param) == (400, param)
    assert hint in error.message


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[1]", "JSON object"),
        (b'{"messages": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"user": "\\ud800"}', "surrogates"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_body_that_is_no_json_is_refused(raw: bytes, hint: str) -> None:
    """Hostile and broken bodies are the caller's error, not ours."""
    error = refusal(raw)
    assert error.code == "invalid_json"
    assert hint in error.message


def test_too_many_messages_are_refused() -> None:
    """The server's `max_messages` holds, and the message names it."""
    raw = json.dumps({"messages": USER * 3}).encode()
    assert len(wire.parse(raw, {}, max_messages=3).ask.request.messages) == 3
    with pytest.raises(InvalidRequest, match="takes 2") as caught:
        wire.parse(raw, {}, max_messages=2)
    assert caught.value.code == "too_many_messages"


def test_a_refusal_does_not_repeat_what_was_said() -> None:
    """Contents of a conversation stay out of error messages, and so out of logs."""
    assert "secret" not in refusal(messages=[{"role": "user", "content": {"text": "secret"}}]).message


# --- extras and their header twins --------------------------------------------------------------------------------------

PLAN = {"single": {"backend": "small"}}
CHOSEN = {"decision_id": "dec_1", "candidate": 2}
TWINS = [
    ("max_cost_usd", 0.5, "max-cost-usd", "0.5", "max_cost_usd", 0.5),
    ("deadline_ms", 1500, "deadline-ms", "1500", "deadline_s", 1.5),
    ("first_token_ms", 500, "first-token-ms", "500", "first_token_s", 0.5),
    ("min_quality", 0.8, "min-quality", "0.8", "min_quality", 0.8),
    ("plan", PLAN, "plan", json.dumps(PLAN), "plan", Single(backend="small")),
    ("tags", {"task": "chat", "team": "web"}, "tags", "task=chat, team=web", "tags", {"task": "chat", "team": "web"}),
    ("session", "s1", "session", "s1", "session", "s1"),
    ("verbose", True, "verbose", "true", "verbose", True),
    ("continue_from", CHOSEN, "continue-from", json.dumps(CHOSEN), "continue_from", ContinueFrom("dec_1", 2)),
    (
        "cache",
        {"no-store": True, "ttl": 60, "s-maxage": 5, "namespace": "a"},
        "cache",
        "no-store, ttl=60, s-maxage=5, namespace=a",
        "cache",
        CacheControl(no_store=True, ttl_s=60, s_maxage_s=5, namespace="a"),
    ),
]


@pytest.mark.parametrize(("key", "value", "header", "text", "field", "want"), TWINS)
def test_body_and_header_say_the_same(key: str, value: Any, header: str, text: str, field: str, want: Any) -> None:
    """Each extra can be given in the body or by its header twin, with the same effect, and changes nothing when absent."""
    assert getattr(parse(outlay={key: value}).ask, field) == want
    assert getattr(parse(None, {"x-outlay-" + header: text}).ask, field) == want
    assert getattr(parse().ask, field) != want


def test_body_wins_over_header() -> None:
    """What stands in the body holds against a header of the same name; other headers still count."""
    headers = {"x-outlay-max-cost-usd": "9", "x-outlay-min-quality": "0.5"}
    ask = parse(None, headers, outlay={"max_cost_usd": 1}).ask
    assert (ask.max_cost_usd, ask.min_quality) == (1, 0.5)


def test_cache_controls_are_read_where_litellm_has_them() -> None:
    """`cache` at the top of the body works as with LiteLLM; `outlay.cache` wins where both speak."""
    ask = parse(cache={"no-cache": True, "ttl": 5}, outlay={"cache": {"ttl": 7}}).ask
    assert ask.cache == CacheControl(no_cache=True, ttl_s=7)
    assert "cache" not in ask.request.extra


def test_session_header_of_other_gateways_is_honoured() -> None:
    """`x-session-id` names the session, unless Outlay's own header does."""
    assert parse(None, {"x-session-id": "a"}).ask.session == "a"
    assert parse(None, {"x-session-id": "a", "x-outlay-session": "b"}).ask.session == "b"


def test_a_header_that_we_do_not_know_is_refused() -> None:
    """A limit with a typing error is no limit, so it is said; other people's headers are none of ours."""
    error = refusal(None, {"x-outlay-max-cost": "0.01"})
    assert (error.status, error.param) == (400, "x-outlay-max-cost")
    assert "did you mean 'x-outlay-max-cost-usd'" in error.message
    assert parse(None, {"x-request-id": "1"}).ask.tags == {}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("max-cost-usd", "cheap"),
        ("max-cost-usd", "nan"),
        ("verbose", "maybe"),
        ("plan", "{"),
        ("tags", "chat"),
        ("cache", "ttl=soon"),
        ("cache", "x"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(header: str, text: str) -> None:
    """A limit that we cannot read is not a limit that we may ignore."""
    assert refusal(None, {"x-outlay-" + header: text}).status == 400


# --- the way out --------------------------------------------------------------------------------------------------------


def ask(**fields: Any) -> Ask:
    return Ask(ChatRequest(tuple(USER)), "auto", **fields)


def test_a_completion_has_openais_shape_and_the_decision() -> None:
    """Usage sums all calls, the fingerprint is the policy's digest, and the block says what was bought and why."""
    one = ask()
    body = render.completion(outcome(one, candidate("a"), candidate("b")), created=7)
    assert body["id"] == one.id.replace("dec_", "chatcmpl-")
    assert (body["object"], body["created"], body["model"], body["system_fingerprint"]) == ("chat.completion", 7, "small", "fp_12345678")
    cached = {"prompt_tokens_details": {"cached_tokens": 0}}
    assert body["usage"] == {"prompt_tokens": 11, "completion_tokens": 31, "total_tokens": 42, **cached}
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]] == [(0, "a", "stop"), (1, "b", "stop")]
    assert body["choices"][0]["outlay"] == {"backend": "small", "plan": "single(small)", "score": 0.9, "votes": None}
    block = body["outlay"]
    assert (block["cause"], block["cost_usd"], block["baseline_usd"], block["overhead_s"]) == ("utility", 0.000042, 0.0005, 0.004)


def test_tool_calls_keep_the_backends_message() -> None:
    """A message with more than text goes out as the backend sent it."""
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    body = render.completion(outcome(ask(), candidate("", finish_reason="tool_calls", message=message)), 0)
    assert body["choices"][0]["message"] == {**message, "refusal": None}
    assert body["choices"][0]["finish_reason"] == "tool_calls"


def test_an_answer_cut_at_a_limit_ends_for_its_length() -> None:
    """`cancelled` is our word; clients know `length`, and `truncated_by` says which limit it was."""
    body = render.completion(outcome(ask(), candidate("half", finish_reason="cancelled"), truncated_by="deadline"), 0)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["outlay"]["truncated_by"] == "deadline"


def test_logprobs_go_out_in_openais_shape() -> None:
    """The figures of each token, in order."""
    body = render.completion(outcome(ask(), candidate("a b", logprobs=(-0.1, -0.2))), 0)
    assert [token["logprob"] for token in body["choices"][0]["logprobs"]["content"]] == [-0.1, -0.2]
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": None}]}
    live = render.Chunks(ask(), 0).delta(Delta("a", logprobs=(-0.5,), tokens=(entry,)))
    assert live["choices"][0]["logprobs"]["content"] == [entry]


def test_what_json_has_no_number_for_becomes_null() -> None:
    """A body is always valid JSON, also with a token of chance zero in it."""
    body = json.loads(render.dumps(render.completion(outcome(ask(), candidate(logprobs=(-0.1, float("-inf")))), 0)))
    assert [token["logprob"] for token in body["choices"][0]["logprobs"]["content"]] == [-0.1, None]


def test_default_headers_are_few_and_verbose_ones_asked_for() -> None:
    """Id, plan, model, cost, overhead, cache and fallbacks always; what was cut or lost when it was; the rest on request."""
    plain = render.headers(ask(), outcome(ask()))
    assert set(plain) == {
        f"x-outlay-{name}" for name in ("decision-id", "plan", "model", "cost-usd", "overhead-ms", "cache", "attempted-fallbacks")
    }
    marked = render.headers(ask(), outcome(ask(), truncated_by="cost", cached=True, degraded=("probe", "cache")))
    assert (marked["x-outlay-truncated-by"], marked["x-outlay-cache"], marked["x-outlay-degraded"]) == ("cost", "hit", "probe,cache")
    verbose = render.headers(ask(verbose=True), outcome(ask()))
    assert (verbose["x-outlay-policy"], verbose["x-outlay-output-tokens"]) == ("balanced", "31")


@given(st.text())
def test_a_header_value_is_one_line_of_ascii(text: str) -> None:
    """A plan's key may hold anything that YAML can; a header holds no newline and nothing beyond ASCII."""
    value = render.header_value(text)
    assert value.isascii()
    assert "\n" not in value
    assert "\r" not in value


@given(st.text())
def test_words_add_up_to_the_text(text: str) -> None:
    """An answer in pieces of a word is the same answer."""
    chunks = list(render.Chunks(ask(), 0).words(0, text))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == text


def test_the_end_of_a_stream_carries_the_decision_and_the_usage_on_request() -> None:
    """One finish reason for each choice, the decision once, and a chunk without choices for the usage if it was asked for."""

    def chunks(include_usage: bool) -> list[dict[str, Any]]:
        return list(render.Chunks(ask(), 0, include_usage=include_usage).end(outcome(ask(), candidate(), candidate())))

    assert [("outlay" in c, c["choices"][0]["finish_reason"]) for c in chunks(False)] == [(False, "stop"), (True, "stop")]
    *ends, last = chunks(True)
    assert all(chunk["usage"] is None for chunk in ends)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 42)
