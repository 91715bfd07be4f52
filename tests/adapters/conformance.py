"""What every backend promises, as one suite: subclass `BackendConformance` and give it a `backend` fixture.

    class TestLocal(BackendConformance):
        ask = ChatRequest(messages=({"role": "user", "content": "hi"},))

        @pytest.fixture
        async def backend(self): ...      # fresh for each test; closed here or by the suite

        @pytest.fixture
        async def failures(self): ...     # [(a backend that fails, the request, the error it must raise)]

Tests that need something not every backend has are skipped by the backend's own `Features`, and by `honours`, which says what
the outside thing makes of a request (a recorded answer obeys neither a stop string nor a token limit).
"""

from __future__ import annotations

import asyncio

import pytest

from adapters.errors import BackendError
from adapters.types import Backend, Call, ChatRequest, Choice, Delta

Failure = tuple[Backend, ChatRequest, type[BackendError]]


async def answered(backend: Backend, request: ChatRequest) -> Call:
    """The record of one plain call."""
    call = Call(backend.price)
    await backend.complete(request, call)
    return call


async def streamed(backend: Backend, request: ChatRequest) -> tuple[Call, list[Delta]]:
    """The record of one streamed call, and its events."""
    call = Call(backend.price)
    return call, [delta async for delta in backend.stream(request, call)]


def texts(call: Call) -> list[str]:
    """The texts of a call's choices, in an order that does not depend on which was finished first."""
    return sorted(choice.text for choice in call.choices)


def joined(deltas: list[Delta]) -> list[str]:
    """The texts that a stream adds up to, one for each index, sorted."""
    return sorted("".join(d.text for d in deltas if d.index == index) for index in {d.index for d in deltas})


