"""What processes hand in counts once, whatever becomes of the answers: budgets over time and feedback, over a wire that loses things."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from operator import add
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import SumsError
from adapters.lots import AT_ONCE, Lots
from adapters.sums import FileSums, RedisSums
from adapters.tallies import Added, RedisTallies, Tally
from tests.adapters.lossy import Fate, LossyWire, lossy_wire

FRESH = Tally(7, (0.0, 0.0), (-1.0, -1.0), (0.0,))
LOST: Sequence[Fate] = ("question lost", "answer lost")


def usd(amount: float, period: int = 7, key: str = "a") -> dict[str, tuple[Added, Tally]]:
    """That much was spent, by one request."""
    return {key: (Added(period, (amount, 1.0), (amount,), 1.0), FRESH)}


async def seen(tallies: RedisTallies) -> tuple[float, ...]:
    """What this process takes for spent, and the number of requests."""
    return (await tallies.read({"a": FRESH}))["a"].now


def in_redis(url: str, key: str = "a") -> dict[str, Any]:
    """The tally as it lies there."""
    with redis_client.Redis.from_url(url) as client:
        found: Any = client.get(f"outlay:tally:{key}")
    return dict(json.loads(found)) if found else {"now": [0.0, 0.0]}


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[LossyWire]:
    async with lossy_wire(redis_url) as between:
        yield between


def over(wire: LossyWire) -> RedisTallies:
    """A process whose answers may be lost. It asks again at once."""
    return RedisTallies(wire.url, timeout_s=5, retry_s=0.0)


# --- what is lost on its way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", LOST)
async def test_an_addition_counts_once_whether_the_question_or_the_answer_was_lost(fate: Fate, wire: LossyWire, redis_url: str) -> None:
    """It counts here at once; when it is sent again, nothing is added twice in Redis, and nothing is missing."""
    one = over(wire)
    await one.add(usd(1.0))
    wire.fate = fate
    for times in range(1, 4):
        await one.add(usd(0.25))
        assert await seen(one) == (1.0 + 0.25 * times, 1.0 + times)
    assert wire.lost >= 3
    wire.fate = "whole"
    await one.add(usd(0.5))
    assert tuple(in_redis(redis_url)["now"]) == await seen(one) == (2.25, 5.0)
    await one.aclose()


@pytest.mark.parametrize("fate", LOST)
async def test_a_label_counts_once_whether_the_question_or_the_answer_was_lost(fate: Fate, wire: LossyWire, redis_url: str) -> None:
    """The caller is told that it failed, and hands in nothing again: it is kept, and goes before the next."""
    one, other = RedisSums(wire.url, timeout_s=5), RedisSums(redis_url)
    await one.exchange({"a": (1.0, 1.0, 0.5), "b": (1.0, 0.0, 0.0)})
    wire.fate = fate
    for _ in range(3):
        with pytest.raises(SumsError):
            await one.exchange({"a": (1.0, 0.0, 0.25)}, ["b"])
    wire.fate = "whole"
    assert await one.exchange({"b": (2.0, 2.0, 2.0)}) == {"a": (4.0, 1.0, 1.25), "b": (2.0, 2.0, 2.0)}
    assert await other.exchange({}) == {"a": (4.0, 1.0, 1.25), "b": (2.0, 2.0, 2.0)}
    await asyncio.gather(one.aclose(), other.aclose())


async def test_what_a_file_could_not_take_is_kept(tmp_path: Path) -> None:
    """In the way lies a folder: when it is gone, all that was handed in meanwhile is in the file, once."""
    path = tmp_path / "sums.json"
    path.mkdir()
    sums = FileSums(path)
    for _ in range(3):
        with pytest.raises(SumsError):
            await sums.exchange({"a": (1.0, 0.5, 0.0)})
    path.rmdir()
    assert await sums.exchange({}) == {"a": (3.0, 1.5, 0.0)} == await FileSums(path).exchange({})


async def test_a_redis_that_hangs_works_on_what_it_was_sent_and_is_sent_again(redis_url: str, redis_server: Any) -> None:
    """It stops, nobody waits for its answer, and when it goes on it reads what lies there: all of it counts once."""
    one = RedisTallies(redis_url, timeout_s=0.05, retry_s=0.0)
    await one.add(usd(1.0))
    redis_server.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        await one.add(usd(0.25))
    assert one.down
    redis_server.process.send_signal(signal.SIGCONT)
    await asyncio.to_thread(redis_server.command, "PING")
    await one.aclose()
    assert in_redis(redis_url)["now"] == [1.75, 4.0]


async def test_who_adds_and_leaves_is_counted_once(wire: LossyWire, redis_url: str) -> None:
    """Requests are cancelled while what they cost is on its way, or waits for its turn; the answers are lost besides."""
    one = over(wire)
    await one.add(usd(1.0))
    wire.fate = "answer lost"
    leaving = [asyncio.ensure_future(one.add(usd(0.25))) for _ in range(8)]
    await asyncio.sleep(0)
    for turns, task in enumerate(leaving):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    wire.fate = "whole"
    await one.aclose()
    assert in_redis(redis_url)["now"] == [3.0, 9.0]


# --- Redis falls back, or forgets -----------------------------------------------------------------------------------------------


def taken(url: str) -> dict[bytes, Any]:
    """All that Redis holds, as a replica has it at this moment."""
    with redis_client.Redis.from_url(url) as client:
        keys: Any = client.keys()
        return {key: client.dump(key) for key in keys}


def put_back(url: str, copy: dict[bytes, Any]) -> None:
    """The replica is in charge from now on."""
    with redis_client.Redis.from_url(url) as client:
        client.flushall()
        for key, held in copy.items():
            client.restore(key, 60_000, held)


@pytest.mark.parametrize("behind", [True, False])
async def test_a_replica_that_takes_over_lacks_the_lot_and_its_number_or_neither(behind: bool, wire: LossyWire, redis_url: str) -> None:
    """The answer to an addition was lost, and so was the server that had it: it counts once, whether the replica had it too or not."""
    one = over(wire)
    await one.add(usd(1.0))
    before = taken(redis_url)
    wire.fate = "answer lost"
    await one.add(usd(0.5))
    put_back(redis_url, before if behind else taken(redis_url))
    wire.fate = "whole"
    await one.add(usd(0.25))
    assert in_redis(redis_url)["now"] == [1.75, 3.0]
    await one.aclose()


@pytest.mark.parametrize("fate", LOST)
async def test_a_redis_that_forgot_everything_is_told_it_once(fate: Fate, wire: LossyWire, redis_url: str, redis_server: Any) -> None:
    """It is killed with what it had worked on: it gets what was known, then what was not known to be there."""
    one = over(wire)
    await one.add(usd(1.0))
    wire.fate = fate
    await one.add(usd(0.5))
    redis_server.kill()
    await one.add(usd(0.125))
    redis_server.start()
    wire.fate = "whole"
    await one.add(usd(0.25))
    assert tuple(in_redis(redis_url)["now"]) == await seen(one) == (1.875, 4.0)
    await one.aclose()


# --- periods, processes, bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fate", "period_8", "period_7"), [("answer lost", 0.25, 1.5), ("question lost", 0.75, 1.0)])
async def test_what_was_counted_in_its_period_is_not_counted_in_the_next(
    fate: Fate, period_8: float, period_7: float, wire: LossyWire, redis_url: str
) -> None:
    """Sent before the period's end and known to be there after it: it is in the one in which Redis has it, and in no other."""
    one, two = over(wire), RedisTallies(redis_url, timeout_s=5)
    await one.add(usd(1.0))
    wire.fate = fate
    await one.add(usd(0.5))
    wire.fate = "whole"
    await two.add(usd(0.125, period=8))
    await one.add(usd(0.125, period=8))
    found = in_redis(redis_url)
    assert (found["now"][0], found["usual"][0]) == (period_8, period_7)
    await asyncio.gather(one.aclose(), two.aclose())


