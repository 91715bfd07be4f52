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
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from difficulty.belief import TINY, Array, Belief, Channel, Scores, logit
from difficulty.pooled import vote
from difficulty.votes import Tally, Votes
from policies.facts import Market
from policies.forecast import Stage, draws_in, worst
from policies.plans import BestOfN, Ensemble, Plan, TreeSearch

Ints = NDArray[np.int64]
NEVER = 1e-9
"""Below this chance a case is not looked at."""


@dataclass(frozen=True)
class Outlook:
    """How a plan ends from each of F beliefs."""

    quality: Array
    """Chance that the best answer is right, [F]."""
    cost_usd: Array
    """Expected, [F]."""
    latency_s: Array
    draws: Array
    """Expected answers, [F]."""
    weights: Array
    """The belief before, [F, J]."""
    under: Array
    """Chance at each node that all scores are under the cut, [K + 1, J]."""
    right: Array
    """Chance at each node that the best answer is right if its score is in that bin, [K, J]."""
    ends: Ints
    """The bin from which a score ends the plan, [F]."""
    keeps: Ints
    """The bin under which the best answer so far is kept, [F]."""
    so_far: Array | None = None
    """Chance at each node that it is right, [F, J]."""

    @cached_property
    def open(self) -> Array:
        """Chance that no answer reached `stop_at`, [F]."""
        return np.asarray((self.weights * self.under[self.ends]).sum(axis=1))

    def left_open(self, parts: int, f: int = 0) -> tuple[Array, Array, Array]:
        """The cases, from one of the beliefs, in which no answer reached `stop_at`, apart by how high the best of them scored, in at most
        so many of about the same chance: (that chance [G], the belief then [G, J], chance at each node that the best answer is right)."""
        each = self.weights[f] * (self.under[1:] - self.under[:-1])[: self.ends[f]]
        held = each * self.right[: self.ends[f]]
        if self.so_far is not None:
            held[: self.keeps[f]] = each[: self.keeps[f]] * self.so_far[f]
        share = each.sum(axis=1)
        part = (parts * (share.cumsum() - share / 2) / max(share.sum(), TINY)).astype(np.int64)
        starts = np.flatnonzero(np.diff(part, prepend=-1))
        each, held = np.add.reduceat(each, starts), np.add.reduceat(held, starts)
        share = np.maximum(each.sum(axis=1), TINY)
        likely = share > NEVER
        each, held, share = each[likely], held[likely], share[likely]
        return share, each / share[:, None], np.clip(held / np.maximum(each, TINY), 0, 1)


@dataclass(frozen=True, eq=False)
class Kind:
    """Scored draws that are alike, whatever is believed. Tables by bin are [K, J]; tables by cut [K + 1, J], whose entry k is about scores
    under bin k, are made once for all plans that draw so."""

    p: Array
    """Chance at each node that a draw is right, [J]."""
    if_right: Array
    """Chance of a right answer with that score, by bin."""
    any: Array
    """Chance of that score, by bin."""
    right: Array
    """Chance that the best of a stage is right if it has that score, by bin."""
    _misses: dict[int, Array] = field(default_factory=dict)
    _under: dict[int, Array] = field(default_factory=dict)
    _ends_right: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, p: Array, ease: Array, scores: Scores) -> Kind:
        """Draws that are right with chance `p` on prompts that are so easy (`Belief.ease`), each [J]."""
        right, wrong = scores.likelihoods(ease)
        if_right = p[:, None] * right
        any_ = if_right + (1 - p)[:, None] * wrong
        return cls(p, if_right.T, any_.T, (if_right / any_).T)

    def misses(self, n: int) -> Array:
        """Chance at each node that none of n draws is right, [J]."""
        if n not in self._misses:
            self._misses[n] = (1 - self.p) ** n
        return self._misses[n]

    @cached_property
    def log_under(self) -> Array:
        """Logarithm of the chance that a draw is under the cut."""
        return np.log(np.maximum(_summed(self.any), TINY))

    def under(self, n: int) -> Array:
        """Chance that all of n draws are under the cut."""
        if n not in self._under:
            self._under[n] = np.exp(n * self.log_under)
        return self._under[n]

    def ends_right(self, n: int) -> Array:
        """Chance that the best of n draws reaches the cut and is right."""
        if n not in self._ends_right:
            under = _right_under(self.under(n), self.right)
            self._ends_right[n] = under[-1] - under
        return self._ends_right[n]

    def first(self, weights: Array, at: Array) -> Ints:
        """From F beliefs, for each of the chances `at` [P, F] the first bin whose answers are right with it; K, if none is."""
        chance = (weights @ self.if_right.T) / (weights @ self.any.T)
        enough = chance >= at[..., None]
        return np.asarray(np.where(enough.any(axis=-1), enough.argmax(axis=-1), chance.shape[1]))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Stages of one kind and size that follow each other."""

    stage: Stage
    times: int
    kind: Kind

    @property
    def tables(self) -> tuple[Array, Array, Array]:
        """By cut: chance that a stage is under it, that all are, and that a stage ends with a right answer."""
        draws = self.stage.draws
        return self.kind.under(draws), self.kind.under(draws * self.times), self.kind.ends_right(draws)


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
    grid: str = ""
    """The grid of its tables: its backend's, or the shared one of several."""

    @cached_property
    def worst(self) -> tuple[float, float]:
        """(US dollars, seconds) at the 95th percentile if no stage ends early."""
        return worst(self.rows)

    @cached_property
    def usual_s(self) -> float:
        """Seconds if no stage ends early and each takes what it usually does; what was never timed counts as 0 s."""
        return sum(row.latency_s for row in self.rows if row.worst_s)

    @cached_property
    def kinds(self) -> Sequence[Kind]:
        """Of its stretches, each once, in order."""
        return list(dict.fromkeys(stretch.kind for stretch in self.stretches))

    def first(self, n: int) -> Outline:
        """Its first n stages."""
        if n == len(self.rows):
            return self
        left, kept = n, []
        for stretch in self.stretches:
            if left > 0:
                kept.append(Stretch(stretch.stage, min(left, stretch.times), stretch.kind))
            left -= stretch.times
        return replace(self, rows=self.rows[:n], stretches=kept)


