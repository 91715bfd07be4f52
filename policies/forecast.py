"""What a plan is made of: its stages, with their chances, money and time, from the belief and the curves. Pure.

Every plan is a sequence of stages; a stage draws some answers of one kind and scores them. Here it is said what the stages of each kind
of plan are and what they cost; how they end, given what is believed, is in `outlook.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, inf, log, prod, sqrt

import numpy as np

from difficulty.belief import PLAIN, TINY, Array, Belief, Channel, sigmoid
from difficulty.curves import PlanFit
from policies.batches import unpriced
from policies.facts import Facts, Market
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
    p: Array
    """Chance at each node of its grid that a draw is right; of draws of several backends, at each shared node."""
    cost_usd: float
    worst_usd: float
    """At the 95th percentile of the output's length."""
    latency_s: float
    worst_s: float
    parts: tuple[tuple[str, int], ...] = ()
    """Of draws of several backends: (backend, its draws); `p` is then such that as many draws alike bring a right one as surely."""


def left(plan: Plan, drawn: int) -> int:
    """Answers that a plan may still make after `drawn`; a search, and the draws of an ensemble, are one."""
    match plan:
        case BestOfN():
            return max(plan.n - drawn, 0)
        case Revise():
            return max(plan.rounds - drawn, 0)
    return int(not drawn)


def stages(plan: Plan, belief: Belief, market: Market, facts: Facts, drawn: int = 0, batches: Sequence[int] | None = None) -> list[Stage]:
    """The stages of a plan that are left after `drawn` answers, in order; `batches` are the sizes of those of best-of-n, if chosen."""
    if not left(plan, drawn):
        return []
    fit = market.curves.plan(plan.key)
    match plan:
        case Single():
            rows = [_draws(plan, belief, market, facts, 1)]
        case BestOfN():
            sizes = unpriced(plan, drawn) if batches is None else batches
            of_size = {n: _draws(plan, belief, market, facts, n) for n in set(sizes)}
            rows = [of_size[n] for n in sizes]
        case Revise():
            rows = [_revision(plan, belief, market, facts, fit, i) for i in range(drawn, plan.rounds)]
        case TreeSearch():
            rows = [_tree(plan, belief, market, facts, fit)]
        case Ensemble():
            rows = [_at_once(plan.parts(facts.down), belief, market, facts)]
    return [_scaled(row, fit) for row in rows]


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
    usual, worst_, left_ = (log(max(seconds, TINY)) for seconds in (usual_s, worst_s, left_s))
    return 1 / (1 + exp(-max(-40.0, min(40.0, log(19) * (left_ - usual) / max(worst_ - usual, 1e-3)))))


def _draws(plan: Source, belief: Belief, market: Market, facts: Facts, n: int, channel: Channel = PLAIN, context: float = 0.0) -> Stage:
    """n answers of the plan's backend, each scored if the plan has a verifier; `context` are input tokens beyond the prompt."""
    return Stage(n, belief.by_node(plan.backend, channel), *_spent(plan, market, facts, n, context))


def one_answer(plan: Single, market: Market, facts: Facts) -> tuple[float, float, float, float]:
    """What a plan of one answer costs and takes: US dollars and at worst, seconds and at worst, as the numbers of its one `Stage`."""
    return _corrected(_spent(plan, market, facts, 1), market.curves.plan(plan.key))


def _spent(plan: Source, market: Market, facts: Facts, n: int, context: float = 0.0) -> tuple[float, float, float, float]:
    """US dollars and at worst, seconds and at worst. What a cache spares is expected, but not counted on: it is not in the worst case."""
    read = facts.input_tokens + context
    tokens, speed = market.curves.tokens_of(plan.backend), market.curves.latency_of(plan.backend)
    longest = float(facts.max_tokens or 1e9)
    mean, q95 = min(tokens.mean(facts.input_tokens), longest), min(tokens.q95(facts.input_tokens), longest)
    reads = read * (1 if plan.backend in market.shared_prompt else n)
    cached = min(reads, facts.input_tokens * n) * (plan.backend in facts.read)
    score_usd = [market.cost_usd(plan.verifier, n * (facts.input_tokens + out)) if plan.verifier else 0.0 for out in (mean, q95)]
    if plan.verifier in market.caches:  # it reads the prompt once for all answers
        spared = facts.input_tokens * (n - (plan.verifier not in facts.read))
        score_usd[0] = market.cost_usd(plan.verifier, n * (facts.input_tokens + mean), 0, spared)
    score_s = market.curves.latency_of(plan.verifier).mean(0) if plan.verifier else 0.0
    worst_s = _worst_s(market, plan.backend, mean, q95) + (_worst_s(market, plan.verifier, 0, 0) if plan.verifier else 0.0)
    return (
        market.cost_usd(plan.backend, reads, n * mean, cached) + score_usd[0],
        market.cost_usd(plan.backend, reads, n * q95) + score_usd[1],
        speed.mean(mean) + score_s,
        worst_s,
    )


