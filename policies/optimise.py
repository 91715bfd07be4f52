"""The optimiser: the feasible plan of the highest utility, V * quality - multiplier * cost - value of a second * seconds. Pure.

The multiplier is 1 but where a budget over time is scarce. A floor on quality is reached first, if it can be; then utility counts.

A plan is worth what it gives and what may be bought after it, where it leaves the prompt open; so a cheap try is chosen for the
later option to go up. Hard limits come first: the worst case (95th percentile) must fit under the ceiling and before the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from difficulty.belief import Belief
from difficulty.votes import Tally
from policies.facts import Considered, Decision, Facts, Market, NothingToRun
from policies.forecast import Outlook, Stage, expected, outlook, remaining, stages, worst
from policies.limits import offered, over_limits, unfit
from policies.plans import Plan
from policies.policy import MOST, Optimiser

OPEN_ENOUGH = 0.01
"""Below this chance that a plan leaves the prompt open, what could follow it is not looked at."""
FLOOR_STEP = 0.005
"""Quality below the floor is weighed in steps of this: less is not worth a plan."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A plan with its stages, how they end, and what that is expected to cost."""

    plan: Plan
    rows: Sequence[Stage]
    view: Outlook

    @property
    def mean(self) -> tuple[float, float]:
        """Expected US dollars and seconds."""
        return expected(self.rows, self.view)


@dataclass(frozen=True, slots=True)
class Sequel:
    """What the best plan to follow adds, times the chance that it comes to that."""

    quality: float = 0.0
    cost_usd: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True)
