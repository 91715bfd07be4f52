"""Ledgers: the books of all accounts, in this process or shared in Redis. The rules of one account are in `accounts.py`.

A ledger is no economy as a cache is: it says what may be spent. So while Redis is gone, the process goes on with what it knows (every
receipt it got, and its own requests) and marks it, or refuses, as configured; and tells Redis all of it when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from adapters.accounts import METERS, Account, Amount, Books, Entry, Receipt, Verdict, windows_at
from adapters.errors import LedgerError
from adapters.options import without_password
from adapters.redis_link import Clock, RedisGone, RedisLink

log = logging.getLogger(__name__)

LEASE_S = 600.0
"""An entry that is not written again for so long is let go: its process died."""
TIMEOUT_S = 1.0
"""Past it Redis is gone. Longer than for a cache: to go on without the ledger costs more than to wait for it."""
CLOSED_S = 60.0
"""A closed entry is remembered so long in Redis, so that a writing repeated for want of a reply is not booked twice."""
AT_ONCE = 64
"""Entries that go together in one round trip."""
SCRIPT = Path(__file__).with_suffix(".lua")

WhenDown = Literal["memory", "refuse"]


class Ledger(Protocol):
    """Where entries are written. What is spent is always booked; what is wanted is held only if it fits."""

    async def write(self, account: Account, entry: Entry) -> Receipt:
        """Write an entry, atomically. Raises LedgerError if more is wanted than kept and the ledger may not say yes on its own."""

    async def aclose(self) -> None:
        """Release connections."""


class MemoryLedger:
    """In this process only, and as long as it lives."""

    def __init__(self, lease_s: float = LEASE_S, clock: Clock = time.time) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._books: dict[str, Books] = {}

    async def write(self, account: Account, entry: Entry) -> Receipt:
        """As `book`; it never waits."""
        return self.book(account, entry)

    def book(self, account: Account, entry: Entry) -> Receipt:
        """Write an entry. A closed one need not be remembered: nothing is repeated here."""
        return self.of(account).write(account.limits, entry, self._clock(), 0.0 if entry.closed else self._lease_s)

    def of(self, account: Account) -> Books:
        """The books of an account."""
        return self._books.setdefault(account.id, Books(windows_at(self._clock())))

    async def aclose(self) -> None:
        """Nothing is held."""


class RedisLedger:
    """Shared by processes. A writing is one round trip, and those that come while one is under way go together with the next: a crowd takes
    one connection and few round trips. Beside it stands a copy in memory, which is asked while Redis is gone."""

    def __init__(
        self, url: str, prefix: str = "outlay:ledger:", *, lease_s: float = LEASE_S, when_down: WhenDown = "memory",
        timeout_s: float = TIMEOUT_S, retry_s: float = 5.0, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._link = RedisLink(url, "ledger", timeout_s=timeout_s, retry_s=retry_s)
        self._script = self._link.redis.register_script(SCRIPT.read_text())
        self._prefix, self._lease_s, self._when_down, self._clock = prefix, lease_s, when_down, clock
        self._copy = MemoryLedger(lease_s, clock or time.time)
        self._seen: dict[str, tuple[Sequence[int], Sequence[int]]] = {}
        """By account: windows and counters of the newest receipt, for a Redis that comes back without its memory."""
        self._untold: dict[tuple[str, str], tuple[Account, Entry]] = {}
        """Entries that were written while Redis was gone, in their last state."""
        self._outbox: list[tuple[Account, Entry, asyncio.Future[Receipt]]] = []
        self._courier: asyncio.Task[None] | None = None

    @property
    def down(self) -> bool:
        """Redis did not answer last time."""
        return self._link.down

    async def write(self, account: Account, entry: Entry) -> Receipt:
        """In Redis; while it is gone in memory, marked, or not at all."""
        if entry.asks:  # it may be granted there: should Redis fall before it answers, nobody is promised the same money here
            self._copy.book(account, replace(entry, kept=entry.wanted))
        try:
            receipt = await self._posted(account, entry)
        except RedisGone:
            return self._alone(account, entry)
        self._copied(account, entry, receipt)
        return receipt

    async def aclose(self) -> None:
        """Tell what is untold, if Redis is there, and close the connections."""
        if self._courier is not None:
            await self._courier
        if self._untold:
            try:
                self._link.try_again()
                await self._tell()
            except Exception as error:  # whatever the reason, the loss has to be said
                log.error("ledger %s: %d entries were never told (%s)", self._link.where, len(self._untold), type(error).__name__)
        await self._link.aclose()

    # --- Redis --------------------------------------------------------------------------------------------------------

    async def _posted(self, account: Account, entry: Entry) -> Receipt:
        """What Redis said. The entry goes also where the request is cancelled meanwhile."""
        if self._link.left_alone:
            raise RedisGone
        reply: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._outbox.append((account, entry, reply))
        if self._courier is None or self._courier.done():
            self._courier = asyncio.ensure_future(self._carry())
        return await reply

    async def _carry(self) -> None:
        """Bring what waits, first of all what Redis missed. If it is gone, all who wait are told at once."""
        while self._outbox:
            some, self._outbox = self._outbox[:AT_ONCE], self._outbox[AT_ONCE:]
            try:
                await self._tell()
                receipts = await self._link.ask(partial(self._written, [letter[:2] for letter in some]))
            except Exception as error:  # whatever it is, it is theirs who wait
                some, self._outbox = some + self._outbox, []
                for *_, reply in some:
                    if not reply.done():
                        reply.set_exception(error)
            else:
                for (*_, reply), receipt in zip(some, receipts, strict=True):
                    if not reply.done():
                        reply.set_result(receipt)

    async def _tell(self) -> None:
        """What Redis missed; an entry leaves the list when Redis has it, unless it was written again."""
        missed = list(self._untold.items())  # what comes meanwhile is the next one's to tell: under load there is no end of it
        for first in range(0, len(missed), AT_ONCE):
            await self._link.ask(partial(self._tell_some, missed[first : first + AT_ONCE]))

    async def _tell_some(self, some: Sequence[tuple[tuple[str, str], tuple[Account, Entry]]]) -> None:
        await self._written([told for _, told in some])
        for key, told in some:
            if self._untold.get(key) is told:
                del self._untold[key]

    async def _written(self, some: Sequence[tuple[Account, Entry]]) -> list[Receipt]:
        """Entries in one round trip, one after the other, each of them atomically."""
        from redis.exceptions import NoScriptError

        try:
            said = await self._run(some)
        except NoScriptError:  # a Redis that is new to us, or began anew
            await self._link.redis.script_load(self._script.script)
            said = await self._run(some)
        return [self._heard(account, each) for (account, _), each in zip(some, said, strict=True)]

    async def _run(self, some: Sequence[tuple[Account, Entry]]) -> Sequence[Any]:
        async with self._link.redis.pipeline(transaction=False) as pipe:
            for account, entry in some:
                keys, arguments = self._asked(account, entry)
                pipe.evalsha(self._script.sha, len(keys), *keys, *arguments)
            return cast(Sequence[Any], await pipe.execute())

    def _asked(self, account: Account, entry: Entry) -> tuple[list[str], list[Any]]:
        """Keys and arguments of the script."""
        windows, used = self._seen.get(account.id, ((0, 0, 0), (0,) * len(METERS)))
        keep_s = min(CLOSED_S, self._lease_s) if entry.closed else self._lease_s
        arguments: list[Any] = ["" if self._clock is None else self._clock(), keep_s, entry.id]
        arguments += [*entry.spent, *entry.wanted, *entry.kept, *entry.booked]
        arguments += [-1 if limit is None else limit for limit in account.limits]
        arguments += [*windows, *used, entry.number]
        return [f"{self._prefix}{{{account.id}}}:{part}" for part in ("counters", "entries", "leases")], arguments

    def _heard(self, account: Account, said: Sequence[Any]) -> Receipt:
        receipt = _receipt(said)
        self._seen[account.id] = _newer(self._seen.get(account.id), receipt)
        return receipt

    # --- without Redis ------------------------------------------------------------------------------------------------

    def _alone(self, account: Account, entry: Entry) -> Receipt:
        if self._when_down == "refuse" and entry.asks:
            raise LedgerError("the ledger does not answer, and without it nothing may be spent; try again soon")
        receipt = replace(self._copy.book(account, entry), degraded=True)
        key = (account.id, entry.id)
        booked = self._untold[key][1].booked if key in self._untold else entry.booked  # what Redis has, not what is booked here
        self._untold[key] = (account, replace(_settled(entry, receipt), booked=booked))
        return receipt

    def _copied(self, account: Account, entry: Entry, receipt: Receipt) -> None:
        """What Redis said becomes what is known here, this process's own holds with it."""
        self._copy.book(account, _settled(entry, receipt))
        books = self._copy.of(account)
        books.turn(receipt.windows)
        windows, used = self._seen[account.id]
        if tuple(windows) == books.windows:
            books.used = [*map(max, books.used, used)]  # what Redis has yet to be told of is known here


