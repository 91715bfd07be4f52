"""What a plan is made of: its stages, with their money and time, from prices and curves. Pure.

Every plan is a sequence of stages; a stage draws some answers of one kind and scores them. Here it is said what the stages of each kind
of plan are and what they cost, whatever is believed of the prompt, so that it is worked out once for prompts of one size; how they end,
given what is believed, is in `outlook.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, groupby, takewhile
from math import exp, hypot, inf, log, prod, sqrt

import numpy as np

from difficulty.belief import PLAIN, TINY, Array, Belief, Channel, sigmoid
from difficulty.curves import PlanFit
from difficulty.once import once
from policies.batches import unpriced
from policies.facts import Facts, Market, Size
from policies.plans import BestOfN, Ensemble, Member, Plan, Revise, Single, Source, TreeSearch

VERDICT_TOKENS = 8
"""Input tokens that a verifier's verdict adds to a revision's context."""
REVISIONS_IN_CONTEXT = 3
TREE_DEPTH = 4.0
"""Steps of an answer assumed for a tree search; what a log shows corrects it by `PlanFit.cost` and `.latency`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Some draws of one kind, with what they cost and take if they are made."""

    draws: int
    backend: str
    """Who makes them; empty where several backends do."""
    channel: Channel
    cost_usd: float
    worst_usd: float
    """At the 95th percentile of the output's length."""
    latency_s: float
    worst_s: float
    parts: tuple[tuple[str, int], ...] = ()
    """Of draws of several backends: (backend, its draws)."""

    def p(self, belief: Belief) -> Array:
        """Chance at each node of its grid that a draw is right; of draws of several backends, at each shared node, such that as many draws
        alike bring a right one as surely."""
        if not self.parts:
            return belief.by_node(self.backend, self.channel)
        misses = prod(belief.shared(name, (1 - belief.by_node(name)) ** n) for name, n in self.parts)
        return np.asarray(1 - misses ** (1 / self.draws))


@dataclass(frozen=True)
class Outline:
    """A plan as it could be run now."""

    plan: Plan
    rows: tuple[Stage, ...]

    @once
    def stretches(self) -> Sequence[tuple[Stage, int]]:
        """Its stages, those that are alike and follow each other together: (stage, times)."""
        return [(stage, len(list(alike))) for stage, alike in groupby(self.rows)]

    @once
    def beginnings(self) -> Sequence[Outline]:
        """As far as it is looked at, for it may be given up after any stage: 1, 4, 16, ... stages, and all."""
        shorter = takewhile(lambda n: n < len(self.rows), (4**k for k in count()))
        return [*(Outline(self.plan, self.rows[:n]) for n in shorter), self]

    @once
    def worst(self) -> tuple[float, float]:
        """(US dollars, seconds) at the 95th percentile if no stage ends early."""
        return worst(self.rows)

    @once
    def usual_s(self) -> float:
        """Seconds if no stage ends early and each takes what it usually does; what was never timed counts as 0 s."""
        return sum(row.latency_s for row in self.rows if row.worst_s)

    @once
    def prices(self) -> Array:
        """US dollars, seconds and draws of one stage of each stretch, [3, S]."""
        return np.array([(stage.cost_usd, stage.latency_s, float(stage.draws)) for stage, _ in self.stretches]).T


def left(plan: Plan, drawn: int) -> int:
    """Answers that a plan may still make after `drawn`; a search, and the draws of an ensemble, are one."""
    match plan:
        case BestOfN():
            return max(plan.n - drawn, 0)
        case Revise():
            return max(plan.rounds - drawn, 0)
    return int(not drawn)


def outline(plan: Plan, market: Market, facts: Facts, drawn: int = 0, batches: Sequence[int] | None = None) -> Outline:
    """What is left of a plan after `drawn` answers; `batches` are the sizes of those of best-of-n, if chosen."""
    return _outline(plan.key, plan, market, facts.size, facts.down, drawn, batches if batches is None else tuple(batches))


@lru_cache(maxsize=1024)
def _outline(
    key: str, plan: Plan, market: Market, size: Size, down: frozenset[str], drawn: int, batches: tuple[int, ...] | None
) -> Outline:
    """Kept by the key as well: ensembles of the same members are equal, in whatever order these stand."""
    fit = market.curves.plan(key)
    match plan:
        case Single():
            rows = [_draws(plan, market, size, 1)]
        case BestOfN():
            sizes, again = unpriced(plan, drawn) if batches is None else batches, _read_by(plan, market, size)
            later = {n: _draws(plan, market, again, n) for n in set(sizes)}
            rows = [later[n] if i or drawn else _draws(plan, market, size, n) for i, n in enumerate(sizes)]
        case Revise():
            return Outline(plan, tuple(_revision(plan, market, size, fit, i) for i in range(drawn, plan.rounds)))
        case TreeSearch():
            rows = [_tree(plan, market, size, fit)]
        case Ensemble():
            rows = [_at_once(plan.parts(down), market, size)]
    return Outline(plan, tuple(_scaled(row, fit) for row in rows) if left(plan, drawn) else ())


