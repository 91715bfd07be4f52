"""The scripted backend: says what its script says, fails when it should, and counts words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.errors import BackendError, BackendMalformed, BackendRefused, BackendTimeout, BackendUnavailable
from adapters.scripted import Answer, ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import BackendConformance, Failure, answered, streamed

HELLO = ChatRequest(messages=({"role": "user", "content": "hello there"},), seed=7)


class TestConformance(BackendConformance):
    """The scripted backend is a backend like any other."""

    @pytest.fixture
    async def backend(self) -> ScriptedBackend:
        return scripted("double", "one two three four", "five six seven eight", "nine ten eleven", price=Price(1, 2), logprob=-0.5)

    @pytest.fixture
    async def failures(self) -> list[Failure]:
        kinds = {"unavailable": BackendUnavailable, "timeout": BackendTimeout, "refused": BackendRefused, "malformed": BackendMalformed}
        return [(scripted("double", fail_every=1, error=kind), HELLO, error) for kind, error in kinds.items()]


async def text(backend: ScriptedBackend, request: ChatRequest = HELLO) -> str:
    return (await answered(backend, request)).choices[0].text


async def test_answers_come_in_turn_without_a_seed_and_by_seed_with_one() -> None:
    """Unseeded calls walk through the script; a seed picks its answer, and `n` goes on from there."""
    backend = scripted("double", "a", "b", "c")
    assert [await text(backend, HELLO.but(seed=None)) for _ in range(4)] == ["a", "b", "c", "a"]
    assert [await text(backend, HELLO.but(seed=seed)) for seed in (2, 2, 3)] == ["c", "c", "a"]
    assert [c.text for c in (await answered(backend, HELLO.but(n=3, seed=1))).choices] == ["b", "c", "a"]


async def test_answers_by_a_piece_of_the_prompt() -> None:
    """A table of answers is looked up by the first piece found in the prompt; a prompt without one is refused, saying what there is."""
    options = ScriptedOptions.model_validate({"answers": {"hello": ["hi"], "bye": "ciao"}})
    backend = ScriptedBackend("double", options)
    assert await text(backend) == "hi"
    with pytest.raises(BackendRefused, match="'hello', 'bye'") as refused:
        await text(backend, ChatRequest(messages=({"role": "user", "content": "what?"},)))
    assert refused.value.code == "not_scripted"


async def test_a_script_in_python_sees_the_request() -> None:
    """Instead of a list, a function makes the answer from the request and the draw."""
    backend = scripted("double", script=lambda request, draw: f"{request.prompt}/{draw}")
    assert await text(backend) == "hello there/7"
    assert [r.prompt for r in backend.requests] == ["hello there"]


async def test_a_stop_string_ends_an_answer_and_is_named() -> None:
    """The earliest stop string cuts the text, and the choice says which one it was."""
    backend = scripted("double", "a b\nc d. e")
    choice = (await answered(backend, HELLO.but(stop=(".", "\n")))).choices[0]
    assert (choice.text, choice.finish_reason, choice.stopped_by) == ("a b", "stop", "\n")


async def test_a_begun_answer_goes_on_with_an_answer_that_has_its_beginning() -> None:
    """Continuing a prefix gives the rest of an answer that starts so; where none does, any answer."""
    backend = scripted("double", "1+1=2\ndone", "2+2=4\nright")
    begun = HELLO.but(messages=(*HELLO.messages, {"role": "assistant", "content": "2+2=4\n"}), continue_final=True)
    assert await text(backend, begun) == "right"
    assert await text(backend, begun.but(messages=({"role": "assistant", "content": "x"},), seed=0)) == "1+1=2\ndone"


async def test_delays_go_through_the_given_sleep() -> None:
    """`delay_s` is waited before the first word, `token_delay_s` before each one and the end."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    options = ScriptedOptions.model_validate({"answers": "a b", "delay_s": 5, "token_delay_s": 0.5})
    await answered(ScriptedBackend("double", options, sleep=sleep), HELLO)
    assert slept == [5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("every", [1, 3])
async def test_every_so_many_th_call_fails(every: int) -> None:
    """`fail_every` fails the calls that it divides, and no others; a failed call costs nothing."""
    backend, failed = scripted("double", fail_every=every), []
    for number in range(1, 7):
        call = Call(Price())
        try:
            await backend.complete(HELLO, call)
        except BackendError:
            failed.append(number)
            assert call.input_tokens == 0
    assert failed == [n for n in range(1, 7) if n % every == 0]


async def test_a_call_that_fails_half_way_is_paid_for_what_it_said() -> None:
    """With `fail_after_tokens` a stream gives so many words, fails, and keeps the count; the unfinished answer is none."""
    backend, call, heard = scripted("double", "a b c", fail_every=1, fail_after_tokens=2, error="malformed"), Call(Price()), []

    async def listen() -> None:
        async for delta in backend.stream(HELLO, call):
            heard.append(delta.text)

    with pytest.raises(BackendMalformed):
        await listen()
    assert heard == ["a", " b"]
    assert (call.input_tokens, call.output_tokens, call.choices) == (2, 2, [])


async def test_silence_ends_with_the_caller() -> None:
    """A backend that never answers waits until it is cancelled; its prompt is paid for."""
    call, backend = Call(Price()), scripted("double", never=True)
    task = asyncio.create_task(backend.complete(HELLO, call))
    await asyncio.sleep(0)  # one turn of the loop: the call is made, and waits
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (call.input_tokens, call.choices) == (2, [])


async def test_an_answer_cut_off_by_its_caller_is_kept_as_cancelled() -> None:
    """Cancelled between two words, the part so far is in the call, marked."""
    said = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if call.output_tokens:
            said.set()
            await asyncio.Event().wait()

    options = ScriptedOptions.model_validate({"answers": "a b", "token_delay_s": 1})
    call = Call(Price())
    task = asyncio.create_task(ScriptedBackend("double", options, sleep=sleep).complete(HELLO, call))
    await said.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [(c.text, c.finish_reason) for c in call.choices] == [("a", "cancelled")]


async def test_a_message_with_tool_calls_comes_whole() -> None:
    """An answer can carry a whole message; a stream passes its other fields on."""
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}
    backend = scripted("double", Answer(message=message, finish_reason="tool_calls"))
    call, deltas = await streamed(backend, HELLO)
    assert (call.choices[0].message, call.choices[0].finish_reason) == (message, "tool_calls")
    assert deltas[-1].fields == {"tool_calls": message["tool_calls"]}