async def test_a_process_that_starts_again_is_another(redis_url: str) -> None:
    """Its numbers begin anew, and its first addition is not taken for one that was there."""
    for _ in range(3):
        one = RedisTallies(redis_url, timeout_s=5)
        await one.add(usd(1.0))
        await one.aclose()
    assert in_redis(redis_url)["now"] == [3.0, 3.0]


async def test_what_redis_remembers_of_a_process_goes_when_the_process_does(redis_url: str) -> None:
    """A time to live, that begins anew with each addition."""
    tallies, sums = RedisTallies(redis_url, timeout_s=5), RedisSums(redis_url)
    await tallies.add(usd(1.0))
    await sums.exchange({"a": (1.0, 1.0, 1.0)})
    with redis_client.Redis.from_url(redis_url) as client:
        numbers: Any = client.keys("*:told:*")
        lives: Any = [client.ttl(key) for key in numbers]
    assert len(lives) == 2
    assert all(3600 < ttl_s <= 86_400 for ttl_s in lives)
    await asyncio.gather(tallies.aclose(), sums.aclose())


async def test_what_is_kept_does_not_grow_with_the_time_that_nobody_answers() -> None:
    """What was sent, as it was sent, and all that was added since, merged by key; many keys go in several lots."""
    sent: list[tuple[Mapping[str, int], int]] = []
    answers = False

    async def carry(lot: Mapping[str, int], number: int) -> None:
        sent.append((lot, number))
        if not answers:
            raise ConnectionError

    lots: Lots[int] = Lots(carry, add)
    for i in range(1, 5 * AT_ONCE):
        lots.add({"every": 1, f"key {i % (2 * AT_ONCE)}": 1})
        with pytest.raises(ConnectionError):
            await lots.hand_in()
    assert sent == [({"every": 1, "key 1": 1}, 1)] * (5 * AT_ONCE - 1)
    assert [len(rows) for rows in lots.kept] == [2, 2 * AT_ONCE + 1]
    answers, asked = True, len(sent)
    await lots.hand_in()
    assert [(len(lot), number) for lot, number in sent[asked:]] == [(2, 1), (AT_ONCE, 2), (AT_ONCE, 3), (1, 4)]
    assert sum(sum(lot.values()) for lot, _ in sent[asked:]) == 2 * (5 * AT_ONCE - 1)
    assert lots.kept == []


