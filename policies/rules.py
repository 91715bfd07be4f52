"""Plain rules: the plans of the first rule that matches, one after the other while no answer is good enough. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from difficulty.belief import Belief
from policies.batches import UNPRICED
from policies.facts import Considered, Decision, Facts, Market, NothingToRun
from policies.forecast import outline
from policies.limits import over_limits, refusals, unfit
from policies.outlook import Tables, outlook
from policies.plans import BestOfN, Plan, Single
from policies.policy import Rule, Rules


@dataclass(frozen=True)
class RuleBook:
    """One decision by rules."""

    policy: Rules
    market: Market
    facts: Facts
    belief: Belief

    def decide(self) -> Decision:
        """The next action. Raises NothingToRun if no plan may run and nothing is answered yet."""
        number, rule = next((i, rule) for i, rule in enumerate(self.policy.rules, 1) if self._matches(rule))
        if self._good_enough:
            enough = f"the answer is right with chance {self.belief.best:.2f}, at least {self._aim:.2f}"
            why = enough if self._aim else "the first answer is taken"
            return Decision(None, "stop", why)
        considered = tuple(self._consider(plan) for plan in rule.then)
        chosen = next((c for c in considered if not c.refused), None)
        if chosen is None and self.belief.evidence:
            return Decision(None, "stop", f"rule {number} has no further plan", considered)
        chosen = chosen or self._one_answer()
        if chosen is None:
            raise NothingToRun(refusals(considered), considered)
        return Decision(chosen.plan, "rule", f"rule {number} of the policy", considered)

    def next_draws(self, plan: Plan, drawn: int) -> int:
        """How many answers a plan under way should draw next: none once one is good enough."""
        if drawn and self._good_enough:
            return 0
        return (plan.batch or UNPRICED) if isinstance(plan, BestOfN) else 1

    @property
    def _aim(self) -> float:
        return max(self.policy.until, self.facts.quality_floor)

    @property
    def _good_enough(self) -> bool:
        return bool(self.belief.evidence) and self.belief.best >= self._aim

    def _matches(self, rule: Rule) -> bool:
        """Rules look at the estimate before the first call, so that an answer seen does not change the rule."""
        when, before = rule.when, self.belief.before
        return (
            all(self.facts.tags.get(name) == value for name, value in when.tags.items())
            and all(name in before.logits and wanted.holds(before.p_correct(name)) for name, wanted in when.p_correct.items())
            and when.input_tokens.holds(self.facts.input_tokens)
        )

    def _consider(self, plan: Plan) -> Considered:
        if reason := unfit(plan, self.facts):
            return Considered(plan, refused=reason)
        way = Tables(self.belief, self.market).way(outline(plan, self.market, self.facts))
        best = self.belief.best_on(way.grid)
        view = outlook(way, self.belief.weights_of(way.grid)[None], None if best is None else best[None], np.array([self._aim]))
        (cost_q95, seconds_q95), (quality, cost, seconds, _) = way.outline.worst, view.ending[:, 0, 0].tolist()
        refused = over_limits(self.facts, cost_q95, seconds_q95, plan)
        return Considered(plan, quality, cost, cost_q95, seconds, seconds_q95, refused=refused)

    def _one_answer(self) -> Considered | None:
        """Where the rule's own plans may not run: one answer of the backend that is likeliest to be right."""
        backends = dict.fromkeys(name for plan in self.policy.all_plans for name in plan.backends)
        rows = [self._consider(Single(backend=name)) for name in backends]
        return max((c for c in rows if not c.refused), key=lambda c: c.quality, default=None)