def _revision(plan: Revise, belief: Belief, market: Market, facts: Facts, fit: PlanFit, attempt: int) -> Stage:
    """The attempt of that number (from 0): the first is a plain sample, later ones draw through the plan's channel."""
    if attempt == 0:
        return _draws(plan, belief, market, facts, 1)
    facts = replace(facts, read=facts.read | ({plan.backend, plan.verifier} & market.caches))
    out = market.curves.tokens_of(plan.backend).mean(facts.input_tokens)
    context = min(attempt, REVISIONS_IN_CONTEXT) * (out + VERDICT_TOKENS)
    return _draws(plan, belief, market, facts, 1, fit.channel, context)


def _tree(plan: TreeSearch, belief: Belief, market: Market, facts: Facts, fit: PlanFit) -> Stage:
    """The whole search as one draw: about `samples` answers' worth of steps, each prefix read again at every depth."""
    one = _draws(plan, belief, market, facts, plan.samples, fit.channel)
    read = facts.input_tokens + market.curves.tokens_of(plan.backend).mean(facts.input_tokens) / 2
    reads = {plan.backend: (TREE_DEPTH - 1) * plan.beam_width * read, plan.verifier: (TREE_DEPTH - 1) * plan.samples * read}
    again = sum(market.cost_usd(name, tokens, 0, tokens * (name in market.caches)) for name, tokens in reads.items())
    at_worst = sum(market.cost_usd(name, tokens) for name, tokens in reads.items())
    waits = market.curves.latency_of(plan.backend).first_s + market.curves.latency_of(plan.verifier).mean(0)
    slow = (1 + plan.lookahead) * TREE_DEPTH * waits
    worst_s = one.worst_s + slow if one.worst_s else 0.0
    return Stage(1, one.p, one.cost_usd + again, one.worst_usd + at_worst, one.latency_s + slow, worst_s)


def draws_in(plan: TreeSearch, belief: Belief, market: Market) -> Array:
    """How many plain draws find a right answer as often as a search does, at each node, [N]."""
    logits = belief.logits[plan.backend]
    return np.asarray(np.logaddexp(0, market.curves.plan(plan.key).channel.logits(logits)) / np.logaddexp(0, logits))


def _at_once(members: Sequence[Member], belief: Belief, market: Market, facts: Facts) -> Stage:
    """The draws of several backends made at the same time: all are paid, and the slowest is waited for."""
    rows = [_draws(member, belief, market, facts, member.n) for member in members]
    n = sum(row.draws for row in rows)
    misses = prod(belief.shared(member.backend, (1 - row.p) ** row.draws) for member, row in zip(members, rows, strict=True))
    p = 1 - misses ** (1 / n)
    usd, worst_usd = sum(row.cost_usd for row in rows), sum(row.worst_usd for row in rows)
    parts = tuple((member.backend, member.n) for member in members)
    return Stage(n, np.asarray(p), usd, worst_usd, max(row.latency_s for row in rows), max(row.worst_s for row in rows), parts)


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
    return Stage(row.draws, row.p, *_corrected((row.cost_usd, row.worst_usd, row.latency_s, row.worst_s), fit), row.parts)


def _corrected(spent: tuple[float, float, float, float], fit: PlanFit) -> tuple[float, float, float, float]:
    usd, worst_usd, seconds, worst_s = spent
    return usd * fit.cost, worst_usd * max(fit.cost, 1.0), seconds * fit.latency, worst_s * max(fit.latency, 1.0)
