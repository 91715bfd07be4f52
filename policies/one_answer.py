"""The commonest decision in closed form: which backend gives its one answer, where no plan is scored. Pure.

Nothing can be seen of such an answer, so a plan is worth the likelier right of it and the best so far, and nothing follows from it. What
`Optimisation` works out for any plan comes to the same numbers here (a test holds that), at a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from policies.facts import Considered
from policies.limits import offered, unfit
from policies.optimise import Optimisation
from policies.plans import Plan, Single


def only_unscored(plans: Sequence[Plan]) -> bool:
    """Whether each of these plans is one answer that nothing scores."""
    return all(isinstance(plan, Single) and plan.verifier is None for plan in plans)


@dataclass(frozen=True)
class OneAnswer(Optimisation):
    """One decision among plans that are `only_unscored`."""

    @cached_property
    def considered(self) -> tuple[Considered, ...]:
        """Every plan of the policy as it looks now, in the policy's order."""
        return tuple(self._look(plan) for plan in offered(self.policy.plans, self.facts))

    def _look(self, plan: Plan) -> Considered:
        if plan.key not in self._begun:
            return Considered(plan, refused=unfit(plan, self.facts))
        (way,) = self._begun[plan.key]
        (row,), (cost_q95_usd, latency_q95_s) = way.rows, way.worst
        quality = max(self.belief.best, float(self.belief.weights_of(way.grid) @ row.p))
        utility_usd = self._value(quality) - self._price(row.cost_usd, row.latency_s)
        return Considered(
            plan, quality, row.cost_usd, cost_q95_usd, row.latency_s, latency_q95_s, utility_usd, self._refused(way)
        )  # fmt: skip