async def test_a_key_that_is_not_ours_does_not_stand_in_the_way_of_others(
    redis_url: str, redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted here alone, and said once; all others are shared as ever."""
    redis_server.command("SET", "outlay:tally:x", '{"period": 7, "now": [1]}')
    redis_server.command("RPUSH", "outlay:tally:y", "x")
    one = RedisTallies(redis_url, timeout_s=5)
    for _ in range(3):
        await one.add(usd(0.5, key="x") | usd(0.5, key="y") | usd(0.25))
    assert not one.down
    assert in_redis(redis_url)["now"] == [0.75, 3.0]
    assert {(await one.read({key: FRESH}))[key].now for key in "xy"} == {(1.5, 3.0)}
    assert caplog.text.count("counted here alone") == 2
    await one.aclose()


async def test_a_lot_of_which_a_part_cannot_be_counted_counts_in_no_part(redis_url: str) -> None:
    """A sum that is no number stops the script: what stands beside it in the lot is not counted each time that it is sent again."""
    one = RedisTallies(redis_url, timeout_s=5, retry_s=0.0)
    await one.add(usd(1.0))
    for _ in range(3):
        await one.add(usd(0.25) | usd(float("nan"), key="b"))
    assert in_redis(redis_url)["now"] == [1.0, 1.0]
    assert await seen(one) == (1.75, 4.0)
    await one.aclose()


# --- anything may be lost at any time -------------------------------------------------------------------------------------------

amounts = st.integers(1, 1000).map(lambda eighths: eighths / 8)
steps = st.tuples(st.sampled_from(["whole", *LOST]), st.sampled_from(["add", "add", "add", "crowd", "read", "restart", "wipe"]), amounts)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1), steps), max_size=25), st.booleans())
def test_whatever_is_lost_the_total_is_what_was_added(redis_server: Any, played: list[tuple[int, Any]], alone: bool) -> None:
    """Two processes that start again at times, or one and a Redis that forgets: in the end Redis has every addition once."""
    redis_server.start()
    redis_server.command("FLUSHALL")
    total = asyncio.run(_played(redis_server.url, played, alone))
    assert in_redis(redis_server.url)["now"][0] == total


async def _played(url: str, played: list[tuple[int, Any]], alone: bool) -> float:
    total, most = 0.0, 1 if alone else 2
    async with lossy_wire(url) as wire:
        processes = [over(wire) for _ in range(most)]
        for index, (fate, what, amount) in played:
            who = index % most
            wire.fate = fate
            if what in ("add", "crowd"):
                count = 5 if what == "crowd" else 1
                await asyncio.gather(*(processes[who].add(usd(amount)) for _ in range(count)))
                total += count * amount
            elif what == "read":
                await seen(processes[who])
            elif what == "restart":
                wire.fate = "whole"
                await processes[who].aclose()
                processes[who] = over(wire)
            elif alone and (await seen(processes[0]))[0] == total:
                with redis_client.Redis.from_url(url) as client:
                    client.flushall()
                await processes[0].add(usd(amount))
                total += amount
        wire.fate = "whole"
        for process in processes:
            await process.aclose()
    return total
