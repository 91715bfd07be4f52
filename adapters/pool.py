"""Several deployments behind one name, as one backend: the quieter of two is asked, and another where it fails or is slow.

A call makes at most `attempts` requests. What failed is asked again elsewhere at once, or at the same place after a pause (with jitter, or
as its `Retry-After` says) that fits before the deadline. A call slower than 95 % of the last ones may be asked a second time, beside;
the share of such hedges is bounded by a bucket. A stream of which a client has a word is never begun again. Everything that was paid,
also for a request that lost or was cancelled, is in the `Call`, by deployment; nothing more is begun than `Call.may` allows. What a
provider made of a plain answer that was lost or given up cannot be seen, so it is estimated by the answers before it.

Power of two choices: Mitzenmacher, 2001. Hedging: Dean and Barroso, The Tail at Scale, 2013. Time and chance are passed in.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, cast

from adapters.deployment import Deployment, blames_us, cause_of
from adapters.errors import BackendBusy, BackendError, BackendUnavailable
from adapters.options import Resilience
from adapters.types import Attempt, Backend, Call, ChatRequest, Delta, Features, Price

PAUSE_S = 0.25
"""Before the first request that goes to the same place again; twice as long before each further one; times 0.5 to 1.5."""
LONGEST_PAUSE_S, WITH_FALLBACK_S = 10.0, 1.0
"""Who would have to wait longer is told so instead; or is answered by another backend, where there is one."""
REMEMBERED, ENOUGH = 256, 20
"""Latencies that the 95th percentile is taken of, and how many there must be."""
TIMER_S = 0.05
"""A timer may be so much early."""
MOST_SAVED = 10.0
"""Hedges that a quiet time saves up at most."""


@dataclass(eq=False, slots=True)
class _Try:
    """One request to one deployment."""

    deployment: Deployment
    kind: Literal["first", "retry", "hedge"]
    part: Call
    streamed: bool
    started: float
    probe: bool
    latency_s: float | None = None
    deltas: AsyncGenerator[Delta] | None = None
    first: Delta | None = None
    error: BackendError | None = None
    over: bool = False

    async def begin(self, request: ChatRequest, clock: Callable[[], float]) -> None:
        """Until the answer is there, or begins. A failure is the deployment's too."""
        backend = self.deployment.backend
        try:
            if self.streamed:
                self.deltas = cast(AsyncGenerator[Delta], backend.stream(request, self.part))
                self.first = await anext(self.deltas, None)
            else:
                await backend.complete(request, self.part)
            self.latency_s = clock() - self.started
        except BackendError as error:
            self.fail(error, clock())
            raise

    def fail(self, error: BackendError, now: float) -> None:
        """It ended without an answer: from now on it is neither under way, nor what others wait for."""
        self.error = error
        self.latency_s = now - self.started if self.latency_s is None else self.latency_s
        self.deployment.failed(error, now)
        self.deployment.end(self.probe)

    @property
    def unread(self) -> bool:
        """Whether the provider has the prompt, and nothing was seen of its answer: one in one piece, that was lost or given up."""
        part = self.part
        return not self.streamed and part.estimated and part.input_tokens > 0 and not (part.output_tokens or part.choices)

    @property
    def outcome(self) -> str:
        if self.error is not None:
            return type(self.error).__name__
        return "ok" if self.over else "cancelled"


