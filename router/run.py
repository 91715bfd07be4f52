"""A run: the one way in which a strategy spends. It meters, traces and cancels every call to a backend or verifier.

A strategy gets a `Run`, asks it for answers and scores, and offers it the answers that it finished. The run refuses to start
what the ceiling or the deadline does not allow (`OutOfBudget`) and keeps every answer offered, so that whoever stops a
strategy, at whatever point, has the best so far. Which plan to run is not its business (`policies/`), nor is HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Literal, TypeVar

from adapters.errors import AdapterError, BackendError, BackendMalformed, VerifierError
from adapters.types import Attempt, Backend, Call, ChatRequest, Choice, Delta, Features, Verdict, Verifier
from difficulty.frozen import frozen
from policies.plans import Plan
from router.candidates import Candidate
from router.ceiling import Limit, Tariff, Terms, answer_tariff, scoring_usd
from router.ceiling import Limits as Limits  # part of what a run speaks of: imported from here
from router.ceiling import OutOfBudget as OutOfBudget
from router.errors import is_callers_own
from router.pipeline_types import Sink, taken_back
from router.purse import Cost, Cover, Purse
from router.tracing import Trace

DEFAULT_MAX_TOKENS = 1024
"""Output tokens that one answer may have at least where neither request nor backend says: for less money none is started."""

UNSAID_OF_REQUEST, UNSAID_OF_KEY = 1 / 4, 1 / 64
"""Beyond those: as many as these shares pay for of what the request has left and of its key's budget. The rest is for calls beside it."""

T = TypeVar("T")

NO_END = 10**9
"""Where no policy has a say, a plan draws all that it may."""

CUTS = 3
"""How often a call is cut down to what its key has left, while others spend of it too."""

Weigh = Callable[[Sequence[str], Sequence[Candidate]], Mapping[str, float]]
"""What a vote says: what each voter says, and the voters -> by answer, the chance that it is right."""

Failure = OutOfBudget | BackendError
"""Why answers were asked for and none came."""


@frozen
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
    attempts: tuple[Attempt, ...] = ()
    """The requests that the call consists of, where a backend makes several: who was asked, who answered, and what each cost."""
    cached_tokens: int = 0
    """Of the input: what was read from a cache."""
    model: str = ""
    """As the provider names what answered; empty where it does not say."""


