"""The optimiser: the feasible plan of the highest utility, V * quality - multiplier * cost - value of a second * seconds. Pure.

The multiplier is 1 but where a budget over time is scarce. A floor on quality is reached first, if it can be; then utility counts.

A plan is worth what it gives and what may be bought after it, where it leaves the prompt open; so a cheap try is chosen for the
later option to go up. Hard limits come first: the worst case (95th percentile) must fit under the ceiling and before the deadline.
An answer that comes late is worth nothing, so what is not sure to be in time counts by the chance that it is; once an answer is in
hand, which is what a reserve is for, a step need only usually be in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from math import inf, ulp
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from difficulty.belief import Array, Belief
from difficulty.frozen import frozen
from difficulty.once import once
from policies.batches import BATCHES, all_wrong, cheapest, equal
from policies.facts import Considered, Decision, Facts, Market, NothingToRun
from policies.forecast import Outline, Stage, chance_in_time, in_time, left, outline
from policies.limits import no_reserve, offered, over_limits, refusals, unfit
from policies.outlook import Ints, Outlook, Tables, Way, outlooks, unscored
from policies.plans import BestOfN, Plan
from policies.policy import MOST, Optimiser

OPEN_ENOUGH = 0.01
"""Below this chance that a plan leaves the prompt open, what could follow it is not looked at."""
CASES = 4
"""Into how many cases what a plan leaves open is told apart, by how high its best answer scored, for what may follow."""
EVEN_SO_USD = 1e-12
"""What a second counts at least when a batch is sized: of batches that cost alike the quicker is taken."""
ROUNDING = 1e-12
"""Of a chance: to go on for less than this is to go on for nothing."""
FLOOR_STEP = 0.005
"""Quality below the floor is weighed in steps of this: less is not worth a plan."""

Start = tuple[Array, Array | None]
"""Beliefs to start from, [F, N], and the chance at each node that the best answer so far is right (None: there is none)."""


@frozen
class Prospect:
    """A plan as far as it is worth going, and how it is expected to end."""

    way: Way
    ending: Sequence[float]
    """Chance that it is right, US dollars, seconds and answers, as expected if it is run to its end."""
    view: Outlook
    """Where that was found, from one belief."""
    place: int
    """Of the plan, there."""
    so_far: float
    """Chance that the best answer in hand is right."""
    in_time: float
    """Chance that it ends before the deadline."""
    refused: str = ""
    """Why not even its first stage may be run."""

    @property
    def outline(self) -> Outline:
        """Its stages."""
        return self.way.outline

    @property
    def quality(self) -> float:
        """Chance that the answer is right when it ends, or the deadline has come."""
        return self.so_far + self.in_time * (self.ending[0] - self.so_far)

    @property
    def mean(self) -> tuple[float, float]:
        """Expected US dollars and seconds."""
        return self.ending[1], self.ending[2]


@frozen
class Sequel:
    """What the best plan to follow adds, times the chance that it comes to that."""

    quality: float = 0.0
    cost_usd: float = 0.0
    latency_s: float = 0.0


@frozen(slots=False)
class Optimisation:
    """One decision of an optimiser."""

    policy: Optimiser
    market: Market
    facts: Facts
    belief: Belief
    shared: Tables | None = field(default=None, repr=False, compare=False)
    """Tables that another decision from the same belief has made."""

    def decide(self) -> Decision:
        """The next action. Raises NothingToRun if no plan may run and nothing is answered yet."""
        considered = self.considered
        allowed = [c for c in considered if not c.refused]
        if not allowed:
            if not self.belief.evidence:
                return self._quickest(considered)
            return Decision(None, "stop", f"nothing else may be run: {refusals(considered)}", considered)
        ranks = [self._rank(c.quality, c.utility_usd) for c in allowed]
        best = self._alike(max(ranks))
        chosen, rank = min([(c, rank) for c, rank in zip(allowed, ranks, strict=True) if rank >= best], key=lambda one: one[0].cost_usd)
        if self.belief.evidence and rank <= self._rank_of_stopping:
            stop = f"the answer is right with chance {self.belief.best:.2f}; no plan adds more than it costs"
            return Decision(None, "stop", stop, considered)
        return Decision(chosen.plan, "floor" if chosen.quality < self._floor else "utility", self._why(chosen), considered)

    def next_draws(self, plan: Plan, drawn: int) -> int:
        """How many answers a plan under way should draw next; 0 where its rest does not beat stopping now and every other plan."""
        if not left(plan, drawn):
            return 0
        [here] = self._prospects_of([list(self._wholes(plan, drawn))], drawn)
        draws = here.outline.rows[0].draws
        return draws if not drawn or self._beats_all_else(here) else 0

    def _beats_all_else(self, here: Prospect) -> bool:
        """Whether what is left of a plan under way is better than stopping now and than every other plan."""
        if here.refused:
            return False
        plan = here.outline.plan
        other = replace(self, facts=replace(self.facts, done=self.facts.done | {plan.key}), shared=self._tables)
        (then,) = other._sequels([here])
        rank = self._rank(here.quality + then.quality, self._utility(here, then))
        others = [self._rank(c.quality, c.utility_usd) for c in other.considered if not c.refused]
        return rank > self._rank_of_stopping and all(rank >= self._alike(rival) for rival in others)

    @once
    def considered(self) -> tuple[Considered, ...]:
        """Every plan of the policy as it looks now, in the policy's order."""
        then = dict(zip(self._prospects, self._sequels(list(self._prospects.values())), strict=True))
        return tuple(self._consider(plan, then.get(plan.key, Sequel())) for plan in offered(self.policy.plans, self.facts))

    # --- one plan -------------------------------------------------------------------------------------------------

    @once
    def _tables(self) -> Tables:
        return self.shared or Tables(self.belief, self.market)

    @once
    def _prospects(self) -> dict[str, Prospect]:
        drawn = [self.facts.begun.get(key, 0) for key in self._begun]
        return dict(zip(self._begun, self._prospects_of(list(self._begun.values()), *drawn), strict=True)) if drawn else {}

    @once
    def _begun(self) -> dict[str, list[Outline]]:
        fit = [plan for plan in offered(self.policy.plans, self.facts) if not unfit(plan, self.facts)]
        return {plan.key: list(self._wholes(plan, self.facts.begun.get(plan.key, 0))) for plan in fit}

    def _prospects_of(self, plans: Sequence[Sequence[Outline]], *drawn: int) -> list[Prospect]:
        """Each plan as far as the limits are sure to allow, and of that as far as it is worth most: it may be given up at any stage."""
        beginnings = [[way for whole in wholes for way in whole.beginnings] for wholes in plans]
        within = [[way for way in some if not self._refused(way)] for some in beginnings]
        looked_at = [some or every[:1] for some, every in zip(within, beginnings, strict=True)]
        ways = [self._tables.way(way, n) for some, n in zip(looked_at, drawn, strict=True) for way in some]
        endings, views = self._views(ways, self._now)
        seen = iter([(way, ending, *view) for way, ending, view in zip(ways, endings[:, :, 0].T.tolist(), views, strict=True)])
        found = []
        for some, allowed in zip(looked_at, within, strict=True):
            prospects = [Prospect(*next(seen), self.belief.best, self._in_time(way)) for way in some]
            ranks = [self._rank(one.quality, self._utility(one, Sequel())) for one in prospects]
            most = self._alike(max(ranks))
            likeliest = next(one for one, rank in zip(prospects, ranks, strict=True) if rank >= most)
            found.append(likeliest if allowed else replace(likeliest, refused=self._refused(likeliest.outline)))
        return found

    def _now(self, grid: str) -> Start:
        """The belief as it is, on a grid."""
        best = self.belief.best_on(grid)
        return self.belief.weights_of(grid)[None], None if best is None else best[None]

    def _views(self, ways: Sequence[Way], start: Callable[[str], Start]) -> tuple[Array, list[tuple[Outlook, int]]]:
        """How each of them ends from each of the beliefs to start from, [4, P, F], and its place in which outlook; those on one grid, with
        as many bins of the score, are taken together."""
        alike: dict[tuple[str, int], list[int]] = {}
        for i, way in enumerate(ways):
            alike.setdefault((way.grid, len(way.points[0].under) if way.points else 0), []).append(i)
        starts = {grid: start(grid) for grid in {grid for grid, _ in alike}}
        endings = np.empty((4, len(ways), len(starts[ways[0].grid][0])))
        places: dict[int, tuple[Outlook, int]] = {}
        for (grid, scored), numbers in alike.items():
            some, (weights, so_far) = [ways[i] for i in numbers], starts[grid]
            if scored:
                view = outlooks(some, weights, so_far, self._stop_at(some, weights))
            else:
                view = unscored(some, weights, so_far, [self._draw_price(way.outline) for way in some])
            endings[:, numbers] = view.ending
            places |= {i: (view, place) for place, i in enumerate(numbers)}
        return endings, [places[i] for i in range(len(ways))]

    def _refused(self, way: Outline) -> str:
        """Which hard limit forbids it; while nothing is answered, also that its first step leaves no time for a backend in reserve, where
        any step would."""
        worst_usd, worst_s = way.worst
        if self.belief.evidence and _is_held_back(way.plan):
            return over_limits(self.facts, worst_usd, way.usual_s, way.plan)
        return over_limits(self.facts, worst_usd, worst_s, way.plan) or self._without_reserve(way.plan, way.rows[0].worst_s)

    def _without_reserve(self, plan: Plan, first_s: float) -> str:
        """Why the first step of a plan, which may take so long, leaves no time for another backend; empty if it does, or need not."""
        if self.belief.evidence or self.facts.left_s == inf or len(plan.backends) > 1:  # several at once are each other's reserve
            return ""
        if sum([seconds for seconds, _ in self._reserves]) > self.facts.left_s:
            return ""  # there is time for one backend only, whichever
        for reserve_s, reserve in self._reserves:
            if reserve not in plan.backends:
                return no_reserve(self.facts, first_s, reserve, reserve_s)
        return ""

    def _in_time(self, way: Outline) -> float:
        return chance_in_time(way.usual_s, way.worst[1], self.facts.left_s)

    @once
    def _reserves(self) -> list[tuple[float, str]]:
        """Of the two quickest backends: the shortest first step that there is money for, in seconds at the 95th percentile."""
        found: dict[str, float] = {}
        for backends, usd, seconds in self._first_steps:
            if usd <= self.facts.left_usd:
                for name in backends:
                    found[name] = min(seconds, found.get(name, seconds))
        return sorted([(seconds, name) for name, seconds in found.items()], key=itemgetter(0))[:2]

    @property
    def _first_steps(self) -> Iterator[tuple[tuple[str, ...], float, float]]:
        """Of each plan that is fit: its backends, and what its first step costs and takes at the 95th percentile."""
        for whole, *_ in self._begun.values():
            yield whole.plan.backends, whole.rows[0].worst_usd, whole.rows[0].worst_s

    def _wholes(self, plan: Plan, drawn: int) -> Iterator[Outline]:
        """What is left of a plan, in the batches that it names; else in those of the least price, and where the deadline is too near for so
        many rounds in larger ones as well. A vote is looked at in batches of every size."""
        if not isinstance(plan, BestOfN) or plan.batch is not None:
            yield self._whole(plan, drawn)
        elif plan.verifier is None:
            yield from (self._whole(plan, drawn, equal(plan.n - drawn, m)) for m in BATCHES if m <= plan.n - drawn)
        else:
            rounds = outline(plan, self.market, self.facts, drawn, [m for m in BATCHES if m <= plan.n - drawn]).rows
            affordable = [row for row in rounds if row.worst_usd <= self.facts.left_usd] or rounds[:1]
            for fastest in (affordable, affordable[2:], affordable[4:]):
                if fastest:
                    yield (found := self._whole(plan, drawn, self._batches(plan.backend, fastest, plan.n - drawn)))
                    if found.worst[1] <= self.facts.left_s:
                        return

    def _whole(self, plan: Plan, drawn: int, batches: Sequence[int] | None = None) -> Outline:
        return outline(plan, self.market, self.facts, drawn, batches)

    def _batches(self, backend: str, rounds: Sequence[Stage], n: int) -> list[int]:
        """The sizes of n answers' batches, out of those of `rounds`. Where nothing has a price, the fewest rounds."""
        prices = {row.draws: self._price(row.cost_usd, row.latency_s) + EVEN_SO_USD * row.latency_s for row in rounds}
        return cheapest(self._all_wrong(backend, n), n, prices)

    def _all_wrong(self, backend: str, n: int) -> list[float]:
        """Chance that the best so far and the next 0, 1, ... answers are all wrong, for any plan of the policy and one of n."""
        if len(self._wrong.get(backend, ())) <= n + BATCHES[-1]:
            most = max([n, *(plan.n for plan in self.policy.plans if isinstance(plan, BestOfN) and plan.backend == backend)])
            weights, so_far = self.belief.weights_of(backend), self.belief.best_on(backend)
            weights = weights if so_far is None else weights * (1 - so_far)
            self._wrong[backend] = all_wrong(self.belief.by_node(backend), weights, most + BATCHES[-1])
        return self._wrong[backend]

    @once
    def _wrong(self) -> dict[str, list[float]]:
        return {}

    def _consider(self, plan: Plan, then: Sequel) -> Considered:
        if reason := unfit(plan, self.facts):
            return Considered(plan, refused=reason)
        prospect = self._prospects[plan.key]
        (cost, seconds), (cost_q95, seconds_q95) = prospect.mean, prospect.outline.worst
        return Considered(
            plan,
            quality=prospect.quality + then.quality,
            cost_usd=cost + then.cost_usd,
            cost_q95_usd=cost_q95,
            latency_s=seconds + then.latency_s,
            latency_q95_s=seconds_q95,
            utility_usd=self._utility(prospect, then),
            refused=prospect.refused,
            then_usd=then.cost_usd,
            then_s=then.latency_s,
        )

    def _sequels(self, firsts: Sequence[Prospect]) -> list[Sequel]:
        """For each of them, what the best other plan adds where it leaves the prompt open; how high its answer scored says which, or that
        none does. All firsts are taken together, each in its cases."""
        found, cases, others = [Sequel() for _ in firsts], list(self._left_open(firsts)), list(self._prospects.values())
        if not cases or not others:
            return found
        of, share, kept = (np.concatenate([case[n] for case in cases]) for n in (1, 2, 3))

        def after(grid: str) -> Start:
            carried = [self.belief.carried(weights, right, origin, grid) for origin, *_, weights, right in cases]
            weights, right = (np.concatenate(parts) for parts in zip(*carried, strict=True))
            return weights, right

        endings, _ = self._views([other.way for other in others], after)
        may, chance = self._may_follow(firsts, others)
        adds = np.concatenate([np.zeros((3, 1, len(of))), endings[:3]], axis=1)
        adds[0, 1:] = chance[:, of] * (adds[0, 1:] - kept)
        net = np.tensordot([self._value(1.0), -self._price(1.0, 0.0), -self._price(0.0, 1.0)], adds, 1)
        step = _step(kept + adds[0], self._floor)
        step[1:][~may[:, of]] = -1
        best = np.where(step == step.max(axis=0), net, -np.inf).argmax(axis=0)
        chosen = share * adds[:, best, np.arange(len(of))]
        for i in set(of.tolist()):
            found[i] = Sequel(*chosen[:, of == i].sum(axis=1).tolist())
        return found

    def _left_open(self, firsts: Sequence[Prospect]) -> Iterator[tuple[str, Ints, Array, Array, Array, Array]]:
        """The cases in which they leave the prompt open, those on one grid together: the grid, which of `firsts` [G], the chance [G], that
        the best answer is right [G], the belief [G, J], and that chance at each node."""
        by_view: dict[int, list[int]] = {}
        for i, first in enumerate(firsts):
            if first.outline.plan.verifier is not None:
                by_view.setdefault(id(first.view), []).append(i)
        for some in by_view.values():
            view = firsts[some[0]].view
            of, share, weights, right = view.left_open(CASES, [firsts[i].place for i in some])
            enough = np.bincount(of, share)[of] >= OPEN_ENOUGH
            if enough.any():
                share, weights, right = share[enough], weights[enough], right[enough]
                yield view.ways[0].grid, np.array(some)[of[enough]], share, (weights * right).sum(axis=1), weights, right

    def _may_follow(self, firsts: Sequence[Prospect], others: Sequence[Prospect]) -> tuple[NDArray[np.bool_], Array]:
        """Whether each of the others may be run after each of the firsts, within the limits; and the chance that both end in time."""
        before, after = (np.array([(*one.outline.worst, one.outline.usual_s) for one in some]).T for some in (firsts, others))
        usd, worst_s, usual_s = after[:, :, None] + before[:, None]
        late = np.array([not _is_held_back(other.outline.plan) for other in others])[:, None]
        fits = (usd <= self.facts.left_usd) & (np.where(late, worst_s, usual_s) <= self.facts.left_s)
        others_than = np.array([[other.outline.plan.key not in first.outline.plan.covers for first in firsts] for other in others])
        excess_s = np.hypot(after[1, :, None] - after[2, :, None], before[1] - before[2])
        return fits & others_than, in_time(usual_s, usual_s + excess_s, self.facts.left_s)

    # --- worth ----------------------------------------------------------------------------------------------------

    def _value(self, quality: float) -> float:
        return self.policy.objective.value_of_correct_usd * quality

    def _price(self, cost_usd: float, latency_s: float) -> float:
        return cost_usd * self.facts.cost_multiplier + self.policy.objective.value_of_second_usd * latency_s

    @once
    def _floor(self) -> float:
        """The quality to be reached first; none where money is so scarce that only the cheapest may be bought."""
        return max(self.facts.quality_floor, self.policy.objective.floor) if self.facts.cost_multiplier < MOST else 0.0

    def _rank(self, quality: float, utility_usd: float) -> tuple[int, float]:
        """What orders all that may be done: first how near it comes to the floor, in steps that are worth a plan; then its utility."""
        return int(min(quality, self._floor) / FLOOR_STEP + 1e-9), utility_usd

    def _alike(self, rank: tuple[int, float]) -> tuple[int, float]:
        """The least rank that is this one but for rounding."""
        step, utility_usd = rank
        return step, utility_usd - self._value(ROUNDING) - 8 * ulp(utility_usd)

    @property
    def _rank_of_stopping(self) -> tuple[int, float]:
        return self._rank(self.belief.best, self._value(self.belief.best + ROUNDING))

    def _net(self, then: Sequel) -> float:
        return self._value(then.quality) - self._price(then.cost_usd, then.latency_s)

    def _utility(self, prospect: Prospect, then: Sequel) -> float:
        return self._value(prospect.quality) - self._price(*prospect.mean) + self._net(then)

    def _draw_price(self, way: Outline) -> float:
        """What a sample costs over what a right answer is worth; 0 under the floor, which is to be reached at any price."""
        below, row = bool(self.belief.evidence) and self.belief.best < self._floor, way.rows[0]
        return 0.0 if below else self._price(row.cost_usd, row.latency_s) / row.draws / max(self._value(1.0), 1e-15)

    def _stop_at(self, ways: Sequence[Way], weights: Array) -> Array:
        """The chance of being right from which another stage cannot pay: V * (1 - r) * P(the stage gives a right answer) < its price.
        Not below the floor. [P, F]."""
        helps = 1 - np.array([way.end.misses for way in ways]) @ weights.T
        prices = np.array([[self._price(last.cost_usd, last.latency_s)] for last in (way.outline.rows[-1] for way in ways)])
        pays_to = 1 - prices / np.maximum(self._value(1.0) * helps, 1e-15)
        return np.minimum(np.maximum(pays_to, max(0.5, self._floor)), 0.995)

    def _quickest(self, considered: tuple[Considered, ...]) -> Decision:
        """Where no plan is sure to end in time and nothing is answered: the quickest of those that will if all goes as usual."""
        fit = [c for c in considered if not unfit(c.plan, self.facts) and c.cost_q95_usd <= self.facts.left_usd]
        usual = [c for c in fit if self._usual_s(c) <= self.facts.left_s]
        if not usual:
            raise NothingToRun(refusals(considered), considered)
        chosen = min(usual, key=lambda c: c.latency_q95_s)
        late = f"no plan is sure to end in {self.facts.left_s:.2f} s; this one may take {chosen.latency_q95_s:.2f} s"
        return Decision(chosen.plan, "utility", late, considered)

    def _usual_s(self, considered: Considered) -> float:
        """How long the plan alone takes if all goes as usual."""
        return self._prospects[considered.plan.key].mean[1]

    def _why(self, chosen: Considered) -> str:
        now = f", against {self.belief.best:.2f} of the best answer so far" if self.belief.evidence else ""
        then = ", with what may follow it" if chosen.then_usd or chosen.then_s else ""
        below = f"; below the floor of {self._floor:.4g}, which no plan reaches" if chosen.quality < self._floor else ""
        return f"expected right {chosen.quality:.2f} for ${chosen.cost_usd:.6f} and {chosen.latency_s:.2f} s{then}{now}{below}"


def _is_held_back(plan: Plan) -> bool:
    """Whether its answer is sent when it is whole only, so that the deadline does not cut off what replaces an answer in hand."""
    return plan.verifier is not None


def _step(quality: Array | float, floor: float) -> NDArray[np.int64]:
    """How near it comes to the floor."""
    return np.asarray(np.minimum(quality, floor) / FLOOR_STEP + 1e-9).astype(np.int64)
