"""Tallies: one suite on memory and Redis, which must count alike to the last digit that matters; then what happens when Redis is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.tallies import Added, MemoryTallies, RedisTallies, Tallies, Tally, build_tallies, folded
from tests.adapters.test_cache import FakeClock

FRESH = Tally(7, (0.0, -1.0, 0.0), (-1.0, -1.0, -1.0), (0.0, 0.0))
"""Period 7; the second number of `now` was never seen."""


def an_addition(usd: float = 0.5, period: int = 7, fade: float = 0.9) -> Added:
    return Added(period, (usd, 0.0, 1.0), (1.0, usd), fade)


def close(a: Tally, b: Tally) -> bool:
    flat = [(a.period, *a.now, *a.usual, *a.recent), (b.period, *b.now, *b.usual, *b.recent)]
    return flat[0] == pytest.approx(flat[1], rel=1e-9, abs=1e-12)


@pytest.fixture(params=["memory", "redis"])
async def tallies(request: pytest.FixtureRequest) -> AsyncIterator[Tallies]:
    built = MemoryTallies() if request.param == "memory" else RedisTallies(request.getfixturevalue("redis_url"), timeout_s=5)
    yield built
    await built.aclose()


async def seen(tallies: Tallies, key: str = "a") -> Tally:
    return (await tallies.read({key: FRESH}))[key]


# --- conformance --------------------------------------------------------------------------------------------------------------


async def test_a_key_that_was_never_added_to_is_what_the_caller_says(tallies: Tallies) -> None:
    """Reading keeps nothing."""
    assert await seen(tallies) == FRESH
    assert (await tallies.read({"a": folded(FRESH, an_addition())}))["a"].now[0] in (0.0, 0.5)


async def test_additions_are_summed_and_what_is_recent_fades(tallies: Tallies) -> None:
    """Two of half a dollar are a dollar; the older one weighs 0.9. A number never seen stays so until something is added to it."""
    for _ in range(2):
        await tallies.add({"a": (an_addition(), FRESH)})
    assert close(await seen(tallies), Tally(7, (1.0, -1.0, 2.0), FRESH.usual, (1.9, 0.95)))


async def test_a_new_period_begins_at_zero_and_the_old_one_becomes_usual(tallies: Tallies) -> None:
    """The first period is usual as it was, later ones by half; what was never seen stays unknown; an older period changes none of this."""
    for usd, period in ((1.0, 7), (2.0, 8), (0.25, 9), (0.25, 8)):
        await tallies.add({"a": (an_addition(usd, period), FRESH)})
    found = await seen(tallies)
    assert (found.period, found.now) == (9, (0.5, 0.0, 2.0))
    assert found.usual == (1.5, 0.0, 1.0)


async def test_keys_do_not_mix_and_go_together(tallies: Tallies) -> None:
    """One addition to two keys counts in each; a third has nothing."""
    await tallies.add({"a": (an_addition(1.0), FRESH), "b": (an_addition(2.0), FRESH)})
    found = await tallies.read({"a": FRESH, "b": FRESH, "c": FRESH})
    assert [found[key].now[0] for key in "abc"] == [1.0, 2.0, 0.0]


async def test_two_hundred_at_once_are_all_counted(tallies: Tallies) -> None:
    """No addition is lost where many come together."""
    await asyncio.gather(*(tallies.add({"a": (an_addition(0.01), FRESH)}) for _ in range(200)))
    assert (await seen(tallies)).now == pytest.approx((2.0, -1.0, 200.0))


async def test_closing_twice_is_harmless(tallies: Tallies) -> None:
    """aclose is idempotent."""
    await tallies.aclose()
    await tallies.aclose()


additions = st.builds(an_addition, st.floats(0, 10), st.integers(6, 10), st.floats(0.5, 1))


@given(st.lists(additions, min_size=2, max_size=6), st.integers(1, 5))
def test_merged_additions_count_as_each_for_itself(rows: list[Added], split: int) -> None:
    """In one period the order and the bundling of additions change no sum."""
    rows = [Added(7, row.now, row.recent, row.fade) for row in rows]
    one_by_one, merged = FRESH, rows[0]
    for row in rows:
        one_by_one = folded(one_by_one, row)
    for row in rows[1:]:
        merged = merged.then(row)
    assert close(one_by_one, folded(FRESH, merged))


# --- Redis --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pair(redis_url: str) -> AsyncIterator[Sequence[RedisTallies]]:
    """Two processes on one Redis, with clocks that move when told."""
    built = [RedisTallies(redis_url, timeout_s=5, retry_s=10, clock=FakeClock()) for _ in range(2)]
    yield built
    await asyncio.gather(*(one.aclose() for one in built))


async def test_random_additions_count_in_redis_as_in_memory(redis_url: str) -> None:
    """The script and `folded` are the same function: a hundred random additions over some periods end in the same tally."""
    import random

    rng, redis, memory = random.Random(0), RedisTallies(redis_url, timeout_s=5), MemoryTallies()
    for _ in range(100):
        row = Added(rng.choice([7, 7, 8, 9, 11]), (rng.random(), rng.choice([0.0, 1.0]), 1.0), (1.0, rng.random()), rng.random())
        await redis.add({"a": (row, FRESH)})
        await memory.add({"a": (row, FRESH)})
    assert close(await seen(redis), await seen(memory))
    await redis.aclose()


async def test_processes_see_what_the_others_added(pair: Sequence[RedisTallies]) -> None:
    """An addition brings back the sum of all."""
    one, two = pair
    await one.add({"a": (an_addition(1.0), FRESH)})
    await two.add({"a": (an_addition(2.0), FRESH)})
    assert (await seen(two)).now[0] == 3.0
    await one.add({"a": (an_addition(0.5), FRESH)})
    assert (await seen(one)).now[0] == 3.5


async def test_a_request_costs_one_round_trip(pair: Sequence[RedisTallies], redis_server: Any) -> None:
    """A known key is read without asking; an addition to two keys is one command."""
    one, _ = pair
    keys = dict.fromkeys("ab", FRESH)
    await one.read(keys)
    await one.add({key: (an_addition(), FRESH) for key in "ab"})
    before = _commands(redis_server)
    await one.read(keys)
    await one.add({key: (an_addition(), FRESH) for key in "ab"})
    assert _commands(redis_server) - before == 1


def _commands(server: Any) -> int:
    """Scripts that the server has run."""
    text = server.command("INFO", "commandstats").decode()
    return next((int(line.split("calls=")[1].split(",")[0]) for line in text.splitlines() if line.startswith("cmdstat_evalsha:")), 0)


async def test_while_redis_is_gone_each_counts_its_own_and_brings_it_along(pair: Sequence[RedisTallies], redis_server: Any) -> None:
    """Killed: own additions count at once, and `down` says so. Back, though it forgot everything: all that was known and added is there."""
    one, two = pair
    await one.add({"a": (an_addition(1.0), FRESH)})
    redis_server.kill()
    for _ in range(3):
        await one.add({"a": (an_addition(0.5), FRESH)})
    assert one.down
    assert (await seen(one)).now == (2.5, -1.0, 4.0)
    redis_server.start()
    one._link._clock.now += 11  # type: ignore[attr-defined]
    await one.add({"a": (an_addition(0.5), FRESH)})
    assert not one.down
    assert (await seen(one)).now == (3.0, -1.0, 5.0)
    await two.add({"a": (an_addition(0.5), FRESH)})
    assert (await seen(two)).now == (3.5, -1.0, 6.0)


async def test_what_waits_is_told_at_the_end(pair: Sequence[RedisTallies], redis_server: Any) -> None:
    """A process that ends while it still leaves Redis alone tries once more: what it added meanwhile would be nobody's."""
    one, two = pair
    await one.add({"a": (an_addition(1.0), FRESH)})
    redis_server.kill()
    await one.add({"a": (an_addition(0.5), FRESH)})
    redis_server.start()
    await one.aclose()
    await two.add({"a": (an_addition(0.5), FRESH)})
    assert (await seen(two)).now == (2.0, -1.0, 3.0)


async def test_what_is_not_ours_in_redis_is_left_alone(pair: Sequence[RedisTallies], redis_server: Any) -> None:
    """A list under our key, or a text that is no tally: this process counts alone, and nothing is lost or raised."""
    redis_server.command("SET", "outlay:tally:a", "hello")
    redis_server.command("RPUSH", "outlay:tally:b", "x")
    one, _ = pair
    for key in "ab":
        await one.add({key: (an_addition(), FRESH)})
        assert (await seen(one, key)).now[0] == 0.5


async def test_redis_forgets_what_nobody_uses(pair: Sequence[RedisTallies], redis_server: Any) -> None:
    """Every tally has a time to live."""
    await pair[0].add({"a": (an_addition(), FRESH)})
    assert int(redis_server.command("TTL", "outlay:tally:a")[1:]) > 7 * 86400


def test_the_url_names_where_they_are_kept() -> None:
    """memory:// and redis:// build their tallies."""
    assert isinstance(build_tallies("memory://"), MemoryTallies)
    assert isinstance(build_tallies("redis://localhost:1/0"), RedisTallies)
