"""The commonest decision in closed form: which backend gives its one answer, where no plan is scored. Pure.

Nothing can be seen of such an answer, so a plan is worth the likelier right of it and the best so far, and nothing follows from it. What
`Optimisation` works out for any plan comes to the same numbers here (a test holds that), at a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator

from difficulty.frozen import frozen
from difficulty.once import once
from policies.facts import Considered
from policies.forecast import chance_in_time, one_answer
from policies.limits import over_limits, unfit
from policies.optimise import Optimisation
from policies.plans import Single


@frozen(slots=False)
class OneAnswer(Optimisation):
    """One decision of a policy that is `unscored`."""

    @once
    def considered(self) -> tuple[Considered, ...]:
        """Every plan of the policy as it looks now, in the policy's order."""
        facts, best, found = self.facts, self.belief.best, []
        left_s = facts.left_s
        for plan, unfit_for in self._plans:
            if unfit_for:
                found.append(Considered(plan, refused=unfit_for))
                continue
            usd, worst_usd, seconds, worst_s = one_answer(plan, self.market, facts.size)
            gain = self.belief.p_correct(plan.backend) - best
            quality = best + chance_in_time(seconds, worst_s, left_s) * max(gain, 0.0)
            utility_usd = self._value(quality) - self._price(usd, seconds)
            refused = over_limits(facts, worst_usd, worst_s, plan) or self._without_reserve(plan, worst_s)
            found.append(Considered(plan, quality, usd, worst_usd, seconds, worst_s, utility_usd, refused))
        return tuple(found)

    @once
    def _plans(self) -> list[tuple[Single, str]]:
        """With why each may not be run."""
        return [(plan, unfit(plan, self.facts)) for plan in self.policy.plans if isinstance(plan, Single)]

    @property
    def _first_steps(self) -> Iterator[tuple[tuple[str, ...], float, float]]:
        for plan, unfit_for in self._plans:
            if not unfit_for:
                _, worst_usd, _, worst_s = one_answer(plan, self.market, self.facts.size)
                yield plan.backends, worst_usd, worst_s

    def _usual_s(self, considered: Considered) -> float:
        return considered.latency_s
