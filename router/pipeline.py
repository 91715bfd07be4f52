"""The way of one request. Read this file first.

    open -> reserve -> cache, or an equal request under way, or one that asks the same -> pace -> estimate
         -> recall -> [ decide -> run the plan -> update the belief ]* -> pace -> record -> render -> cache -> settle

The probe estimates (`difficulty`), the policy decides (`policies`), a strategy runs (`router/strategies`) and spends through a `Run`.
Here they are only put in order, and here it is said what happens when one of them fails: only a backend may fail a valid request.
Probe down: the configured fallback. Verifier down: the best unscored answer, marked. Cache down: a miss. At the ceiling or the
deadline: the best so far, marked `truncated_by`. Who asks was found out before (`door.py`); what their key may spend is in the ask's
purse, from which the run holds the price of each call. What a request knows while it is worked on is in `job.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters.cache import Cache, MemoryCache
from adapters.errors import BackendError
from adapters.types import Delta
from difficulty.belief import Evidence
from difficulty.errors import ProbeUnavailable
from policies.decide import decide, next_draws
from policies.facts import Considered, NothingToRun
from policies.pacing import Pace
from policies.plans import BestOfN, Ensemble, Plan, Single, TreeSearch
from policies.policy import needs
from router.answer_cache import AnswerCache, repeated, whole
from router.earlier import EarlierWork
from router.errors import (
    BudgetSpent,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    OverBudget,
    RouterError,
    UnknownModel,
    from_backend,
    have_instead,
)  # fmt: skip
from router.events import Ending
from router.flights import Flights
from router.job import Action, Job
from router.keys import NOBODY, Key
from router.lessons import Given, Judged
from router.logs import Outages
from router.metrics import Metrics
from router.online import Online
from router.pacing import Pacer
from router.parts import Parts, single_answer_policy
from router.pipeline_types import Ask, ModelCard, Outcome, Sink, taken_back
from router.purse import Cost
from router.record import DecisionLog, block, render
from router.run import OutOfBudget
from router.semantic import SemanticCache
from router.shadow_policies import shown as shown_beside
from router.splits import assigned, shown
from router.strategies import STRATEGIES, Strategy
from router.threads import Threads
from router.tracing import Trace

logger = logging.getLogger("outlay")

AT_WORST = 1e-6
"""Likelihood of what a search brought, if it is right: the worst that its verifier may come to say."""


class Router:
    """One request through all of it; implements `router.pipeline_types.Pipeline`."""

    def __init__(
        self,
        parts: Parts,
        log: DecisionLog | None = None,
        online: Online | None = None,
        metrics: Metrics | None = None,
        memory: Cache | None = None,
        *,
        strategies: Mapping[str, Strategy] = STRATEGIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parts, self.strategies, self.clock = parts, strategies, clock
        self.cache = AnswerCache(parts.cache, parts.cache_ttl_s)
        self.semantic = SemanticCache(self.cache, parts.semantic)
        self.earlier = EarlierWork(parts.cache, parts.cache_ttl_s)
        self.flights = Flights(parts.cache)
        self.pacer = Pacer(parts.tallies)
        self.memory = memory or MemoryCache()
        """Where conversations are kept, without a cache."""
        self.threads = Threads(parts.cache or self.memory, parts.sessions)
        self.outages = Outages(clock)
        self.log, self.online, self.metrics = log or DecisionLog(), online or Online(), metrics or Metrics()

    async def answer(self, ask: Ask, sink: Sink | None = None) -> Outcome:
        """Decide, run, decide again, until the answer is worth sending. A live answer is written to `sink` while it comes."""
        if self.online.tracing is None:
            return await self._answered(ask, sink)
        with self.online.tracing.request(ask) as trace:
            trace.outcome = await self._answered(ask, sink, trace)
            return trace.outcome

    async def _answered(self, ask: Ask, sink: Sink | None, trace: Trace | None = None) -> Outcome:
        job = await self._taken_up(ask)
        job.sink = sink
        if trace is not None:
            trace.take(job)
        try:
            return await ask.purse.paying(lambda: job.first_cost, lambda: job.run.cost, lambda: self._found_or_bought(job))
        finally:
            job.let_go()

    async def _found_or_bought(self, job: Job) -> Outcome:
        if self.cache.cache is None:
            return await self._sent(job, await self._bought(job))
        key = self.cache.key(job)
        job.look = None if job.ask.cache.no_cache else "miss"
        if (hit := await self.cache.get(key, job)) is not None:
            job.look = "hit"
            return await self._sent(job, hit)
        async with self.flights.turn(key, job, lambda: self.cache.get(key, job)) as turn:
            if turn.theirs is not None:
                job.look = "joined"
                return await self._sent(job, repeated(turn.theirs, job))
            outcome = await self.semantic.get(job) or await self._bought(job)
            if outcome.cached:
                job.look = "similar"
            else:
                await self.cache.put(key, job, outcome)
                await self.earlier.keep(job)
                self.semantic.keep(job, outcome)
            turn.mine = outcome if whole(outcome) else None
        return await self._sent(job, outcome)

    async def route(self, ask: Ask) -> Mapping[str, Any]:
        """Decide without generating: the decision block that `answer` would start from."""
        job = await self._taken_up(ask)

        async def looked_at() -> Mapping[str, Any]:
            await self._pace(job)
            await self._estimate(job)
            self._decide(job)
            return self._record(job, self._block(job), "preview")

        try:
            return await ask.purse.paying(Cost, lambda: job.run.cost, looked_at)
        finally:
            job.let_go()

    async def _bought(self, job: Job) -> Outcome:
        """The answer, made for this request."""
        ending: Ending = "failed"
        try:
            await self._pace(job)
            await self._estimate(job)
            await self.earlier.recall(job)
            await self._work(job)
            job.first_token_s = job.run.elapsed_s if job.sink and job.first_token_s is None else job.first_token_s
            ending = "answered"
        except asyncio.CancelledError:
            ending = "left"
            raise
        except RouterError as error:
            error.decision_id = job.ask.id
            raise
        finally:
            try:
                if job.pace is not None:
                    await asyncio.shield(self.pacer.close(job))  # what was bought is counted, also for a client that has gone
            finally:  # and is on record, also for one that goes just now
                decision = self._record(job, self._block(job), ending)
                if failed := job.run.outages:
                    self.outages.tell(job.ask.id, failed)
        return render(job, decision)

    async def _sent(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome, with all that follows from its going out. One from the cache is on record only now."""
        if outcome.cached:
            self._record(job, outcome.decision, "cached")
        await self.threads.note(job.ask, outcome)
        await self.online.answered(job, outcome)
        return outcome

    # --- the stations -------------------------------------------------------------------------------------------------

    async def _taken_up(self, ask: Ask) -> Job:
        """The request with the conversation that it goes on from, and with the backend that it must stay with."""
        job = self._open(await self.threads.continued(ask))
        backend = await self.threads.backend_of(job.ask)
        if backend is not None and any(backend in plan.backends for plan in job.policy.all_plans):
            job.kept = Single(backend=backend)
        return job

    def _open(self, ask: Ask) -> Job:
        """Policy, limits and a run for the request. Raises UnknownModel, or InvalidRequest for a plan that cannot be run here."""
        self._check_forced(ask.plan)
        key = ask.purse.key
        name = f"outlay/{key.policy or self.parts.default_policy}" if ask.model == "auto" else ask.model
        policy, arm = name.removeprefix("outlay/"), None
        if policy in self.parts.splits and policy != name:
            arm = assigned(policy, self.parts.splits[policy], ask)
            policy = arm.policy
        if policy in self.parts.policies and policy != name:
            job = Job(ask, policy, self.parts.policies[policy], self.parts, arm=arm, clock=self.clock)
        elif name in self.parts.backends:
            job = Job(ask, name, single_answer_policy(name), self.parts, bypass=True, clock=self.clock)
        else:
            raise UnknownModel(ask.model, [card.id for card in self.models(key)])
        _check_allowed(job, name)
        return job

    def _check_forced(self, plan: Plan | None) -> None:
        """A plan that the caller names may need what is not there, or what cannot do it."""
        have: Mapping[str, Mapping[str, object]] = {"backend": self.parts.backends, "verifier": self.parts.verifiers}
        for kind, name in needs(plan) if plan else ():
            if name not in have[kind]:
                raise InvalidRequest(f"no {kind} '{name}'; {have_instead(name, have[kind])}", param="outlay.plan")
        if isinstance(plan, TreeSearch) and not self.parts.verifiers[plan.verifier].scores_prefixes:
            raise InvalidRequest(f"a tree search needs a verifier of unfinished answers; '{plan.verifier}' is none", param="outlay.plan")

    async def _pace(self, job: Job) -> None:
        """What a dollar costs now. Raises BudgetSpent where none is left and the policy refuses then, or the caller names a plan."""
        await self.pacer.open(job)
        if job.pace and job.pace.spent and (job.pace.refuses or job.ask.plan):
            raise _budget_spent(job, job.pace)

    async def _estimate(self, job: Job) -> None:
        """What the probe believes; where it fails, the heuristic's belief and the configured fallback plan."""
        if job.bypass:
            return
        job.corrections = self.online.corrections(job.ask)
        await self._probe(job)
        if (instead := self.online.watch.then) is not None:
            job.distrust(instead)

    async def _probe(self, job: Job) -> None:
        if self.parts.probe is None:
            job.believe(job.rule_of_thumb)
            return
        try:
            job.believe(await self.parts.probe.estimate(job.text))
        except ProbeUnavailable as error:
            logger.warning("%s; going on without an estimate", error)
            job.believe_without_probe()

    async def _work(self, job: Job) -> None:
        """Decide and run until the decision is to stop, a limit is reached, or nothing is left to try."""
        while (plan := self._decide(job)) is not None:
            goes_on = await self._act(job, plan, live=job.sink is not None and self._will_be_final(job, plan))
            if job.wordless:
                job.run.truncated_by = None
                backend = next((name for name in plan.backends if name not in job.run.down), plan.backends[0])
                goes_on = await self._act(job, Single(backend=backend), live=True)
            if not goes_on or (job.single_only and job.best is not None and not job.best.choice.withheld):
                return
        while (plan := job.filling()) is not None and await self._act(job, plan, live=False):
            pass

    def _decide(self, job: Job) -> Plan | None:
        """The next plan; None to stop with the best answer so far. Raises a RouterError where there is none and nothing may run."""
        facts = job.facts()
        try:
            decision = decide(job.policy, self.parts.market, facts, job.belief)
        except NothingToRun as nothing:
            if job.best is not None:
                return None
            raise _no_answer(job, str(nothing), nothing.considered) from nothing
        if job.recalled_from and not job.decisions:
            decision = replace(decision, reason=f"goes on from answers of {job.recalled_from}: {decision.reason}")
        if job.bypass and decision.plan is not None:
            decision = replace(decision, reason="the request names the backend")
        job.decisions.append((facts, job.belief, decision))
        if decision.plan is None and job.best is None:
            tried = [Considered(facts.forced)] if facts.forced else decision.considered
            raise _no_answer(job, f"the {job.run.truncated_by} limit was reached before the first answer", tried)
        return decision.plan

    async def _act(self, job: Job, plan: Plan, *, live: bool) -> bool:
        """Run one plan and update the belief. False where the request must end with what it has."""
        run, words = job.run, _Live(job) if live else None
        request = job.request if job.request.seed is None else job.request.but(seed=job.request.seed + len(run.pool))
        run.sink = words
        job.hold(live=live)
        await _progress(job, f"{plan.key} begins")
        run.earlier = job.resumed(plan)
        action = job.begin(plan)
        try:
            run.offer(*run.earlier)
            run.next_draws = lambda _: self._next_draws(job, action)
            action.chosen = await self.strategies[plan.kind](plan, request, run)
        except OutOfBudget as limit:
            action.error = f"{limit.cause} limit"
        except BackendError as error:
            action.error = type(error).__name__
            job.lost(plan, error)
            if words is not None:
                words.take_back()
        finally:
            job.end(action)
        await _progress(job, f"{plan.key}: {action.answers} answers, right with chance {action.chance:.2f}, ${action.cost_usd:.6f}")
        if job.wordless and not live:
            return True
        begun, cut = bool(words and words.begun), action.error.endswith("limit")
        if job.best is None and (begun or run.truncated_by == "deadline"):
            raise _no_answer(job, f"the {run.truncated_by} limit was reached before the first answer", (Considered(plan),))
        return not begun and not (cut and job.best is not None)  # without an answer yet, a cheaper plan may still be paid for

    def _next_draws(self, job: Job, action: Action) -> int:
        drawn = action.before + len(job.run.pool) - action.first
        return next_draws(job.policy, self.parts.market, job.facts(), job.belief_during(action), action.plan, drawn)

    def _will_be_final(self, job: Job, plan: Plan) -> bool:
        """Whether the answer of this plan will be the outcome whatever it says, so that it may be streamed while it comes."""
        if isinstance(plan, Single) and job.single_only:
            return True
        if job.several or (plan.verifier is not None and not isinstance(plan, TreeSearch)) or isinstance(plan, BestOfN | Ensemble):
            return False
        if isinstance(plan, TreeSearch) and (job.best is not None or job.form):
            return False
        if isinstance(plan, Single) and job.best is None and job.first_token_limit_s < float("inf"):
            return True
        facts, seen = job.facts(), [Evidence(plan.backend, if_right=AT_WORST if isinstance(plan, TreeSearch) else 1.0)]
        seen = [] if job.form else seen  # without the form asked for, it will have said nothing
        believed, before = job.belief.after(seen), len(job.belief.evidence)
        if max(believed.chances[before:], default=0.0) < max(believed.chances[:before], default=0.0):
            return False  # an answer that is there already is likelier right, and stays the answer
        try:
            after = replace(facts, done=facts.done | {plan.key})
            return decide(job.policy, self.parts.market, after, believed).plan is None
        except NothingToRun:
            return True

    def _block(self, job: Job) -> dict[str, Any]:
        if job.ask.purse.degraded:
            job.run.degraded.add("ledger")
        if job.best is not None and job.best.lacks:
            job.run.degraded.add(job.best.lacks)
        beside = shown_beside(job) if job.ask.verbose else ()
        return {**block(job), "shadow_policies": beside} if beside else block(job)

    def _record(self, job: Job, decision: Mapping[str, Any], ending: Ending) -> Mapping[str, Any]:
        """Remember a decision for who asks for it, and log it."""
        kept = self.log.add(job.ask.id, decision, job.ask.purse.owner)
        self.metrics.ended(job, decision, ending)
        self.online.decided(job.ask, kept, ending)
        return decision

    # --- everything else ----------------------------------------------------------------------------------------------

    async def decision(self, id: str, owner: str = "") -> Mapping[str, Any] | None:
        """A past decision by its id, while it is remembered; another owner's is none."""
        return self.log.get(id, owner)

    def models(self, key: Key = NOBODY) -> Sequence[ModelCard]:
        """Every name that `Ask.model` may hold, by this key."""
        auto = ModelCard("auto", "policy", f"outlay/{key.policy or self.parts.default_policy}")
        policies = [ModelCard(f"outlay/{name}", "policy", policy.description) for name, policy in self.parts.policies.items()]
        policies += [ModelCard(f"outlay/{name}", "split", shown(shares)) for name, shares in self.parts.splits.items()]
        backends = [ModelCard(name, "backend") for name in self.parts.backends if key.may_buy(name)]
        return [*([auto] if key.may_name(auto.description) else []), *(card for card in (*policies, *backends) if key.may_name(card.id))]

    async def ready(self) -> Mapping[str, str]:
        """Each component with `ok`, or with what is wrong."""
        return {**await self.parts.ready(), **self.online.states()}

    async def feedback(self, given: Given) -> Judged:
        """Count what somebody says of an answer that went out."""
        judged = await self.online.feedback(given)
        self.metrics.judged(judged, given.label)
        return judged

    def count_tokens(self, ask: Ask) -> int:
        """Length of the prompt, as the policy's first backend counts it. Raises UnknownModel."""
        job = self._open(ask)
        try:
            return job.input_tokens
        finally:
            job.let_go()

    def refused(self, error: RouterError) -> None:
        """Count an error that went out instead of an answer."""
        self.metrics.refused(error)

    def measured(self) -> bytes:
        """What was counted and how everything stands, in Prometheus' text format."""
        return self.metrics.shown(self.parts, self.online)

    async def load(self) -> None:
        """Load what is loaded at start-up rather than at the first request."""
        await self.parts.load()
        await self.online.load()

    def owned(self) -> list[object]:
        """All that `aclose` would release."""
        return [*self.online.owned(), *self.parts.owned()]

    async def aclose(self, keep: Sequence[object] = ()) -> None:
        """End what goes on beside requests; release backends, verifiers, probe and cache. Not what is to be kept."""
        await self.online.aclose(keep)
        await self.semantic.kept()
        await self.parts.aclose(keep)


