"""What the router learns from feedback while it runs: which answers can be judged, what was said of them, and what follows.

An answer is remembered with what was believed of it when it went out. A label on it is counted (`difficulty/feedback.py`); the counts
are shared with other replicas and outlive the process (`adapters/sums.py`); every few seconds they are read again and turned into
shifts, which later requests take. No request waits for any of this.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from adapters.cache import Cache, MemoryCache
from adapters.errors import SumsError
from adapters.fast_json import dumps
from adapters.sums import MemorySums, Rows, Sums
from difficulty.belief import logit
from difficulty.feedback import AGES, UNNAMED, Answer, Cell, Corrections, Counts, Fading, Health, added, corrections, counted, health
from difficulty.frozen import frozen
from router.errors import FeedbackUnavailable, InvalidRequest, UnknownDecision
from router.options import FeedbackOptions

log = logging.getLogger("outlay")

DAY_S = 86_400.0
MAX_DOMAINS = 64
"""Tags come from clients; the labels of a domain beyond so many count as those of requests that name none."""
MAX_WRITES = 1000
"""Answers on their way to a shared memory; beyond so many they are remembered here only."""

Status = Literal["recorded", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Given:
    """What a client says of an answer."""

    id: str
    label: float
    candidate: int = 0
    key: str = ""
    """Whose key the client's is: it judges its own answers only."""


