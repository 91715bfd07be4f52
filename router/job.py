"""What one request knows while it is worked on: its policy and limits, the belief, the actions so far, and the best answer.

Mutable, and owned by one task; the `Run` inside meters all that is spent. Decisions read frozen snapshots of it (`facts`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from adapters.errors import BackendError
from adapters.form import Check, form_of
from adapters.types import ChatRequest
from difficulty import pooled
from difficulty.belief import PLAIN, Belief, Channel, Evidence, Success
from difficulty.conversation import conversation_text
from difficulty.once import once
from difficulty.probe import Estimate
from policies.facts import Considered, Decision, Facts, ForcedBy
from policies.pacing import Pace
from policies.plans import BestOfN, Ensemble, Plan, Revise, Single, TreeSearch
from policies.policy import Optimiser, Policy
from router.candidates import Candidate, best, distinct
from router.parts import Parts
from router.pipeline_types import Ask, Sink
from router.purse import Cost
from router.run import CallRecord, Limits, Run
from router.splits import Arm
from router.strategies.answers import whole
from router.strategies.best_of_n import tally
from router.strategies.ensemble import answers as said_by
from router.strategies.ensemble import lead

Look = Literal["hit", "joined", "similar", "continued", "miss"]
"""An equal request's answer; that of one under way; that of a question that asks the same; an equal request's samples; nothing."""

FILLS = 2
"""So often is asked once more for what is missing of several distinct choices; a prompt may not have so many answers."""


@dataclass(slots=True)
class Action:
    """One plan as it was run."""

    plan: Plan
    first: int
    """Index in the run's pool of its first answer."""
    started_s: float
    spent_before_usd: float
    cost_usd: float = 0.0
    latency_s: float = 0.0
    before: int = 0
    """Answers of the plan when it was left and is now taken up again."""
    answers: int = 0
    chosen: Candidate | None = None
    chance: float = 0.0
    error: str = ""
    drawn: tuple[Candidate, ...] = ()
    """Its answers, once it is over."""
    evidence: tuple[Evidence, ...] = ()
    """What they say."""

    @property
    def exhausted(self) -> bool:
        """Whether it ran to its end; samples that were given up, or cut off, can be gone on with."""
        return not self.error and not (isinstance(self.plan, BestOfN) and self.before + self.answers < self.plan.n)


