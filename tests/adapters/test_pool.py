"""A pool of deployments: who is asked, how often, when one is left alone, and what is paid. Time and chance are the test's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.backends import PoolOptions, build_backend
from adapters.deployment import Deployment
from adapters.errors import BackendBusy, BackendError, BackendMalformed, BackendRefused, BackendTimeout, BackendUnavailable
from adapters.options import Resilience
from adapters.pool import ENOUGH, Pool
from adapters.types import Backend, Call, ChatRequest, Choice, Delta, Features, Price
from tests.adapters.conformance import BackendConformance, answered, streamed
from tests.adapters.stub_server import StubServer

ASK = ChatRequest(messages=({"role": "user", "content": "hello there"},), seed=7)
DOWN = BackendUnavailable("x", "down")
Step = BackendError | float | None
"""What a call does: fail, take so many seconds, or answer at once."""


class Time:
    """A clock that moves when somebody sleeps, in order of who wakes first."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()
        self._waiting: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        mine = (self.now + seconds, asyncio.Event())
        self._waiting.append(mine)
        try:
            while not mine[1].is_set():
                for _ in range(10):  # whoever woke before goes on first
                    await asyncio.sleep(0)
                until, event = min(self._waiting, key=lambda row: row[0])
                self.now = max(self.now, until)
                event.set()
        finally:
            self._waiting.remove(mine)


