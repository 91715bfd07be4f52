"""How a plan ends: chance of being right, money and time, for many beliefs at once. Pure.

A plan goes on from stage to stage until an answer's chance of being right reaches `stop_at`: until a score falls in a bin that says so,
in each of its stretches. Given the latent difficulty the draws are
independent, so with h_jk the chance at node j that a draw's score falls in bin k, and H its sum up to k, the best of n draws falls in
bin k with chance H_jk^n - H_j,k-1^n and is then right with chance q_jk = p_j * P(k | right) / h_jk. Source: the order statistics of
best-of-n under an imperfect verifier. Stages that are alike and follow each other (a `Stretch`) have a closed form together.

One decision looks at every plan after every other, so all beliefs that a plan may start from are taken together: F of them, with J nodes
and K bins of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, groupby
from math import prod

import numpy as np
from numpy.typing import NDArray

from difficulty.belief import Array, Belief, Channel, logit, sigmoid
from difficulty.pooled import vote
from difficulty.votes import Tally, Votes
from policies.facts import Market
from policies.forecast import Stage, worst
from policies.plans import BestOfN, Ensemble, Plan


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a plan ends from each of F beliefs."""

    quality: Array
    """Chance that the best answer is right, [F]."""
    cost_usd: Array
    """Expected, [F]."""
    latency_s: Array
    draws: Array
    """Expected answers, [F]."""
    open: Array
    """Chance that no answer reached `stop_at`, [F]."""
    open_weights: Array
    """Belief over the nodes in that case, [F, J]."""
    open_right: Array
    """Chance at each node that the best answer is right in that case, [F, J]."""


@dataclass(frozen=True)
class Stretch:
    """Like stages that follow each other, with tables that hold whatever is believed.

    Tables by bin are [J, K]. Tables by cut are [K + 1, J]: entry k is about scores from bin k on, or under it.
    """

    stage: Stage
    times: int
    if_right: Array
    """Chance of a right answer with that score, by bin."""
    any: Array
    """Chance of that score, by bin."""

    @cached_property
    def right(self) -> Array:
        """Chance that an answer with that score is right, by bin."""
        return self.if_right / self.any

    @cached_property
    def top(self) -> Array:
        """Chance that the best of a stage's draws has that score or a lower one, by bin."""
        return np.asarray(self.any.cumsum(axis=1) ** self.stage.draws)

    @cached_property
    def goes_on(self) -> Array:
        """Chance that no draw of a stage reaches the cut."""
        return _under(self.top)

    @cached_property
    def ends_right(self) -> Array:
        """Chance that a stage's best reaches the cut and is right."""
        return _right_under(self.top, self.right, from_top=True)


@dataclass(frozen=True)
class Mixed(Stretch):
    """A stage of draws of several backends. Each has the bins of the score for itself, and all these bins are in one order: by the chance
    that is now believed of an answer there. The best answer of all is then the one in the highest bin, as the router chooses it."""

    of: Sequence[int]
    """Whose each bin is: an index into the stage's `parts`."""

    @cached_property
    def top(self) -> Array:
        """Chance that the best of a stage's draws is in that bin or a lower one, by bin."""
        mine = (np.where(np.equal(self.of, m), self.any, 0.0) for m in range(len(self.stage.parts)))
        return np.asarray(prod(any_.cumsum(axis=1) ** n for any_, (_, n) in zip(mine, self.stage.parts, strict=True)))


