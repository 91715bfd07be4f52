"""The commonest decision in closed form: which backend gives its one answer, where no plan is scored. Pure.

Nothing can be seen of such an answer, so a plan is worth the likelier right of it and the best so far, and nothing follows from it. What
`Optimisation` works out for any plan comes to the same numbers here (a test holds that), at a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from difficulty.once import once
from policies.facts import Considered
from policies.forecast import chance_in_time, one_answer
from policies.limits import over_limits, unfit
from policies.optimise import Optimisation
from policies.plans import Plan, Single


def only_unscored(plans: Sequence[Plan]) -> bool:
    """Whether each of these plans is one answer that nothing scores."""
    return all(isinstance(plan, Single) and plan.verifier is None for plan in plans)


@dataclass(frozen=True)
class OneAnswer(Optimisation):
    """One decision among plans that are `only_unscored`."""

    @once
    def considered(self) -> tuple[Considered, ...]:
        """Every plan of the policy as it looks now, in the policy's order."""
        return tuple([self._look(plan) for plan in self.policy.plans])

    def _look(self, plan: Plan) -> Considered:
        if plan.key not in self._spent:
            return Considered(plan, refused=unfit(plan, self.facts))
        usd, worst_usd, seconds, worst_s = self._spent[plan.key]
        gain = self.belief.p_correct(plan.backends[0]) - self.belief.best
        quality = self.belief.best + chance_in_time(seconds, worst_s, self.facts.left_s) * max(gain, 0.0)
        utility_usd = self._value(quality) - self._price(usd, seconds)
        refused = over_limits(self.facts, worst_usd, worst_s, plan) or self._without_reserve(plan, worst_s)
        return Considered(plan, quality, usd, worst_usd, seconds, worst_s, utility_usd, refused)

    @once
    def _spent(self) -> dict[str, tuple[float, float, float, float]]:
        """By plan that is fit: US dollars and at worst, seconds and at worst."""
        fit = [plan for plan in self.policy.plans if isinstance(plan, Single) and not unfit(plan, self.facts)]
        return {plan.key: one_answer(plan, self.market, self.facts) for plan in fit}

    @property
    def _first_steps(self) -> Iterator[tuple[tuple[str, ...], float, float]]:
        for plan in self.policy.plans:
            if plan.key in self._spent:
                _, worst_usd, _, worst_s = self._spent[plan.key]
                yield plan.backends, worst_usd, worst_s

    def _usual_s(self, considered: Considered) -> float:
        return considered.latency_s