class Played:
    """A deployment that does one step a call; the last step is done again. Ten tokens in, three out."""

    def __init__(self, name: str, time: Time, *steps: Step, price: Price | None = None) -> None:
        self.name, self.price, self.features = name, price or Price(1e6, 1e6), Features()
        self.steps, self.time, self.calls, self.cancelled = list(steps), time, 0, 0
        self.script: Iterator[Step] | None = None
        """Steps that several share, instead of its own."""

    async def complete(self, request: ChatRequest, call: Call) -> None:
        step = next(self.script) if self.script else self.steps[min(self.calls, len(self.steps) - 1)] if self.steps else None
        self.calls += 1
        call.input_tokens = 10
        try:
            await self.time.sleep(step if isinstance(step, float) else 0.0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(step, BackendError):
            call.input_tokens = 10 if isinstance(step, BackendTimeout) else 0
            raise step
        call.output_tokens = 3
        call.choices.append(Choice(self.name))

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        await self.complete(request, call)
        yield Delta(self.name)
        if request.n == 13:
            raise BackendMalformed(self.name, "cut off")
        yield Delta("", finish_reason="stop")

    def count_tokens(self, request: ChatRequest) -> int:
        return 10

    async def aclose(self) -> None: ...


class Breaks(Played):
    """Its streams break after their first piece, for which it has written a token; a plain answer comes."""

    def __init__(self, *args: Any, piece: Delta | None = None) -> None:
        super().__init__(*args)
        self.piece = piece or Delta("never")

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        self.calls += 1
        call.input_tokens, call.output_tokens = 10, 1
        yield self.piece
        raise BackendMalformed(self.name, "cut off")


def pool(time: Time, *backends: Played, seed: int = 0, **options: Any) -> Pool:
    return Pool("m", backends, Resilience(**options), clock=time, sleep=time.sleep, chance=random.Random(seed))


async def asked(pool: Pool, **changes: Any) -> Call:
    call = Call(pool.price, **changes)
    await pool.complete(ASK, call)
    return call


def trace(call: Call) -> list[tuple[str, str, str]]:
    return [(one.deployment, one.kind, one.outcome) for one in call.attempts]


class TestConformance(BackendConformance):
    """A pool is a backend like any other."""

    ask = ASK

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Any]:
        async with StubServer() as stub:
            place = {"model": "words", "base_url": stub.url, "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}}
            backend = build_backend("m", PoolOptions.model_validate({"deployments": {"eu": place, "us": place}}))
            yield backend
            await backend.aclose()


# --- again, and elsewhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [answered, streamed])
async def test_another_deployment_answers_at_once_where_one_fails(how: Callable[..., Any]) -> None:
    """No pause before a place that has not failed; the call says who was asked, and costs what both cost."""
    time = Time()
    one, other = Played("m/eu", time, BackendTimeout("m/eu", "slow")), Played("m/us", time)
    found = await how(pool(time, one, other, seed=1), ASK)
    call = found[0] if isinstance(found, tuple) else found
    assert trace(call) in ([("m/eu", "first", "BackendTimeout"), ("m/us", "retry", "ok")], [("m/us", "first", "ok")])
    both = pool(time, one, other)
    both.deployments.reverse()
    calls = [await asked(both) for _ in range(8)]
    paid = next(call for call in calls if len(call.attempts) == 2)
    assert [choice.text for choice in paid.choices] == ["m/us"]
    assert paid.cost_usd == sum(attempt.cost_usd for attempt in paid.attempts) == 23
    assert not [seconds for seconds in time.slept if seconds > 0]


async def test_the_same_place_is_asked_again_after_a_pause_with_jitter() -> None:
    """The pauses double, and differ between callers; not more than `attempts` are made, and the last error is raised."""
    time = Time()
    with pytest.raises(BackendUnavailable, match="down"):
        await asked(pool(time, dead := Played("m", time, DOWN), attempts=3, allowed_fails=9))
    pauses = [seconds for seconds in time.slept if seconds > 0]
    assert dead.calls == 3
    assert [0.125 <= pauses[0] <= 0.375, 0.25 <= pauses[1] <= 0.75] == [True, True]
    again = Time()
    with pytest.raises(BackendUnavailable):
        await asked(pool(again, Played("m", again, DOWN), attempts=3, allowed_fails=9, seed=5))
    assert [seconds for seconds in again.slept if seconds > 0] != pauses


@pytest.mark.parametrize(("retry_after_s", "answers"), [(4.0, True), (60.0, False)])
async def test_a_retry_after_is_kept_to_if_it_is_worth_waiting_for(retry_after_s: float, answers: bool) -> None:
    """The server's own word counts, not our pause; who would wait too long is told so at once."""
    time = Time()
    limited = Played("m", time, BackendUnavailable("m", "429", retry_after_s=retry_after_s), None)
    if answers:
        await asked(pool(time, limited))
        assert time.now >= retry_after_s
    else:
        with pytest.raises(BackendUnavailable) as refused:
            await asked(pool(time, limited))
        assert (refused.value.retry_after_s, limited.calls, time.now) == (retry_after_s, 1, 0.0)


async def test_nobody_waits_long_who_has_a_fallback() -> None:
    """Where another backend may answer, a pause of seconds is not worth it."""
    time = Time()
    limited = Played("m", time, BackendUnavailable("m", "429", retry_after_s=4.0), None)
    with pytest.raises(BackendUnavailable):
        await asked(pool(time, limited, fallbacks=["other"]))
    await asked(pool(time, Played("m", time, BackendUnavailable("m", "429", retry_after_s=4.0), None)))


async def test_no_attempt_begins_that_the_call_may_not_make() -> None:
    """The pause and whether money is needed are asked of the run first: a failure that cost nothing needs none more."""
    time, said = Time(), list[tuple[bool, bool]]()

    async def may(backend: Any, after_s: float, more: bool) -> bool:
        said.append((after_s > 0, more))
        return False

    for error, more in ((DOWN, False), (BackendTimeout("m", "slow"), True)):
        with pytest.raises(type(error)):
            await asked(pool(time, dead := Played("m", time, error)), may=may)
        assert dead.calls == 1
        assert said.pop() == (True, more)


async def test_a_refusal_of_the_request_is_final_and_one_of_our_key_is_not() -> None:
    """A 400 would be the same elsewhere; a 401 speaks of one deployment's key, so another is asked, but never the same one."""
    time = Time()
    bad, fine = Played("m/a", time, BackendRefused("m/a", "bad request")), Played("m/b", time, BackendRefused("m/b", "bad request"))
    with pytest.raises(BackendRefused):
        await asked(pool(time, bad, fine))
    assert bad.calls + fine.calls == 1
    locked, fine = Played("m/a", time, BackendRefused("m/a", "key", status=401)), Played("m/b", time)
    both = pool(time, locked, fine)
    assert {(await asked(both)).choices[0].text for _ in range(9)} == {"m/b"}
    with pytest.raises(BackendRefused):
        await asked(pool(time, alone := Played("m", time, BackendRefused("m", "key", status=401)), attempts=5))
    assert alone.calls == 1


async def test_a_stream_that_began_is_not_begun_again() -> None:
    """What a client has read cannot be taken back: the failure is the stream's end, and counts against the deployment."""
    time = Time()
    cut, call = pool(time, one := Played("m", time), attempts=5, allowed_fails=1), Call(Price())
    with pytest.raises(BackendMalformed):
        async for _ in cut.stream(ASK.but(n=13), call):
            pass
    assert (one.calls, trace(call)) == (1, [("m", "first", "BackendMalformed")])
    assert cut.state() != "ok"


@pytest.mark.parametrize(("unread", "attempts", "leave", "asked"), [
    (True, 2, True, 2), (True, 1, True, 1), (True, 2, False, 1), (False, 2, True, 1),
])  # fmt: skip
async def test_a_stream_of_which_nobody_has_a_word_is_a_request_that_failed(unread: bool, attempts: int, leave: bool, asked: int) -> None:
    """Another is made, as far as attempts and money go; both are paid. Where somebody has a word, or none is left, the failure is told."""
    time, got, wanted = Time(), list[str](), list[bool]()

    async def may(backend: Backend, after_s: float, more: bool) -> bool:
        wanted.append(more)
        return leave

    def take_back() -> bool:
        got[:] = [] if unread else got
        return unread

    both = pool(time, Breaks("m/eu", time), Played("m/us", time), attempts=attempts)
    both.deployments[1].running = 1  # so that the first is asked first
    call = Call(both.price, may=may, take_back=take_back)
    try:
        async for delta in both.stream(ASK, call):
            got.append(delta.text)
    except BackendMalformed:
        assert asked == 1
        assert (call.choices, call.cost_usd) == ([], 11)
    else:
        assert (asked, got, [choice.text for choice in call.choices]) == (2, ["m/us", ""], ["m/us"])
        assert trace(call) == [("m/eu", "first", "BackendMalformed"), ("m/us", "retry", "ok")]
        assert call.cost_usd == 11 + 13
    assert wanted == ([True] if unread and attempts == 2 else []), "the price of the second is set aside beside that of the first"


async def test_a_full_queue_of_ours_is_not_waited_for_and_not_held_against_the_deployment() -> None:
    """Turning away is at once, so that nothing piles up; the circuit stays closed."""
    time = Time()
    full = pool(time, busy := Played("m", time, BackendBusy("m", "full", retry_after_s=1.0)), attempts=5, allowed_fails=1)
    for _ in range(3):
        with pytest.raises(BackendBusy):
            await asked(full)
    assert (busy.calls, time.now, full.state()) == (3, 0.0, "ok")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([DOWN, BackendTimeout("x", "slow"), BackendRefused("x", "no"), None]), max_size=4), min_size=1, max_size=3
    ),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_a_call_makes_at_most_its_attempts_and_pays_for_each(steps: Sequence[Sequence[Step]], attempts: int, seed: int) -> None:
    """Whatever fails: one line in the trace for each request, never more than `attempts`, and the cost is their sum."""
    time = Time()
    places = [Played(f"m/{i}", time, *some) for i, some in enumerate(steps)]
    call = Call(Price(1e6, 1e6))

    async def one() -> None:
        try:
            await pool(time, *places, attempts=attempts, allowed_fails=9, seed=seed).complete(ASK, call)
        except BackendError:
            assert not call.choices

    asyncio.run(one())
    assert sum(place.calls for place in places) == len(call.attempts) <= attempts
    assert call.cost_usd == sum(attempt.cost_usd for attempt in call.attempts)


