"""The local backend when things go wrong: cancelled, flooded, slow, poisoned, crashed, closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.decoding.model import CausalModel
from adapters.errors import BackendError, BackendMalformed, BackendTimeout, BackendUnavailable
from adapters.local import LocalBackend, LocalOptions
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import answered, streamed

Make = Callable[..., LocalBackend]


def asking(text: str, **fields: Any) -> ChatRequest:
    """With a seed, since an answer may by chance end with its first token."""
    return ChatRequest(messages=({"role": "user", "content": text},), **{"seed": 1, **fields})


async def model_of(backend: LocalBackend) -> CausalModel:
    """The model behind a backend, to break it."""
    await backend.load()
    assert backend._worker is not None
    return backend._worker.ready.result()


class Gate:
    """Holds the model before each step until it is let through, so that a test decides what happens in between."""

    def __init__(self, model: CausalModel) -> None:
        self.rows: list[int] = []
        self._step, self._passes, self._loop = model.step, threading.Semaphore(0), asyncio.get_running_loop()
        self._arrived = asyncio.Semaphore(0)
        model.step = self

    def __call__(self, tokens: Any, *rest: Any) -> Any:
        self.rows.append(len(tokens))
        self._loop.call_soon_threadsafe(self._arrived.release)
        self._passes.acquire()
        return self._step(tokens, *rest)

    async def reached(self) -> None:
        """Wait until the model stands before its next step."""
        await self._arrived.acquire()

    def let_pass(self, steps: int = 10_000) -> None:
        """Let it do so many steps."""
        self._passes.release(steps)


Hold = Callable[[LocalBackend], Awaitable[Gate]]


@pytest.fixture
async def hold(make: Make) -> AsyncIterator[Hold]:
    """Puts a gate before a backend's model, and opens it at the end, so that a test that fails does not hang."""
    gates: list[Gate] = []

    async def at(backend: LocalBackend) -> Gate:
        gates.append(Gate(await model_of(backend)))
        return gates[-1]

    yield at
    for gate in gates:
        gate.let_pass()


