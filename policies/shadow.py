"""A policy in shadow: what it would do where another one decided, and what the difference is expected to be worth. Pure.

Both decide from the same belief and facts, so nothing is run to know what the shadow would do. What each is expected to give comes from the
same forecast: of an optimiser's plan with what may be bought after it, of a rule's next plan alone. The worth of the difference is by the
live policy's objective; where it is of rules, which have none, by the shadow's. What the world would have said it does not know: that
is what `outlay replay`, or a split, is for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from difficulty.belief import Belief
from policies.decide import decide
from policies.facts import Decision, Facts, Market, NothingToRun
from policies.policy import LimitSpec, Optimiser, Policy

STOP, REFUSE = "stop", "refuse"
"""What stands for a plan's key: send the best answer so far; no plan may run, and there is no answer."""


@dataclass(frozen=True, slots=True)
class Course:
    """What an action and what follows it are expected to give; or by how much one gives more than another."""

    right: float
    cost_usd: float = 0.0
    latency_s: float = 0.0
    utility_usd: float | None = None
    """None where neither policy says what anything is worth."""

    def __add__(self, more: Course) -> Course:
        utilities = [one.utility_usd for one in (self, more) if one.utility_usd is not None]
        utility = sum(utilities) if utilities else None
        return Course(self.right + more.right, self.cost_usd + more.cost_usd, self.latency_s + more.latency_s, utility)


@dataclass(frozen=True, slots=True)
class Point:
    """One decision of the live policy, and the shadow's in its place."""

    live: str
    """A plan's key, or `stop`."""
    shadow: str
    """The same, or `refuse`."""
    gain: Course | None = None
    """What the shadow is expected to give beyond the live policy; None where they agree, or where no forecast is at hand."""


def beside(shadow: Policy, live: Policy, market: Market, facts: Facts, belief: Belief, decision: Decision) -> Point:
    """What the shadow would have done where the live policy took `decision`."""
    try:
        other = decide(shadow, market, _within(facts, shadow.limits), belief)
    except NothingToRun:
        other = None
    point = Point(_name(decision), _name(other))
    if point.live == point.shadow:
        return point
    mine, theirs = _course(decision, belief), Course(0.0) if other is None else _course(other, belief)
    return point if mine is None or theirs is None else replace(point, gain=_gain(mine, theirs, live, shadow, facts))


def _within(facts: Facts, limits: LimitSpec) -> Facts:
    """The facts under the shadow's own limits as well, and without the live policy's exploration."""
    return replace(
        facts,
        ceiling_usd=min(facts.ceiling_usd, limits.cost_usd or inf),
        deadline_s=min(facts.deadline_s, limits.latency_s or inf),
        quality_floor=max(facts.quality_floor, limits.quality_floor or 0.0),
        draw=None,
    )


def _name(decision: Decision | None) -> str:
    return REFUSE if decision is None else decision.plan.key if decision.plan else STOP


def _course(decision: Decision, belief: Belief) -> Course | None:
    if decision.plan is None:
        return Course(belief.best)
    rows = (row for row in decision.considered if row.plan == decision.plan)
    return next((Course(row.quality, row.cost_usd, row.latency_s) for row in rows), None)


def _gain(mine: Course, theirs: Course, live: Policy, shadow: Policy, facts: Facts) -> Course:
    right, usd, seconds = theirs.right - mine.right, theirs.cost_usd - mine.cost_usd, theirs.latency_s - mine.latency_s
    aim = next((policy.objective for policy in (live, shadow) if isinstance(policy, Optimiser)), None)
    if aim is None:
        return Course(right, usd, seconds)
    return Course(right, usd, seconds, aim.value_of_correct_usd * right - facts.cost_multiplier * usd - aim.value_of_second_usd * seconds)