@dataclass(frozen=True)
class Outline:
    """A plan as it could be run now: its stages, those that are alike together. Without a verifier there are no stretches."""

    plan: Plan
    rows: Sequence[Stage]
    stretches: Sequence[Stretch]
    votes: Votes
    tally: Tally | None = None
    """How its vote stands, if it is under way."""
    leader: Array | None = None
    """Chance at each node that the vote's leader is right, [J]."""
    pooled: Array | None = None
    """The same of the vote of several backends, before it is held."""

    @cached_property
    def worst(self) -> tuple[float, float]:
        """(US dollars, seconds) at the 95th percentile if no stage ends early."""
        return worst(self.rows)

    @cached_property
    def before(self) -> Sequence[Array]:
        """By cut: chance that each stretch is begun, and at last that the plan ends without reaching the cut."""
        tables = accumulate((s.top**s.times for s in self.stretches), np.multiply, initial=np.ones_like(self.stretches[0].top))
        return [_under(table) for table in tables]

    @cached_property
    def holds_right(self) -> Array:
        """By cut: chance that the best of all its answers is under the cut and right, as the last stretch's answers are."""
        whole = self.before[-1][1:].T
        return _right_under(whole, self.stretches[-1].right, from_top=False)

    def first(self, n: int) -> Outline:
        """Its first n stages."""
        if n == len(self.rows):
            return self
        left, kept = n, []
        for stretch in self.stretches:
            if left > 0:
                kept.append(replace(stretch, times=min(left, stretch.times)))
            left -= stretch.times
        return replace(self, rows=self.rows[:n], stretches=kept)

    def helps(self, weights: Array) -> Array:
        """Chance that its last stage brings a right answer, [F]."""
        row = self.rows[-1]
        return np.asarray(1 - weights @ (1 - row.p) ** row.draws)


def outline(plan: Plan, rows: Sequence[Stage], belief: Belief, market: Market, drawn: int = 0) -> Outline:
    """A plan of these stages, or what is left of it after `drawn` answers."""
    if isinstance(plan, Ensemble):
        return _ensemble(plan, rows, belief, market)
    votes = market.curves.votes_of(plan.backend)
    if plan.verifier is None:
        vote = belief.evidence[-1] if drawn and belief.evidence else None
        if vote is None or vote.votes is None:
            return Outline(plan, rows, (), votes)
        return Outline(plan, rows, (), votes, vote.votes, belief.right_by_node(vote))
    if_right, if_wrong = market.curves.scores_of(plan.verifier).likelihoods(sigmoid(belief.logits[plan.backend]))
    found = []
    for _, alike in groupby(rows, key=lambda row: (id(row.p), row.draws, row.cost_usd)):
        run = list(alike)
        p = run[0].p[:, None]
        right = p * if_right
        found.append(Stretch(run[0], len(run), right, right + (1 - p) * if_wrong))
    return Outline(plan, rows, found, votes)


def _ensemble(plan: Ensemble, rows: Sequence[Stage], belief: Belief, market: Market) -> Outline:
    """One stage: a vote, which a plain majority is also beside a verifier; else the best by the verifier."""
    (stage,), votes = rows, Votes()
    if plan.verifier is None or plan.select == "majority":
        pooled = vote(belief, dict(stage.parts), market.curves.votes_of, weighted=plan.select == "weighted")
        return Outline(plan, rows, (), votes, pooled=pooled)
    right, any_ = [], []
    for name, _ in stage.parts:
        p = sigmoid(belief.logits[name])
        if_right, if_wrong = market.curves.scores_of(plan.verifier).likelihoods(p)
        right.append(p[:, None] * if_right)
        any_.append(right[-1] + (1 - p[:, None]) * if_wrong)
    of = np.repeat(np.arange(len(right)), right[0].shape[1])
    all_right, all_any = np.hstack(right), np.hstack(any_)
    order = np.argsort((belief.weights @ all_right) / (belief.weights @ all_any), kind="stable")
    return Outline(plan, rows, [Mixed(stage, 1, all_right[:, order], all_any[:, order], of[order].tolist())], votes)