async def test_a_cancelled_call_keeps_what_it_has_and_leaves_before_the_next_step(make: Make, hold: Hold) -> None:
    """At the moment of cancellation the record is final: pieces marked, tokens counted; the other call goes on without those rows."""
    gate = await hold(backend := make())
    call = Call(Price(0, 1))
    task = asyncio.create_task(backend.complete(asking("one two", n=3, seed=1, max_tokens=30), call))
    await gate.reached()
    gate.let_pass(1)
    await gate.reached()
    other = asyncio.create_task(answered(backend, asking("red", seed=1, max_tokens=5)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = [(len(choice.text.split()), choice.finish_reason) for choice in call.choices]
    assert kept == [(2, "cancelled")] * 3
    assert (call.output_tokens, call.cost_usd) == (6, pytest.approx(6e-6))
    gate.let_pass()
    assert (await other).choices[0].finish_reason == "length"
    assert gate.rows[:2] == [3, 3]
    assert set(gate.rows[2:]) == {1}
    assert call.output_tokens == 6


async def test_closing_a_stream_frees_its_rows(make: Make, hold: Hold) -> None:
    """A client that goes away in mid-stream is paid for what it got, and the model has nothing more to do."""
    gate = await hold(backend := make())
    gate.let_pass(2)
    call = Call(Price())
    stream = backend.stream(asking("one two", seed=1, max_tokens=100), call)
    text = (await anext(stream)).text + (await anext(stream)).text
    await stream.aclose()
    assert call.choices[0].text.startswith(text)
    assert call.choices[0].finish_reason == "cancelled"
    gate.let_pass()
    assert (await answered(backend, asking("red", max_tokens=3))).choices
    assert len(gate.rows) < 10


async def test_a_flood_is_turned_away_at_once(make: Make, hold: Hold) -> None:
    """Beyond `max_waiting` a call fails with a hint when to come back; those that wait are answered."""
    gate = await hold(backend := make(max_batch=1, max_waiting=2))
    running = asyncio.create_task(answered(backend, asking("one", max_tokens=3)))
    await gate.reached()
    waiting = [asyncio.create_task(answered(backend, asking("two", max_tokens=3))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BackendUnavailable, match="too many requests waiting") as flooded:
        await answered(backend, asking("three"))
    assert flooded.value.retry_after_s
    gate.let_pass()
    assert all(call.choices for call in await asyncio.gather(running, *waiting))


async def test_a_slow_model_times_out_and_is_left(make: Make, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past `timeout_s` the call fails as such, its unfinished answers are no answers, its tokens are counted, and its rows leave."""
    gate, loop = await hold(backend := make(timeout_s=1800)), asyncio.get_running_loop()
    call, now = Call(Price()), loop.time
    slow = asyncio.create_task(backend.complete(asking("one", n=2, max_tokens=50), call))
    await gate.reached()
    monkeypatch.setattr(loop, "time", lambda: now() + 1801)
    with pytest.raises(BackendTimeout, match="1800"):
        await slow
    assert (call.choices, call.output_tokens) == ([], 2)
    gate.let_pass()
    assert (await answered(backend, asking("one", max_tokens=3))).choices
    assert len(gate.rows) < 10


async def test_a_waiting_call_can_be_cancelled(make: Make, hold: Hold) -> None:
    """A call that never got a row costs nothing and leaves the queue."""
    gate = await hold(backend := make(max_batch=1, max_waiting=1))
    running = asyncio.create_task(answered(backend, asking("one", max_tokens=3)))
    await gate.reached()
    call = Call(Price())
    waiting = asyncio.create_task(backend.complete(asking("two"), call))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (call.input_tokens, call.output_tokens, call.choices) == (0, 0, [])
    gate.let_pass()
    assert (await answered(backend, asking("red", max_tokens=3))).choices
    assert (await running).choices


async def test_a_poisoned_prompt_fails_alone(make: Make, hold: Hold) -> None:
    """A prompt that makes the model fail takes nobody with it of those read in the same pass."""
    model, readings = await model_of(backend := make()), []
    read, poison = model.read, backend._chat().tokens(asking("blue"))[1]

    def poisoned(prompts: Any, known: Any) -> Any:
        readings.append(len(prompts))
        if any(poison in prompt for prompt in prompts):
            raise RuntimeError("out of range")
        return read(prompts, known)

    model.read = poisoned
    gate = await hold(backend)
    first = asyncio.create_task(answered(backend, asking("one", max_tokens=4)))
    await gate.reached()
    crowd = [asyncio.create_task(answered(backend, asking(t, max_tokens=4))) for t in ("two", "blue", "three")]
    await asyncio.sleep(0)
    gate.let_pass()
    two, blue, three = await asyncio.gather(*crowd, return_exceptions=True)
    assert readings == [1, 3, 1, 1, 1]
    assert isinstance(blue, BackendUnavailable)
    assert "out of range" in str(blue)
    assert all(isinstance(call, Call) and call.choices for call in (await first, two, three))


async def test_a_step_that_fails_ends_its_calls_and_no_others(make: Make) -> None:
    """Out of memory in mid-answer: the calls in the step say so, plain and streamed, and the next call is answered."""
    model = await model_of(backend := make())
    step = model.step

    def failing(*args: Any) -> Any:
        model.step = step
        raise RuntimeError("out of memory")

    for use in (answered, streamed):
        model.step = failing
        with pytest.raises(BackendUnavailable, match="out of memory"):
            await use(backend, asking("one", max_tokens=4))
        assert (await answered(backend, asking("one", max_tokens=4))).choices


async def test_output_that_is_no_number_is_malformed(make: Make) -> None:
    """A model whose weights are broken gives an error, not an answer of random words."""
    model = await model_of(backend := make())
    model._model.get_output_embeddings().weight.data[3] = float("nan")
    with pytest.raises(BackendMalformed, match="not a number"):
        await answered(backend, asking("one", max_tokens=4))


async def test_a_crashed_thread_is_an_error_and_then_replaced(make: Make) -> None:
    """Whatever ends the thread, those in it are told at once; the next call gets a new thread and an answer."""
    model = await model_of(backend := make())

    def crash(*args: Any) -> Any:
        raise SystemExit("gone")

    model.step = crash
    with pytest.raises(BackendUnavailable, match=r"stopped.*gone"):
        await answered(backend, asking("one", max_tokens=4))
    assert (await answered(backend, asking("one", max_tokens=4))).choices


async def test_closing_fails_what_is_open(make: Make, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """`aclose` ends running and waiting calls with BackendUnavailable, and later ones too; none hangs."""
    gate = await hold(backend := make(max_batch=1))
    calls = [asyncio.create_task(answered(backend, asking("one", max_tokens=50))) for _ in range(3)]
    await gate.reached()
    assert backend._worker is not None
    thread = backend._worker._thread
    join = thread.join
    monkeypatch.setattr(thread, "join", lambda timeout: gate.let_pass() or join(timeout))  # no step before the closing has begun
    await backend.aclose()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [BackendUnavailable] * 3
    with pytest.raises(BackendError, match="closed"):
        await answered(backend, asking("one"))


async def test_a_missing_model_is_named_and_tried_again(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    """A model that is not there is an error that says where it was looked for; once it is there, the next call finds it."""
    backend = make(model=str(tmp_path / "later"))
    with pytest.raises(BackendUnavailable, match=r"cannot load the model .*later.*nor on the hub"):
        await backend.load()
    (tmp_path / "later").symlink_to(tiny_model)
    assert (await answered(backend, asking("one", max_tokens=2))).choices


async def test_a_caller_that_gives_up_does_not_stop_the_loading(make: Make) -> None:
    """Two calls wait for the model; one is cancelled, the other gets its answer."""
    backend = make()
    impatient, patient = (asyncio.create_task(answered(backend, asking("one", max_tokens=3))) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).choices
    assert impatient.cancelled()


def test_a_caller_whose_loop_is_gone_harms_nobody(tiny_model: Path) -> None:
    """A loop that is closed in mid-call loses its answer; the thread drops the rows and serves the next loop."""
    backend = LocalBackend("tiny", LocalOptions(model=str(tiny_model)))
    gates: list[Gate] = []

    async def leave() -> None:
        gates.append(Gate(await model_of(backend)))
        stream = backend.stream(asking("one", max_tokens=100), Call(Price()))
        await anext(stream)
        await gates[0].reached()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()

    async def again() -> Call:
        gates[0]._loop, gates[0]._arrived = asyncio.get_running_loop(), asyncio.Semaphore(0)
        gates[0].let_pass()
        try:
            return await answered(backend, asking("one", max_tokens=3))
        finally:
            await backend.aclose()

    assert asyncio.run(again()).choices
    assert len(gates[0].rows) < 10
