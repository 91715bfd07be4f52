"""A chain of backends: when another one answers in the first one's place, when it does not, and who is said to have answered."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from adapters.errors import BackendError, BackendMalformed, BackendRefused, BackendUnavailable
from adapters.fallbacks import Fallbacks
from adapters.openai import OpenAIBackend, OpenAIOptions
from adapters.options import FallbackOn, Resilience
from adapters.pool import Pool
from adapters.scripted import Answer, scripted
from adapters.types import Backend, Call, ChatRequest, Delta, Price
from tests.adapters.conformance import answered, streamed
from tests.adapters.stub_server import StubServer
from tests.adapters.test_pool import DOWN, Breaks, Played, Time, trace

ASK = ChatRequest(messages=({"role": "user", "content": "hello there"},))
ALL: frozenset[FallbackOn] = frozenset({"failure", "context_length", "content_filter"})
LONG = BackendRefused("m", "This model's maximum context length is 8192 tokens, however you requested 9000")
CODED = BackendRefused("m", "no", code="context_length_exceeded")
FILTERED = BackendRefused("m", "no", code="content_filter")
LOCKED = BackendRefused("m", "key", status=401)
WRONG = BackendRefused("m", "temperature must be a number")


def chain(*errors: BackendError | None, on: frozenset[FallbackOn] = ALL) -> tuple[Fallbacks, list[Played]]:
    played = [Played(name, Time(), error) for name, error in zip(("m", "second", "third"), errors, strict=False)]
    return Fallbacks(played[0], played[1:], on), played


async def called(how: Callable[..., Any], backend: Backend) -> Call:
    found = await how(backend, ASK)
    call: Call = found[0] if isinstance(found, tuple) else found
    return call


@pytest.mark.parametrize("how", [answered, streamed])
@pytest.mark.parametrize(
    ("error", "on"),
    [(DOWN, "failure"), (LOCKED, "failure"), (LONG, "context_length"), (CODED, "context_length"), (FILTERED, "content_filter")],
)
async def test_another_backend_answers_where_it_is_configured_to(how: Any, error: BackendError, on: FallbackOn) -> None:
    """Each kind of failure has a word in `fallback_on`; without the word the error is the caller's."""
    call = await called(how, chain(error, None, on=frozenset({on}))[0])
    assert [choice.text for choice in call.choices] == ["second"]
    assert trace(call) == [("second", "fallback", "ok")]
    backend, played = chain(error, None, on=ALL - {on})
    with pytest.raises(type(error)):
        await called(how, backend)
    assert played[1].calls == 0


@pytest.mark.parametrize("how", [answered, streamed])
async def test_why_it_failed_is_noted_of_each_request_unless_the_callers_own_is_to_blame(how: Any) -> None:
    """For the operator's log, with what stands in a pool and what does not: a prompt that is too long is no outage."""
    for error, cause in ((BackendUnavailable("m", "words of others", status=503), "BackendUnavailable 503"), (LOCKED, "BackendRefused 401"),
                         (LONG, ""), (CODED, "")):  # fmt: skip
        places = Pool("m", [Played("m/a", Time(), error)], Resilience(attempts=1))
        call = await called(how, Fallbacks(places, [Played("second", Time(), DOWN), Played("third", Time())], ALL))
        assert [(one.deployment, one.cause) for one in call.attempts] == [("m/a", cause), ("second", "BackendUnavailable"), ("third", "")]


async def test_a_request_that_is_wrong_everywhere_is_asked_once() -> None:
    """A mistake of the caller's is no reason to pay another backend."""
    backend, played = chain(WRONG, None)
    with pytest.raises(BackendRefused):
        await answered(backend, ASK)
    assert [one.calls for one in played] == [1, 0]


async def test_the_next_is_asked_if_the_second_fails_too_and_the_first_error_is_told() -> None:
    """In their order, each once; where none answers, the cause of it all is what the caller learns."""
    assert [choice.text for choice in (await answered(chain(DOWN, DOWN, None)[0], ASK)).choices] == ["third"]
    backend, played = chain(CODED, DOWN, DOWN)
    with pytest.raises(BackendRefused) as refused:
        await answered(backend, ASK)
    assert (refused.value, [one.calls for one in played]) == (CODED, [1, 1, 1])


async def test_a_stream_that_began_does_not_change_its_backend() -> None:
    """What was read cannot be taken back."""
    backend, played = chain(None, None)
    with pytest.raises(BackendMalformed):
        async for _ in backend.stream(ASK.but(n=13), Call(Price())):
            pass
    assert played[1].calls == 0


async def test_a_dearer_answer_is_asked_for_only_with_leave_and_paid_at_its_own_price() -> None:
    """The run is asked for the fallback by name; what it costs is in the call of the first."""
    cheap, dear = Played("m", Time(), DOWN, price=Price(1e6, 1e6)), Played("dear", Time(), price=Price(2e6, 2e6))
    backend, asked, leave = Fallbacks(cheap, [dear], ALL), list[tuple[str, bool]](), [True, False]

    async def may(other: Backend, after_s: float, more: bool) -> bool:
        asked.append((other.name, more))
        return leave.pop(0)

    await backend.complete(ASK, call := Call(cheap.price, may=may))
    assert call.cost_usd == 26
    with pytest.raises(BackendUnavailable):
        await backend.complete(ASK, Call(cheap.price, may=may))
    assert asked == [("dear", True)] * 2


