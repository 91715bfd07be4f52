"""A run: the one way in which a strategy spends. It meters, traces and cancels every call to a backend or verifier.

A strategy gets a `Run`, asks it for answers and scores, and offers it the answers that it finished. The run refuses to start
what the ceiling or the deadline does not allow (`OutOfBudget`) and keeps every answer offered, so that whoever stops a
strategy, at whatever point, has the best so far. Which plan to run is not its business (`policies/`), nor is HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from adapters.errors import AdapterError, BackendError, VerifierError
from adapters.types import Backend, Call, ChatRequest, Choice, Delta, Features, Price, Verifier
from router.candidates import Candidate

DEFAULT_MAX_TOKENS = 1024
"""Output tokens assumed as the worst case of one answer where neither request nor backend says."""


class OutOfBudget(Exception):
    """The run may not start this call: `cause` is the limit that forbids it. What was offered so far is the answer."""

    def __init__(self, cause: Literal["cost", "deadline"]) -> None:
        super().__init__(f"the {cause} limit of this request is reached")
        self.cause = cause


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One line of the trace: a call to a backend or verifier, as it was paid for."""

    kind: Literal["generate", "score", "estimate"]
    target: str
    n: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    started_s: float
    """Seconds since the run began."""
    latency_s: float
    outcome: str
    """`ok`, `cancelled`, or the name of the error."""
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """A verifier's word on one answer, calibrated."""

    score: float | None = None
    raw: float | None = None
    steps: tuple[float, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of one request. Infinity where there is none."""

    cost_usd: float = float("inf")
    latency_s: float = float("inf")


@dataclass(slots=True)
class Run:
    """The purse, the clock and the notebook of one request."""

    backends: Mapping[str, Backend]
    verifiers: Mapping[str, Verifier]
    limits: Limits = field(default_factory=Limits)
    calibrate: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    """By verifier: raw score to the chance of being right; a verifier without one is taken at its word."""
    typical_tokens: Mapping[str, float] = field(default_factory=dict)
    """By backend: output tokens that an answer rarely exceeds; below it no answer is started."""
    worth_more: Callable[[Sequence[Candidate]], bool] = lambda pool: True
    """Whether, after the answers so far, the next batch is worth its price: the policy's word, asked by strategies between batches."""
    sink: Callable[[Delta], Awaitable[None]] | None = None
    """Where the deltas of a live answer go, when the client is streaming."""
    clock: Callable[[], float] = time.monotonic
    pool: list[Candidate] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    degraded: set[str] = field(default_factory=set)
    """What failed and was done without: `verifier:reward`, ..."""
    started: float = field(init=False)
    _reserved_usd: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    # --- what a strategy asks -------------------------------------------------------------------------------------

    async def generate(self, backend: str, request: ChatRequest, *, live: bool = False) -> list[Choice]:
        """`request.n` answers, or as many of them as the ceiling allows and the deadline lets finish; at least one.

        A live answer is streamed to the client while it comes. Raises OutOfBudget, or BackendError if not one answer came.
        """
        target = self.backends[backend]
        request, worst_usd = self._within_ceiling(target, request)
        if target.features.native_n or request.n == 1:
            return await self._generate(target, request, worst_usd, live and self.sink is not None)
        one = [self._generate(target, r, worst_usd / request.n, False) for r in _split(request)]
        return _successes(await asyncio.gather(*one, return_exceptions=True))

    async def score(self, verifier: str, request: ChatRequest, choices: Sequence[Choice]) -> list[Scored]:
        """A calibrated score for each choice. A verifier that fails leaves them unscored, and the run marked as degraded."""
        target, calibrate = self.verifiers[verifier], self.calibrate.get(verifier, float)
        try:
            with self._metered("score", verifier, target.price, len(choices)) as call:
                async with asyncio.timeout(self._remaining_s()):
                    verdicts = await target.score(request, choices, call)
        except (VerifierError, BackendError):
            self.degraded.add(f"verifier:{verifier}")
            return [Scored() for _ in choices]
        except TimeoutError:
            raise OutOfBudget("deadline") from None
        return [Scored(None if v.score is None else calibrate(v.score), v.score, v.steps, v.reason) for v in verdicts]

    def offer(self, *candidates: Candidate) -> None:
        """Put finished answers into the pool: from now on they can be the answer."""
        self.pool.extend(candidates)

    def features(self, backend: str) -> Features:
        """What the backend can do."""
        return self.backends[backend].features

    # --- what has been used ---------------------------------------------------------------------------------------

    @property
    def spent_usd(self) -> float:
        """US dollars of all calls that ended."""
        return sum(call.cost_usd for call in self.calls)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.started

    def _remaining_s(self) -> float | None:
        if self.limits.latency_s == float("inf"):
            return None
        remaining = self.limits.latency_s - self.elapsed_s
        if remaining <= 0:
            raise OutOfBudget("deadline")
        return remaining

    def _within_ceiling(self, backend: Backend, request: ChatRequest) -> tuple[ChatRequest, float]:
        """The request, cut down to what the ceiling allows: fewer answers first, then shorter ones; and its worst cost, in US dollars."""
        price, tokens_in = backend.price, backend.count_tokens(request)
        left = self.limits.cost_usd - self.spent_usd - self._reserved_usd
        longest = request.max_tokens or DEFAULT_MAX_TOKENS
        needed = min(longest, self.typical_tokens.get(backend.name, longest))
        n = min(request.n, _affordable(price, tokens_in, needed, left, shared=backend.features.native_n))
        if n < 1:
            raise OutOfBudget("cost")
        if left < float("inf") and price.output_usd_per_mtok > 0:
            read = tokens_in if backend.features.native_n else tokens_in * n
            longest = min(longest, max(int(needed), int((left - price.cost_usd(read, 0)) / n / price.output_usd_per_mtok * 1e6)))
            request = request.but(max_tokens=longest)
        return request.but(n=n), price.cost_usd(tokens_in * (1 if backend.features.native_n else n), longest * n)

    # --- one call -------------------------------------------------------------------------------------------------

    async def _generate(self, backend: Backend, request: ChatRequest, worst_usd: float, live: bool) -> list[Choice]:
        self._reserved_usd += worst_usd
        call = Call(backend.price)
        try:
            with self._metered("generate", backend.name, backend.price, request.n, call):
                async with asyncio.timeout(self._remaining_s()):
                    await (self._stream(backend, request, call) if live else backend.complete(request, call))
        except (BackendError, TimeoutError) as error:
            # What was finished before the failure is paid for, so it is used; with nothing finished, the failure is the result.
            if not call.choices:
                raise (OutOfBudget("deadline") if isinstance(error, TimeoutError) else error) from None
        finally:
            self._reserved_usd -= worst_usd
        return call.choices

    async def _stream(self, backend: Backend, request: ChatRequest, call: Call) -> None:
        assert self.sink is not None
        async for delta in backend.stream(request, call):
            await self.sink(delta)

    @contextmanager
    def _metered(self, kind: Literal["generate", "score"], target: str, price: Price, n: int, call: Call | None = None) -> Iterator[Call]:
        """Writes the call into the trace however it ends, so that no cost is lost."""
        call, started, outcome = call or Call(price), self.elapsed_s, "cancelled"
        try:
            yield call
            outcome = "ok"
        except AdapterError as error:
            outcome = type(error).__name__
            raise
        finally:
            self.calls.append(
                CallRecord(kind, target, n, call.input_tokens, call.output_tokens, call.cost_usd, started,
                           self.elapsed_s - started, outcome, call.estimated)
            )  # fmt: skip


def _affordable(price: Price, tokens_in: int, tokens_out: float, left_usd: float, *, shared: bool) -> int:
    """How many answers of `tokens_out` tokens `left_usd` pays for; the prompt is read once if `shared`, else for each."""
    if left_usd == float("inf"):
        return 1 << 30
    once, each = price.cost_usd(tokens_in, 0), price.cost_usd(0, tokens_out)
    if not shared:
        once, each = 0.0, once + each
    if left_usd < once + each:
        return 0
    return int((left_usd - once) / each + 1e-9) if each > 0 else 1 << 30


def _split(request: ChatRequest) -> list[ChatRequest]:
    """`n` requests for one answer each, with seeds that differ."""
    return [request.but(n=1, seed=None if request.seed is None else request.seed + i) for i in range(request.n)]


def _successes(results: Sequence[list[Choice] | BaseException]) -> list[Choice]:
    """The choices of the calls that succeeded; the first failure if none did."""
    choices = [choice for result in results if not isinstance(result, BaseException) for choice in result]
    if not choices:
        raise next(r for r in results if isinstance(r, BaseException))
    return choices
