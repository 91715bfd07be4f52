"""A request's purse: what its key lets it spend, held before each call and settled after. The books are in `adapters/accounts.py`.

A purse holds the worst case of the calls under way. What a call leaves of its hold stays for the next one, so that a plan of one answer
asks the ledger twice: when it begins and when it ends. Where only what *others* hold stands in the way, the request waits for them to
settle: they rarely spend their worst case, so that refusing at once would exhaust a key that has money. Nobody waits who holds something,
so nobody waits for ever; and those who wait stand in line, of which the first alone asks the ledger (`teller.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal, TypeVar

from adapters.accounts import METERS, NANO, NOTHING, UNITS, Account, Amount, Entry, Receipt, Verdict, nano, nano_up
from adapters.errors import LedgerError
from difficulty.frozen import frozen
from router.errors import LedgerDown, OverQuota, RateLimited, RouterError
from router.keys import NOBODY, Key
from router.teller import ASK_AGAIN_S, Teller

T = TypeVar("T")

USD, TOKENS = UNITS.index("usd"), UNITS.index("tokens")

Cover = Literal["held", "less", "refused"]
"""The price of a call is held; or the key has less left than was known, so that a smaller call may do; or it may not be made."""


@frozen
class Cost:
    """Dollars and tokens, as a run counts them."""

    usd: float = 0.0
    tokens: int = 0

    @property
    def settled(self) -> Amount:
        """As it is booked: with the request itself."""
        return Amount(1, nano(self.usd), self.tokens)

    @property
    def held(self) -> Amount:
        """As it is held."""
        return Amount(0, nano_up(self.usd), self.tokens)


@dataclass(slots=True)
class Purse:
    """The money of one request. Without a key it is bottomless, and never asks anybody."""

    key: Key = NOBODY
    account: Account = field(default_factory=lambda: Account(""))
    id: str = ""
    teller: Teller | None = None
    receipt: Receipt | None = None
    """The newest word of the ledger."""
    refusal: RouterError | None = None
    """Why something was refused, for when nothing comes of the request."""
    _entry: Entry = field(default_factory=lambda: Entry(""))
    _under_way: Amount = NOTHING
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """The calls of one request ask one after the other: what the second keeps is what the first was granted."""

    @classmethod
    def of(cls, key: Key, id: str, teller: Teller) -> Purse:
        """The purse of one request of a key."""
        return cls(key, key.account, id, teller, _entry=Entry(id))

    @property
    def owner(self) -> str:
        """Whose cache, decisions and sessions the request sees."""
        return self.key.owner if self.teller else ""

    @property
    def degraded(self) -> bool:
        """Whether it was served without the ledger that all processes share."""
        return self.receipt is not None and self.receipt.degraded

    def left_usd(self, spent: Cost) -> float:
        """Dollars that the key may still spend, whatever others hold of them; infinite without a limit."""
        left = self.receipt.left(self.account, USD) if self.receipt else None
        return inf if left is None else (left + self._entry.spent.nano_usd - nano(spent.usd)) / NANO

    @property
    def budget_usd(self) -> float:
        """The smallest budget of the key, spent or not; infinite without one."""
        limits = [limit for (unit, _), limit in zip(METERS, self.account.limits, strict=True) if unit == "usd" and limit is not None]
        return min(limits) / NANO if limits else inf

    def why(self) -> RouterError:
        """Why nothing may be bought any more."""
        assert self.receipt is not None, "only a key's limit asks"
        return self.refusal or self._refused(self.receipt, self.receipt.tightest(self.account, USD))

    # --- the life of a request ----------------------------------------------------------------------------------------

    async def paying(self, first: Callable[[], Cost], spent: Callable[[], Cost], work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work. Counts the request before, and holds the price of its first call, if that is there; settles after it,
        however it ended.

        Raises RateLimited, OverQuota or LedgerDown.
        """
        if self.teller is None:
            return await work()
        try:
            await self._admit(first())
            return await work()
        finally:
            await self._settle(spent())

    async def cover(self, need: Cost, spent: Callable[[], Cost], within_s: float | None) -> Cover:
        """Hold what a call needs beside those under way; `release` it after the call. Waits for others to settle, if that may help."""
        if self.teller is None:
            return "held"
        async with self._asking:
            verdict = await self._hold(need.held, spent().settled, within_s)
            if verdict == "granted":
                self._under_way = self._under_way.plus(need.held)
                return "held"
            return "less" if verdict == "short" and self.receipt and METERS[self.receipt.meter][0] == "usd" else "refused"

    def release(self, need: Cost) -> None:
        """A call is over. What it did not spend stays held for the next one."""
        if self.teller is not None:
            self._under_way = self._under_way.minus(need.held)

    async def rest(self) -> None:
        """Hold nothing until the next call: the request waits for another's answer. Raises LedgerDown."""
        if self.teller is not None and self._entry.wanted != NOTHING:
            await self._write(Cost().settled, NOTHING)

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _admit(self, first: Cost) -> None:
        try:
            receipt = await self._write(NOTHING, self._clipped(Amount(1).plus(first.held)))
            if receipt.verdict != "granted":  # a call may need less, or wait for it; but the request itself has to count
                receipt = await self._write(NOTHING, Amount(1))
            if receipt.verdict != "granted":
                raise self._refused(receipt, receipt.meter)
        except RouterError:
            self._entry = replace(self._entry, closed=True)  # it is not in the books
            raise
        left = receipt.left(self.account, USD)
        if left is not None and left <= 0:
            raise self._refused(receipt, receipt.tightest(self.account, USD))

    async def _hold(self, need: Amount, spent: Amount, within_s: float | None) -> Verdict:
        assert self.teller is not None
        wanted = self._clipped(self._under_way.plus(need))
        if spent.plus(wanted).within(self._entry.spent.plus(self._entry.wanted)):
            return "granted"
        may_wait = self._under_way == NOTHING
        verdict: Verdict = "busy"
        try:
            if not (may_wait and self.teller.has_line(self.account)):
                verdict = (await self._write(spent, wanted)).verdict
            if verdict == "busy" and may_wait:
                verdict = await self._wait(spent, wanted, within_s)
        except LedgerDown as error:
            self.refusal = error
            return "busy"
        if verdict != "granted" and self.receipt is not None:
            self.refusal = self._refused(self.receipt, self.receipt.meter, held=verdict == "busy")
        return verdict

    async def _wait(self, spent: Amount, wanted: Amount, within_s: float | None) -> Verdict:
        """Stand in line until the hold is granted, or is out of the question, or the time is over."""
        assert self.teller is not None
        await self._write(spent, NOTHING)  # whoever waits holds nothing
        clock = asyncio.get_running_loop().time
        until = clock() + min(self.teller.wait_s, inf if within_s is None else within_s)
        async with self.teller.line(self.account, until) as news:
            while news is not None and clock() < until:
                news.clear()
                if (receipt := await self._write(spent, wanted)).verdict != "busy":
                    return receipt.verdict
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(until, clock() + ASK_AGAIN_S)):
                        await news.wait()
        return "busy"

    async def _write(self, spent: Amount, wanted: Amount) -> Receipt:
        assert self.teller is not None
        held, kept, last = self._under_way, self._under_way, self._entry
        self._entry = Entry(self.id, spent, last.number + 1, wanted, kept, booked=last.spent)
        try:
            self.receipt = await self.teller.ledger.write(self.account, self._entry)
            held = wanted if self.receipt.verdict == "granted" else kept
        except LedgerError as error:
            raise LedgerDown(str(error)) from error
        finally:
            self._entry = replace(self._entry, wanted=held, kept=held)
        if not last.wanted.within(held):
            self.teller.news(self.account)
        return self.receipt

    async def _settle(self, spent: Cost) -> None:
        """The last writing; it is made also where the request is cancelled."""
        last = self._entry
        if self.teller is None or last.closed:
            return
        self._entry = Entry(self.id, spent.settled, last.number + 1, booked=last.spent, closed=True)
        self.receipt = await self.teller.settle(self.account, self._entry)

    def _clipped(self, wanted: Amount) -> Amount:
        """A request with more tokens than a whole window's is let in when the window is empty; money is never stretched like this."""
        limits = [limit for (unit, _), limit in zip(METERS, self.account.limits, strict=True) if unit == "tokens" and limit is not None]
        return wanted._replace(tokens=min([wanted.tokens, *limits]))

    def _refused(self, receipt: Receipt, meter: int, *, held: bool = False) -> RouterError:
        if meter < 0:  # who never came to the head of the line was not told what is short
            meter = max(receipt.tightest(self.account, unit) for unit in (USD, TOKENS))
        (unit, span), limit = METERS[meter], self.account.limits[meter]
        assert limit is not None, "only a limit refuses"
        if held or receipt.verdict == "busy":
            return RateLimited(f"requests under way hold what this key has left of its {unit} for the {span}", kind=unit, retry_after_s=1.0)
        again_s = receipt.resets_s(meter)
        if unit == "usd":
            left = max(0, limit - receipt.used[meter]) / NANO
            short = f"this key's budget of ${limit / NANO:g} for the {span} does not pay for the worst case of this request"
            return OverQuota(f"{short}; ${left:.6f} of it is left, and a smaller max_tokens needs less", retry_after_s=again_s)
        return RateLimited(f"this key is limited to {limit} {unit} a {span}", kind=unit, retry_after_s=again_s)


NO_PURSE = Purse()
"""Of requests where the server asks for no keys: nothing is ever written into it."""
