"""Ledgers: one suite on memory and Redis, the laws of the books, and what is known while Redis is gone."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.accounts import METERS, MOST_USD, NANO, NOTHING, Account, Amount, Books, Entry, ends_at_s, nano, windows_at
from adapters.errors import LedgerError
from adapters.ledger import Ledger, MemoryLedger, RedisLedger, build_ledger
from adapters.redis_link import RedisGone

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC).timestamp()
DAY_USD = METERS.index(("usd", "day"))


class FakeClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def account(id: str = "k1", **limits: int) -> Account:
    """An account with limits by unit and span: `account(usd_day=100)`."""
    return Account(id, tuple(limits.get(f"{unit}_{span}") for unit, span in METERS))


def usd(amount: int) -> Amount:
    """So many nano-dollars."""
    return Amount(0, amount, 0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "redis"])
async def ledger(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Ledger]:
    built: Ledger = MemoryLedger(60, clock)
    if request.param == "redis":
        built = RedisLedger(request.getfixturevalue("redis_url"), lease_s=60, clock=clock)
    yield built
    await built.aclose()


@pytest.fixture
async def redis_ledger(redis_url: str, clock: FakeClock) -> AsyncIterator[Callable[..., RedisLedger]]:
    """Makes ledgers on one Redis, each as a process of its own would."""
    made: list[RedisLedger] = []

    def make(**options: Any) -> RedisLedger:
        made.append(RedisLedger(redis_url, **{"lease_s": 60, "retry_s": 0, "clock": clock, **options}))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


# --- conformance --------------------------------------------------------------------------------------------------------


async def test_what_is_held_is_not_there_for_others(ledger: Ledger) -> None:
    """A hold makes the account look busy to another request; once settled, only what was spent is gone."""
    ours = account(usd_day=100)
    assert (await ledger.write(ours, Entry("a", wanted=usd(70)))).verdict == "granted"
    busy = await ledger.write(ours, Entry("b", wanted=usd(40)))
    assert (busy.verdict, busy.meter, busy.held) == ("busy", DAY_USD, usd(70))
    await ledger.write(ours, Entry("a", spent=usd(10), closed=True))
    granted = await ledger.write(ours, Entry("b", wanted=usd(90)))
    assert (granted.verdict, granted.used[DAY_USD], granted.held) == ("granted", 10, usd(90))


async def test_what_was_spent_is_short_not_busy(ledger: Ledger) -> None:
    """Where nobody's settling can help, the receipt says so, with what is left and when the window ends."""
    ours = account(usd_day=100, usd_minute=1000)
    await ledger.write(ours, Entry("a", spent=usd(95), closed=True))
    short = await ledger.write(ours, Entry("b", wanted=usd(6)))
    assert (short.verdict, METERS[short.meter]) == ("short", ("usd", "day"))
    assert (short.left(ours, 1), short.left(ours, 0)) == (5, None)
    assert short.resets_s(short.meter) == 12 * 3600


async def test_a_writing_that_is_repeated_changes_nothing(ledger: Ledger) -> None:
    """An entry says totals, so a reply that was lost costs nothing to ask for again."""
    ours = account(usd_day=100)
    for _ in range(3):
        receipt = await ledger.write(ours, Entry("a", spent=usd(30), wanted=usd(20)))
    assert (receipt.used[DAY_USD], receipt.held) == (30, usd(20))


async def test_a_writing_that_comes_late_changes_nothing(ledger: Ledger) -> None:
    """Overtaken by its successor, it neither takes back what was booked nor holds again what was let go."""
    ours = account(usd_day=100)
    await ledger.write(ours, Entry("a", spent=usd(30), number=2))
    late = await ledger.write(ours, Entry("a", spent=usd(10), number=1, wanted=usd(20)))
    assert (late.used[DAY_USD], late.held) == (30, NOTHING)


async def test_calls_under_way_keep_what_they_may_cost(ledger: Ledger) -> None:
    """A request that wants more than there is keeps what it says its calls need, and gives back the rest."""
    ours = account(usd_day=100)
    await ledger.write(ours, Entry("a", wanted=usd(50)))
    refused = await ledger.write(ours, Entry("a", wanted=usd(150), kept=usd(30)))
    assert (refused.verdict, refused.held) == ("short", usd(30))


