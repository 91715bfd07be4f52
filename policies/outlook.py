"""How a plan ends: chance of being right, money and time, for many beliefs at once. Pure.

A plan goes on from stage to stage until an answer's chance of being right reaches `stop_at`: until a score falls in a bin that says so,
in each of its stretches. Given the latent difficulty the draws are
independent, so with h_jk the chance at node j that a draw's score falls in bin k, and H its sum up to k, the best of n draws falls in
bin k with chance H_jk^n - H_j,k-1^n and is then right with chance q_jk = p_j * P(k | right) / h_jk. Source: the order statistics of
best-of-n under an imperfect verifier. Stages that are alike and follow each other (a stretch) have a closed form together.

One decision looks at every plan after every other, so all beliefs that a plan may start from are taken together: F of them, with J nodes
and K bins of the score. What is so at each node, whatever is believed, is in tables that all plans share (`Tables`); a belief is a row of
weights, so what it makes of them is one product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from difficulty.belief import PLAIN, TINY, Array, Belief, Channel, Scores, logit
from difficulty.once import once
from difficulty.pooled import vote
from difficulty.votes import Tally, Votes
from policies.facts import Market
from policies.forecast import Outline, Stage, draws_in
from policies.plans import BestOfN, Ensemble, TreeSearch

Ints = NDArray[np.int64]
T = TypeVar("T")
NEVER = 1e-9
"""Below this chance a case is not looked at."""


# --- tables of what is so at each node, by bin [K, J] and by cut [K + 1, J], whose entry k is about scores under bin k -----------------


@dataclass(frozen=True, eq=False)
class Kind:
    """Scored draws that are alike, whatever is believed."""

    p: Array
    """Chance at each node that a draw is right, [J]."""
    if_right: Array
    """Chance of a right answer with that score, by bin."""
    any: Array
    """Chance of that score, by bin."""
    right: Array
    """Chance that the best of a stage is right if it has that score, by bin."""
    _under: dict[int, Array] = field(default_factory=dict)
    _ends_right: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, p: Array, ease: Array, scores: Scores) -> Kind:
        """Draws that are right with chance `p` on prompts that are so easy (`Belief.ease`), each [J]."""
        right, wrong = scores.likelihoods(ease)
        if_right = p * right.T
        any_ = if_right + (1 - p) * wrong.T
        return cls(p, if_right, any_, if_right / any_)

    def under(self, n: int) -> Array:
        """Chance that all of n draws are under the cut."""
        if n not in self._under:
            if n < 2:
                self._under[n] = _below(len(self.any)) @ self.any if n else np.ones((len(self.any) + 1, len(self.p)))
            else:
                half = self.under(n // 2)
                self._under[n] = half * half * self.under(1) if n % 2 else half * half
        return self._under[n]

    def ends_right(self, n: int) -> Array:
        """Chance that the best of n draws reaches the cut and is right."""
        if n not in self._ends_right:
            under = self.under(n)
            self._ends_right[n] = _above(len(self.any)) @ ((under[1:] - under[:-1]) * self.right)
        return self._ends_right[n]

    def made(self, n: int, times: int) -> Array:
        """Stages of n draws that are made, as expected, of so many that go on while all is under the cut: 1 + x + ... + x^(times - 1)."""
        if times == 1:
            return self.under(0)
        half = times // 2
        whole = self.made(n, half) * (1 + self.under(n * half))
        return whole + self.under(n * (times - 1)) if times % 2 else whole


@lru_cache(maxsize=64)
def _below(bins: int) -> Array:
    """Sums what is by bin to what is under each cut, [K + 1, K]."""
    return np.tri(bins + 1, bins, -1)


@lru_cache(maxsize=64)
def _above(bins: int) -> Array:
    """The same to what reaches each cut."""
    return 1 - _below(bins)


@dataclass(frozen=True, eq=False)
class Point:
    """Where a plan stands at the end of one of its stretches."""

    kind: Kind
    """Of the stretch."""
    draws: int
    """Of each of its stages."""
    under: Array
    """Chance that all scores so far are under the cut."""
    made: Array
    """Stages of the stretch that are made, as expected, if a score from the cut on ends the plan."""
    done: Array
    """Chance that one of these ends it with a right answer."""

    @classmethod
    def after(cls, before: Point | None, kind: Kind, draws: int, times: int) -> Point:
        """So many stages of so many draws later; `before` is None at the start."""
        under, made = kind.under(draws * times), kind.made(draws, times)
        if before is not None:
            under, made = before.under * under, before.under * made
        return cls(kind, draws, under, made, made * kind.ends_right(draws))

    @once
    def misses(self) -> Array:
        """Chance at each node that no draw of a stage is right, [J]."""
        return np.asarray((1 - self.kind.p) ** self.draws)

    @once
    def step(self) -> Array:
        """Chance that the best score is in the bin."""
        return self.under[1:] - self.under[:-1]

    @once
    def held(self) -> Array:
        """The same, and the answer right."""
        return self.step * self.kind.right


@dataclass(frozen=True)
class Way:
    """A plan as it could be run now, with what is so at each node of its grid."""

    outline: Outline
    grid: str
    """Of its tables: its backend's, or the shared one of several."""
    points: Sequence[Point] = ()
    """The ends of its stretches; none without a verifier."""
    votes: Votes = field(default_factory=Votes)
    alone: Array | None = None
    """Without a verifier: chance at each node that its answer is right, or of several backends that their vote is, [J]."""
    tally: Tally | None = None
    """How its vote stands, if it is under way."""
    leader: Array | None = None
    """Chance at each node that the vote's leader is right, [J]."""

    @once
    def end(self) -> Point:
        """Where it stands at its end; what nothing scores is in one bin."""
        if self.alone is None:
            return self.points[-1]
        return Point.after(None, Kind(self.alone, self.alone[None], np.ones((1, len(self.alone))), self.alone[None]), 1, 1)


