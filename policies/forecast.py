"""What a plan is expected to give for a prompt: quality, money and time, from the belief and the curves. Pure.

Every plan is a sequence of stages; a stage draws some answers of one kind, scores them, and the plan ends early once an answer's
chance of being right reaches `stop_at`. Given the latent difficulty the draws are independent, so with h_jk the chance at node j
that a draw's score falls in bin k, and H its sum up to k, the best of n draws falls in bin k with chance H_jk^n - H_j,k-1^n and is
then right with chance q_jk = p_j * P(k | right) / h_jk. Source: the order statistics of best-of-n under an imperfect verifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import hypot, sqrt

import numpy as np

from difficulty.belief import PLAIN, Array, Belief, Channel, logit
from difficulty.curves import PlanFit
from difficulty.votes import Tally, Votes
from policies.facts import Facts, Market
from policies.plans import BestOfN, Plan, Revise, Single, TreeSearch

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
    """Chance at each node that a draw is right, shape [J]."""
    cost_usd: float
    worst_usd: float
    """At the 95th percentile of the output's length."""
    latency_s: float
    worst_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a sequence of stages ends."""

    quality: float
    reached: tuple[float, ...]
    """Chance that each stage is made at all."""
    open: float
    """Chance that no answer reached `stop_at`."""
    open_weights: Array
    """Belief over the nodes in that case, shape [J]."""
    open_right: Array
    """Chance at each node that the best answer is right in that case, shape [J]."""


def stages(plan: Plan, belief: Belief, market: Market, facts: Facts) -> list[Stage]:
    """The stages of a plan, in order."""
    fit = market.curves.plan(plan.key)
    match plan:
        case Single():
            rows = [_draws(plan, belief, market, facts, 1)]
        case BestOfN():
            whole, rest = divmod(plan.n, plan.batch)
            sizes = [plan.batch] * whole + [rest] * (rest > 0)
            of_size = {n: _draws(plan, belief, market, facts, n) for n in set(sizes)}
            rows = [of_size[n] for n in sizes]
        case Revise():
            rows = [_revision(plan, belief, market, facts, fit, i) for i in range(plan.rounds)]
        case TreeSearch():
            rows = [_tree(plan, belief, market, facts, fit)]
    return [_scaled(row, fit) for row in rows]


def outlook(
    rows: Sequence[Stage],
    belief: Belief,
    market: Market,
    plan: Plan,
    stop_at: float,
    so_far: Array | None,
    draw_price: float = 0.0,
    tally: Tally | None = None,
) -> Outlook:
    """How the stages end, given the best answer so far (its chance of being right at each node, [J]; None if there is none).

    A vote ends early by `draw_price`, what a sample costs over what a right answer is worth; `tally` is how it stands, if it is under way.
    """
    if plan.verifier is None:
        return _unscored(rows, belief, market.curves.votes_of(plan.backend), plan, so_far, draw_price, tally)
    weights = belief.weights
    right, wrong = market.curves.scores_of(plan.verifier).likelihoods(sigmoid(belief.logits[plan.backend]))
    best = 0.0 if so_far is None else float(weights @ so_far)
    below = np.ones(right.shape)  # chance that the plan goes on and its best score is in bin k or under
    reached: list[float] = []
    done, ends, keeps, q = np.zeros_like(weights), 0, 0, below
    for row, times in _runs(rows):
        p = row.p[:, None]
        if_right = p * right
        h = if_right + (1 - p) * wrong
        q, top = if_right / h, h.cumsum(axis=1) ** row.draws
        chance = (weights @ if_right) / (weights @ h)
        ends, keeps = max(ends, _first_at_least(chance, max(stop_at, best))), _first_at_least(chance, best)
        goes_on = top[:, ends - 1] if ends else np.zeros_like(weights)
        made = below[:, -1, None] * goes_on[:, None] ** np.arange(times)  # chance that each stage of the run is made, [J, times]
        reached += (weights @ made).tolist()
        done += made.sum(axis=1) * (np.diff(top, axis=1, prepend=0.0) * q)[:, ends:].sum(axis=1)
        below = below * top**times
        below[:, ends:] = below[:, [ends - 1]] if ends else 0.0
    going = below[:, -1]
    kept = (np.diff(below, axis=1, prepend=0.0) * q)[:, keeps:].sum(axis=1)
    if so_far is not None and keeps:
        kept = kept + below[:, keeps - 1] * so_far
    open_chance = float(weights @ going)
    posterior = weights * going / open_chance if open_chance > 0 else weights
    return Outlook(float(weights @ (done + kept)), tuple(reached), open_chance, posterior, np.clip(kept / np.maximum(going, 1e-12), 0, 1))


def _runs(rows: Sequence[Stage]) -> Iterator[tuple[Stage, int]]:
    """Stages that follow each other and are alike, as one with their number: what they give together has a closed form."""
    for _, alike in groupby(rows, key=lambda row: (id(row.p), row.draws)):
        run = list(alike)
        yield run[0], len(run)


def _first_at_least(chance: Array, at: float) -> int:
    """The first bin whose answers are right with this chance; their number, if none is."""
    enough = chance >= at
    return int(np.argmax(enough)) if enough.any() else len(chance)


def expected(rows: Sequence[Stage], view: Outlook) -> tuple[float, float]:
    """(US dollars, seconds) that the stages are expected to take."""
    pairs = list(zip(rows, view.reached, strict=True))
    return sum(r.cost_usd * c for r, c in pairs), sum(r.latency_s * c for r, c in pairs)


def worst(rows: Sequence[Stage]) -> tuple[float, float]:
    """(US dollars, seconds) at the 95th percentile if no stage ends early.

    Lengths of answers to one prompt go together, so dollars add up; seconds of one stage say little of the next, so their excesses over
    the mean add up as independent ones do. A stage that was never timed counts as 0 s.
    """
    timed = [r for r in rows if r.worst_s]
    excess = sqrt(sum((r.worst_s - r.latency_s) ** 2 for r in timed))
    return sum(r.worst_usd for r in rows), sum(r.latency_s for r in timed) + excess


def _unscored(
    rows: Sequence[Stage], belief: Belief, votes: Votes, plan: Plan, so_far: Array | None, price: float, tally: Tally | None
) -> Outlook:
    """Without a verifier only a vote ends early; the new answer is kept if it is likelier right than the one so far."""
    right, reached = rows[0].p, (1.0,) * len(rows)
    if isinstance(plan, BestOfN):
        n = sum(row.draws for row in rows)
        course = votes.course(tally, n, rows[0].draws, price)
        right, reached = _majority(rows[0].p, votes, n) if tally is None else _gained(belief, course.gain), course.reached
    if so_far is not None and belief.weights @ so_far >= belief.weights @ right:
        right = so_far
    return Outlook(float(belief.weights @ right), reached, 1.0, belief.weights, right)


def _majority(p: Array, votes: Votes, n: int) -> Array:
    """Chance at each node that the most frequent of n answers is right; of two it is the first."""
    return p if n < 3 else Channel(*votes.majority(n)).p(logit(p))


def _gained(belief: Belief, gain: float) -> Array:
    """Chance at each node that the leader of the vote under way is right once it has gone on, [J]: what it lacks is made up alike."""
    now = belief.right_by_node(belief.evidence[-1])
    return now + (1 - now) * min(1.0, gain / max(1 - belief.chances[-1], 1e-9))


def _draws(plan: Plan, belief: Belief, market: Market, facts: Facts, n: int, channel: Channel = PLAIN, context: float = 0.0) -> Stage:
    """n answers of the plan's backend, each scored if the plan has a verifier; `context` are input tokens beyond the prompt."""
    read = facts.input_tokens + context
    tokens, speed = market.curves.tokens_of(plan.backend), market.curves.latency_of(plan.backend)
    longest = float(facts.max_tokens or 1e9)
    mean, q95 = min(tokens.mean(facts.input_tokens), longest), min(tokens.q95(facts.input_tokens), longest)
    reads = read * (1 if plan.backend in market.shared_prompt else n)
    score_usd = [market.cost_usd(plan.verifier, n * (facts.input_tokens + out)) if plan.verifier else 0.0 for out in (mean, q95)]
    score_s = market.curves.latency_of(plan.verifier).mean(0) if plan.verifier else 0.0
    worst_s = _worst_s(market, plan.backend, mean, q95) + (_worst_s(market, plan.verifier, 0, 0) if plan.verifier else 0.0)
    return Stage(
        n,
        channel.p(belief.logits[plan.backend]),
        market.cost_usd(plan.backend, reads, n * mean) + score_usd[0],
        market.cost_usd(plan.backend, reads, n * q95) + score_usd[1],
        speed.mean(mean) + score_s,
        worst_s,
    )