# --- answers that nobody read -------------------------------------------------------------------------------------------


class Unseen(Played):
    """Its steps are as of any other, and like a server's it is charged from the moment that the prompt is out."""

    async def complete(self, request: ChatRequest, call: Call) -> None:
        call.input_tokens, call.estimated = 10, True
        if isinstance(step := self.steps[0], BackendError):
            raise step
        await self.time.sleep(step or 0.0)
        call.output_tokens, call.estimated = 3, False
        call.choices.append(Choice(self.name))


async def unseen(time: Time, *, warm: int = 3) -> tuple[Pool, Unseen]:
    """A pool whose answers had three tokens and took four seconds."""
    one = Unseen("m", time, 4.0)
    known = pool(time, one, attempts=1)
    for _ in range(warm):
        await asked(known)
    return known, one


@pytest.mark.parametrize(("asks", "booked"), [({}, 3), ({"n": 2}, 6), ({"max_tokens": 2}, 2), ({"max_tokens": 2, "n": 2}, 4)])
async def test_an_answer_that_was_lost_is_booked_as_those_before_it(asks: dict[str, int], booked: int) -> None:
    """It broke off after its provider had made it: what answers have here on the mean, no more than was allowed; marked as estimated."""
    known, one = await unseen(Time())
    one.steps = [BackendMalformed("m", "cut off")]
    call = Call(known.price)
    with pytest.raises(BackendMalformed):
        await known.complete(ASK.but(**asks), call)
    assert (call.input_tokens, call.output_tokens, call.estimated, call.attempts[0].output_tokens) == (10, booked, True, booked)