@dataclass(frozen=True)
class Tables:
    """All that the plans of one decision share, made when it is asked for."""

    belief: Belief
    market: Market
    _kinds: dict[tuple[Any, ...], Kind] = field(default_factory=dict)
    _points: dict[tuple[Point | None, Kind, int, int], Point] = field(default_factory=dict)

    def way(self, outline: Outline, drawn: int = 0) -> Way:
        """A plan, or what is left of it after `drawn` answers."""
        plan, belief, curves = outline.plan, self.belief, self.market.curves
        if plan.verifier is not None and not (isinstance(plan, Ensemble) and plan.select == "majority"):
            grid = "" if isinstance(plan, Ensemble) else belief.grid(plan.backend)
            return Way(outline, grid, self._along(outline, plan.verifier))
        if isinstance(plan, Ensemble):
            [stage] = outline.rows
            return Way(outline, "", alone=vote(belief, dict(stage.parts), curves.votes_of, weighted=plan.select == "weighted"))
        votes, grid, p = curves.votes_of(plan.backend), belief.grid(plan.backend), outline.rows[0].p(belief)
        seen = belief.evidence[-1] if drawn and belief.evidence else None
        if seen is None or seen.votes is None:
            return Way(outline, grid, (), votes, p)
        return Way(outline, grid, (), votes, p, seen.votes, belief.right_by_node(seen))

    def _along(self, outline: Outline, verifier: str) -> Sequence[Point]:
        found, searched = list[Point](), isinstance(outline.plan, TreeSearch)
        for stage, times in outline.stretches:
            key = found[-1] if found else None, self._kind(stage, verifier, searched=searched), stage.draws, times
            if key not in self._points:
                self._points[key] = Point.after(*key)
            found.append(self._points[key])
        return found

    def _kind(self, stage: Stage, verifier: str, *, searched: bool) -> Kind:
        key = stage.backend, stage.channel, stage.parts, verifier, searched
        if key not in self._kinds:
            scores = self.market.curves.scores_of(verifier)
            if searched:
                plain = self._kind(replace(stage, channel=PLAIN), verifier, searched=False)
                self._kinds[key] = _searched(plain, draws_in(stage, self.belief))
            elif stage.parts:
                self._kinds[key] = _mixed(stage, self.belief, scores)
            else:
                self._kinds[key] = Kind.of(stage.p(self.belief), self.belief.ease(stage.backend, scores.shared), scores)
        return self._kinds[key]


