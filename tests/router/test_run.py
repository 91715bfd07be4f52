"""The run keeps what its docstrings promise: ceiling, deadline, partial results, metering, degraded verifiers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.errors import BackendMalformed, BackendUnavailable
from adapters.scripted import ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Call, ChatRequest, Choice, Delta, Features, Price, Verdict
from router.candidates import Candidate
from router.ceiling import Tariff
from router.keys import new_key
from router.purse import Purse
from router.run import DEFAULT_MAX_TOKENS, Limits, OutOfBudget, Run, Scored, attempts
from tests.router.strategies.doubles import ASKED, ScriptedVerifier, a_run, stalls_after, yielding

A_DOLLAR_A_WORD = Price(0, 1e6)
LONG = "w " * 50


def slow(text: str = LONG, sleep=yielding, **options) -> ScriptedBackend:
    return ScriptedBackend("small", ScriptedOptions(answers=text, delay_s=1, token_delay_s=1, **options), sleep=sleep)


# --- the ceiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ceiling", "n", "max_tokens"), [(100, 4, 20), (60, 4, 15), (44, 4, 11), (39, 3, 13), (25, 2, 12), (10, 1, 10)])
async def test_fewer_answers_are_asked_for_before_they_are_shortened(ceiling, n, max_tokens):
    """A ceiling first takes answers away, down to those that fit at their typical length, and shortens only down to that length."""
    backend = slow(price=A_DOLLAR_A_WORD)
    run = a_run(backend, limits=Limits(cost_usd=ceiling), typical_tokens={"small": 10})
    assert len(await run.generate("small", ASKED.but(n=4, max_tokens=20))) == n
    assert (backend.requests[0].n, backend.requests[0].max_tokens) == (n, max_tokens)
    assert run.spent_usd <= ceiling
    assert run.truncated_by == ("cost" if n * max_tokens < 4 * 20 else None)


async def test_an_answer_that_may_not_fit_is_not_started():
    """Below the price of one answer nothing is asked, nothing is recorded, and the cause is named."""
    backend = slow(price=A_DOLLAR_A_WORD)
    run = a_run(backend, limits=Limits(cost_usd=9.99), typical_tokens={"small": 10})
    with pytest.raises(OutOfBudget, match="cost"):
        await run.generate("small", ASKED)
    assert not backend.requests
    assert run.calls == []
    assert run.truncated_by == "cost"


async def test_without_a_typical_length_answers_are_not_shortened():
    """Where nobody knows how long answers are, the whole of `max_tokens` is set aside for each."""
    backend = slow(price=A_DOLLAR_A_WORD)
    await a_run(backend, limits=Limits(cost_usd=59)).generate("small", ASKED.but(n=4, max_tokens=20))
    assert (backend.requests[0].n, backend.requests[0].max_tokens) == (2, 20)


@pytest.mark.parametrize(
    ("features", "longest"),
    [(Features(), DEFAULT_MAX_TOKENS), (Features(max_tokens=7), 7), (Features(max_context=16), 16 - 7), (Features(max_context=7), 1)],
)
async def test_the_backend_says_how_long_an_answer_can_be(features, longest):
    """Where the request is silent, the worst case is the backend's own bound, then what its context leaves, then a default."""
    backend = scripted("small", "6", price=A_DOLLAR_A_WORD)
    backend.features = features
    await a_run(backend, limits=Limits(cost_usd=2000)).generate("small", ASKED)
    assert backend.requests[0].max_tokens == longest


@pytest.mark.parametrize(
    ("features", "cost_usd", "budget_usd", "longest"),
    [
        (Features(max_output=5000), 20_000, None, 5000),  # what the model can write, where a quarter of the money pays for it
        (Features(max_output=5000), 8_000, None, 2000),  # else what that quarter pays for
        (Features(max_output=5000), 2_000, None, DEFAULT_MAX_TOKENS),  # but no less than what is expected of any answer
        (Features(max_output=5000), 20_000, 128_000, 2000),  # of a key's budget it is a smaller part
        (Features(max_output=500), 20_000, None, 500),  # a model that cannot write more is not asked to
        (Features(max_output=5000, max_context=3010), 20_000, None, 3000),  # prompt and answer share the context
        (Features(max_output=5000, max_tokens=70), 20_000, None, 70),  # what the operator says, holds
        (Features(), 20_000, None, DEFAULT_MAX_TOKENS),  # and of an unknown model no more is asked than any has room for
        (Features(max_output=5000), float("inf"), None, None),  # without a limit on money nothing is said
    ],
)
async def test_an_answer_of_unsaid_length_is_as_long_as_model_and_money_allow(features, cost_usd, budget_usd, longest):
    """Nobody said how long it may be, so it is cut by what the model can write, or where money ends; and what it may cost is set aside."""
    backend = scripted("small", "6", price=A_DOLLAR_A_WORD)
    backend.features = features
    purse = Purse(key := new_key("web", budget_usd={"day": budget_usd})[1], key.account)
    await a_run(backend, limits=Limits(cost_usd=cost_usd), purse=purse).generate("small", ASKED)
    assert backend.requests[0].max_tokens == longest