async def test_a_lease_that_ends_frees_what_was_held(ledger: Ledger, clock: FakeClock) -> None:
    """What died between hold and settlement holds nothing for ever; what it spent, if it lives after all, is still booked, once."""
    ours = account(usd_day=100)
    await ledger.write(ours, Entry("dead", spent=usd(10), wanted=usd(80)))
    clock.now += 59
    assert (await ledger.write(ours, Entry("b", wanted=usd(50)))).verdict == "busy"
    clock.now += 1
    assert (await ledger.write(ours, Entry("b", wanted=usd(50)))).verdict == "granted"
    late = await ledger.write(ours, Entry("dead", spent=usd(15), booked=usd(10), closed=True))
    assert (late.used[DAY_USD], late.held) == (15, usd(50))


async def test_each_writing_renews_the_lease(ledger: Ledger, clock: FakeClock) -> None:
    """A request that goes on for longer than a lease keeps its hold while it makes calls."""
    ours = account(usd_day=100)
    for _ in range(4):
        await ledger.write(ours, Entry("a", wanted=usd(80)))
        clock.now += 40
    assert (await ledger.write(ours, Entry("b", wanted=usd(50)))).verdict == "busy"


async def test_requests_that_are_over_leave_nothing_to_be_kept(clock: FakeClock) -> None:
    """Ten thousand writings of requests that ended, and of one that goes on: what is kept is that one, and some ends of leases."""
    ledger, ours = MemoryLedger(60, clock), account(usd_day=10**6)
    for number in range(2500):
        await ledger.write(ours, Entry("long", wanted=usd(7), number=number))
        for step in range(3):
            over = step == 2
            await ledger.write(ours, Entry(f"r{number}", spent=usd(step), wanted=usd(0 if over else 50), number=step, closed=over))
    books = ledger.of(ours)
    assert (books.held, len(books.leases) < 200, books.lines.keys() >= {"long"}) == (usd(7), True, True)
    clock.now += 61
    assert (await ledger.write(ours, Entry("b", wanted=usd(1)))).held == usd(1)


async def test_windows_begin_anew_and_holds_go_on(ledger: Ledger, clock: FakeClock) -> None:
    """At midnight on the last of the month all three windows turn; what is held is held in the new ones too."""
    ours = account(usd_minute=100, usd_month=100)
    await ledger.write(ours, Entry("a", spent=usd(60), closed=True))
    clock.now += 12 * 3600 - 30
    assert (await ledger.write(ours, Entry("b", wanted=usd(60)))).verdict == "short"
    await ledger.write(ours, Entry("b", wanted=usd(40)))
    clock.now += 30
    receipt = await ledger.write(ours, Entry("c", wanted=usd(61)))
    assert (receipt.verdict, receipt.used, receipt.windows[2]) == ("busy", (0,) * 9, 2026 * 12 + 11)


async def test_each_unit_has_its_own_limit(ledger: Ledger) -> None:
    """Requests and tokens are counted as money is; the unit that stands in the way is named, and nothing of the others is held."""
    ours = account(requests_minute=2, tokens_minute=100)
    for id in "ab":
        await ledger.write(ours, Entry(id, wanted=Amount(1, 0, 10)))
    third = await ledger.write(ours, Entry("c", wanted=Amount(1, 0, 10)))
    assert (third.verdict, METERS[third.meter][0], third.held) == ("busy", "requests", Amount(2, 0, 20))
    await ledger.write(ours, Entry("a", spent=Amount(1, 0, 95), closed=True))
    fourth = await ledger.write(ours, Entry("d", wanted=Amount(0, 0, 10)))
    assert (fourth.verdict, METERS[fourth.meter][0]) == ("short", "tokens")


async def test_what_costs_nothing_is_never_short(ledger: Ledger) -> None:
    """A unit of which nothing more is wanted is not looked at, also where more was spent than allowed."""
    ours = account(usd_day=100)
    await ledger.write(ours, Entry("a", spent=usd(120), closed=True))
    assert (await ledger.write(ours, Entry("b", wanted=Amount(0, 0, 10)))).verdict == "granted"


async def test_accounts_do_not_mix(ledger: Ledger) -> None:
    """One account's spending leaves another's alone."""
    await ledger.write(account("k1", usd_day=100), Entry("a", spent=usd(100), closed=True))
    assert (await ledger.write(account("k2", usd_day=100), Entry("a", wanted=usd(100)))).verdict == "granted"