def _revision(plan: Revise, belief: Belief, market: Market, facts: Facts, fit: PlanFit, attempt: int) -> Stage:
    """The attempt of that number (from 0): the first is a plain sample, later ones draw through the plan's channel."""
    if attempt == 0:
        return _draws(plan, belief, market, facts, 1)
    out = market.curves.tokens_of(plan.backend).mean(facts.input_tokens)
    context = min(attempt, REVISIONS_IN_CONTEXT) * (out + VERDICT_TOKENS)
    return _draws(plan, belief, market, facts, 1, fit.channel, context)


def _tree(plan: TreeSearch, belief: Belief, market: Market, facts: Facts, fit: PlanFit) -> Stage:
    """The whole search as one draw: about `samples` answers' worth of steps, each prefix read again at every depth."""
    one = _draws(plan, belief, market, facts, plan.samples, fit.channel)
    read = facts.input_tokens + market.curves.tokens_of(plan.backend).mean(facts.input_tokens) / 2
    again = market.cost_usd(plan.backend, (TREE_DEPTH - 1) * plan.beam_width * read)
    again += market.cost_usd(plan.verifier, (TREE_DEPTH - 1) * plan.samples * read)
    waits = market.curves.latency_of(plan.backend).first_s + market.curves.latency_of(plan.verifier).mean(0)
    slow = (1 + plan.lookahead) * TREE_DEPTH * waits
    worst_s = one.worst_s + slow if one.worst_s else 0.0
    return Stage(1, one.p, one.cost_usd + again, one.worst_usd + again, one.latency_s + slow, worst_s)


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
    cost, latency = max(fit.cost, 1.0), max(fit.latency, 1.0)
    return Stage(row.draws, row.p, row.cost_usd * fit.cost, row.worst_usd * cost, row.latency_s * fit.latency, row.worst_s * latency)


def remaining(plan: Plan, rows: Sequence[Stage], drawn: int) -> list[Stage]:
    """The stages that are left after a plan has made `drawn` answers."""
    made = 0
    for i, row in enumerate(rows):
        if made >= drawn:
            return list(rows[i:])
        made += row.draws
    return []