class BackendConformance:
    """The suite. Class attributes describe the backend under test where its `Features` do not."""

    ask: ChatRequest = ChatRequest(messages=({"role": "user", "content": "hello"},), seed=7)
    """A request that the backend answers with at least four characters."""
    honours: frozenset[str] = frozenset({"seed", "stop", "max_tokens"})
    """Which of these fields of a request change the answer as they should."""

    @pytest.fixture
    async def failures(self) -> list[Failure]:
        """Backends that fail, with the error that each must raise; none unless a subclass says so."""
        return []

    def needs(self, *fields: str) -> None:
        """Skip the test unless the backend honours these fields."""
        if missing := set(fields) - self.honours:
            pytest.skip(f"this backend does not honour {', '.join(sorted(missing))}")

    # --- answers and what they cost -------------------------------------------------------------------------------

    async def test_one_answer_is_counted_and_paid_for(self, backend: Backend) -> None:
        """A plain call gives one finished answer with its tokens, and costs what the price list says unless the provider gave a figure."""
        call = await answered(backend, self.ask)
        (choice,) = call.choices
        assert choice.text or choice.message
        assert choice.finish_reason in {"stop", "length", "tool_calls", "content_filter"}
        assert call.input_tokens > 0
        assert call.output_tokens > 0
        assert call.cost_usd == pytest.approx(
            call.reported_usd
            if call.reported_usd is not None
            else backend.price.cost_usd(call.input_tokens, call.output_tokens, call.cached_tokens)
        )

    async def test_what_was_cached_is_a_part_of_the_input(self, backend: Backend) -> None:
        """Of a prompt sent again no more is read from a cache than it has tokens, and it costs no more for it; streamed or not."""
        for call in (*[await answered(backend, self.ask) for _ in range(2)], (await streamed(backend, self.ask))[0]):
            assert 0 <= call.cached_tokens <= call.input_tokens
            assert call.cost_usd <= (call.reported_usd or backend.price.cost_usd(call.input_tokens, call.output_tokens)) + 1e-15

    async def test_the_same_seed_gives_the_same_answer(self, backend: Backend) -> None:
        """A seed makes an answer repeatable."""
        self.needs("seed")
        assert texts(await answered(backend, self.ask)) == texts(await answered(backend, self.ask))

    async def test_n_answers_come_from_one_call(self, backend: Backend) -> None:
        """`n` gives n choices; a backend with native n reads (and bills) the prompt once for all of them."""
        one, three = await answered(backend, self.ask), await answered(backend, self.ask.but(n=3))
        if not backend.features.native_n:
            assert 1 <= len(three.choices) <= 3
            return
        assert len(three.choices) == 3
        assert three.input_tokens == one.input_tokens
        assert three.output_tokens >= 3

    async def test_an_answer_obeys_max_tokens(self, backend: Backend) -> None:
        """An answer cut at `max_tokens` says `length`, and no more tokens than that are counted."""
        self.needs("max_tokens")
        call = await answered(backend, self.ask.but(max_tokens=1))
        assert call.choices[0].finish_reason == "length"
        assert call.output_tokens == 1

    async def test_a_stop_string_ends_the_answer_and_is_not_in_it(self, backend: Backend) -> None:
        """The text ends just before the stop string, with `stop` as the reason, streamed or not."""
        self.needs("seed", "stop")
        whole = (await answered(backend, self.ask)).choices[0].text
        stop = whole[len(whole) // 2 :][:2]
        expected, request = whole[: whole.index(stop)], self.ask.but(stop=(stop,))
        call = await answered(backend, request)
        stream_call, deltas = await streamed(backend, request)
        assert [(c.text, c.finish_reason) for c in call.choices] == [(expected, "stop")]
        assert [(c.text, c.finish_reason) for c in stream_call.choices] == [(expected, "stop")]
        assert joined(deltas) == [expected]

    async def test_logprobs_come_where_they_are_promised(self, backend: Backend) -> None:
        """Asked for logprobs, a backend that has them gives one number, at most 0, for each token; not asked, it gives none."""
        if not backend.features.logprobs:
            pytest.skip("this backend has no logprobs")
        (choice,) = (await answered(backend, self.ask.but(logprobs=True))).choices
        assert choice.logprobs
        assert all(value <= 1e-6 for value in choice.logprobs)
        assert (await answered(backend, self.ask)).choices[0].logprobs is None

    async def test_a_prefix_is_continued(self, backend: Backend) -> None:
        """Where the backend continues a prefix, the answer to a begun answer comes without error and is counted."""
        if not backend.features.continues_prefix:
            pytest.skip("this backend does not continue a prefix")
        begun = (await answered(backend, self.ask)).choices[0].text.split()[0]
        messages = (*self.ask.messages, {"role": "assistant", "content": begun})
        call = await answered(backend, self.ask.but(messages=messages, continue_final=True))
        assert len(call.choices) == 1
        assert call.output_tokens > 0

    async def test_longer_conversations_have_more_tokens(self, backend: Backend) -> None:
        """`count_tokens` works before the call, and grows with the conversation."""
        longer = self.ask.but(messages=(*self.ask.messages, {"role": "assistant", "content": "1"}, *self.ask.messages))
        assert 0 < backend.count_tokens(self.ask) < backend.count_tokens(longer)

    # --- streams --------------------------------------------------------------------------------------------------

    async def test_a_stream_adds_up_to_its_choices(self, backend: Backend) -> None:
        """The pieces of a stream, joined, are the texts in the call; each choice ends once, with its reason."""
        call, deltas = await streamed(backend, self.ask.but(n=2 if backend.features.native_n else 1))
        assert joined(deltas) == texts(call)
        ends = [d for d in deltas if d.finish_reason]
        assert len(ends) == len({d.index for d in deltas}) == len(call.choices)
        assert sorted(d.finish_reason or "" for d in ends) == sorted(c.finish_reason for c in call.choices)

    async def test_a_stream_is_the_plain_answer(self, backend: Backend) -> None:
        """With the same seed, streaming changes neither the text nor what is counted."""
        self.needs("seed")
        plain, (call, _) = await answered(backend, self.ask), await streamed(backend, self.ask)
        assert texts(call) == texts(plain)
        assert (call.input_tokens, call.output_tokens) == (plain.input_tokens, plain.output_tokens)

    async def test_a_stream_closed_half_way_is_paid_for(self, backend: Backend) -> None:
        """Closing a stream after its first piece keeps what was counted so far, and the backend answers the next call."""
        call = Call(backend.price)
        stream = backend.stream(self.ask, call)
        await anext(stream)
        await stream.aclose()
        assert call.input_tokens > 0
        assert call.output_tokens > 0
        assert (await answered(backend, self.ask)).choices

    # --- callers and failures -------------------------------------------------------------------------------------

    async def test_concurrent_calls_do_not_mix(self, backend: Backend) -> None:
        """Eight calls at once give each caller what it would have got alone."""
        self.needs("seed")
        requests = [self.ask.but(seed=seed) for seed in range(8)]
        alone = [await answered(backend, request) for request in requests]
        together = await asyncio.gather(*(answered(backend, request) for request in requests))
        assert [texts(call) for call in together] == [texts(call) for call in alone]
        assert [call.output_tokens for call in together] == [call.output_tokens for call in alone]

    async def test_a_cancelled_call_harms_nobody(self, backend: Backend) -> None:
        """Cancelling the awaiting task ends the call at once; whatever it produced is marked, and the backend goes on."""
        call = Call(backend.price)
        task = asyncio.create_task(backend.complete(self.ask, call))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() or task.exception() is None
        assert all(isinstance(choice, Choice) for choice in call.choices)
        assert (await answered(backend, self.ask)).choices

    async def test_failures_are_typed(self, failures: list[Failure]) -> None:
        """A failure is one of our errors, names its backend, and is never the text of an answer; streams fail alike."""
        if not failures:
            pytest.skip("no failing variant declared")
        for backend, request, error in failures:
            call = Call(backend.price)
            with pytest.raises(error) as plain:
                await backend.complete(request, call)
            assert plain.value.backend == backend.name
            assert not call.choices
            with pytest.raises(error):
                await streamed(backend, request)
            await backend.aclose()

    async def test_closing_twice_is_closing_once(self, backend: Backend) -> None:
        """`aclose` can be called before, after and twice."""
        await answered(backend, self.ask)
        await backend.aclose()
        await backend.aclose()