def _settled(entry: Entry, receipt: Receipt) -> Entry:
    """The entry as it was written: what it holds is no longer a question."""
    held = entry.wanted if receipt.verdict == "granted" else entry.kept
    return replace(entry, wanted=held, kept=held)


def _receipt(said: Sequence[Any]) -> Receipt:
    verdict, meter, windows, used, held, now = said
    ints: Callable[[bytes], tuple[int, ...]] = lambda text: tuple(map(int, text.split()))  # noqa: E731
    return Receipt(cast(Verdict, verdict.decode()), meter, ints(windows), ints(used), Amount(*ints(held)), float(now))


def _newer(seen: tuple[Sequence[int], Sequence[int]] | None, receipt: Receipt) -> tuple[Sequence[int], Sequence[int]]:
    """Replies may overtake each other; within a window a counter only grows."""
    if seen is None or receipt.windows > tuple(seen[0]):
        return receipt.windows, receipt.used
    if receipt.windows < tuple(seen[0]):
        return seen
    return seen[0], tuple(map(max, seen[1], receipt.used))


def build_ledger(url: str, *, lease_s: float = LEASE_S, when_down: WhenDown = "memory", timeout_s: float = TIMEOUT_S) -> Ledger:
    """The ledger that a URL names: `memory://`, or `redis://`, `rediss://`, `unix://`. Nothing is connected yet. Raises LedgerError."""
    if urlsplit(url).scheme == "memory":
        return MemoryLedger(lease_s)
    try:
        return RedisLedger(url, lease_s=lease_s, when_down=when_down, timeout_s=timeout_s)
    except ValueError as error:
        raise LedgerError(f"'{without_password(url)}' is not a Redis URL ({error}); write redis://host:6379/0") from None
