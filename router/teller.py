"""The teller: the ledger, with the lines of those who wait for others to settle, and the settlements of requests that were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from adapters.accounts import Account, Entry, Receipt
from adapters.ledger import Ledger

ASK_AGAIN_S = 0.05
"""How often the first in line asks the ledger anyway: another process may have settled."""


@dataclass(slots=True)
class _Line:
    head: asyncio.Lock = field(default_factory=asyncio.Lock)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    length: int = 0


class Teller:
    """Serves all purses of a process."""

    def __init__(self, ledger: Ledger, wait_s: float) -> None:
        self.ledger, self.wait_s = ledger, wait_s
        self._lines: dict[str, _Line] = {}
        self._settling: set[asyncio.Task[Receipt]] = set()

    @asynccontextmanager
    async def line(self, account: Account, until: float) -> AsyncIterator[asyncio.Event | None]:
        """A place at the head of the account's line, with an event that says that something was let go; None if out of time."""
        line = self._lines.setdefault(account.id, _Line())
        line.length += 1
        try:
            if not await _entered(line.head, until):
                yield None
                return
            try:
                yield line.news
            finally:
                line.head.release()
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[account.id]

    def has_line(self, account: Account) -> bool:
        """Whether somebody waits, before whom nobody is served."""
        return account.id in self._lines

    def news(self, account: Account) -> None:
        """Something was let go."""
        if account.id in self._lines:
            self._lines[account.id].news.set()

    async def settle(self, account: Account, entry: Entry) -> Receipt:
        """Write a request's last entry, to the end also where the request is cancelled meanwhile."""
        task = asyncio.ensure_future(self.ledger.write(account, entry))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        task.add_done_callback(lambda _: self.news(account))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait for the last settlements, and release the ledger."""
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self.ledger.aclose()


async def _entered(lock: asyncio.Lock, until: float) -> bool:
    """Whether the lock was got by then, by the loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            return await lock.acquire()
    except TimeoutError:
        return False