class _Live:
    """A sink that knows whether an answer has begun: what a client has read cannot be taken back. A refusal waits for what follows it."""

    def __init__(self, job: Job) -> None:
        self.job, self.begun, self._held = job, False, list[Delta]()

    async def __call__(self, delta: Delta) -> None:
        assert self.job.sink is not None
        self._held.append(delta)
        if not self.begun and delta.says:
            self.begun, self.job.first_token_s = True, self.job.run.elapsed_s
        while self.begun and self._held:
            await self.job.sink(self._held.pop(0))

    def take_back(self) -> bool:
        """It has not begun, if no word of it has gone out."""
        assert self.job.sink is not None
        if self.begun and not taken_back(self.job.sink):
            return False
        self.begun, self.job.first_token_s = False, None
        self._held.clear()
        return True


async def _progress(job: Job, comment: str) -> None:
    """Tell a client that streams and asks for it (`outlay.verbose`) how the work goes."""
    if job.sink is not None and job.ask.verbose:
        await job.sink(Delta(comment=comment))


def _check_allowed(job: Job, name: str) -> None:
    """A key may be kept to some models, and its money to some backends. Raises Forbidden."""
    key, plan = job.ask.purse.key, job.ask.plan
    if not key.may_name(name):
        raise Forbidden(f"this key may not use model '{name}'; {have_instead(name, key.models or ())}", param="model")
    if barred := next((name for name in plan.backends if name in job.barred), None) if plan else None:
        raise Forbidden(f"this key may not use backend '{barred}'", param="outlay.plan")
    if job.barred and all(job.barred.intersection(plan.backends) for plan in job.policy.all_plans):
        raise Forbidden(f"this key may use no backend of '{name}'", param="model")