@pytest.mark.parametrize(("after_s", "booked"), [(0.0, 0), (2.7, 2), (9.0, 3)])
async def test_an_answer_that_was_given_up_is_booked_by_the_time_it_had(after_s: float, booked: int) -> None:
    """A client leaves: its provider has made so much of the answer as the time makes likely."""
    known, one = await unseen(time := Time())
    one.steps = [60.0]
    task = asyncio.ensure_future(known.complete(ASK, call := Call(known.price)))
    await asyncio.sleep(0)
    time.now += after_s
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (call.input_tokens, call.output_tokens, call.attempts[0].outcome) == (10, booked, "cancelled")


async def test_what_was_not_taken_or_never_answered_before_has_no_length() -> None:
    """A request that no provider took costs nothing; and where no answer ever came, only the prompt is known."""
    known, one = await unseen(Time(), warm=0)
    one.steps = [BackendMalformed("m", "cut off")]
    call = Call(known.price)
    with pytest.raises(BackendMalformed):
        await known.complete(ASK, call)
    free, paid = Call(known.price), Played("m", Time(), None, DOWN)
    refusing = pool(Time(), paid, attempts=1)
    await asked(refusing)
    with pytest.raises(BackendUnavailable):
        await refusing.complete(ASK, free)
    assert (call.output_tokens, free.cost_usd) == (0, 0)


# --- left alone ---------------------------------------------------------------------------------------------------------


async def test_nobody_waits_for_one_that_is_left_alone() -> None:
    """Neither for the failure that opened the circuit, nor after a try whether it is back: the error goes out, or a fallback is asked."""
    time = Time()
    flaky = Played("m", time, DOWN)
    alone = pool(time, flaky, attempts=2, allowed_fails=1, cooldown_s=5)
    for _ in range(3):
        began, call = time.now, Call(Price())
        with pytest.raises(BackendUnavailable, match="down"):
            await alone.complete(ASK, call)
        assert time.now == began
        assert [one.kind for one in call.attempts] == ["first"]
        time.now += 6


async def test_a_timer_that_is_a_hair_early_costs_no_retry() -> None:
    """The pause that a server asked for has been made; that the clock says a millisecond less changes nothing."""
    time = Time()

    async def early(seconds: float) -> None:
        time.now += seconds - 0.001

    backend = Played("m", time, BackendUnavailable("x", "busy", retry_after_s=2.0), None)
    one = Pool("p", [backend], Resilience(attempts=2), clock=time, sleep=early)
    call = await answered(one, ASK)
    assert [attempt.kind for attempt in call.attempts] == ["first", "retry"]
    assert call.attempts[0].latency_s == 0.0, "the pause is not the failed request's"


