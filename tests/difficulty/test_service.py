"""The probe as the router calls it: batches, memory, and what happens when it is slow, failing or flooded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import ValidationError

from difficulty.errors import ProbeUnavailable
from difficulty.heuristic import HeuristicProbe
from difficulty.service import ProbeService, ProbeServiceOptions
from tests.difficulty.doubles import WatchedProbe

Make = Callable[..., ProbeService]


@pytest.fixture
async def serve() -> AsyncIterator[Make]:
    """Makes services and closes them; the gates of their probes are opened first, so that no worker stays behind."""
    made: list[tuple[ProbeService, object]] = []

    def make(probe: object, clock: Callable[[], float] | None = None, **options: object) -> ProbeService:
        chosen = ProbeServiceOptions.model_validate({"timeout_s": 20, **options})
        made.append((ProbeService(probe, chosen, **({"clock": clock} if clock else {})), probe))
        return made[-1][0]

    yield make
    for service, probe in made:
        if isinstance(probe, WatchedProbe):
            probe.gate.set()
        await service.aclose()


async def _entered(probe: WatchedProbe) -> None:
    """Until the worker is inside the probe."""
    await asyncio.to_thread(probe.entered.acquire)


async def _crowd(service: ProbeService, probe: WatchedProbe, texts: list[str]) -> list[asyncio.Task[object]]:
    """One prompt inside the probe, and so many waiting behind it."""
    probe.gate.clear()
    first = asyncio.create_task(service.estimate("first"))
    await _entered(probe)
    rest = [asyncio.create_task(service.estimate(text)) for text in texts]
    await asyncio.sleep(0)
    return [first, *rest]


async def _reason(service: ProbeService, text: str) -> str:
    with pytest.raises(ProbeUnavailable) as caught:
        await service.estimate(text)
    return caught.value.reason


async def test_prompts_that_wait_together_are_read_together_and_each_gets_its_own(serve: Make) -> None:
    probe = WatchedProbe()
    tasks = await _crowd(serve(probe), probe, ["a", "bb", "ccc"])
    probe.gate.set()
    estimates = await asyncio.gather(*tasks)
    assert probe.batches == [["first"], ["a", "bb", "ccc"]]
    assert [e.input_tokens for e in estimates] == [5, 1, 2, 3]


async def test_max_batch_bounds_what_is_read_together(serve: Make) -> None:
    probe = WatchedProbe()
    tasks = await _crowd(serve(probe, max_batch=2), probe, ["a", "b", "c"])
    probe.gate.set()
    await asyncio.gather(*tasks)
    assert probe.batches == [["first"], ["a", "b"], ["c"]]


async def test_max_wait_holds_the_first_prompt_until_the_batch_is_full(serve: Make) -> None:
    probe = WatchedProbe()
    service = serve(probe, max_wait_s=20, max_batch=2)
    first = asyncio.create_task(service.estimate("a"))
    await asyncio.sleep(0)
    while not service._jobs.empty():  # noqa: ASYNC110 - the worker thread takes it; there is no event to wait for
        await asyncio.sleep(0)
    await asyncio.gather(first, service.estimate("b"))
    assert probe.batches == [["a", "b"]]
    hasty = WatchedProbe()
    await serve(hasty, max_wait_s=0, max_batch=2).estimate("a")
    assert hasty.batches == [["a"]]


async def test_a_prompt_asked_again_is_remembered_and_costs_nothing(serve: Make) -> None:
    probe = WatchedProbe()
    service = serve(probe)
    first, again = await service.estimate("same"), await service.estimate("same")
    assert (first.tokens_read, again.tokens_read) == (4, 0)
    assert again.features == first.features
    assert probe.batches == [["same"]]
    assert service.counts == {"ok": 1, "memo": 1}


async def test_the_memory_keeps_the_most_recent_and_none_of_size_zero(serve: Make) -> None:
    probe = WatchedProbe()
    service = serve(probe, memo=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await service.estimate(text)
    assert [text for (text,) in probe.batches] == ["a", "b", "c", "b"]
    forgetful = WatchedProbe()
    service = serve(forgetful, memo=0)
    await service.estimate("a")
    await service.estimate("a")
    assert forgetful.batches == [["a"], ["a"]]


async def test_the_same_prompt_asked_twice_at_once_is_read_once_and_charged_once(serve: Make) -> None:
    probe = WatchedProbe()
    _, one, two = tasks = await _crowd(serve(probe), probe, ["twin", "twin"])
    probe.gate.set()
    await asyncio.gather(*tasks)
    assert probe.batches == [["first"], ["twin"]]
    assert sorted(e.result().tokens_read for e in (one, two)) == [0, 4]


async def test_a_caller_who_leaves_does_not_take_the_estimate_from_another(serve: Make) -> None:
    probe = WatchedProbe()
    _, leaves, stays = await _crowd(serve(probe), probe, ["twin", "twin"])
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    probe.gate.set()
    assert (await stays).input_tokens == 4


async def test_a_prompt_that_nobody_waits_for_any_more_is_not_read(serve: Make) -> None:
    probe = WatchedProbe()
    service = serve(probe)
    first, left = await _crowd(service, probe, ["left"])
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    probe.gate.set()
    await first
    await service.estimate("next")
    assert probe.batches == [["first"], ["next"]]
    assert (await service.estimate("left")).input_tokens == 4, "and it can be asked again"


async def test_past_a_full_queue_the_answer_is_no_at_once(serve: Make) -> None:
    probe = WatchedProbe()
    service = serve(probe, queue=2)
    tasks = await _crowd(service, probe, ["a", "b"])
    assert await _reason(service, "c") == "overload"
    probe.gate.set()
    await asyncio.gather(*tasks)
    assert (await service.estimate("c")).input_tokens == 1


async def test_a_probe_that_hangs_is_given_up_at_the_timeout_and_then_left_alone(serve: Make) -> None:
    probe = WatchedProbe()
    probe.gate.clear()
    service = serve(probe, timeout_s=0.01, failures=2)
    assert [await _reason(service, text) for text in "abc"] == ["timeout", "timeout", "breaker"]
    assert service.counts == {"timeout": 2, "breaker": 1}


def _poison(text: str) -> None:
    if "poison" in text:
        raise ValueError("cannot read this")


async def test_a_poisoned_prompt_fails_alone(serve: Make) -> None:
    probe = WatchedProbe(_poison)
    tasks = await _crowd(serve(probe), probe, ["good", "poison", "fine"])
    probe.gate.set()
    _, good, poison, fine = await asyncio.gather(*tasks, return_exceptions=True)
    assert (good.input_tokens, fine.input_tokens) == (4, 4)
    assert isinstance(poison, ProbeUnavailable)
    assert "ValueError: cannot read this" in str(poison)


async def test_after_failures_in_a_row_the_probe_is_left_alone_and_tried_again_later(serve: Make) -> None:
    now = [0.0]
    probe = WatchedProbe(_poison)
    service = serve(probe, clock=lambda: now[0], failures=2, retry_s=10)
    assert [await _reason(service, f"poison {i}") for i in range(3)] == ["error", "error", "breaker"]
    now[0] = 9.9
    assert await _reason(service, "good") == "breaker"
    assert len(probe.batches) == 2, "while it is left alone it is not called"
    now[0] = 10.0
    assert await _reason(service, "poison again") == "error"
    assert await _reason(service, "good") == "breaker", "one failure on trial is enough"
    now[0] = 20.0
    assert (await service.estimate("good")).source == "probe"
    assert [await _reason(service, "poison x"), (await service.estimate("well")).source] == ["error", "probe"], "a success closes it"


async def test_what_is_remembered_is_served_even_while_the_probe_is_left_alone(serve: Make) -> None:
    service = serve(WatchedProbe(_poison), failures=1)
    await service.estimate("known")
    await _reason(service, "poison")
    assert await _reason(service, "unknown") == "breaker"
    assert (await service.estimate("known")).tokens_read == 0


@pytest.mark.parametrize("thrown", [SystemExit("bye"), StopIteration("odd"), MemoryError("none left")])
async def test_the_worker_lives_on_whatever_the_model_throws(serve: Make, thrown: BaseException) -> None:
    def fails(text: str) -> None:
        if text == "bad":
            raise thrown

    service = serve(WatchedProbe(fails))
    assert await _reason(service, "bad") == "error"
    assert (await service.estimate("good")).source == "probe"


async def test_a_probe_that_answers_for_fewer_prompts_than_asked_is_an_error(serve: Make) -> None:
    class Short(WatchedProbe):
        def estimate(self, texts: object) -> list[object]:
            return []

    assert await _reason(serve(Short()), "x") == "error"


async def test_loading_goes_through_the_probe_once_and_waits_beyond_the_timeout(serve: Make) -> None:
    probe = WatchedProbe()
    probe.gate.clear()
    service = serve(probe, timeout_s=0.01)
    loading = asyncio.create_task(service.load())
    await _entered(probe)
    assert await _reason(service, "early") == "timeout"
    assert not loading.done()
    probe.gate.set()
    await loading
    assert probe.batches[0] == [""]


async def test_closing_fails_what_waits_and_may_be_repeated(serve: Make) -> None:
    probe = WatchedProbe()
    service = serve(probe, queue=1)
    _, waiting = await _crowd(service, probe, ["waits"])
    await service.aclose()
    await service.aclose()
    with pytest.raises(ProbeUnavailable, match="shut down"):
        await waiting
    assert await _reason(service, "late") == "closed"
    probe.gate.set()
    await asyncio.to_thread(service._worker.join, 20)
    assert not service._worker.is_alive()


async def test_the_heuristic_probe_is_served_the_same_way(serve: Make) -> None:
    service = serve(HeuristicProbe(["small", "large"]))
    assert service.backends == ("small", "large")
    assert (await service.estimate("Hello.")).source == "heuristic"


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        ProbeServiceOptions.model_validate({"max_bach": 3})