async def test_answers_of_unsaid_length_leave_money_for_those_beside_them():
    """Six at once, money for six of the expected length and a few: each is begun, and together they stay under the ceiling."""
    backend = slow(price=A_DOLLAR_A_WORD)
    backend.features = Features(max_output=50_000)
    run = a_run(backend, limits=Limits(cost_usd=10 * DEFAULT_MAX_TOKENS))
    await attempts(run.generate("small", ASKED) for _ in range(6))
    allowed = [request.max_tokens or 0 for request in backend.requests]
    assert len(allowed) == 6
    assert min(allowed) >= DEFAULT_MAX_TOKENS < max(allowed)
    assert sum(allowed) <= 10 * DEFAULT_MAX_TOKENS


@pytest.mark.parametrize(
    ("text", "max_tokens", "truncated_by"),
    [("w " * 3000, None, "cost"), ("w " * 3000, 2000, None), ("w " * 5, None, None)],
)
async def test_an_answer_that_money_cut_is_marked(text, max_tokens, truncated_by):
    """Not one that ended by itself, nor one that is as long as was asked for."""
    backend = scripted("small", text, price=A_DOLLAR_A_WORD)
    backend.features = Features(max_output=50_000)
    run = a_run(backend, limits=Limits(cost_usd=4_000))
    (answer,) = await run.generate("small", ASKED.but(max_tokens=max_tokens))
    assert (answer.finish_reason == "length") == (len(text) > 10)
    assert run.truncated_by == truncated_by


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=6),
    ceiling=st.floats(0, 400),
    native=st.booleans(),
    scored=st.booleans(),
    typical=st.none() | st.integers(1, 20),
)
def test_the_ceiling_holds_for_calls_side_by_side(wanted, ceiling, native, scored, typical):
    """However many calls run at once, and whatever they produce, their sum stays under the ceiling, verifier included."""
    backend = slow(price=Price(1e5, 1e6), native_n=native)
    verifier = ScriptedVerifier(price=Price(1e3, 1e3))
    run = a_run(backend, verifier, limits=Limits(cost_usd=ceiling), typical_tokens={"small": typical} if typical else {})

    async def one(n: int, max_tokens: int) -> list[Choice]:
        choices = await run.generate("small", ASKED.but(n=n, max_tokens=max_tokens), verifier="reward" if scored else None)
        if scored:
            await run.score("reward", ASKED, choices)
        return choices

    asyncio.run(attempts(one(*each) for each in wanted))
    assert run.spent_usd <= ceiling + 1e-9
    assert run._reserved_usd == pytest.approx(0)


async def test_money_set_aside_for_one_call_is_not_seen_by_another():
    """Two calls of four answers each, money for five: without native `n` too, the second one gets what is left."""
    backend = slow(price=A_DOLLAR_A_WORD, native_n=False)
    run = a_run(backend, limits=Limits(cost_usd=50))
    first, second = await attempts(run.generate("small", ASKED.but(n=4, max_tokens=10)) for _ in range(2))
    assert (len(first), len(second)) == (4, 1)


async def test_answers_are_bought_so_that_they_can_be_scored():
    """With a verifier named, the price of its scores is kept back: fewer answers, all of them scored."""
    verifier = ScriptedVerifier(price=Price(1000, 0))
    limits = Limits(cost_usd=4)
    unaware = await a_run(slow(price=Price(0, 1e5)), limits=limits).generate("small", ASKED.but(n=4, max_tokens=10))
    run = a_run(slow(price=Price(0, 1e5)), verifier, limits=limits)
    aware = await run.generate("small", ASKED.but(n=4, max_tokens=10), verifier="reward")
    assert len(unaware) == 4
    assert 1 <= len(aware) < 4
    assert all(one.score is not None for one in await run.score("reward", ASKED, aware))