async def test_a_deployment_that_fails_in_a_row_is_left_alone_and_tried_again_once() -> None:
    """After `allowed_fails` it is asked nothing for `cooldown_s`; then one request tries, and the others still do not."""
    time = Time()
    flaky = Played("m", time, DOWN, DOWN, 5.0, None)
    alone = pool(time, flaky, attempts=1, allowed_fails=2, cooldown_s=30)
    for _ in range(4):
        with pytest.raises(BackendUnavailable) as refused:
            await asked(alone)
    assert (flaky.calls, refused.value.retry_after_s, alone.state()) == (2, 30.0, "left alone after failures for another 30 s")
    time.now = 30.0
    results = await asyncio.gather(*(asked(alone) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Call, BackendUnavailable, BackendUnavailable]
    assert flaky.calls == 3
    assert alone.state() == "ok"
    await asked(alone)


def test_a_failed_try_opens_the_circuit_again() -> None:
    """Half-open is one failure away from open."""
    one = Deployment(Played("m", Time()), allowed_fails=3, cooldown_s=10)
    for _ in range(3):
        one.failed(DOWN, now=0.0)
    assert (one.rests_s(4.0), one.rests_s(10.0)) == (6.0, 0.0)
    probe = one.begin()
    assert (probe, one.rests_s(10.0) > 0) == (True, True)
    one.failed(DOWN, now=11.0)
    one.end(probe)
    assert one.rests_s(11.0) == 10.0


def test_a_server_cannot_ask_to_be_left_alone_for_ever() -> None:
    """A `Retry-After` of a year is not believed."""
    one = Deployment(Played("m", Time()), allowed_fails=3, cooldown_s=10)
    one.failed(BackendUnavailable("m", "429", retry_after_s=3e7), now=0.0)
    assert one.rests_s(0.0) == 300.0


# --- which --------------------------------------------------------------------------------------------------------------


async def test_requests_go_where_they_wait_less() -> None:
    """Of two, the one with less under way; and with both idle, the quicker one."""
    time = Time()
    slow, quick = Played("m/slow", time, 3.0), Played("m/quick", time, 1.0)
    both = pool(time, slow, quick)
    await asyncio.gather(*(asked(both) for _ in range(2)))
    assert (slow.calls, quick.calls) == (1, 1)
    for _ in range(6):
        await asked(both)
    assert (slow.calls, quick.calls) == (1, 7)


# --- hedges -------------------------------------------------------------------------------------------------------------


async def warm(time: Time, *places: Played, hedge: float = 0.5, **options: Any) -> Pool:
    """A pool that knows how long answers take: one second each."""
    for place in places:
        place.steps = [1.0]
    hedging = pool(time, *places, hedge=hedge, **options)
    for _ in range(ENOUGH):
        await asked(hedging)
    return hedging


async def test_a_slow_call_is_asked_a_second_time_and_the_loser_is_cancelled_and_paid() -> None:
    """After the time that 95 % took, another place is asked; the first answer counts, the call costs both."""
    time = Time()
    one, other = Played("m/a", time), Played("m/b", time)
    hedging = await warm(time, one, other)
    one.script = other.script = iter([50.0, 1.0])
    before = time.now
    call = await asked(hedging)
    (first, second), names = call.attempts, {"m/a", "m/b"}
    assert ({first.deployment, second.deployment}, first.kind, first.outcome) == (names, "first", "cancelled")
    assert (second.kind, second.outcome, [choice.text for choice in call.choices]) == ("hedge", "ok", [second.deployment])
    assert (one.cancelled + other.cancelled, call.cost_usd, time.now - before) == (1, 23, 2.0)


async def test_hedges_stay_within_their_share() -> None:
    """However slow all calls become, no more than the configured share of them is asked twice."""
    time = Time()
    hedging = await warm(time, one := Played("m", time), hedge=0.05)
    one.steps = [1.0 + i for i in range(400)]
    calls = [await asked(hedging) for _ in range(200)]
    hedges = sum(attempt.kind == "hedge" for call in calls for attempt in call.attempts)
    assert 0 < hedges <= 0.05 * (200 + ENOUGH)


@pytest.mark.parametrize("changes", [{"hedge": 0.0}, {"attempts": 1}])
async def test_nothing_is_hedged_that_was_not_allowed(changes: dict[str, Any]) -> None:
    """Off by default, and a hedge is one of the attempts."""
    time = Time()
    plain = await warm(time, one := Played("m", time), **changes)
    one.steps = [50.0]
    assert len((await asked(plain)).attempts) == 1


async def test_a_cancelled_call_ends_all_that_it_began_and_pays_for_it() -> None:
    """The caller leaves while a hedge is under way: both are cancelled, and both are in the call."""
    time = Time()
    hedging = await warm(time, one := Played("m", time))
    call, forever, both = Call(Price()), asyncio.Event(), asyncio.Event()

    async def hang(request: ChatRequest, part: Call) -> None:
        part.input_tokens, one.calls = 10, one.calls + 1
        if one.calls == before + 2:
            both.set()
        await forever.wait()

    one.complete, before = hang, one.calls  # type: ignore[method-assign]
    task = asyncio.ensure_future(hedging.complete(ASK, call))
    await both.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (trace(call), call.input_tokens) == ([("m", "first", "cancelled"), ("m", "hedge", "cancelled")], 20)
    assert hedging.deployments[0].running == 0