def _searched(plain: Kind, draws: Array) -> Kind:
    """A search's answer, as the best of the plain draws that it is worth. The verifier led it, so more of its answers score high, right or
    wrong; but what a score says of one of them is what it says of any."""
    worth = np.exp(np.log(np.maximum(plain.under(1), TINY)) * draws)
    return replace(plain, _under={0: plain.under(0), 1: worth}, _ends_right={})


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
        whole = (_below(len(likely)) @ each) ** n
        under = under * belief.shared(name, whole)
        step, held = np.diff(whole, axis=0), np.zeros_like(each)
        held[mine] = kinds[name].right[order[mine] % bins]
        right.append(belief.shared(name, step * held) / np.where(mine[:, None], np.maximum(belief.shared(name, step), TINY), 1.0))
    all_right, all_any = (
        np.concatenate([belief.shared(name, getattr(kind, of)) for name, kind in kinds.items()])[order] for of in ("if_right", "any")
    )
    return Kind(stage.p(belief), all_right, all_any, np.sum(right, axis=0), _under={0: np.ones_like(under), stage.draws: under})


# --- how plans end from what is believed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outlook:
    """How P plans of one grid, whose scores have as many bins, end from each of F beliefs."""

    ways: Sequence[Way]
    weights: Array
    """The beliefs before, [F, J]."""
    so_far: Array | None
    """Chance at each node that the best answer so far is right, [F, J]; None where there is no answer."""
    ending: Array
    """Chance that the best answer is right, US dollars, seconds and answers, as expected: [4, P, F]."""
    ends: Ints
    """The bin from which a score ends a plan, [P, F]."""
    keeps: Ints
    """The bin under which the best answer so far is kept, [P, F]."""

    @property
    def quality(self) -> Array:
        """[P, F], as those below."""
        return np.asarray(self.ending[0])

    @property
    def cost_usd(self) -> Array:
        """Expected."""
        return np.asarray(self.ending[1])

    @property
    def latency_s(self) -> Array:
        """Expected."""
        return np.asarray(self.ending[2])

    @property
    def draws(self) -> Array:
        """Expected."""
        return np.asarray(self.ending[3])

    def left_open(self, parts: int, plans: Sequence[int] = (0,)) -> tuple[Ints, Array, Array, Array]:
        """The cases, of some of the plans from the first belief, in which no answer reached `stop_at`, apart by how high the best of them
        scored, in at most so many of about the same chance: (place in `plans` [G], that chance [G], the belief then [G, J], chance at each
        node that the best answer is right)."""
        (before, *_), last = self.weights, [self.ways[p].end for p in plans]
        step, held, bins = np.array([point.step for point in last]), np.array([point.held for point in last]), np.arange(len(last[0].step))
        left = bins < self.ends[plans, :1]
        share = np.where(left, step @ before, 0.0)
        part = (parts * (share.cumsum(axis=1) - share / 2) / np.maximum(share.sum(axis=1), TINY)[:, None]).astype(np.int64)
        taken = (left[:, None] & (part[:, None] == np.arange(parts)[:, None])).astype(np.float64)
        each = taken @ step
        if self.so_far is None:
            right = taken @ held
        else:
            kept = taken * (bins < self.keeps[plans, :1])[:, None]
            right = (kept @ step) * self.so_far[0] + (taken - kept) @ held
        case = np.nonzero((share := each @ before) > NEVER)
        each, right, share = each[case] * before, right[case] * before, share[case]
        return case[0], share, each / share[:, None], np.clip(right / np.maximum(each, TINY), 0, 1)