@pytest.mark.parametrize("unread", [True, False])
async def test_a_stream_of_which_nobody_has_a_word_is_taken_over(unread: bool) -> None:
    """As if it had failed before the first; else its failure is told, and nobody else is asked."""
    first, second, got = Breaks("m", Time()), Played("second", Time()), list[str]()

    def take_back() -> bool:
        got[:] = [] if unread else got
        return unread

    call = Call(first.price, take_back=take_back)
    with contextlib.nullcontext() if unread else pytest.raises(BackendMalformed):
        async for delta in Fallbacks(first, [second], ALL).stream(ASK, call):
            got.append(delta.text)
    assert (got, second.calls) == ((["second", ""], 1) if unread else (["never"], 0))
    assert call.cost_usd == (24 if unread else 11)


async def test_a_refusal_that_breaks_off_is_not_heard() -> None:
    """Its words were held back, so that the deployment that is asked next begins anew."""
    time = Time()
    broken = Breaks("m/eu", time, piece=Delta(fields={"refusal": "I cannot"}))
    places = Pool("m", [broken, Played("m/us", time)], Resilience(), clock=time, sleep=time.sleep)
    places.deployments[1].running = 1  # so that the first is asked first
    call, deltas = await streamed(Fallbacks(places, [Played("second", time)], ALL), ASK)
    assert [(delta.text, delta.fields) for delta in deltas] == [("m/us", None), ("", None)]
    assert trace(call) == [("m/eu", "first", "BackendMalformed"), ("m/us", "retry", "ok")]


# --- in front of real servers -------------------------------------------------------------------------------------------


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as server:
        yield server


@pytest.mark.parametrize("how", [answered, streamed])
@pytest.mark.parametrize("model", ["status-500", "status-429", "status-401", "html", "bad-json", "empty", "flood", "gone"])
async def test_an_answer_comes_whatever_the_first_server_does(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch, how: Any, model: str
) -> None:
    """Dead, lying, flooding or locked: the pool gives up, the fallback answers, and each request is in the trace."""
    monkeypatch.setattr("adapters.openai.MAX_ANSWER_BYTES", 4 << 20)
    url = "http://127.0.0.1:9/v1" if model == "gone" else stub.url
    options = Resilience(attempts=2)
    servers = [OpenAIBackend(name, OpenAIOptions(model=model, base_url=url)) for name in ("m/a", "m/b")]
    other = OpenAIBackend("other", OpenAIOptions(model="words", base_url=stub.url))
    backend = Fallbacks(Pool("m", servers, options), [Pool("other", [other], options)], ALL)
    call = await called(how, backend)
    assert [attempt.kind for attempt in call.attempts] == ["first", "retry", "fallback"]
    assert (call.attempts[-1].deployment, call.attempts[-1].outcome, len(call.choices)) == ("other", "ok", 1)
    await backend.aclose()
    await other.aclose()


# --- answers that were withheld -----------------------------------------------------------------------------------------

FILTERED_ANSWER = Answer(text="", finish_reason="content_filter")
REFUSAL = Answer(text="", message={"role": "assistant", "content": None, "refusal": "I cannot help"})


@pytest.mark.parametrize("how", [answered, streamed])
@pytest.mark.parametrize("withheld", [FILTERED_ANSWER, REFUSAL])
async def test_an_answer_that_was_withheld_is_fallen_back_from_where_that_is_configured(how: Any, withheld: Answer) -> None:
    """A 200 with nothing in it but `content_filter`, or a refusal, is what an error of that name is; without the word it is the answer."""
    pools = [Pool(name, [scripted(f"{name}/a", answer)], Resilience()) for name, answer in (("m", withheld), ("second", "words"))]
    call = await called(how, Fallbacks(pools[0], pools[1:], frozenset({"content_filter"})))
    assert [choice.text for choice in call.choices] == ["words"]
    assert trace(call) == [("m/a", "first", "BackendWithheld"), ("second/a", "fallback", "ok")]
    call = await called(how, Fallbacks(pools[0], pools[1:], frozenset({"failure"})))
    assert [choice.withheld for choice in call.choices] == [withheld.finish_reason.replace("stop", "refusal")]


@pytest.mark.parametrize("how", [answered, streamed])
@pytest.mark.parametrize("other", [FILTERED_ANSWER, Answer(text="never heard")])
async def test_an_answer_that_was_withheld_goes_out_as_it_is_where_nobody_has_a_better_one(how: Any, other: Answer) -> None:
    """The others are withheld too, or down: the first one's answer is all there is, and both are paid."""
    second = scripted("second", other, price=Price(1e6, 1e6), fail_every=None if other.text == "" else 1)
    call = await called(how, Fallbacks(scripted("m", REFUSAL, price=Price(1e6, 1e6)), [second], ALL))
    assert [choice.message for choice in call.choices] == [REFUSAL.message]
    assert len(second.requests) == 1
    assert call.cost_usd == (4 if other.text == "" else 2)


async def test_words_of_a_refusal_are_streamed_where_nothing_is_to_follow_them() -> None:
    """Held back until it is known that no other backend answers; with the first word of an answer, what was held goes out before it."""
    deltas = (await streamed(Fallbacks(scripted("m", REFUSAL), [scripted("second", FILTERED_ANSWER)], ALL), ASK))[1]
    assert [delta.fields for delta in deltas] == [{"refusal": "I cannot help"}]