Kinds = dict[tuple[int, str], Kind]
"""By the identity of their chances, and the verifier."""


def outline(plan: Plan, rows: Sequence[Stage], belief: Belief, market: Market, drawn: int = 0, kinds: Kinds | None = None) -> Outline:
    """A plan of these stages, or what is left of it after `drawn` answers; `kinds` are those that other plans have made."""
    if isinstance(plan, Ensemble):
        return _ensemble(plan, rows, belief, market)
    votes, kinds, grid = market.curves.votes_of(plan.backend), {} if kinds is None else kinds, belief.grid(plan.backend)
    if isinstance(plan, TreeSearch):
        (stage,) = rows
        return Outline(plan, rows, [Stretch(stage, 1, _searched(plan, belief, market))], votes, grid=grid)
    if plan.verifier is None:
        seen = belief.evidence[-1] if drawn and belief.evidence else None
        if seen is None or seen.votes is None:
            return Outline(plan, rows, (), votes, grid=grid)
        return Outline(plan, rows, (), votes, seen.votes, belief.right_by_node(seen), grid=grid)
    found = []
    for _, alike in groupby(rows, key=lambda row: (id(row.p), row.draws, row.cost_usd)):
        run = list(alike)
        key = id(run[0].p), plan.verifier
        if key not in kinds:
            scores = market.curves.scores_of(plan.verifier)
            kinds[key] = Kind.of(run[0].p, belief.ease(plan.backend, scores.shared), scores)
        found.append(Stretch(run[0], len(run), kinds[key]))
    return Outline(plan, rows, found, votes, grid=grid)


def _ensemble(plan: Ensemble, rows: Sequence[Stage], belief: Belief, market: Market) -> Outline:
    """One stage: a vote, which a plain majority is also beside a verifier; else the best by the verifier."""
    (stage,), votes = rows, Votes()
    if plan.verifier is None or plan.select == "majority":
        pooled = vote(belief, dict(stage.parts), market.curves.votes_of, weighted=plan.select == "weighted")
        return Outline(plan, rows, (), votes, pooled=pooled)
    return Outline(plan, rows, [Stretch(stage, 1, _mixed(stage, belief, market.curves.scores_of(plan.verifier)))], votes)


def _searched(plan: TreeSearch, belief: Belief, market: Market) -> Kind:
    """A search's answer, as the best of the plain draws that it is worth. The verifier led it, so more of its answers score high, right or
    wrong; but what a score says of one of them is what it says of any."""
    scores = market.curves.scores_of(plan.verifier)
    plain = Kind.of(belief.by_node(plan.backend), belief.ease(plan.backend, scores.shared), scores)
    worth = np.exp(plain.log_under * draws_in(plan, belief, market))
    return replace(plain, _under={0: plain.under(0), 1: worth})


def _mixed(stage: Stage, belief: Belief, scores: Scores) -> Kind:
    """A stage of draws of several backends. Each has the bins of the score for itself, and all these bins are in one order: by the chance
    that is now believed of an answer there. The best answer of all is then the one in the highest bin, as the router chooses it."""
    kinds = {name: Kind.of(belief.by_node(name), belief.ease(name, scores.shared), scores) for name, _ in stage.parts}
    likely = np.concatenate([kind.if_right @ w / (kind.any @ w) for name, kind in kinds.items() for w in [belief.weights_of(name)]])
    order, bins, under, right = np.argsort(likely, kind="stable"), len(likely) // len(kinds), np.ones(1), []
    for number, (name, n) in enumerate(stage.parts):
        mine = order // bins == number
        each = np.zeros((len(likely), len(belief.weights_of(name))))
        each[mine] = kinds[name].any[order[mine] % bins]
        whole = _summed(each) ** n
        under = under * belief.shared(name, whole)
        step, held = whole[1:] - whole[:-1], np.zeros_like(each)
        held[mine] = kinds[name].right[order[mine] % bins]
        right.append(belief.shared(name, step * held) / np.where(mine[:, None], np.maximum(belief.shared(name, step), TINY), 1.0))
    all_right, all_any = (
        np.concatenate([belief.shared(name, getattr(kind, of)) for name, kind in kinds.items()])[order] for of in ("if_right", "any")
    )
    return Kind(stage.p, all_right, all_any, np.sum(right, axis=0), _under={0: np.ones_like(under), stage.draws: under})