def stages(plan: Plan, market: Market, facts: Facts, drawn: int = 0, batches: Sequence[int] | None = None) -> tuple[Stage, ...]:
    """Those of the `outline`, in order."""
    return outline(plan, market, facts, drawn, batches).rows


def worst(rows: Sequence[Stage]) -> tuple[float, float]:
    """(US dollars, seconds) at the 95th percentile if no stage ends early.

    Lengths of answers to one prompt go together, so dollars add up; seconds of one stage say little of the next, so their excesses over
    the mean add up as independent ones do. A stage that was never timed counts as 0 s.
    """
    timed = [r for r in rows if r.worst_s]
    excess = sqrt(sum((r.worst_s - r.latency_s) ** 2 for r in timed))
    return sum(r.worst_usd for r in rows), sum(r.latency_s for r in timed) + excess


def in_time(usual_s: Array | float, worst_s: Array | float, left_s: float) -> Array:
    """Chance that what usually takes `usual_s`, and at the 95th percentile `worst_s`, is done within `left_s`: log-logistic, whose tail is
    heavier than a log-normal's, as that of calls over a network is."""
    usual, worst_, left_ = (np.log(np.maximum(seconds, TINY)) for seconds in (usual_s, worst_s, left_s))
    return sigmoid(log(19) * (left_ - usual) / np.maximum(worst_ - usual, 1e-3))


def chance_in_time(usual_s: float, worst_s: float, left_s: float) -> float:
    """`in_time` of one step, in plain numbers; one that was never timed is in time."""
    if not worst_s or left_s == inf:
        return 1.0
    usual = log(max(usual_s, TINY))
    ahead = log(19) * (log(max(left_s, TINY)) - usual) / max(log(max(worst_s, TINY)) - usual, 1e-3)
    return 1 / (1 + exp(-max(-40.0, min(40.0, ahead))))


def _draws(plan: Source, market: Market, size: Size, n: int, channel: Channel = PLAIN, context: float = 0.0, known: float = 0.0) -> Stage:
    """n answers of the plan's backend, each scored if the plan has a verifier; `context` are input tokens beyond the prompt, `known` those
    of them that were read before."""
    return Stage(n, plan.backend, channel, *_spent(plan.backend, plan.verifier, market, size, n, context, known))


def _read_by(plan: Source, market: Market, size: Size) -> Size:
    """The same prompt once the plan's backend and verifier have read it: those who keep what they read have it in a cache."""
    return size._replace(read=size.read | {name for name in (plan.backend, plan.verifier) if name in market.caches})


def one_answer(plan: Single, market: Market, size: Size) -> tuple[float, float, float, float]:
    """What a plan of one answer costs and takes: US dollars and at worst, seconds and at worst, as the numbers of its one `Stage`."""
    return _one_answer(plan.key, plan.backend, plan.verifier, market, size)


@lru_cache(maxsize=4096)
def _one_answer(key: str, backend: str, verifier: str | None, market: Market, size: Size) -> tuple[float, float, float, float]:
    return _corrected(_spent(backend, verifier, market, size, 1), market.curves.plan(key))


@lru_cache(maxsize=4096)
def _spent(
    backend: str, verifier: str | None, market: Market, size: Size, n: int, context: float = 0.0, known: float = 0.0
) -> tuple[float, float, float, float]:
    """US dollars and at worst, seconds and at worst. What a cache spares is expected, but not counted on: it is not in the worst case."""
    read = size.input_tokens + context
    tokens, speed = market.curves.tokens_of(backend), market.curves.latency_of(backend)
    longest = float(size.max_tokens or 1e9)
    mean, q95 = min(tokens.mean(size.input_tokens), longest), min(tokens.q95(size.input_tokens), longest)
    reads = read * (1 if backend in market.shared_prompt else n)
    cached = min(reads, (size.input_tokens + known) * n) * (backend in size.read)
    score_usd = [market.cost_usd(verifier, n * (size.input_tokens + out)) if verifier else 0.0 for out in (mean, q95)]
    if verifier in market.caches:  # it reads the prompt once for all answers
        spared = size.input_tokens * (n - (verifier not in size.read))
        score_usd[0] = market.cost_usd(verifier, n * (size.input_tokens + mean), 0, spared)
    score_s = market.curves.latency_of(verifier).mean(0) if verifier else 0.0
    worst_s = _worst_s(market, backend, mean, q95)
    if verifier and worst_s:  # a verifier that was never timed is taken to be as quick as usual
        worst_s += _worst_s(market, verifier, 0, 0) or score_s
    return (
        market.cost_usd(backend, reads, n * mean, cached) + score_usd[0],
        market.cost_usd(backend, reads, n * q95) + score_usd[1],
        speed.mean(mean) + score_s,
        worst_s,
    )