@frozen
class Scored:
    """A verifier's word on one answer, calibrated."""

    score: float | None = None
    raw: float | None = None
    steps: tuple[float, ...] = ()
    reason: str = ""
    cluster: str = ""


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
    next_draws: Callable[[Sequence[Candidate]], int] = lambda pool: NO_END
    """How many answers to draw next, after those so far, 0 to end: the policy's word, asked by strategies before each batch."""
    chances: Callable[[Sequence[Candidate]], Sequence[float]] = lambda answers: [answer.score or 0.0 for answer in answers]
    """How likely answers are to be right, by whose they are and by their scores."""
    weigh: Weigh = lambda said, voters: {answer: said.count(answer) / len(said) for answer in said}
    fault: Callable[[Choice], str] = lambda choice: ""
    """Why an answer has not the form that the request asks for; empty if it has."""
    sink: Sink | None = None
    """Where the deltas of a live answer go, when the client is streaming."""
    clock: Callable[[], float] = time.monotonic
    purse: Purse = field(default_factory=Purse)
    """Of the key that pays: what each call may cost is held there first."""
    scope: str = ""
    """Whose texts a local model's cache of prompts may hold for this request."""
    pool: list[Candidate] = field(default_factory=list)
    earlier: tuple[Candidate, ...] = ()
    """Samples that the plan under way goes on from, offered already: an equal request drew them."""
    calls: list[CallRecord] = field(default_factory=list)
    degraded: set[str] = field(default_factory=set)
    """What failed and was done without: `verifier:reward`, ..."""
    errors: dict[tuple[str, str], AdapterError] = field(default_factory=dict)
    """By `backend` or `verifier` and name: its last failure."""
    truncated_by: Limit | None = None
    """The limit for which something was refused, cut or left out; the last one, if both."""
    trace: Trace | None = None
    """Where requests are traced: told of each call, whose server may join."""
    started: float = field(init=False)
    _reserved_usd: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    # --- what a strategy asks -------------------------------------------------------------------------------------

    async def generate(self, backend: str, request: ChatRequest, *, live: bool = False, verifier: str | None = None) -> list[Choice]:
        """`request.n` answers, or as many of them as the ceiling allows and the deadline lets finish; at least one.

        A live answer is streamed to the client while it comes. With `verifier`, no more are bought than can be scored as well.
        Parts cut off at the deadline come (as `cancelled`) only where nothing finished. Raises OutOfBudget or BackendError if nothing came.
        """
        sent, worst = await self._held(lambda: self._within_ceiling(backend, request, verifier))
        try:
            if sent.n == 1 or self.features(backend).native_n:
                choices = await self._generate(backend, sent, live and self.sink is not None)
            else:
                choices = successes(await attempts(self._generate(backend, one, False) for one in _split(sent)))
        finally:
            self._let_go(worst)
        if any(choice.finish_reason == "length" for choice in choices) and (sent.max_tokens or inf) < self._whole(backend, request):
            self.truncated_by = self._scarce
        return [choice for choice in choices if choice.finish_reason != "cancelled"] or choices

    async def score(self, verifier: str, request: ChatRequest, choices: Sequence[Choice]) -> list[Scored]:
        """A calibrated score for each choice, in order.

        The want of a score is no reason to lose an answer, so this does not raise: a verifier that fails leaves them unscored and the
        run marked as degraded; one that the ceiling or the deadline forbids leaves them unscored and the run marked as truncated.
        """
        if not choices:
            return []
        try:
            _, worst = await self._held(lambda: (None, Cost(self._scoring_usd(verifier, request, choices))))
            try:
                verdicts = await self._score(verifier, request, choices)
            finally:
                self._let_go(worst)
        except OutOfBudget:
            return [Scored() for _ in choices]
        except (VerifierError, BackendError):
            self.degraded.add(f"verifier:{verifier}")
            return [Scored() for _ in choices]
        return [_scored(verdict, self.calibrate.get(verifier, float)) for verdict in verdicts]

    def offer(self, *candidates: Candidate) -> None:
        """Put finished answers into the pool: from now on they can be the answer."""
        self.pool.extend(candidates)

    def worst(self, plan: Plan, request: ChatRequest) -> Cost:
        """What the first call of a plan for `request` costs at worst: one to each backend that is asked at once."""
        terms = [self._terms(name, request, plan.verifier) for name in plan.backends]
        costs = [each.cost(request.n, each.longest) for each in terms]
        return Cost(min(sum(cost.usd for cost in costs), self.limits.cost_usd), sum(cost.tokens for cost in costs))

    @property
    def down(self) -> frozenset[str]:
        """Backends and verifiers that failed."""
        if not self.degraded:
            return frozenset()
        marks = (mark.partition(":") for mark in self.degraded)
        return frozenset(name for kind, _, name in marks if kind in ("backend", "verifier"))

    @property
    def outages(self) -> list[tuple[str, str, str]]:
        """Whatever failed by no fault of the request: its kind, its name and the cause. Also what a retry, another deployment or a fallback
        made good."""
        covered = [("backend", one.deployment, one.cause) for call in self.calls for one in call.attempts if one.cause]
        return covered + [(*target, error.brief) for target, error in self.errors.items() if not is_callers_own(error)]

    def features(self, backend: str) -> Features:
        """What the backend can do."""
        return self.backends[backend].features

    # --- what has been used ---------------------------------------------------------------------------------------

    @property
    def spent_usd(self) -> float:
        """US dollars of all calls that ended."""
        return sum([call.cost_usd for call in self.calls])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.started

    @property
    def cost(self) -> Cost:
        """Dollars and tokens of all calls that ended: what the key is to pay."""
        return Cost(self.spent_usd, sum([call.input_tokens + call.output_tokens for call in self.calls]))

    @property
    def ceiling_usd(self) -> float:
        """US dollars that this request may cost in all: by its limits, and by what its key has left."""
        if self.purse.receipt is None:
            return self.limits.cost_usd
        return min(self.limits.cost_usd, self.spent_usd + self.purse.left_usd(self.cost))

    @property
    def _left_usd(self) -> float:
        """What is neither spent nor set aside for calls that are under way."""
        return self.ceiling_usd - self.spent_usd - self._reserved_usd

    async def _held(self, cut: Callable[[], tuple[T, Cost]]) -> tuple[T, Cost]:
        """What `cut` makes of a call with the money there is, and its worst cost, which nobody beside it gets until it is let go."""
        if self.purse.teller is None:  # bottomless: there is nobody to ask
            call, worst = cut()
            self._remaining_s()
            self._reserved_usd += worst.usd
            return call, worst
        for _ in range(CUTS):
            call, worst = cut()
            found = await self._hold(worst, self._remaining_s())
            if found == "held":
                return call, worst
            if found == "refused":
                break
        raise self._out_of("key")

    async def _hold(self, worst: Cost, within_s: float | None) -> Cover:
        """Keep money from the calls beside this one, here before the first await, so that no two see the same, and with the key."""
        self._reserved_usd += worst.usd
        found: Cover = "refused"
        try:
            found = await self.purse.cover(worst, lambda: self.cost, within_s)
        finally:
            if found != "held":
                self._reserved_usd -= worst.usd
        return found

    def _let_go(self, worst: Cost) -> None:
        """The call that it was held for is over."""
        self._reserved_usd -= worst.usd
        self.purse.release(worst)

    def _remaining_s(self) -> float | None:
        if self.limits.latency_s == float("inf"):
            return None
        remaining = self.limits.latency_s - self.elapsed_s
        if remaining <= 0:
            raise self._out_of("deadline")
        return remaining

    def _out_of(self, cause: Limit) -> OutOfBudget:
        self.truncated_by = cause
        return OutOfBudget(cause)

    def _within_ceiling(self, backend: str, request: ChatRequest, verifier: str | None) -> tuple[ChatRequest, Cost]:
        """The request, cut down to what the ceiling allows: fewer answers first, then shorter ones; and its worst cost."""
        terms, left_usd = self._terms(backend, request, verifier), self._left_usd
        n = terms.tariff.affordable(left_usd, request.n, terms.usual)
        if n < 1:
            raise self._out_of(self._scarce)
        if n < request.n:
            self.truncated_by = self._scarce
        longest = max(terms.usual, terms.tariff.longest(left_usd, n, terms.longest))
        bounded = left_usd < float("inf") and terms.tariff.token_usd > 0
        return request.but(n=n, max_tokens=longest if bounded else request.max_tokens), terms.cost(n, longest)

    def _terms(self, backend: str, request: ChatRequest, verifier: str | None) -> Terms:
        target = self.backends[backend]
        tokens_in = target.count_tokens(request)
        tariff = answer_tariff(target, tokens_in, self.verifiers[verifier] if verifier else None)
        said = request.max_tokens or target.features.max_tokens
        longest = _in_context(said or self._unsaid(tariff, request.n, target.features, tokens_in), target.features, tokens_in)
        usual = min(longest, math.ceil(self.typical_tokens.get(backend, said or DEFAULT_MAX_TOKENS)))
        return Terms(tariff, tokens_in, longest, usual)

    def _unsaid(self, tariff: Tariff, n: int, features: Features, tokens_in: int) -> int:
        """How long each of `n` answers may be where nobody says: as long as the model can write, where there is plenty of money for it."""
        room = None if features.max_context is None else features.max_context - 3 * tokens_in // 2  # a prompt's tokens are counted roughly
        able = min((most for most in (features.max_output, room) if most is not None), default=0)
        share_usd = min(UNSAID_OF_REQUEST * self._left_usd, UNSAID_OF_KEY * self.purse.budget_usd)
        return max(min(DEFAULT_MAX_TOKENS, features.max_output or DEFAULT_MAX_TOKENS), tariff.longest(share_usd, n, able))

    def _whole(self, backend: str, request: ChatRequest) -> float:
        """How long an answer would be allowed to be if money were no object; infinity where nobody knows."""
        features = self.features(backend)
        said = request.max_tokens or features.max_tokens or features.max_output
        if said is None and features.max_context is None:
            return inf
        return _in_context(said or NO_END, features, self.backends[backend].count_tokens(request))

    @property
    def _scarce(self) -> Limit:
        """Whose money is the scarcer: the request's, or its key's."""
        return "key" if self.ceiling_usd < self.limits.cost_usd else "cost"

    def least_usd(self, backend: str, request: ChatRequest, verifier: str | None) -> float:
        """The smallest ceiling, in US dollars, under which an answer is started (and scored, with a verifier)."""
        terms = self._terms(backend, request, verifier)
        return terms.tariff.cost_usd(1, terms.usual)

    def _scoring_usd(self, verifier: str, request: ChatRequest, choices: Sequence[Choice]) -> float:
        """The worst cost of the scores, if the ceiling allows it."""
        worst_usd = scoring_usd(self.verifiers[verifier].price, request, choices)
        if worst_usd > max(0.0, self._left_usd):
            raise self._out_of(self._scarce)
        return worst_usd

    # --- one call -------------------------------------------------------------------------------------------------

    async def _generate(self, backend: str, request: ChatRequest, live: bool) -> list[Choice]:
        """One call for `request.n` answers. What it brought before a failure is paid for, so it is used; else the failure is the result."""
        target, held = self.backends[backend], list[Cost]()
        call = Call(target.price, self.scope, may=partial(self._may, request, held))
        try:
            await self._metered("generate", backend, call, request.n, self._answer(target, request, call, live), request)
        except (OutOfBudget, BackendError):
            if not call.choices:
                raise
        finally:
            for worst in held:
                self._let_go(worst)
        self.degraded |= {f"fallback:{one.deployment}" for one in call.attempts if (one.kind, one.outcome) == ("fallback", "ok")}
        return call.choices[: request.n]

    async def _answer(self, target: Backend, request: ChatRequest, call: Call, live: bool) -> None:
        await (self._stream(target, request, call) if live else target.complete(request, call))
        if not call.choices:
            raise BackendMalformed(target.name, "the answer holds no choice")

    async def _may(self, request: ChatRequest, held: list[Cost], backend: Backend, after_s: float, more: bool) -> bool:
        """Whether a call may make a further attempt, by deadline, money and key. The worst cost of `more` of them is held, and noted."""
        if after_s >= self.limits.latency_s - self.elapsed_s or not self.purse.key.may_buy(backend.name):
            return False
        if not more:
            return True
        terms = self._terms(backend.name, request, None)
        worst = terms.cost(request.n, terms.longest)
        if worst.usd > self._left_usd or await self._hold(worst, None) != "held":
            return False
        held.append(worst)
        return True

    async def _stream(self, backend: Backend, request: ChatRequest, call: Call) -> None:
        """Passes the deltas on. What the client has seen when the deadline cuts it off counts as an answer, if only a part."""
        assert self.sink is not None
        sink, seen = self.sink, ""

        def take_back() -> bool:
            nonlocal seen
            taken = taken_back(sink)
            seen = "" if taken else seen
            return taken

        call.take_back = take_back
        try:
            async with _closing(backend.stream(request, call)) as deltas:
                async for delta in deltas:
                    seen += delta.text if delta.index == 0 else ""
                    await sink(delta)
        except asyncio.CancelledError:
            if seen and not call.choices:
                call.choices.append(Choice(seen, "cancelled"))
            raise

    async def _score(self, verifier: str, request: ChatRequest, choices: Sequence[Choice]) -> list[Verdict]:
        call = Call(self.verifiers[verifier].price, self.scope)
        return await self._metered("score", verifier, call, len(choices), self._verdicts(verifier, request, choices, call))

    async def _verdicts(self, verifier: str, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        verdicts = await self.verifiers[verifier].score(request, choices, call)
        if len(verdicts) != len(choices):
            raise VerifierError(verifier, f"{len(verdicts)} verdicts on {len(choices)} answers; one for each is needed")
        return verdicts

    async def _metered(
        self, kind: Literal["generate", "score"], target: str, call: Call, n: int, work: Coroutine[Any, Any, T],
        request: ChatRequest | None = None,
    ) -> T:  # fmt: skip
        """Holds the work of a call to the deadline, and writes it into the trace however it ends, so that no cost is lost."""
        try:
            deadline = asyncio.timeout(self._remaining_s())
        except OutOfBudget:
            work.close()
            raise
        started, outcome, traced = self.elapsed_s, "cancelled", self.trace.enter() if self.trace else None
        try:
            async with deadline:
                result = await work
            outcome = "ok"
            return result
        except Exception as error:
            if deadline.expired():
                raise self._out_of("deadline") from None
            outcome = type(error).__name__
            if isinstance(error, AdapterError):
                self.errors["verifier" if kind == "score" else "backend", target] = error
            raise
        finally:
            if self.trace and traced:
                self.trace.leave(traced, len(self.calls), request, call.choices)
            self.calls.append(
                CallRecord(kind, target, n, call.input_tokens, call.output_tokens, call.cost_usd, started,
                           self.elapsed_s - started, outcome, call.estimated, tuple(call.attempts), call.cached_tokens, call.model)
            )  # fmt: skip


@asynccontextmanager
async def _closing(deltas: AsyncIterator[Delta]) -> AsyncIterator[AsyncIterator[Delta]]:
    """Closes a stream at its end, not when it is collected, so that a backend nobody listens to stops at once."""
    try:
        yield deltas
    finally:
        if isinstance(deltas, AsyncGenerator):
            await deltas.aclose()


async def attempts(calls: Iterable[Coroutine[Any, Any, list[Choice]]]) -> list[list[Choice] | Failure]:
    """Makes all calls at once; one that fails stands as its error among the results and leaves the others alone."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_attempt(call)) for call in calls]
    return [task.result() for task in tasks]


def successes(results: Sequence[list[Choice] | Failure]) -> list[Choice]:
    """The choices of the calls that succeeded; the first failure if none did."""
    choices = [choice for result in results if isinstance(result, list) for choice in result]
    failure = next((result for result in results if isinstance(result, Exception)), None)
    if failure is not None and not choices:
        raise failure
    return choices


async def _attempt(call: Coroutine[Any, Any, list[Choice]]) -> list[Choice] | Failure:
    try:
        return await call
    except (OutOfBudget, BackendError) as failure:
        return failure


def _in_context(longest: int, features: Features, tokens_in: int) -> int:
    """So many output tokens, or as many as fit into the backend's context."""
    return longest if features.max_context is None else max(1, min(longest, features.max_context - tokens_in))


def _scored(verdict: Verdict, calibrate: Callable[[float], float]) -> Scored:
    """The verdict with its score as a chance; a score that is no number is none."""
    if verdict.score is None or not math.isfinite(verdict.score):
        return Scored(None, None, verdict.steps, verdict.reason, verdict.cluster)
    return Scored(min(1.0, max(0.0, calibrate(verdict.score))), verdict.score, verdict.steps, verdict.reason, verdict.cluster)


def _split(request: ChatRequest) -> list[ChatRequest]:
    """`n` requests for one answer each; where there is a seed, with seeds that differ."""
    if request.seed is None:
        return [request.but(n=1)] * request.n
    return [request.but(n=1, seed=request.seed + i) for i in range(request.n)]