@given(
    once=st.floats(0, 10), each=st.floats(0, 10), token=st.floats(0, 10), left=st.floats(0, 1000), n=st.integers(1, 50),
    tokens=st.integers(1, 200),
)  # fmt: skip
@example(once=1, each=0, token=5e-324, left=0.5, n=2, tokens=1)
@example(once=1, each=0, token=5e-324, left=1, n=2, tokens=1)
def test_what_a_tariff_calls_affordable_is(once, each, token, left, n, tokens):
    """So many answers, and so long, cost no more than is left; and one more would."""
    tariff, tolerance = Tariff(once, each, token), 1e-6
    can = tariff.affordable(left, n, tokens)
    assert can == 0 or tariff.cost_usd(can, tokens) <= left + tolerance
    assert can == n or tariff.cost_usd(can + 1, tokens) > left - tolerance
    if can and (longest := tariff.longest(left, can, tokens * 2)) < tokens * 2:
        assert tariff.cost_usd(can, longest) <= left + tolerance
        assert tariff.cost_usd(can, longest + 1) > left - tolerance


# --- the deadline -----------------------------------------------------------------------------------------------------


async def test_after_the_deadline_nothing_is_started():
    """A call that is not made leaves no trace, and a verifier that is not asked leaves answers unscored."""
    now = [0.0]
    backend, verifier = scripted("small", "6"), ScriptedVerifier()
    run = a_run(backend, verifier, limits=Limits(latency_s=5), clock=lambda: now[0])
    now[0] = 5.0
    with pytest.raises(OutOfBudget, match="deadline"):
        await run.generate("small", ASKED)
    assert await run.score("reward", ASKED, [Choice("6")]) == [Scored()]
    assert (list(backend.requests), verifier.read, run.calls) == ([], [], [])
    assert run.truncated_by == "deadline"
    assert run.degraded == set()


@pytest.mark.parametrize("native", [True, False])
async def test_what_never_answers_is_cut_off(native):
    """A backend that is silent until the deadline costs what it read, and is recorded as cancelled."""
    run = a_run(scripted("small", never=True, native_n=native), limits=Limits(latency_s=0.01))
    with pytest.raises(OutOfBudget, match="deadline"):
        await run.generate("small", ASKED.but(n=2))
    assert {call.outcome for call in run.calls} == {"cancelled"}
    assert sum(call.n for call in run.calls) == 2


async def test_what_finished_before_the_deadline_is_kept():
    """Of two answers one was finished: it comes alone, the part of the other is paid for and left out."""
    run = a_run(slow("1 2 3", sleep=stalls_after(7)), limits=Limits(latency_s=0.02))
    assert [choice.text for choice in await run.generate("small", ASKED.but(n=2))] == ["1 2 3"]
    assert (run.calls[0].outcome, run.calls[0].output_tokens) == ("cancelled", 5)


async def test_a_part_is_better_than_nothing():
    """Where no answer was finished at the deadline, what there is of it comes, marked as cancelled."""
    run = a_run(slow("1 2 3", sleep=stalls_after(3)), limits=Limits(latency_s=0.02))
    (part,) = await run.generate("small", ASKED)
    assert (part.text, part.finish_reason) == ("1 2", "cancelled")
    assert run.truncated_by == "deadline"


async def test_a_verifier_that_is_too_slow_leaves_answers_unscored():
    """At the deadline the verifier is cut off: no score, no error, and the mark of the deadline."""
    run = a_run(verifier=ScriptedVerifier(never=True), limits=Limits(latency_s=0.01))
    assert await run.score("reward", ASKED, [Choice("6"), Choice("7")]) == [Scored(), Scored()]
    assert (run.calls[0].outcome, run.truncated_by) == ("cancelled", "deadline")


class Rude(ScriptedBackend):
    """A backend that does not keep to the protocol: it does what it is told here."""

    def __init__(self, act, **options) -> None:
        super().__init__("small", ScriptedOptions(**options))
        self._act = act

    async def complete(self, request: ChatRequest, call: Call) -> None:
        self._act(call)

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        yield Delta("half an ")
        self._act(call)
        await asyncio.Event().wait()


def raising(error: Exception):
    def act(call: Call) -> None:
        raise error

    return act


