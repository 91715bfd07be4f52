"""Exploration: now and then a plan that is not the best is run, so that logs show what it would have given. Pure.

The number that decides comes in with the facts, so a logged decision can be made again. Only a request's first plan is drawn, and only
among those that the hard limits allow: what follows is decided as always. The chance with which the plan was taken, its propensity, is
what `outlay replay` weighs the outcome by.
"""

from __future__ import annotations

from dataclasses import replace

from policies.facts import Decision


def explored(decision: Decision, share: float, draw: float) -> Decision:
    """With chance `share` one of the plans that may run, each as likely; else the decision as it is. `draw` is uniform in [0, 1)."""
    allowed = [row for row in decision.considered if not row.refused]
    if not allowed or decision.plan is None:
        return decision
    each = share / len(allowed)
    taken = allowed[min(int(draw / each), len(allowed) - 1)].plan if draw < share else decision.plan
    propensity = each + (1 - share) * (taken == decision.plan)
    if taken == decision.plan:
        return replace(decision, propensity=propensity)
    return replace(decision, plan=taken, cause="explore", reason=f"explored, instead of {decision.plan.key}", propensity=propensity)