class Pool:
    """`deployments` under the name of the pool; prices are the dearest among them, features those that all have."""

    def __init__(
        self,
        name: str,
        backends: Sequence[Backend],
        options: Resilience,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: random.Random | None = None,
    ) -> None:
        self.name, self.price, self.features = name, _dearest(backends), _common(backends)
        self.deployments = [Deployment(b, allowed_fails=options.allowed_fails, cooldown_s=options.cooldown_s) for b in backends]
        self._options, self._clock, self._sleep, self._chance = options, clock, sleep, chance or random.Random()
        self._latencies: dict[bool, deque[float]] = {streamed: deque(maxlen=REMEMBERED) for streamed in (False, True)}
        self._patience_s = WITH_FALLBACK_S if options.fallbacks and "failure" in options.fallback_on else LONGEST_PAUSE_S
        self._saved = 0.0

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """One answer, of whichever deployment gives it."""
        won, tries = None, self._begin()
        try:
            won = await self._won(request, call, False, tries)
            won.over = True
        finally:
            await self._end(request, call, won, tries)

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, streamed; deployments are changed only while no client has a word."""
        won, broken, tries = None, None, self._begin()
        try:
            while won is None:
                won = await self._won(request, call, True, tries, broken)
                assert won.deltas is not None
                try:
                    if won.first is not None:
                        yield won.first
                    async for delta in won.deltas:
                        yield delta
                    won.over = True
                except BackendError as error:
                    won.fail(error, self._clock())
                    if won.part.choices or not call.take_back():
                        raise
                    won, broken = None, error
        finally:
            await self._end(request, call, won, tries)

    def count_tokens(self, request: ChatRequest) -> int:
        """As the first deployment counts."""
        return self.deployments[0].backend.count_tokens(request)

    async def aclose(self) -> None:
        """Close all deployments."""
        for deployment in self.deployments:
            await deployment.backend.aclose()

    def state(self) -> str:
        """`ok`, or why nothing here can be asked at the moment."""
        rests_s = self._rests_s()
        return "ok" if rests_s <= 0 else f"left alone after failures for another {rests_s:.0f} s"

    def states(self) -> dict[str, str]:
        """By deployment: `ok`, or `resting` after failures."""
        now = self._clock()
        return {one.backend.name: "resting" if one.rests_s(now) > 0 else "ok" for one in self.deployments}

    def _rests_s(self) -> float:
        return min(deployment.rests_s(self._clock()) for deployment in self.deployments)

    # --- one call -----------------------------------------------------------------------------------------------------

    def _begin(self) -> list[_Try]:
        """The requests of a call, none yet; each call saves up a share of a hedge."""
        self._saved = min(MOST_SAVED, self._saved + self._options.hedge)
        return []

    async def _end(self, request: ChatRequest, call: Call, won: _Try | None, tries: list[_Try]) -> None:
        """The call is over, however it ended: all requests that were made are closed and charged."""
        for one in tries:
            await self._close(one, request, call)
            if one.error is not None:
                one.error.__traceback__ = None  # its frames hold the error: a circle, that only the garbage collector would find
        kept = won or next((one for one in reversed(tries) if one.part.choices), None)
        call.choices += kept.part.choices if kept else []

    async def _won(self, request: ChatRequest, call: Call, streamed: bool, tries: list[_Try], broken: BackendError | None = None) -> _Try:
        """The request that answers, or, after one that broke off, the next that does. Raises the last error where none is left."""
        if broken is None:
            started = self._start(self._first(streamed), "first", call, streamed, tries)
        else:
            started = await self._again(broken, call, streamed, tries)
        while True:
            try:
                won = await self._raced(started, request, call, tries)
            except BackendError as error:
                if tries[-1].part.choices:
                    raise  # a part of the answers came, and is paid for
                started = await self._again(error, call, streamed, tries)
            else:
                assert won.latency_s is not None
                won.deployment.answered(won.latency_s, streamed)
                self._latencies[streamed].append(won.latency_s)
                return won

    def _start(
        self, deployment: Deployment, kind: Literal["first", "retry", "hedge"], call: Call, streamed: bool, tries: list[_Try]
    ) -> _Try:
        tries.append(_Try(deployment, kind, Call(deployment.backend.price, call.scope), streamed, self._clock(), deployment.begin()))
        return tries[-1]

    async def _close(self, one: _Try, request: ChatRequest, call: Call) -> None:
        if one.deltas is not None:
            await one.deltas.aclose()
        if one.error is None:
            one.deployment.end(one.probe)
        part, latency_s = one.part, self._clock() - one.started if one.latency_s is None else one.latency_s
        if one.over:
            one.deployment.wrote(part.output_tokens / max(1, len(part.choices)))
        elif one.unread:
            part.output_tokens = _unread_tokens(one, request, inf if one.error else latency_s)
        call.charge(part)
        used = (part.input_tokens, part.output_tokens, part.cost_usd)
        name, cause = one.deployment.backend.name, cause_of(one.error)
        call.attempts.append(Attempt(name, one.kind, *used, latency_s, one.outcome, part.cached_tokens, cause))

    # --- which, and when ----------------------------------------------------------------------------------------------

    def _first(self, streamed: bool) -> Deployment:
        if (deployment := self._quieter(self.deployments, streamed)) is None:
            raise BackendUnavailable(self.name, "left alone after failures", retry_after_s=self._rests_s(), because="left alone")
        return deployment

    def _quieter(self, among: Sequence[Deployment], streamed: bool) -> Deployment | None:
        """Of two drawn by chance, the one where a request waits less; none where all are to be left alone."""
        now = self._clock()
        up = [deployment for deployment in among if deployment.rests_s(now) <= 0]
        if len(up) < 2:
            return up[0] if up else None
        one, other = self._chance.sample(up, 2)
        return other if one.busier_than(other, streamed) else one

    def _untried(self, tries: Sequence[_Try]) -> list[Deployment]:
        return [deployment for deployment in self.deployments if all(one.deployment is not deployment for one in tries)]

    async def _again(self, error: BackendError, call: Call, streamed: bool, tries: list[_Try]) -> _Try:
        """The next request, after its pause. Raises `error` where there is to be none."""
        if len(tries) >= self._options.attempts or not (error.retryable or blames_us(error)):
            raise error
        deployment, pause_s = self._quieter(self._untried(tries), streamed), 0.0
        if deployment is None:
            deployment, pause_s = self._same_place(error, tries)
        paid = any(one.part.cost_usd for one in tries)
        if pause_s > self._patience_s or not await call.may(self, pause_s, paid):
            raise error
        if pause_s:
            await self._sleep(pause_s)
            if deployment.rests_s(self._clock()) > TIMER_S:
                raise error  # others have found it failing meanwhile
        return self._start(deployment, "retry", call, streamed, tries)

    def _same_place(self, error: BackendError, tries: Sequence[_Try]) -> tuple[Deployment, float]:
        """The last deployment once more, and the pause before that. What our own queue turned away, or our key, is not asked twice; nor is
        one that is left alone after failures, which nobody waits for."""
        last = tries[-1].deployment
        if isinstance(error, BackendBusy) or not error.retryable or last.is_open:
            raise error
        pause_s = PAUSE_S * 2 ** (len(tries) - 1) * self._chance.uniform(0.5, 1.5)
        rests_s = last.rests_s(self._clock())
        return last, max(pause_s, rests_s)

    # --- a second request beside --------------------------------------------------------------------------------------

    async def _raced(self, one: _Try, request: ChatRequest, call: Call, tries: list[_Try]) -> _Try:
        """The first of this request, and of a hedge where it is slow, that answers. Raises where all fail."""
        slow_s = self._slow_s(one.streamed) if self._options.hedge else None
        if slow_s is None or len(tries) >= self._options.attempts:
            await one.begin(request, self._clock)
            return one
        return await self._race(one, slow_s, request, call, tries)

    def _slow_s(self, streamed: bool) -> float | None:
        """What 95 % of the last answers took no longer than; None while too few were seen, or no hedge is left."""
        seen = self._latencies[streamed]
        return sorted(seen)[int(len(seen) * 0.95)] if len(seen) >= ENOUGH and self._saved >= 1 else None

    async def _race(self, one: _Try, slow_s: float, request: ChatRequest, call: Call, tries: list[_Try]) -> _Try:
        racing = {asyncio.ensure_future(one.begin(request, self._clock)): one}
        timer = asyncio.ensure_future(self._sleep(slow_s))
        try:
            await asyncio.wait({*racing, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not next(iter(racing)).done() and (hedge := await self._hedge(call, one.streamed, tries)) is not None:
                racing[asyncio.ensure_future(hedge.begin(request, self._clock))] = hedge
            pending = set(racing)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if (won := next((task for task in done if task.exception() is None), None)) is not None:
                    return racing[won]
            error = next(iter(racing)).exception()
            assert error is not None
            raise error
        finally:
            await _cancelled(timer, *racing)

    async def _hedge(self, call: Call, streamed: bool, tries: list[_Try]) -> _Try | None:
        deployment = self._quieter(self._untried(tries) or self.deployments, streamed)
        if self._saved < 1 or deployment is None:
            return None
        self._saved -= 1
        if not await call.may(self, 0.0, True):
            self._saved += 1
            return None
        return self._start(deployment, "hedge", call, streamed, tries)


async def _cancelled(*tasks: asyncio.Future[None]) -> None:
    """End what still runs, and wait until it has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unread_tokens(one: _Try, request: ChatRequest, for_s: float) -> int:
    """What is booked for an answer that nobody read: what it likely came to, and no more than it was allowed."""
    longest = request.max_tokens or one.deployment.backend.features.max_tokens or inf
    return round(request.n * min(longest, one.deployment.unread_tokens(for_s)))


def _dearest(backends: Sequence[Backend]) -> Price:
    prices = [backend.price for backend in backends]
    read, written = max(p.input_usd_per_mtok for p in prices), max(p.output_usd_per_mtok for p in prices)
    cached = [p.cached_input_usd_per_mtok for p in prices if p.cached_input_usd_per_mtok is not None]
    return Price(read, written, max(cached) if len(cached) == len(prices) else None)


def _common(backends: Sequence[Backend]) -> Features:
    """What every deployment can do, with the tightest of the limits that are known."""
    features = [backend.features for backend in backends]
    return Features(
        continues_prefix=all(f.continues_prefix for f in features),
        native_n=all(f.native_n for f in features),
        logprobs=all(f.logprobs for f in features),
        max_context=min((f.max_context for f in features if f.max_context is not None), default=None),
        max_tokens=_longest([f.max_tokens for f in features]),
        caches_prefix=all(f.caches_prefix for f in features),
        max_output=min((f.max_output for f in features if f.max_output is not None), default=None),
    )


def _longest(lengths: Sequence[int | None]) -> int | None:
    """The longest answer that may come unasked; unknown where it is of one of them."""
    known = [length for length in lengths if length is not None]
    return max(known) if len(known) == len(lengths) else None
