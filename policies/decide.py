"""The decision: which plan to run next, or to stop. Pure: the same policy, market, facts and belief give the same decision.

The two forms of a policy decide in `optimise.py` and `rules.py`; a plan that the caller names is decided here.
"""

from __future__ import annotations

from dataclasses import replace

from difficulty.belief import Belief
from policies.explore import explored
from policies.facts import Cause, Decision, Facts, ForcedBy, Market, NothingToRun
from policies.forecast import left
from policies.limits import broken, unfit
from policies.one_answer import OneAnswer
from policies.optimise import Optimisation
from policies.plans import Plan
from policies.policy import Optimiser, Policy
from policies.rules import RuleBook

WHY_FORCED: dict[ForcedBy, tuple[Cause, str]] = {
    "request": ("forced", "the request names the plan"),
    "fallback": ("fallback", "no estimate can be trusted; the configuration says what then"),
    "session": ("session", "the conversation stays with the backend that it is with"),
}


def decide(policy: Policy, market: Market, facts: Facts, belief: Belief) -> Decision:
    """The next action. Raises NothingToRun if no plan may run and nothing is answered yet."""
    if facts.forced is not None:
        return _forced(facts, facts.forced)
    decision = _form(policy, market, facts, belief).decide()
    if isinstance(policy, Optimiser) and policy.explore and facts.draw is not None and not facts.tried:
        return explored(decision, policy.explore, facts.draw)
    return decision


def next_draws(policy: Policy, market: Market, facts: Facts, belief: Belief, plan: Plan, drawn: int) -> int:
    """How many answers a plan under way, which has made `drawn`, should draw next; 0 to end it.

    A forced plan is run whole, at once; any other ends when something that it needs is down.
    """
    if facts.forced is not None:
        return max(1, left(plan, drawn))
    if drawn and broken(plan, facts):
        return 0
    return _form(policy, market, facts, belief).next_draws(plan, drawn)


def _form(policy: Policy, market: Market, facts: Facts, belief: Belief) -> Optimisation | RuleBook:
    if isinstance(policy, Optimiser):
        return (OneAnswer if policy.unscored else Optimisation)(policy, market, facts, belief)
    return RuleBook(policy, market, replace(facts, done=facts.tried) if facts.begun else facts, belief)  # none is taken up again


def _forced(facts: Facts, plan: Plan) -> Decision:
    """The caller named the plan: it is run once, within the limits that hold for every plan."""
    if plan.key in facts.tried:
        return Decision(None, "stop", "the plan was run")
    if reason := unfit(plan, facts):
        raise NothingToRun(f"{plan.key}: {reason}")
    return Decision(plan, *WHY_FORCED[facts.forced_by])