async def test_logprobs_come_when_asked_for() -> None:
    """`logprob` is reported for each word, an answer's own before the backend's."""
    backend = scripted("double", "a b", Answer(text="c", logprob=-2), logprob=-0.5)
    both = (await answered(backend, HELLO.but(logprobs=True, n=2, seed=0))).choices
    assert [c.logprobs for c in both] == [(-0.5, -0.5), (-2.0,)]


async def test_a_prompt_beyond_the_context_is_refused() -> None:
    """`max_context` refuses longer prompts, with OpenAI's code for it."""
    with pytest.raises(BackendRefused) as refused:
        await text(scripted("double", max_context=1))
    assert refused.value.code == "context_length_exceeded"


def test_native_n_and_prefixes_can_be_denied() -> None:
    """What the double claims to be able to do is configurable."""
    assert scripted("double").features.native_n
    features = scripted("double", native_n=False, continues_prefix=False).features
    assert not features.native_n
    assert not features.continues_prefix


WRONG = [{"answers": []}, {"fail_every": 0}, {"answer": "x"}, {"price": {"output_usd_per_mtok": -1}}, {"price": {"usd": 1}}]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    """No answers, impossible numbers, unknown keys and negative prices do not pass."""
    with pytest.raises(ValidationError):
        ScriptedOptions.model_validate(wrong)