def outlook(plan: Outline, weights: Array, so_far: Array | None, stop_at: Array, draw_price: float = 0.0) -> Outlook:
    """From F beliefs [F, J], with the best answer so far right at each node with chance `so_far` [F, J] (None: there is no answer).

    A plan with a verifier ends at `stop_at` [F]; a vote by `draw_price`, what a sample costs over what a right answer is worth.
    """
    if not plan.stretches:
        return _unscored(plan, weights, so_far, draw_price)
    best = np.zeros(len(weights)) if so_far is None else (weights * so_far).sum(axis=1)
    chances = [(weights @ stretch.if_right) / (weights @ stretch.any) for stretch in plan.stretches]
    ends = np.max([_first(chance, np.maximum(stop_at, best)) for chance in chances], axis=0)
    keeps = np.minimum(_first(chances[-1], best), ends)
    done, spent = np.zeros_like(weights), np.zeros((3, len(weights)))
    for stretch, before in zip(plan.stretches, plan.before, strict=False):
        stage, made = stretch.stage, before[ends] * _geometric(stretch.goes_on[ends], stretch.times)
        spent += np.multiply.outer([stage.cost_usd, stage.latency_s, float(stage.draws)], (weights * made).sum(axis=1))
        done += made * stretch.ends_right[ends]
    going, kept = plan.before[-1][ends], plan.holds_right[ends] - plan.holds_right[keeps]
    if so_far is not None:
        kept = kept + plan.before[-1][keeps] * so_far
    left_open = (weights * going).sum(axis=1)
    posterior = np.where(left_open[:, None] > 0, weights * going / np.maximum(left_open, 1e-300)[:, None], weights)
    quality = (weights * (done + kept)).sum(axis=1)
    right = np.clip(kept / np.maximum(going, 1e-12), 0, 1)
    return Outlook(quality, spent[0], spent[1], spent[2], left_open, posterior, right)


def _under(table: Array) -> Array:
    """A cumulative table by bin [J, K] as one by cut [K + 1, J]."""
    return np.vstack([np.zeros(len(table)), table.T])


def _right_under(cumulative: Array, right: Array, *, from_top: bool) -> Array:
    """By cut: chance that the best score is under it (from the top: not under it) and the answer right."""
    each = cumulative * right
    each[:, 1:] -= cumulative[:, :-1] * right[:, 1:]
    under = _under(each.cumsum(axis=1))
    return under[-1] - under if from_top else under


def _first(chance: Array, at: Array) -> NDArray[np.int64]:
    """For each belief the first bin whose answers are right with this chance; their number, if none is. [F, K], [F] -> [F]."""
    enough = chance >= at[:, None]
    return np.asarray(np.where(enough.any(axis=1), enough.argmax(axis=1), chance.shape[1]))


def _geometric(x: Array, n: int) -> Array:
    """1 + x + ... + x^(n-1)."""
    if n == 1:
        return np.ones_like(x)
    near = x > 1 - 1e-9
    return np.asarray(np.where(near, float(n), (1 - x**n) / np.where(near, 1.0, 1 - x)))


def _unscored(plan: Outline, weights: Array, so_far: Array | None, price: float) -> Outlook:
    """Without a verifier only a vote ends early; the new answer is kept if it is likelier right than the one so far."""
    alone = plan.rows[0].p if plan.pooled is None else plan.pooled
    right, reached = np.broadcast_to(alone, weights.shape), np.ones(len(plan.rows))
    if isinstance(plan.plan, BestOfN):
        n = sum(row.draws for row in plan.rows)
        course = plan.votes.course(plan.tally, n, plan.rows[0].draws, price)
        reached = np.array(course.reached)
        right = np.broadcast_to(_majority(plan.rows[0].p, plan.votes, n), weights.shape)
        if plan.leader is not None:  # what the leader of a vote under way lacks is made up alike at every node
            lacks = 1 - (weights @ plan.leader)[:, None]
            right = plan.leader + (1 - plan.leader) * np.minimum(1.0, course.gain / np.maximum(lacks, 1e-9))
    if so_far is not None:
        better = (weights * right).sum(axis=1) > (weights * so_far).sum(axis=1)
        right = np.where(better[:, None], right, so_far)
    spent = np.array([[row.cost_usd, row.latency_s, float(row.draws)] for row in plan.rows]).T @ reached
    usd, seconds, draws = np.repeat(spent[:, None], len(weights), axis=1)
    return Outlook((weights * right).sum(axis=1), usd, seconds, draws, np.ones(len(weights)), weights, right)


def _majority(p: Array, votes: Votes, n: int) -> Array:
    """Chance at each node that the most frequent of n answers is right; of two it is the first."""
    return p if n < 3 else Channel(*votes.majority(n)).p(logit(p))