def _revision(plan: Revise, market: Market, size: Size, fit: PlanFit, attempt: int) -> Stage:
    """The attempt of that number (from 0): the first is a plain sample at its price, what was seen of the plan is of the later ones."""
    if attempt == 0:
        return _draws(plan, market, size, 1)
    each = market.curves.tokens_of(plan.backend).mean(size.input_tokens) + VERDICT_TOKENS
    in_context = min(attempt, REVISIONS_IN_CONTEXT)
    known = (attempt - 1) * each if attempt == in_context else 0.0  # beyond that the oldest is left out, and all after it is read anew
    return _scaled(_draws(plan, market, _read_by(plan, market, size), 1, fit.channel, in_context * each, known), fit)


def _tree(plan: TreeSearch, market: Market, size: Size, fit: PlanFit) -> Stage:
    """The whole search as one draw: about `samples` answers' worth of steps, each prefix read again at every depth."""
    one = _draws(plan, market, size, plan.samples, fit.channel)
    read = size.input_tokens + market.curves.tokens_of(plan.backend).mean(size.input_tokens) / 2
    reads = {plan.backend: (TREE_DEPTH - 1) * plan.beam_width * read, plan.verifier: (TREE_DEPTH - 1) * plan.samples * read}
    again = sum(market.cost_usd(name, tokens, 0, tokens * (name in market.caches)) for name, tokens in reads.items())
    at_worst = sum(market.cost_usd(name, tokens) for name, tokens in reads.items())
    waits = market.curves.latency_of(plan.backend).first_s + market.curves.latency_of(plan.verifier).mean(0)
    slow = (1 + plan.lookahead) * TREE_DEPTH * waits
    worst_s = one.worst_s + slow if one.worst_s else 0.0
    return replace(
        one, draws=1, cost_usd=one.cost_usd + again, worst_usd=one.worst_usd + at_worst, latency_s=one.latency_s + slow, worst_s=worst_s
    )


def draws_in(search: Stage, belief: Belief) -> Array:
    """How many plain draws find a right answer as often as a search does, at each node, [N]."""
    logits = belief.logits[search.backend]
    return np.asarray(np.logaddexp(0, search.channel.logits(logits)) / np.logaddexp(0, logits))


def _at_once(members: Sequence[Member], market: Market, size: Size) -> Stage:
    """The draws of several backends made at the same time: all are paid, and the slowest is waited for."""
    rows = [_draws(member, market, size, member.n) for member in members]
    usd, worst_usd = sum(row.cost_usd for row in rows), sum(row.worst_usd for row in rows)
    parts = tuple((member.backend, member.n) for member in members)
    n, seconds, worst_s = sum(row.draws for row in rows), max(row.latency_s for row in rows), max(row.worst_s for row in rows)
    return Stage(n, "", PLAIN, usd, worst_usd, seconds, worst_s if all(row.worst_s for row in rows) else 0.0, parts)


def _worst_s(market: Market, name: str, mean_tokens: float, q95_tokens: float) -> float:
    """95th percentile of a call. One never measured counts as 0 s: it is not refused for that, and the run holds the deadline.

    A long answer and a slow minute seldom meet: what each adds to the mean is added as independent excesses are.
    """
    if name not in market.curves.latency:
        return 0.0
    speed = market.curves.latency[name]
    usual = speed.mean(mean_tokens)
    return usual + hypot(speed.mean(q95_tokens) - usual, speed.q95(mean_tokens) - usual)


def _scaled(row: Stage, fit: PlanFit) -> Stage:
    """The stage, corrected by what a log showed of the plan."""
    if (fit.cost, fit.latency) == (1.0, 1.0):
        return row
    usd, worst_usd, seconds, worst_s = _corrected((row.cost_usd, row.worst_usd, row.latency_s, row.worst_s), fit)
    return replace(row, cost_usd=usd, worst_usd=worst_usd, latency_s=seconds, worst_s=worst_s)


def _corrected(spent: tuple[float, float, float, float], fit: PlanFit) -> tuple[float, float, float, float]:
    usd, worst_usd, seconds, worst_s = spent
    return usd * fit.cost, worst_usd * max(fit.cost, 1.0), seconds * fit.latency, worst_s * max(fit.latency, 1.0)