class Optimisation:
    """One decision of an optimiser."""

    policy: Optimiser
    market: Market
    facts: Facts
    belief: Belief

    def decide(self) -> Decision:
        """The next action. Raises NothingToRun if no plan may run and nothing is answered yet."""
        considered = self.considered
        allowed = [c for c in considered if not c.refused]
        if not allowed:
            if not self.belief.evidence:
                return self._quickest(considered)
            return Decision(None, "stop", "no plan is left that the limits allow", considered)
        chosen = max(allowed, key=lambda c: (*self._rank(c.quality, c.utility_usd), -c.cost_usd))
        if self.belief.evidence and self._rank(chosen.quality, chosen.utility_usd) <= self._rank_of_stopping:
            stop = f"the answer is right with chance {self.belief.best:.2f}; no plan adds more than it costs"
            return Decision(None, "stop", stop, considered)
        return Decision(chosen.plan, "floor" if chosen.quality < self._floor else "utility", self._why(chosen), considered)

    def goes_on(self, plan: Plan, drawn: int) -> bool:
        """Whether the rest of a plan under way beats stopping now and every other plan."""
        rest = remaining(plan, stages(plan, self.belief, self.market, self.facts), drawn)
        if not rest:
            return False
        other = replace(self, facts=replace(self.facts, done=self.facts.done | {plan.key}))
        here = self._prospect(plan, rest, self.belief.evidence[-1].votes if self.belief.evidence else None)
        then = other._sequel(here)
        rank = self._rank(here.view.quality + then.quality, self._utility(here, then))
        others = [self._rank(c.quality, c.utility_usd) for c in other.considered if not c.refused]
        return rank > self._rank_of_stopping and all(rank >= rival for rival in others)

    @cached_property
    def considered(self) -> tuple[Considered, ...]:
        """Every plan of the policy as it looks now, in the policy's order."""
        return tuple(self._consider(plan) for plan in offered(self.policy.plans, self.facts))

    # --- one plan -------------------------------------------------------------------------------------------------

    @cached_property
    def _prospects(self) -> dict[str, Prospect]:
        fit = [plan for plan in offered(self.policy.plans, self.facts) if not unfit(plan, self.facts)]
        return {plan.key: self._prospect(plan, stages(plan, self.belief, self.market, self.facts)) for plan in fit}

    def _prospect(self, plan: Plan, rows: Sequence[Stage], tally: Tally | None = None) -> Prospect:
        stop_at, price = self._stop_at(rows, self.belief), self._draw_price(rows)
        return Prospect(plan, rows, outlook(rows, self.belief, self.market, plan, stop_at, self.belief.best_by_node, price, tally))

    def _consider(self, plan: Plan) -> Considered:
        if reason := unfit(plan, self.facts):
            return Considered(plan, refused=reason)
        prospect = self._prospects[plan.key]
        then, (cost, seconds), (cost_q95, seconds_q95) = self._sequel(prospect), prospect.mean, worst(prospect.rows)
        return Considered(
            plan,
            quality=prospect.view.quality + then.quality,
            cost_usd=cost + then.cost_usd,
            cost_q95_usd=cost_q95,
            latency_s=seconds + then.latency_s,
            latency_q95_s=seconds_q95,
            utility_usd=self._utility(prospect, then),
            refused=over_limits(self.facts, cost_q95, seconds_q95),
        )

    def _sequel(self, first: Prospect) -> Sequel:
        """What the best plan to follow adds where `first` leaves the prompt open."""
        view = first.view
        if view.open < OPEN_ENOUGH or first.plan.verifier is None:
            return Sequel()
        moved = replace(self.belief, weights=view.open_weights)
        sequels = [self._after(first, other, moved) for other in self._prospects.values() if other.plan.key != first.plan.key]
        return max([Sequel(), *sequels], key=lambda then: self._rank(view.quality + then.quality, self._net(then)))

    def _after(self, first: Prospect, other: Prospect, moved: Belief) -> Sequel:
        """What `other` adds after `first` left the prompt open, `moved` being the belief by then."""
        view, (usd_1, s_1), (usd_2, s_2) = first.view, worst(first.rows), worst(other.rows)
        if over_limits(self.facts, usd_1 + usd_2, s_1 + s_2):
            return Sequel()
        then = outlook(other.rows, moved, self.market, other.plan, self._stop_at(other.rows, moved), view.open_right)
        cost, seconds = expected(other.rows, then)
        held = float(view.open_weights @ view.open_right)
        return Sequel(view.open * (then.quality - held), view.open * cost, view.open * seconds)

    # --- worth ----------------------------------------------------------------------------------------------------

    def _value(self, quality: float) -> float:
        return self.policy.objective.value_of_correct_usd * quality

    def _price(self, cost_usd: float, latency_s: float) -> float:
        return cost_usd * self.facts.cost_multiplier + self.policy.objective.value_of_second_usd * latency_s

    @cached_property
    def _floor(self) -> float:
        """The quality to be reached first; none where money is so scarce that only the cheapest may be bought."""
        return max(self.facts.quality_floor, self.policy.objective.floor) if self.facts.cost_multiplier < MOST else 0.0

    def _rank(self, quality: float, utility_usd: float) -> tuple[int, float]:
        """What orders all that may be done: first how near it comes to the floor, in steps that are worth a plan; then its utility."""
        return int(min(quality, self._floor) / FLOOR_STEP + 1e-9), utility_usd

    @property
    def _rank_of_stopping(self) -> tuple[int, float]:
        return self._rank(self.belief.best, self._value(self.belief.best))

    def _net(self, then: Sequel) -> float:
        return self._value(then.quality) - self._price(then.cost_usd, then.latency_s)

    def _utility(self, prospect: Prospect, then: Sequel) -> float:
        return self._value(prospect.view.quality) - self._price(*prospect.mean) + self._net(then)

    def _draw_price(self, rows: Sequence[Stage]) -> float:
        """What a sample costs over what a right answer is worth; 0 under the floor, which is to be reached at any price."""
        below = bool(self.belief.evidence) and self.belief.best < self._floor
        return 0.0 if below else self._price(rows[0].cost_usd, rows[0].latency_s) / rows[0].draws / max(self._value(1.0), 1e-15)

    def _stop_at(self, rows: Sequence[Stage], belief: Belief) -> float:
        """The chance of being right from which another stage cannot pay: V * (1 - r) * P(the stage gives a right answer) < its price.
        Not below the floor."""
        row = rows[-1]
        helps = 1 - float(belief.weights @ (1 - row.p) ** row.draws)
        gain = max(self._value(helps), 1e-15)
        return min(max(1 - self._price(row.cost_usd, row.latency_s) / gain, 0.5, self._floor), 0.995)

    def _quickest(self, considered: tuple[Considered, ...]) -> Decision:
        """Where no plan is sure to end in time and nothing is answered: the quickest of those that will if all goes as usual."""
        payable = [c for c in considered if c.plan.key in self._prospects and c.cost_q95_usd <= self.facts.left_usd]
        usual = [c for c in payable if self._prospects[c.plan.key].mean[1] <= self.facts.left_s]
        if not usual:
            raise NothingToRun("; ".join(f"{c.plan.key}: {c.refused}" for c in considered), considered)
        chosen = min(usual, key=lambda c: c.latency_q95_s)
        late = f"no plan is sure to end in {self.facts.left_s:.2f} s; this one may take {chosen.latency_q95_s:.2f} s"
        return Decision(chosen.plan, "utility", late, considered)

    def _why(self, chosen: Considered) -> str:
        now = f", against {self.belief.best:.2f} of the best answer so far" if self.belief.evidence else ""
        below = f"; below the floor of {self._floor:.2f}, which no plan reaches" if chosen.quality < self._floor else ""
        return f"expected right {chosen.quality:.2f} for ${chosen.cost_usd:.6f} and {chosen.latency_s:.2f} s{now}{below}"