def outlooks(plans: Sequence[Outline], weights: Array, so_far: Array | None, stop_at: Array) -> list[Outlook]:
    """Of P plans of one grid whose scores have the same bins, which end at `stop_at` [P, F]; each from F beliefs [F, J], with the best
    answer so far right at each node with chance `so_far` [F, J] (None: there is no answer)."""
    best = np.zeros(len(weights)) if so_far is None else (weights * so_far).sum(axis=1)
    ends, keeps = _cuts(plans, weights, best, np.maximum(stop_at, best))
    going = np.ones((*stop_at.shape, weights.shape[1]))
    done, spent = np.zeros_like(going), np.zeros((3, *stop_at.shape))
    under = np.ones((len(plans), *plans[0].stretches[0].kind.under(0).shape))
    for number in range(max(len(plan.stretches) for plan in plans)):
        have = [p for p, plan in enumerate(plans) if len(plan.stretches) > number]
        stretches, at, this = [plans[p].stretches[number] for p in have], ends[have], np.arange(len(have))[:, None]
        once, whole, right = (np.array(tables) for tables in zip(*(stretch.tables for stretch in stretches), strict=True))
        prices = np.array([(s.stage.cost_usd, s.stage.latency_s, float(s.stage.draws)) for s in stretches])
        made = going[have] * _geometric(once[this, at], whole[this, at], np.array([[[float(s.times)]] for s in stretches]))
        spent[:, have] += prices.T[:, :, None] * (weights * made).sum(axis=-1)
        done[have] += made * right[this, at]
        going[have] *= whole[this, at]
        under[have] *= whole
    this = np.arange(len(plans))[:, None]
    rights = np.array([plan.stretches[-1].kind.right for plan in plans])
    holds = _right_under(under, rights)
    kept = holds[this, ends] - holds[this, keeps]
    if so_far is not None:
        kept += under[this, keeps] * so_far
    quality = (weights * (done + kept)).sum(axis=-1)
    return [
        Outlook(quality[p], spent[0, p], spent[1, p], spent[2, p], weights, under[p], rights[p], ends[p], keeps[p], so_far)
        for p in range(len(plans))
    ]


def outlook(plan: Outline, weights: Array, so_far: Array | None, stop_at: Array, draw_price: float = 0.0) -> Outlook:
    """Of one plan: with a verifier it ends at `stop_at` [F]; a vote by `draw_price`, a sample's over what a right answer is worth."""
    if not plan.stretches:
        return unscored(plan, weights, so_far, draw_price)
    return outlooks([plan], weights, so_far, stop_at[None])[0]


def _cuts(plans: Sequence[Outline], weights: Array, best: Array, stop_at: Array) -> tuple[Ints, Ints]:
    """For each plan and belief: the bin from which a score ends it, in each of its stretches; and the bin from which the last stretch's
    answer is likelier right than the best so far. Each [P, F]."""
    ends, keeps = np.zeros((2, *stop_at.shape), dtype=np.int64)
    for kind in {stretch.kind for plan in plans for stretch in plan.stretches}:
        draws, last = ([kind in kinds for kinds in of] for of in ([p.kinds for p in plans], [p.kinds[-1:] for p in plans]))
        ends[draws] = np.maximum(ends[draws], kind.first(weights, stop_at[draws]))
        keeps[last] = kind.first(weights, best)
    return ends, np.minimum(keeps, ends)


def _summed(each: Array) -> Array:
    """Sums of [..., K, J] by bin as a table by cut [..., K + 1, J]: nothing is under the first."""
    under = np.zeros((*each.shape[:-2], each.shape[-2] + 1, each.shape[-1]))
    np.cumsum(each, axis=-2, out=under[..., 1:, :])
    return under


def _right_under(under: Array, right: Array) -> Array:
    """By cut: chance that the best score is under it and the answer right; from the chance that it is under it."""
    return _summed((under[..., 1:, :] - under[..., :-1, :]) * right)


def _geometric(x: Array, x_to_n: Array, n: Array) -> Array:
    """1 + x + ... + x^(n-1)."""
    near = x > 1 - 1e-9
    return np.asarray(np.where(near, n, (1 - x_to_n) / np.where(near, 1.0, 1 - x)))


def unscored(plan: Outline, weights: Array, so_far: Array | None, price: float) -> Outlook:
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
    one_bin = np.stack([np.zeros(weights.shape[1]), np.ones(weights.shape[1])])
    ends = np.ones(len(weights), dtype=np.int64)
    return Outlook((weights * right).sum(axis=1), usd, seconds, draws, weights, one_bin, one_bin[1:], ends, ends, right)


def _majority(p: Array, votes: Votes, n: int) -> Array:
    """Chance at each node that the most frequent of n answers is right; of two it is the first."""
    return p if n < 3 else Channel(*votes.majority(n)).p(logit(p))