async def test_a_time_out_of_the_backends_own_is_not_taken_for_the_deadline():
    """Only the run's clock ends a run; a backend's bug comes out as what it is, also from among several calls."""
    with pytest.raises(TimeoutError):
        await a_run(Rude(raising(TimeoutError()))).generate("small", ASKED)
    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        await a_run(Rude(raising(KeyError("bug")), native_n=False)).generate("small", ASKED.but(n=2))


# --- what comes back ----------------------------------------------------------------------------------------------------


async def test_an_answer_without_choices_is_malformed():
    """A backend that says nothing did not answer, and the trace says so."""
    run = a_run(Rude(lambda call: None))
    with pytest.raises(BackendMalformed):
        await run.generate("small", ASKED)
    assert [call.outcome for call in run.calls] == ["BackendMalformed"]


async def test_a_backend_that_floods_is_cut_to_what_was_asked_for():
    """More choices than `n` are dropped; they were not asked for."""
    flood = Rude(lambda call: call.choices.extend(Choice(str(i)) for i in range(9)))
    assert len(await a_run(flood).generate("small", ASKED.but(n=2))) == 2


async def test_what_came_before_a_failure_is_used():
    """A call that breaks after its first answer gives that answer; the failure is in the trace."""
    run = a_run(scripted("small", "1 2", fail_every=1, fail_after_tokens=3))
    assert [choice.text for choice in await run.generate("small", ASKED.but(n=3))] == ["1 2"]
    assert run.calls[0].outcome == "BackendUnavailable"
    assert run.calls[0].output_tokens == 2


async def test_one_failure_among_separate_calls_leaves_the_others():
    """Without native `n` each answer is a call; those that fail are missing, and only if all fail is there an error."""
    some = a_run(scripted("small", "6", native_n=False, fail_every=3))
    assert len(await some.generate("small", ASKED.but(n=4))) == 3
    none = a_run(scripted("small", "6", native_n=False, fail_every=1))
    with pytest.raises(BackendUnavailable):
        await none.generate("small", ASKED.but(n=4))
    assert len(none.calls) == 4


async def test_separate_calls_have_seeds_of_their_own():
    """A seed that is the same for all would give the same answer `n` times."""
    backend = scripted("small", "6", native_n=False)
    await a_run(backend).generate("small", ASKED.but(n=3, seed=7))
    assert sorted(request.seed for request in backend.requests) == [7, 8, 9]


async def test_a_call_that_is_cancelled_from_outside_is_paid_for():
    """Whoever stops the run while tokens come finds them in the trace."""
    started = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if backend.requests and run_tokens() >= 2:
            started.set()
            await asyncio.Event().wait()

    calls: list[Call] = []

    def run_tokens() -> int:
        return calls[0].output_tokens if calls else 0

    class Watched(ScriptedBackend):
        async def complete(self, request: ChatRequest, call: Call) -> None:
            calls.append(call)
            await super().complete(request, call)

    backend = Watched("small", ScriptedOptions(answers="1 2 3 4", token_delay_s=1, price=Price(1e6, 1e6)), sleep=sleep)
    run = a_run(backend)
    task = asyncio.create_task(run.generate("small", ASKED))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(call.outcome, call.output_tokens) for call in run.calls] == [("cancelled", 2)]
    assert run.spent_usd == backend.count_tokens(ASKED) + 2
    assert run._reserved_usd == 0


# --- live answers ---------------------------------------------------------------------------------------------------------


async def test_a_live_answer_is_heard_while_it_comes():
    """The sink hears every delta, and the choice is the same as without it; without a sink, or not live, nothing is streamed."""
    heard: list[str] = []

    async def sink(delta: Delta) -> None:
        heard.append(delta.text)

    backend = scripted("small", "one two three")
    run = a_run(backend, sink=sink)
    (choice,) = await run.generate("small", ASKED, live=True)
    assert "".join(heard) == choice.text == "one two three"
    assert len(heard) > 3
    heard.clear()
    await run.generate("small", ASKED)
    assert heard == []


