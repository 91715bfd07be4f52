"""One timer for many waits: each may last so long, all of them together longer."""

from __future__ import annotations

import asyncio

import pytest

from adapters.guarded import Patience


async def test_many_waits_may_last_longer_than_one() -> None:
    """Six waits of a fifth of the time are longer than the time, and none is too long."""
    patience = Patience(1.0)
    assert [await patience.wait(asyncio.sleep(0.2, n)) for n in range(6)] == [*range(6)]
    patience.end()
    assert not patience.over


async def test_one_that_lasts_too_long_is_given_up() -> None:
    """Also after others were in time; and whoever waited goes on, not cancelled."""
    patience = Patience(0.05)
    assert await patience.wait(asyncio.sleep(0, "first")) == "first"
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.sleep(60))
    task = asyncio.current_task()
    assert patience.over
    assert task is not None
    assert task.cancelling() == 0


async def test_who_is_cancelled_is_cancelled() -> None:
    """From outside, before the time is over: that is no timeout."""
    patience = Patience(60.0)
    waiting = asyncio.ensure_future(patience.wait(asyncio.sleep(60)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    patience.end()