def _no_answer(job: Job, reason: str, considered: Sequence[Considered] = ()) -> RouterError:
    """Why there is no answer: a backend's failure, else the limit that let no plan run; of money, how much would have done."""
    if job.backend_error is not None:
        return from_backend(job.backend_error, (error for (kind, _), error in job.run.errors.items() if kind == "backend"))
    if job.ask.plan is not None and not considered:  # refused for what it is, whatever it costs
        return InvalidRequest(reason, param="outlay.plan")
    limits = job.limits
    if job.run.truncated_by == "key" or (" is left" in reason and job.run.ceiling_usd < limits.cost_usd):
        return job.run.purse.why()
    if job.run.truncated_by == "deadline" or job.run.elapsed_s >= limits.latency_s or " s are left" in reason:
        return DeadlineExceeded(f"no answer fits the deadline of {limits.latency_s:g} s: {reason}")
    if job.pace and job.pace.refuses and limits.cost_usd == job.pace.ceiling_usd:
        return _budget_spent(job, job.pace)
    enough_usd = min((job.least_usd(row) for row in considered), default=0.0)
    return OverBudget(reason, limits.cost_usd, enough_usd, asked=limits.cost_usd == job.ask.max_cost_usd)


def _budget_spent(job: Job, pace: Pace) -> BudgetSpent:
    only = "" if pace.refuses else ": only its cheapest plan is run"
    left = f"${max(pace.left_usd, 0):.6f} is left of the ${pace.budget_usd:g} of policy '{job.policy_name}'{only}"
    return BudgetSpent(f"{left}; a new budget begins in {pace.resets_in_s:.0f} s", retry_after_s=pace.resets_in_s)