async def test_a_client_that_goes_away_stops_the_backend_at_once():
    """When the sink breaks, the stream is closed before the error goes on, and what was produced is in the trace."""

    class Gone(Exception): ...

    async def sink(delta: Delta) -> None:
        raise Gone

    closed: list[bool] = []

    class Watched(ScriptedBackend):
        async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
            try:
                async for delta in super().stream(request, call):
                    yield delta
            finally:
                closed.append(True)

    run = a_run(Watched("small", ScriptedOptions(answers="one two")), sink=sink)
    with pytest.raises(Gone):
        await run.generate("small", ASKED, live=True)
    assert closed == [True]
    assert [(call.outcome, call.output_tokens) for call in run.calls] == [("Gone", 1)]


async def test_what_the_client_has_read_when_the_deadline_cuts_it_off_is_an_answer():
    """Even where the backend keeps no part of a stream that was cut."""

    async def sink(delta: Delta) -> None: ...

    run = a_run(Rude(lambda call: None), limits=Limits(latency_s=0.01), sink=sink)
    (part,) = await run.generate("small", ASKED, live=True)
    assert (part.text, part.finish_reason) == ("half an ", "cancelled")


async def test_what_was_taken_back_is_no_answer_at_the_deadline():
    """The client has none of it, and the request that follows has said nothing yet."""

    class Sink:
        async def __call__(self, delta: Delta) -> None: ...

        def take_back(self) -> bool:
            return True

    run = a_run(Rude(lambda call: call.take_back()), limits=Limits(latency_s=0.01), sink=Sink())
    with pytest.raises(OutOfBudget):
        await run.generate("small", ASKED, live=True)


# --- verifiers --------------------------------------------------------------------------------------------------------------


async def test_scores_are_calibrated_and_raw_ones_kept():
    """A calibration turns a score into a chance; out of range it is brought in; the verifier's own word stays beside it."""
    verifier = ScriptedVerifier(lambda text: Verdict(float(text), (0.1,), "so"))
    run = a_run(verifier=verifier, calibrate={"reward": lambda raw: raw * 2})
    low, high = await run.score("reward", ASKED, [Choice("0.2"), Choice("0.9")])
    assert low == Scored(0.4, 0.2, (0.1,), "so")
    assert (high.score, high.raw) == (1.0, 0.9)


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
async def test_a_score_that_is_no_number_is_none(score):
    """A verifier that cannot say, or lies about it, leaves that one answer unscored; it is not down."""
    run = a_run(verifier=ScriptedVerifier(lambda text: score if text == "?" else 0.7))
    scores = [scored.score for scored in await run.score("reward", ASKED, [Choice("?"), Choice("6")])]
    assert scores == [None, 0.7]
    assert run.degraded == set()


async def test_a_verifier_that_fails_marks_the_run_and_is_paid():
    """Down is not out: no score, no exception, the run marked as degraded, and what the verifier read is charged."""
    run = a_run(verifier=ScriptedVerifier(price=Price(1e6, 0), fails_from=1))
    assert await run.score("reward", ASKED, [Choice("6 6")]) == [Scored()]
    assert run.degraded == {"verifier:reward"}
    assert (run.calls[0].kind, run.calls[0].outcome, run.spent_usd) == ("score", "VerifierError", 2.0)


async def test_verdicts_that_do_not_match_the_answers_are_none():
    """A verifier that returns too few verdicts has failed: guessing which is whose would be worse."""

    class Short(ScriptedVerifier):
        async def score(self, request, choices, call):
            return (await super().score(request, choices, call))[1:]

    run = a_run(verifier=Short())
    assert await run.score("reward", ASKED, [Choice("6"), Choice("7")]) == [Scored(), Scored()]
    assert run.degraded == {"verifier:reward"}


async def test_a_score_that_is_too_dear_is_not_asked_for():
    """The ceiling holds for verifiers too; the answers stand unscored and the run is marked as truncated."""
    verifier = ScriptedVerifier(price=Price(1e6, 0))
    run = a_run(verifier=verifier, limits=Limits(cost_usd=10))
    assert await run.score("reward", ASKED, [Choice("6")]) == [Scored()]
    assert (verifier.read, run.calls, run.truncated_by) == ([], [], "cost")


async def test_no_answers_need_no_verifier():
    """An empty list is scored without a call."""
    run = a_run()
    assert await run.score("reward", ASKED, []) == []
    assert run.calls == []


async def test_what_was_offered_stays_in_the_order_it_came():
    """The pool is what whoever stops a strategy falls back on."""
    run: Run = a_run()
    first, second = (Candidate(Choice(text), "small", "single(small)") for text in "ab")
    run.offer(first)
    run.offer(second)
    assert run.pool == [first, second]