@dataclass
class Job:
    """One request under way."""

    ask: Ask
    policy_name: str
    policy: Policy
    parts: Parts
    bypass: bool = False
    """The request names a backend: no estimate, no choice."""
    arm: Arm | None = None
    """Where the request names a split: what it was assigned to."""
    clock: Callable[[], float] = time.monotonic
    corrections: Mapping[str, float] = field(default_factory=dict)
    """By backend: what feedback says to add to its logit."""
    estimate: Estimate | None = None
    belief: Belief = field(default_factory=lambda: Belief({}))
    decisions: list[tuple[Facts, Belief, Decision]] = field(default_factory=list)
    """Each decision with what it was made from, so that it can be made again."""
    actions: list[Action] = field(default_factory=list)
    recalled: list[Action] = field(default_factory=list)
    """What an equal request of another effort drew: evidence and answers, already paid for."""
    recalled_from: str = ""
    """That request's decision id."""
    recalled_since: float = 0.0
    """When the first of it was answered, in seconds since the epoch."""
    best: Candidate | None = None
    fallback: Single | None = None
    kept: Single | None = None
    """One answer of the backend that the conversation is with, where it must stay there."""
    sink: Sink | None = None
    """Where the answer is streamed to, if it is."""
    first_token_s: float | None = None
    """When a stream's first word came, since the request began."""
    look: Look | None = None
    """What came of looking into the cache; None where it was not asked."""
    fills: int = 0
    """Batches drawn only because several choices are asked for."""
    pace: Pace | None = None
    """Where the policy's budget over time stands, if it has one."""
    backend_error: BackendError | None = None
    limits: Limits = field(init=False)
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        limits, mine, ask, curves = self.policy.limits, self.ask.purse.key.limits, self.ask, self.parts.market.curves
        usd, seconds = (limits.cost_usd, mine.cost_usd, ask.max_cost_usd), (limits.latency_s, mine.latency_s, ask.deadline_s)
        self.limits = Limits(_tighter(*usd), _tighter(*seconds))
        self.run = Run(
            self.parts.backends,
            self.parts.verifiers,
            self.limits,
            calibrate={name: scores.calibrated for name, scores in curves.scores.items()},
            clock=self.clock,
            chances=self.chances_of,
            weigh=self.weighed,
            fault=self.form or (lambda choice: ""),
            purse=ask.purse,
            scope=repr((ask.purse.owner, ask.cache.namespace)),  # so that no namespace reads like another key's
            typical_tokens={name: tokens.q95(self.input_tokens) for name, tokens in curves.tokens.items()},
        )
        if self.bypass:
            self.belief = Belief.prior({name: 0.0 for plan in self.policy.all_plans for name in plan.backends}, {}, source="none")

    def let_go(self) -> None:
        """The request is over. What refers back to it goes, or all of it would stay until the garbage collector comes round to it."""
        del self.run.chances, self.run.weigh, self.run.next_draws
        self.run.sink = self.backend_error = None
        self.run.errors.clear()

    @property
    def first_cost(self) -> Cost:
        """The worst case of the likely first call: held while the request is counted, so that one answer asks the ledger only twice."""
        return self.run.worst(self.ask.plan or self.policy.all_plans[0], self.request)

    @once
    def barred(self) -> frozenset[str]:
        """Backends whose answers the key may not buy."""
        key = self.ask.purse.key
        return frozenset() if key.backends is None else frozenset(name for name in self.parts.backends if not key.may_buy(name))

    @property
    def request(self) -> ChatRequest:
        """The chat request to be answered."""
        return self.ask.request

    @once
    def form(self) -> Check | None:
        """What the request's own schema says of an answer; None where it has none."""
        return form_of(self.request)

    @once
    def text(self) -> str:
        """What is classified: the conversation, not its last line."""
        return conversation_text(self.request.messages)

    @once
    def input_tokens(self) -> int:
        """Length of the prompt, as the policy's first backend counts it."""
        return self.parts.backends[self.policy.all_plans[0].backends[0]].count_tokens(self.request)

    @once
    def draw(self) -> float | None:
        """Where the policy explores: the number, drawn once, by which it does."""
        return random.random() if isinstance(self.policy, Optimiser) and self.policy.explore else None

    @once
    def digest(self) -> str:
        """Of the policy, with prices and curves."""
        return self.parts.digest(self.policy)

    @once
    def rule_of_thumb(self) -> Estimate:
        """The heuristic's estimate: for backends that the probe does not know, and where there is no probe."""
        return self.parts.heuristic.estimate([self.text])[0]

    @property
    def cost_multiplier(self) -> float:
        """What a dollar costs in this request, in dollars."""
        return self.pace.multiplier if self.pace else 1.0

    # --- before the first call ----------------------------------------------------------------------------------------

    def believe(self, estimate: Estimate) -> None:
        """Take the probe's estimate; a backend that it does not know gets the heuristic's. What the probe read is charged."""
        self.estimate = estimate
        known = self.parts.market.curves.success if estimate.source == "probe" else {}
        success = {name: known.get(name, Success()) for name in estimate.features}
        tempering = self.parts.market.curves.tempering
        by_rule = {} if self.parts.backends.keys() <= estimate.features.keys() else self.rule_of_thumb.features
        self.belief = Belief.prior({**by_rule, **estimate.features}, success, estimate.source, tempering).shifted(self.corrections)
        if estimate.tokens_read:
            cost = self.parts.probe_price.cost_usd(estimate.tokens_read, 0)
            now = self.run.elapsed_s
            self.run.calls.append(CallRecord("estimate", "probe", 1, estimate.tokens_read, 0, cost, 0.0, now, "ok"))

    def distrust(self, backend: str) -> None:
        """What is believed was shown to be off: the backend that the configuration names for this case answers."""
        self.run.degraded.add("drift")
        self._fall_back(backend)

    def believe_without_probe(self) -> None:
        """The probe is down: rules of thumb, and the backend that the configuration names for this case."""
        self.believe(self.rule_of_thumb)
        self.run.degraded.add("probe")
        if self.parts.when_unavailable is not None:
            self._fall_back(self.parts.when_unavailable)

    def paced(self, pace: Pace, shared: bool) -> None:
        """Take the multiplier of the policy's budget over time; where the budget is gone, or counted by this process alone, be marked.
        A policy with a certificate moves among the accepted multipliers only."""
        held = self.parts.accepted.get(self.policy_name)
        self.pace = replace(pace, multiplier=held.held(pace.multiplier)) if held else pace
        self.limits = replace(self.limits, cost_usd=min(self.limits.cost_usd, pace.ceiling_usd))
        self.run.limits = replace(self.run.limits, cost_usd=self.limits.cost_usd)
        self.run.degraded |= {name for name, so in (("budget", pace.spent), ("pacing", not shared)) if so}

    def _fall_back(self, backend: str) -> None:
        if backend not in self.barred:
            self.fallback = Single(backend=backend)

    @property
    def may_recall(self) -> bool:
        """Whether earlier work may stand for this request's: not where it has to be one fresh answer of one backend."""
        return not (self.bypass or self.single_only or self.kept or self.fallback)

    def recall(self, id: str, since: float, actions: Sequence[Action]) -> None:
        """Go on from what was drawn before, as far as this policy (or the plan that the caller names) could have drawn it."""
        for action in actions:
            if self._could_draw(action.plan):
                self.recalled_from, self.recalled_since, self.look = id, since, "continued"
                action.first = len(self.run.pool)
                self.run.offer(*action.drawn)
                self._conclude(action)
                self.recalled.append(action)

    def resumed(self, plan: Plan) -> tuple[Candidate, ...]:
        """The samples that the plan goes on from. They become its own, so that they are not counted twice."""
        action = next((a for a in self.recalled if _same_draws(a.plan, plan)), None)
        if action is None:
            return ()
        self.recalled.remove(action)
        self.run.pool[:] = [answer for answer in self.run.pool if not any(answer is taken for taken in action.drawn)]
        evidence = [row for row in self.belief.evidence if not any(row is taken for taken in action.evidence)]
        self.belief = self.belief.before.after(evidence)
        return action.drawn

    def _could_draw(self, plan: Plan) -> bool:
        if self.ask.plan is not None:
            return plan == self.ask.plan or _same_draws(plan, self.ask.plan)
        return any((plan.backends, plan.verifier) == (mine.backends, mine.verifier) for mine in self.policy.all_plans)

    # --- what a decision is made from ---------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """The request as it stands now."""
        run, request, ask, begun = self.run, self.request, self.ask, self._begun
        by: ForcedBy = "request" if ask.plan else "session" if self.kept else "fallback" if self.fallback else "request"
        ran = {key for a in self.actions for key in a.plan.covers} | {a.plan.key for a in self.recalled if a.exhausted}
        caches = self.parts.market.caches
        return Facts(
            input_tokens=self.input_tokens,
            max_tokens=request.max_tokens,
            tags=dict(ask.tags),
            single_only=self.single_only,
            greedy=request.temperature == 0,
            spent_usd=run.spent_usd,
            elapsed_s=run.elapsed_s,
            ceiling_usd=run.ceiling_usd,
            deadline_s=self.limits.latency_s,
            first_token_s=self.first_token_limit_s,
            cost_multiplier=self.cost_multiplier,
            quality_floor=self._quality_floor,
            done=frozenset(ran - begun.keys()),
            begun=begun,
            down=run.down,
            read=caches and frozenset([call.target for call in run.calls if call.outcome == "ok"]) & caches,
            barred=self.barred,
            forced=ask.plan or self.kept or self.fallback,
            forced_by=by,
            draw=self.draw,
        )

    @property
    def _quality_floor(self) -> float:
        return max(self.policy.limits.quality_floor or 0.0, self.ask.purse.key.limits.quality_floor or 0.0, self.ask.min_quality or 0.0)

    @property
    def _begun(self) -> dict[str, int]:
        """Plans that were left for another, and their answers. A vote is over when it is left: its answers are evidence together."""
        last = {a.plan.key: a for a in self.actions if isinstance(a.plan, BestOfN) and a.plan.verifier and a.plan.select == "best"}
        return {key: a.before + a.answers for key, a in last.items() if a.answers and not a.exhausted and not a.error}

    @once
    def single_only(self) -> bool:
        """No harm by default: tool calls and content that is not text are answered once, and so are several choices."""
        fields = self.request.extra.keys() & {"tools", "functions", "audio", "modalities"}
        parts = (m.get("content") for m in self.request.messages)
        other = any(isinstance(content, list) and any(part.get("type") != "text" for part in content) for content in parts)
        return bool(fields) or other or self.request.messages[-1].get("role") == "tool"

    @property
    def several(self) -> bool:
        """Several choices are asked for: the best distinct ones of all that the policy buys, rather than the samples of one call."""
        return self.request.n > 1 and not self.single_only and not self.bypass

    @property
    def choices(self) -> tuple[Candidate, ...]:
        """What goes out, best first: `request.n` at most. Empty while there is no answer."""
        if self.best is None:
            return ()
        if self.several:
            pattern = next((action.plan.answer for action in self.actions if isinstance(action.plan, BestOfN | Ensemble)), None)
            sound = [c for c in self.run.pool if not c.fault] or self.run.pool  # one with a fault goes out only where all have one
            return distinct(self.best, sound, pattern)[: self.request.n]
        others = [c for c in self.run.pool if c is not self.best and c.backend == self.best.backend]
        return (self.best, *others[: self.request.n - 1])

    def filling(self) -> Plan | None:
        """The samples to be drawn beyond what the policy bought, where fewer distinct choices came of it than are asked for."""
        missing = self.request.n - sum(not choice.fault for choice in self.choices)
        if self.best is None or not self.several or missing <= 0 or self.fills == FILLS or self.request.temperature == 0:
            return None
        self.fills += 1
        verifier = None if self.best.verifier in self.run.down else self.best.verifier
        return BestOfN(backend=self.best.backend, n=missing, batch=missing, verifier=verifier, select="best" if verifier else "majority")

    @property
    def first_token_limit_s(self) -> float:
        """When a stream has to have its first word; infinity where nobody says, and where nobody streams."""
        mine = self.ask.purse.key.limits.first_token_s
        return inf if self.sink is None else _tighter(self.policy.limits.first_token_s, mine, self.ask.first_token_s)

    @property
    def patience_s(self) -> float:
        """How long it may wait for another's answer: to its deadline, or for half of the time to its first word."""
        return min(self.limits.latency_s, self.first_token_limit_s / 2) - self.run.elapsed_s

    def hold(self, *, live: bool) -> None:
        """Sets the run's time for the next plan: one whose words go out while they come need not be complete when the first one must be."""
        latest_s = self.limits.latency_s if live else min(self.limits.latency_s, self.first_token_limit_s)
        if latest_s != self.run.limits.latency_s:
            self.run.limits = replace(self.run.limits, latency_s=latest_s)

    @property
    def wordless(self) -> bool:
        """Whether the time for the first word is over, the request's is not, and there is nothing to send."""
        now_s = self.run.elapsed_s
        return self.best is None and self.run.truncated_by == "deadline" and self.first_token_limit_s <= now_s < self.limits.latency_s

    # --- while a plan runs --------------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> Action:
        """A plan is run from now on."""
        action = Action(plan, len(self.run.pool), self.run.elapsed_s, self.run.spent_usd, before=self._begun.get(plan.key, 0))
        self.actions.append(action)
        return action

    def end(self, action: Action) -> None:
        """It is over, however it ended: what it did is noted, the belief and the best answer are brought up to date."""
        action.cost_usd = self.run.spent_usd - action.spent_before_usd
        action.latency_s = self.run.elapsed_s - action.started_s
        self._conclude(action)

    def belief_during(self, action: Action) -> Belief:
        """The belief with the answers that a plan has made so far."""
        return self.belief.after(self.evidence(action.plan, self.run.pool[action.first :]))

    def evidence(self, plan: Plan, answers: Sequence[Candidate]) -> list[Evidence]:
        """What answers of one plan say. One that repeats another's text is no news, nor is an unscored one that repeats a scored one of
        any plan; of a search, only its best answer is.

        An answer without the form that the request asks for, or one that was withheld, is none, so it says nothing: the policy goes on
        as if it had not come.
        """
        if isinstance(plan, BestOfN) and answers and all(answer.score is None for answer in answers):
            return self._vote(plan, answers)
        if isinstance(plan, Ensemble) and answers and all(answer.score is None for answer in answers):
            return self._pooled(plan, answers)
        known = {answer.text for answer in self.run.pool if answer.score is not None}
        news = [answer for answer in answers if not answer.fault and (answer.score is not None or answer.text not in known)]
        fresh = list({answer.text: answer for answer in reversed(news)}.values())[::-1]
        if isinstance(plan, TreeSearch) and fresh:
            fresh = [max(fresh, key=lambda answer: answer.score or 0.0)]
        return [self._evidence(answer, self._channel(plan, answer is answers[0])) for answer in fresh]

    def _vote(self, plan: BestOfN, answers: Sequence[Candidate]) -> list[Evidence]:
        """What samples that nothing scored say: which answer leads the vote among them, and by how much."""
        if all(answer.fault for answer in answers):
            return []
        votes = tally(plan, answers)
        return [Evidence(plan.backend, PLAIN, *self.parts.market.curves.votes_of(plan.backend).likelihoods(votes), votes=votes)]

    def _pooled(self, plan: Ensemble, answers: Sequence[Candidate]) -> list[Evidence]:
        """The same of samples of several backends: the leader with the chance that all voters give it, as an answer of the backend that
        most of its votes are of."""
        voters = whole(answers)
        if all(voter.fault for voter in voters):
            return []
        said = said_by(plan, voters)
        won = lead(plan, said, voters, self.weighed)
        backend = Counter(voter.backend for voter, answer in zip(voters, said, strict=True) if answer == won.answer).most_common(1)[0][0]
        before = self.belief.p_correct(backend)
        return [Evidence(backend, PLAIN, won.chance / before, (1 - won.chance) / (1 - before))]

    def weighed(self, said: Sequence[str], voters: Sequence[Candidate]) -> Mapping[str, float]:
        """Chance that each answer of a vote is right. Scores of one text are one score."""
        first = {voter.text: voter for voter in reversed(voters)}
        seen = [self._evidence(voter, PLAIN) if first[voter.text] is voter else Evidence(voter.backend) for voter in voters]
        return pooled.chances(self.belief, said, seen, self.parts.market.curves.votes_of)

    def chances_of(self, answers: Sequence[Candidate]) -> list[float]:
        """Chance that each of some new, plain samples is right, all of them seen."""
        belief = self.belief.after(self._evidence(answer, PLAIN) for answer in {answer.text: answer for answer in answers}.values())
        return [belief.chance(self._evidence(answer, PLAIN)) for answer in answers]

    def least_usd(self, row: Considered) -> float:
        """The smallest ceiling under which a plan would have been run: what the policy reckons with, and what a call needs."""
        call_usd = min(self.run.least_usd(name, self.request, row.plan.verifier) for name in row.plan.backends)
        return self.run.spent_usd + max(row.cost_q95_usd, call_usd)

    def lost(self, plan: Plan, error: BackendError) -> None:
        """The backend of a plan failed, or all of them: it is not asked again for this request."""
        self.backend_error = error
        self.run.degraded |= {f"backend:{name}" for name in plan.backends}
        self.fallback = self.kept = None

    def _conclude(self, action: Action) -> None:
        """Update the belief with the answers of a plan that ended, and keep the likelier right of its answer and the one before."""
        answers = self.run.pool[action.first :]
        action.answers, action.drawn = len(answers), tuple(answers)
        if not answers:
            return
        chosen = action.chosen = action.chosen or best(answers)
        assert chosen is not None
        before, evidence = len(self.belief.evidence), self.evidence(action.plan, answers)
        action.evidence = tuple(evidence)
        self.belief = self.belief.after(evidence)
        action.chance = max(self.belief.chances[before:], default=0.0)
        chance_before = max(self.belief.chances[:before], default=0.0)
        if self.best is None or _standing(chosen, action.chance) >= _standing(self.best, chance_before):
            self.best = chosen

    def chance_of(self, answer: Candidate, channel: Channel) -> float:
        """Chance that an answer of the pool is right, by all that was seen."""
        return self.belief.chance(self._evidence(answer, channel))

    def _channel(self, plan: Plan, first: bool) -> Channel:
        """How an answer of this plan was drawn: the first attempt of a revision is a plain sample, and of a search's answer its score says
        what it says of one."""
        revised = isinstance(plan, Revise) and not first
        return self.parts.market.curves.plan(plan.key).channel if revised else PLAIN

    def _evidence(self, answer: Candidate, channel: Channel) -> Evidence:
        if answer.raw_score is not None and answer.verifier is not None:
            # A verifier of beginnings scores an answer cut off by its length as one that may yet end well; it will not.
            raw = 0.0 if answer.choice.finish_reason == "length" else answer.raw_score
            return self.parts.market.curves.scores_of(answer.verifier).seen(answer.backend, raw, channel)
        return Evidence(answer.backend, channel)


def _standing(answer: Candidate, chance: float) -> tuple[bool, bool, float]:
    """What makes one answer better than another's of an earlier plan: that it is one, that it says something, and its chance."""
    return not answer.fault, not answer.choice.withheld, chance


def _same_draws(one: Plan, other: Plan) -> bool:
    """Whether samples of one plan may be the first of the other's: all but how many there are to be is equal."""
    return isinstance(one, BestOfN) and isinstance(other, BestOfN) and one.model_copy(update={"n": other.n}) == other


def _tighter(*limits: float | None) -> float:
    """The smallest of the limits that are set; infinity if none is."""
    return min((limit for limit in limits if limit is not None), default=float("inf"))