async def test_two_hundred_at_once_hold_no_more_than_there_is(ledger: Ledger) -> None:
    """However many ask together, exactly as many are granted as fit."""
    ours = account(usd_day=1005)
    receipts = await asyncio.gather(*(ledger.write(ours, Entry(str(i), wanted=usd(10))) for i in range(200)))
    assert [r.verdict for r in receipts].count("granted") == 100
    assert max(r.held.nano_usd for r in receipts) == 1000


async def test_the_largest_budget_is_counted_to_the_last_nano_dollar(ledger: Ledger) -> None:
    """Nine million dollars less one nano-dollar leave one nano-dollar."""
    most = MOST_USD * NANO
    ours = account(usd_month=most)
    receipt = await ledger.write(ours, Entry("a", spent=usd(most - 1), closed=True))
    assert receipt.left(ours, 1) == 1
    assert (await ledger.write(ours, Entry("b", wanted=usd(2)))).verdict == "short"
    assert (await ledger.write(ours, Entry("b", wanted=usd(1)))).verdict == "granted"


# --- laws ---------------------------------------------------------------------------------------------------------------

amounts = st.builds(Amount, st.integers(0, 1), st.integers(0, 60), st.integers(0, 60))
steps = st.lists(
    st.tuples(st.sampled_from("abcde"), amounts, amounts, st.booleans(), st.sampled_from([0, 0, 0.4, 25, 61, 40_000, 3_000_000])),
    max_size=25,
)
limited = st.lists(st.one_of(st.none(), st.integers(0, 150)), min_size=9, max_size=9).map(lambda found: Account("k", tuple(found)))
_run = itertools.count()


def played(moves: list[Any]) -> list[tuple[float, Entry]]:
    """Requests that spend, hold and close in turn, each with growing totals; one that was closed comes back under another name."""
    open_: dict[str, Entry] = {}
    rounds: dict[str, int] = {}
    script = []
    for name, spends, wants, closes, waits in moves:
        id = f"{name}{rounds.get(name, 0)}"
        before = open_.get(name, Entry(id))
        now = Entry(id, before.spent.plus(spends), before.number + 1, NOTHING if closes else wants, booked=before.spent, closed=closes)
        script.append((waits, now))
        open_[name] = now
        if closes:
            rounds[name] = rounds.get(name, 0) + 1
            del open_[name]
    return script


