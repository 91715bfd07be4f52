"""What forbids a plan whatever it would give: something it needs is down, it was run, or its worst case breaks a hard limit. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from policies.facts import Considered, Facts
from policies.plans import BestOfN, Ensemble, Plan, Single, TreeSearch

ALREADY = "already run"


def unfit(plan: Plan, facts: Facts) -> str:
    """Why a plan may not be run in this request; empty if it may."""
    if facts.down and (reason := broken(plan, facts)):
        return reason
    for name in facts.barred and plan.backends:
        if name in facts.barred:
            return f"this key may not use backend '{name}'"
    if plan.key in facts.done:
        return ALREADY
    return "" if isinstance(plan, Single) else _too_many(plan, facts)


def broken(plan: Plan, facts: Facts) -> str:
    """What of that which a plan needs is down; empty if nothing is. Of several backends one is enough."""
    if all(name in facts.down for name in plan.backends):
        return " and ".join(f"backend '{name}'" for name in plan.backends) + " is down"
    return f"verifier '{plan.verifier}' is down" if plan.verifier in facts.down else ""


def offered(plans: Sequence[Plan], facts: Facts) -> Sequence[Plan]:
    """A policy's plans; where all of them draw more answers than the request takes, one answer of each of their backends."""
    if all(_too_many(plan, facts) for plan in plans):
        return [Single(backend=name) for name in dict.fromkeys(name for plan in plans for name in plan.backends)]
    return plans


def _too_many(plan: Plan, facts: Facts) -> str:
    if facts.single_only and not isinstance(plan, Single):
        return "this request takes one answer only (tools, images)"
    if facts.greedy and facts.forced is None and _repeats(plan):
        return "the request says temperature 0, at which all samples are alike"
    return ""


def _repeats(plan: Plan) -> bool:
    return isinstance(plan, BestOfN | TreeSearch) or (isinstance(plan, Ensemble) and max(plan.members.values()) > 1)


def over_limits(facts: Facts, worst_usd: float, worst_s: float, plan: Plan | None = None) -> str:
    """Which hard limit the worst case breaks; empty if none. Only an unscored answer can be streamed before it is complete."""
    if worst_usd > facts.left_usd:
        return f"may cost ${worst_usd:.6f}, ${max(facts.left_usd, 0):.6f} is left"
    if worst_s > facts.left_s:
        return f"may take {worst_s:.2f} s, {max(facts.left_s, 0):.2f} s are left"
    before_word_s = facts.first_token_s - facts.elapsed_s
    if worst_s > before_word_s and plan is not None and not (isinstance(plan, Single) and plan.verifier is None):
        return f"may have its first word after {worst_s:.2f} s only, {max(before_word_s, 0):.2f} s are left for that"
    return ""


def refusals(considered: Sequence[Considered]) -> str:
    """Why each of them may not be run, those that were run left out."""
    return "; ".join(f"{c.plan.key}: {c.refused}" for c in considered if c.refused != ALREADY) or "every plan was run"


def no_reserve(facts: Facts, worst_s: float, reserve: str, reserve_s: float) -> str:
    """Why a first step may not be made: if it fails, another backend would have no time left to answer; empty if it would."""
    if worst_s + reserve_s <= facts.left_s:
        return ""
    return f"may take {worst_s:.2f} s, which leaves '{reserve}' less than its {reserve_s:.2f} s to answer if it fails"