def outlooks(ways: Sequence[Way], weights: Array, so_far: Array | None, stop_at: Array) -> Outlook:
    """Of P scored plans, which end at `stop_at` [P, F]; each from F beliefs [F, J], with the best answer so far right at each node with
    chance `so_far` [F, J] (None: there is no answer)."""
    best = np.zeros(len(weights)) if so_far is None else (weights * so_far).sum(axis=1)
    lengths, each = [len(way.points) for way in ways], np.arange(len(weights))
    points, at = _places([point for way in ways for point in way.points])
    starts, last = np.cumsum([0, *lengths[:-1]]), np.cumsum(lengths) - 1

    kinds, of_kind = _places([point.kind for point in points])
    chance = np.full((len(kinds), len(kinds[0].any) + 1, len(weights)), np.inf)  # none is so high that the last cut is not
    np.divide(_mean([kind.if_right for kind in kinds], weights), _mean([kind.any for kind in kinds], weights), out=chance[:, :-1])
    enough = chance[of_kind[at]] >= np.repeat(np.maximum(stop_at, best), lengths, axis=0)[:, None]
    ends = np.maximum.reduceat(enough.argmax(axis=1), starts)
    keeps = np.minimum((chance >= best).argmax(axis=1)[of_kind[at[last]]], ends)

    low, cut = int(ends.min()), np.repeat(ends - ends.min(), lengths, axis=0)
    made, done = (_mean([getattr(point, of)[low : int(ends.max()) + 1] for point in points], weights) for of in ("made", "done"))
    prices = np.concatenate([way.outline.prices for way in ways], axis=1)[:, :, None]
    place = at[:, None], cut, each
    ending = np.add.reduceat(np.concatenate([done[place][None], prices * made[place]]), starts, axis=1)

    at_end, final = _places([points[i] for i in at[last]])
    holds, final = _below(len(at_end[0].step)) @ _mean([point.held for point in at_end], weights), final[:, None]
    ending[0] += holds[final, ends, each] - holds[final, keeps, each]
    if so_far is not None:
        ending[0] += _mean([point.under for point in at_end], weights * so_far)[final, keeps, each]
    return Outlook(ways, weights, so_far, ending, ends, keeps)


def _places(items: Sequence[T]) -> tuple[list[T], Ints]:
    """Each of them once, and the places of all among these."""
    place = {item: i for i, item in enumerate(dict.fromkeys(items))}
    return list(place), np.array([place[item] for item in items])


def outlook(way: Way, weights: Array, so_far: Array | None, stop_at: Array) -> Outlook:
    """Of one plan, as it is run where only a chance `stop_at` [F] ends it and a vote is held whole."""
    return outlooks([way], weights, so_far, stop_at[None]) if way.points else unscored([way], weights, so_far, [0.0])


def _mean(tables: Sequence[Array], weights: Array) -> Array:
    """Q tables [K, J] as F beliefs see them: [Q, K, F]."""
    found: Array = np.concatenate(tables) @ weights.T
    return found.reshape(len(tables), -1, len(weights))


def unscored(ways: Sequence[Way], weights: Array, so_far: Array | None, prices: Sequence[float]) -> Outlook:
    """Of P plans without a verifier. Only a vote ends early, by a sample's price over what a right answer is worth; the new answer is kept
    if it is likelier right than the one so far."""
    best = np.zeros(len(weights)) if so_far is None else (weights * so_far).sum(axis=1)
    ending = np.empty((4, len(ways), len(weights)))
    for p, (way, price) in enumerate(zip(ways, prices, strict=True)):
        ending[0, p], reached = _voted(way, weights, price)
        ending[1:, p] = (np.array([(row.cost_usd, row.latency_s, float(row.draws)) for row in way.outline.rows]).T @ reached)[:, None]
    keeps = (ending[0] <= best).astype(np.int64)
    ending[0] = np.maximum(ending[0], best)
    return Outlook(ways, weights, so_far, ending, np.ones_like(keeps), keeps)


def _voted(way: Way, weights: Array, price: float) -> tuple[Array, Sequence[float]]:
    """Chance that its answer is right, [F], and that each of its stages is made."""
    assert way.alone is not None, "nothing scores it"
    rows = way.outline.rows
    if not isinstance(way.outline.plan, BestOfN):
        return weights @ way.alone, [1.0] * len(rows)
    n = sum(row.draws for row in rows)
    course = way.votes.course(way.tally, n, rows[0].draws, price)
    if way.leader is None:
        return weights @ _majority(way.alone, way.votes, n), course.reached
    led = weights @ way.leader  # what the leader of a vote under way lacks is made up alike at every node
    return led + (1 - led) * np.minimum(1.0, course.gain / np.maximum(1 - led, 1e-9)), course.reached


def _majority(p: Array, votes: Votes, n: int) -> Array:
    """Chance at each node that the most frequent of n answers is right; of two it is the first."""
    return p if n < 3 else Channel(*votes.majority(n)).p(logit(p))