@given(limited, steps)
def test_what_was_settled_is_what_the_books_say(ours: Account, moves: list[Any]) -> None:
    """Sums agree whatever happens: counters hold all that was spent, never less than nothing; no hold is granted beyond a limit; once
    all are closed or their leases over, nothing is held."""
    books, now = Books(windows_at(NOON)), NOON
    totals: dict[str, Amount] = {}
    for waits, entry in played([(*move[:4], 0) for move in moves]):
        now += waits
        receipt = books.write(ours.limits, entry, now, 0 if entry.closed else 600)
        totals[entry.id] = entry.spent
        spent = Amount(*map(sum, zip(*totals.values(), strict=True)))
        assert [*receipt.used] == [spent[i // 3] for i in range(9)]
        assert min(receipt.held) >= 0
        if receipt.verdict == "granted":
            fits = (u + receipt.held[i // 3] <= limit for i, (u, limit) in enumerate(zip(receipt.used, ours.limits, strict=True))
                    if limit is not None and entry.wanted[i // 3])  # fmt: skip
            assert all(fits)
    assert books.write(ours.limits, Entry("last", closed=True), now + 601, 0).held == NOTHING


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(limited, steps)
async def test_redis_says_what_the_rules_say(redis_url: str, ours: Account, moves: list[Any]) -> None:
    """The Lua and the Python are one rule: over any course of minutes, days, months and leases every receipt is the same."""
    clock = FakeClock()
    ours = replace(ours, id=f"k{next(_run)}")
    memory, redis = MemoryLedger(600, clock), RedisLedger(redis_url, lease_s=600, clock=clock)
    for waits, entry in played(moves):
        clock.now += waits
        assert replace(await redis.write(ours, entry), now_s=0) == replace(await memory.write(ours, entry), now_s=0)
    await redis.aclose()


@given(st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1)))
def test_a_window_ends_where_the_next_begins(moment: datetime) -> None:
    """At its end the window is another, and a moment before it is the same."""
    now = moment.replace(tzinfo=UTC).timestamp()
    for span in range(3):
        end = ends_at_s(now, span)
        assert now < end
        assert windows_at(end - 0.001)[span] == windows_at(now)[span] < windows_at(end)[span]


@given(st.lists(st.floats(0, 1), max_size=50))
def test_nano_dollars_do_not_drift(costs: list[float]) -> None:
    """A request settles its running total, so no number of calls adds up to more than half a nano-dollar of error."""
    assert abs(nano(sum(costs)) - sum(costs) * NANO) <= 0.5 + 1e-6


# --- while Redis is gone ------------------------------------------------------------------------------------------------


async def test_what_is_on_its_way_to_redis_is_not_promised_twice(
    redis_ledger: Callable[..., RedisLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis grants one and falls before it has answered: another waits for the same money, and gets what is left beside it."""
    ours, ledger, answered = account(usd_day=100), redis_ledger(retry_s=60), asyncio.Event()
    run = ledger._run

    async def late(some: Any) -> Any:
        said = await run(some)
        await answered.wait()
        return said

    monkeypatch.setattr(ledger, "_run", late)
    first = asyncio.ensure_future(ledger.write(ours, Entry("a", wanted=usd(80))))
    await asyncio.sleep(0)
    ledger._link._went_down(OSError("it fell"))
    assert (await ledger.write(ours, Entry("b", wanted=usd(30)))).verdict == "busy"
    assert (await ledger.write(ours, Entry("c", wanted=usd(20)))).verdict == "granted"
    answered.set()
    assert (await first).verdict == "granted"


async def test_what_was_spent_without_redis_is_not_forgotten_for_an_older_answer(
    redis_ledger: Callable[..., RedisLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is settled while Redis is gone; then comes an answer that knows nothing of it; Redis goes again, and the money stays spent."""
    ours, ledger = account(usd_day=100), redis_ledger()
    ask = ledger._link.ask

    async def gone(_: Any) -> Any:
        raise RedisGone

    async def untold() -> None: ...

    monkeypatch.setattr(ledger._link, "ask", gone)
    await ledger.write(ours, Entry("a", spent=usd(90), closed=True))
    monkeypatch.setattr(ledger._link, "ask", ask)
    with monkeypatch.context() as older:
        older.setattr(ledger, "_tell", untold)
        await ledger.write(ours, Entry("b", wanted=usd(5)))
    monkeypatch.setattr(ledger._link, "ask", gone)
    assert (await ledger.write(ours, Entry("c", wanted=usd(20)))).verdict == "short"
    monkeypatch.setattr(ledger._link, "ask", ask)


async def test_without_redis_it_goes_on_with_what_it_knows(redis_ledger: Callable[..., RedisLedger], redis_server: Any) -> None:
    """Marked, and bounded: what others had spent and what this process holds still count."""
    ours, one, two = account(usd_day=100), redis_ledger(), redis_ledger()
    await two.write(ours, Entry("theirs", spent=usd(50), closed=True))
    await one.write(ours, Entry("a", wanted=usd(20)))
    redis_server.kill()
    busy = await one.write(ours, Entry("b", wanted=usd(31)))
    assert (busy.verdict, busy.degraded, busy.used[DAY_USD]) == ("busy", True, 50)
    assert (await one.write(ours, Entry("b", wanted=usd(30)))).verdict == "granted"


@pytest.mark.parametrize("stops", [True, False], ids=["hung", "lost its memory"])
async def test_a_redis_that_comes_back_is_told(redis_ledger: Callable[..., RedisLedger], redis_server: Any, stops: bool) -> None:
    """Whether it was killed and knows nothing, or hung and does late what was given up: it ends with each amount once, and all holds."""
    ours, one = account(usd_day=1000), redis_ledger(timeout_s=0.1)
    await one.write(ours, Entry("past", spent=usd(100), closed=True))
    await one.write(ours, Entry("a", spent=usd(5), wanted=usd(20)))
    redis_server.process.send_signal(signal.SIGSTOP) if stops else redis_server.kill()
    await one.write(ours, Entry("a", spent=usd(8), number=1, booked=usd(5), wanted=usd(20)))
    await one.write(ours, Entry("a", spent=usd(9), number=2, booked=usd(8), wanted=usd(15)))
    await one.write(ours, Entry("b", spent=usd(30), closed=True))
    assert one.down
    redis_server.process.send_signal(signal.SIGCONT) if stops else redis_server.start()
    after = await one.write(ours, Entry("c", spent=usd(1), closed=True))
    assert (after.degraded, after.used[DAY_USD], after.held) == (False, 140, usd(15))


async def test_it_can_be_told_to_refuse(redis_ledger: Callable[..., RedisLedger], redis_server: Any) -> None:
    """`when_down: refuse` lets nothing be spent that Redis did not grant; what was spent is booked all the same."""
    ours, one = account(usd_day=100), redis_ledger(when_down="refuse")
    await one.write(ours, Entry("a", wanted=usd(20)))
    redis_server.kill()
    with pytest.raises(LedgerError, match="does not answer"):
        await one.write(ours, Entry("b", wanted=usd(1)))
    await one.write(ours, Entry("a", spent=usd(9), closed=True))
    redis_server.start()
    assert (await one.write(ours, Entry("b", wanted=usd(1)))).used[DAY_USD] == 9


async def test_closing_tells_what_is_untold(redis_ledger: Callable[..., RedisLedger], redis_server: Any) -> None:
    """A process that ends after Redis came back takes no spending with it."""
    ours, one, two = account(usd_day=100), redis_ledger(), redis_ledger()
    redis_server.kill()
    await one.write(ours, Entry("a", spent=usd(9), closed=True))
    redis_server.start()
    await one.aclose()
    assert (await two.write(ours, Entry("b"))).used[DAY_USD] == 9


async def test_redis_keeps_its_own_time(redis_url: str) -> None:
    """Without a clock of the tests', leases end by the server's: a hold of no length is let go by the next writing."""
    ledger = RedisLedger(redis_url, lease_s=0.001)
    ours = account(usd_day=100)
    await ledger.write(ours, Entry("dead", wanted=usd(80)))
    await asyncio.sleep(0.005)
    assert (await ledger.write(ours, Entry("b", wanted=usd(80)))).verdict == "granted"
    await ledger.aclose()


# --- by URL -------------------------------------------------------------------------------------------------------------


def test_the_url_names_the_ledger() -> None:
    """memory:// and redis:// build theirs; a wrong one says what would be right, and no password."""
    assert isinstance(build_ledger("memory://"), MemoryLedger)
    assert isinstance(build_ledger("redis://localhost:1/0"), RedisLedger)
    with pytest.raises(LedgerError, match="redis://host:6379/0") as refused:
        build_ledger("redis://user:secret@host:port/x")
    assert "secret" not in str(refused.value)


async def test_a_long_outage_is_told_in_few_round_trips(redis_ledger: Callable[..., RedisLedger], redis_server: Any) -> None:
    """Of hundreds of requests that Redis missed, over one connection: a crowd of them would not get through in time, and the ledger would
    stay gone for as long as there is load."""
    one, ours = redis_ledger(), account(usd_day=10**9)
    redis_server.kill()
    for i in range(300):
        await one.write(ours, Entry(f"r{i}", usd(1), 1, closed=True))
    redis_server.start()
    receipt = await one.write(ours, Entry("now"))
    assert (receipt.used[DAY_USD], receipt.degraded) == (300, False)
    assert redis_server.command("CLIENT", "LIST").count(b"id=") <= 3  # this one's, the ledger's, and the one with which it waited


async def test_a_crowd_does_not_wait_for_a_redis_that_hangs_one_after_the_other(
    redis_ledger: Callable[..., RedisLedger], redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With something left to tell, the first one finds out that Redis hangs, and the others go on alone at once."""
    one, ours, tried = redis_ledger(timeout_s=0.1), account(usd_day=10**9), 0
    pipeline = one._link.redis.pipeline

    def counted(**options: Any) -> Any:
        nonlocal tried
        tried += 1
        return pipeline(**options)

    redis_server.process.send_signal(signal.SIGSTOP)
    await one.write(ours, Entry("missed", usd(1), 1, closed=True))
    monkeypatch.setattr(one._link.redis, "pipeline", counted)
    receipts = await asyncio.gather(*(one.write(ours, Entry(f"r{i}", usd(1), 1, closed=True)) for i in range(40)))
    redis_server.process.send_signal(signal.SIGCONT)
    assert (tried, {receipt.degraded for receipt in receipts}) == (1, {True})
    assert (await one.write(ours, Entry("now"))).used[DAY_USD] == 41


async def test_telling_ends_also_where_more_to_tell_keeps_coming(
    redis_ledger: Callable[..., RedisLedger], redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one request tells what Redis missed, others go on alone and add to it: that is for the next one, or the first never ended."""
    one, ours, told = redis_ledger(), account(usd_day=10**9), 0
    redis_server.kill()
    await one.write(ours, Entry("missed", usd(1), 1, closed=True))
    redis_server.start()
    tell = one._tell_some

    async def slowly(some: Any) -> None:
        nonlocal told
        told += 1
        assert told <= 2, "it does not end"
        one._alone(ours, Entry(f"meanwhile{told}", usd(1), 1, closed=True))
        await tell(some)

    monkeypatch.setattr(one, "_tell_some", slowly)
    assert not (await one.write(ours, Entry("now"))).degraded
    assert told == 1
    assert (await one.write(ours, Entry("later"))).used[DAY_USD] == 2
    monkeypatch.setattr(one, "_tell_some", tell)


# --- a crowd --------------------------------------------------------------------------------------------------------------


def round_trips(ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries went with each, from now on."""
    run, sizes = ledger._run, []

    async def counted(some: Any) -> Any:
        sizes.append(len(some))
        return await run(some)

    monkeypatch.setattr(ledger, "_run", counted)
    return sizes


async def test_a_crowd_goes_together(redis_ledger: Callable[..., RedisLedger], redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred that write at once take one connection and four round trips, and each is told its own verdict."""
    one, ours = redis_ledger(), account(usd_day=1000)
    await one.write(ours, Entry("first"))
    sizes = round_trips(one, monkeypatch)
    receipts = await asyncio.gather(*(one.write(ours, Entry(f"r{i}", wanted=usd(10 if i % 2 else 1001))) for i in range(200)))
    assert sizes == [64, 64, 64, 8]
    assert [receipt.verdict for receipt in receipts] == ["short", "granted"] * 100
    assert redis_server.command("CLIENT", "LIST").count(b"id=") == 2  # this one's, and the ledger's


async def test_a_crowd_finds_out_together_that_redis_hangs(
    redis_ledger: Callable[..., RedisLedger], redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round trip is waited for in vain; those behind it go on alone, and all of it is told later."""
    one, ours = redis_ledger(timeout_s=0.1), account(usd_day=10**9)
    sizes = round_trips(one, monkeypatch)
    redis_server.process.send_signal(signal.SIGSTOP)
    receipts = await asyncio.gather(*(one.write(ours, Entry(f"r{i}", usd(1), 1, closed=True)) for i in range(200)))
    redis_server.process.send_signal(signal.SIGCONT)
    assert (sizes, {receipt.degraded for receipt in receipts}) == ([64], {True})
    assert (await one.write(ours, Entry("now"))).used[DAY_USD] == 200


async def test_what_a_cancelled_request_wrote_is_written(redis_ledger: Callable[..., RedisLedger]) -> None:
    """Its entry was on its way; and those that went with it get their answers."""
    one, ours = redis_ledger(), account(usd_day=100)
    left = asyncio.ensure_future(one.write(ours, Entry("left", spent=usd(7), closed=True)))
    stays = asyncio.ensure_future(one.write(ours, Entry("stays", spent=usd(2), closed=True)))
    await asyncio.sleep(0)
    left.cancel()
    assert (await stays).used[DAY_USD] == 9
    assert left.cancelled()


async def test_an_error_of_our_own_reaches_all_who_wait(redis_ledger: Callable[..., RedisLedger], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left waiting, and the next writing is carried as if nothing had been."""
    one, ours = redis_ledger(), account(usd_day=100)

    async def broken(some: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as once:
        once.setattr(one, "_run", broken)
        found = await asyncio.gather(*(one.write(ours, Entry(f"r{i}")) for i in range(100)), return_exceptions=True)
    assert {type(error) for error in found} == {ZeroDivisionError}
    assert (await one.write(ours, Entry("now", wanted=usd(1)))).verdict == "granted"