@frozen
class Sent:
    """An answer that went out, with what was believed of it."""

    backend: str
    chance: float | None
    shift: float = 0.0
    """What corrections had added to its logit."""
    verifier: str | None = None
    score: float | None = None

    @property
    def answer(self) -> Answer:
        """As statistics see it: without the correction."""
        return Answer(self.backend, None if self.chance is None else float(logit(self.chance)) - self.shift, self.verifier, self.score)


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a label."""

    sent: Sent
    status: Status
    arm: tuple[str, str] | None = None
    """The split that the request named, and the policy that it was assigned to."""


class Lessons:
    """Feedback of one router."""

    def __init__(
        self,
        options: FeedbackOptions | None = None,
        sums: Sums | None = None,
        shared: Cache | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.options, self._clock = options or FeedbackOptions(), clock
        self._sums, self._known, self._shared = sums or MemorySums(), MemoryCache(100_000, 64 << 20), shared
        self.fading = Fading(self.options.half_life_days, self.options.prior_sd, self.options.max_shift)
        self._counts: Mapping[Cell, Counts] = {}
        self._unsent: dict[Cell, Counts] = {}
        self.corrections = Corrections()
        """What the labels show, whether it is applied or not."""
        self._ttl_s = self.options.ttl_days * DAY_S
        self._lock, self._writes = asyncio.Lock(), set[asyncio.Task[None]]()
        self._refresher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.counts: Counter[Status] = Counter()
        self.trouble = ""
        """Why the sums cannot be shared now; empty if they can."""

    # --- what requests take ---------------------------------------------------------------------------------------------

    def domain(self, tags: Mapping[str, str]) -> str:
        """The domain that a request names."""
        return tags.get(self.options.domain_tag, UNNAMED)[:64]

    def shifts(self, domain: str) -> Mapping[str, float]:
        """By backend: what to add to its logit in this domain. Empty unless corrections are switched on."""
        return self.corrections.of(domain) if self.options.correct else {}

    async def remember(self, id: str, domain: str, key: str, answers: list[Sent], arm: tuple[str, str] | None = None) -> None:
        """From now on these can be judged. Where the memory is shared, it is told in the background."""
        rows = [[sent.backend, sent.chance, sent.shift, sent.verifier, sent.score] for sent in answers]
        row = dumps({"domain": domain, "key": key, "answers": rows, "given": {}, **({"arm": arm} if arm else {})})
        await self._known.set(id, row, self._ttl_s)
        if self._shared is not None and len(self._writes) < MAX_WRITES:
            task = asyncio.create_task(self._shared.set(id, row, self._ttl_s))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    # --- what clients say -----------------------------------------------------------------------------------------------

    async def judge(self, given: Given) -> Judged:
        """Count a label, once however often it is sent; another one for the same answer takes its place.

        Raises UnknownDecision, InvalidRequest, or FeedbackUnavailable where it cannot be known whether the decision is ours.
        """
        self._keep_in_step()
        async with self._lock:
            row = await self._row(given.id)
            if row["key"] != given.key:
                raise _unknown(given.id)
            if given.candidate >= len(row["answers"]):
                message = f"decision '{given.id}' sent {len(row['answers'])} choices; candidate must be below that"
                raise InvalidRequest(message, param="candidate")
            sent, before = Sent(*row["answers"][given.candidate]), row["given"].get(str(given.candidate))
            status = self._count(row["domain"], sent, given.label, before)
            if status != "unchanged":
                row["given"][str(given.candidate)] = [given.label, self._epoch]
                for memory in (self._known, *([self._shared] if self._shared else [])):
                    await memory.set(given.id, dumps(row), self._ttl_s)
        self.counts[status] += 1
        return Judged(sent, status, (row["arm"][0], row["arm"][1]) if "arm" in row else None)

    def _count(self, domain: str, sent: Sent, label: float, before: list[Any] | None) -> Status:
        """Add a label to what is yet to be shared, and take back the one before."""
        if before is not None and before[0] == label:
            return "unchanged"
        known = {cell.domain for cell in self._counts} | {cell.domain for cell in self._unsent}
        domain = domain if domain in known or len(known) <= MAX_DOMAINS else UNNAMED
        if before is not None:
            self._unsent = added(self._unsent, counted(sent.answer, domain, *before), -1.0)
        self._unsent = added(self._unsent, counted(sent.answer, domain, label, self._epoch))
        return "changed" if before is not None else "recorded"

    # --- what is shared -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take what was counted before, so that the first request has it; and from now on what is counted elsewhere."""
        await self.sync()
        self._keep_in_step()

    def _keep_in_step(self) -> None:
        if self._refresher is None:
            self._refresher = asyncio.create_task(self._refresh(), name="feedback")

    async def _refresh(self) -> None:
        """Ends with a last look, and is not cancelled: a label on its way would be lost."""
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.options.refresh_s)
            await self.sync()

    async def sync(self) -> None:
        """Hand in what was counted here, take what was counted everywhere, and estimate anew. Where that fails, what is known stands."""
        more, self._unsent = self._unsent, {}
        stale = {str(cell) for cell in self._counts if self._epoch - cell.epoch >= AGES}
        try:
            rows = await self._sums.exchange({str(cell): row for cell, row in more.items()}, stale)
        except SumsError as error:  # what was handed in is kept there
            self._counts = added(self._counts, more)
            if not self.trouble:
                log.warning("feedback is kept here only: %s", error)
            self.trouble = str(error)
            return
        self.trouble = ""
        self._counts = dict(_cells(rows))
        self.corrections = await asyncio.to_thread(corrections, self._counts, self._epoch, self.fading)

    @property
    def health(self) -> Mapping[str, Health]:
        """Of every verifier whose answers were judged, by feedback everywhere."""
        return health(self._counts, self._epoch)

    async def aclose(self) -> None:
        """Hand in what was counted, and let go."""
        self._closing.set()
        if self._refresher is not None:
            await self._refresher
        await asyncio.gather(*self._writes)
        await self._sums.aclose()
        if self._shared is not None:
            await self._shared.aclose()

    @property
    def _epoch(self) -> int:
        return self.fading.epoch(self._clock() / DAY_S)

    async def _row(self, id: str) -> dict[str, Any]:
        """What is known of a decision; the shared memory knows best, since another replica may have been told."""
        found = await self._shared.get(id) if self._shared is not None else None
        found = found or await self._known.get(id)
        if found is not None:
            return dict(json.loads(found))
        if getattr(self._shared, "down", False):
            raise FeedbackUnavailable("the memory of past decisions does not answer; send the feedback again", retry_after_s=10)
        raise _unknown(id)


def _cells(rows: Rows) -> Iterator[tuple[Cell, Counts]]:
    """What lies among the sums and is none of ours is left alone."""
    for name, row in rows.items():
        with suppress(ValueError):
            yield Cell.parse(name), row


def _unknown(id: str) -> UnknownDecision:
    message = f"no decision '{id[:80]}' can be judged; ids come in the header x-outlay-decision-id, and are kept for feedback.ttl_days"
    return UnknownDecision(message, param="decision_id")
