"""Budgets over time: where they stand is read before a request's first decision, and what it cost is added after its last.

What the sums mean is in `policies/pacing.py`, where they are kept in `adapters/tallies.py`. The policy's budget and the tenant's share of
it are two tallies; the tighter one counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from adapters.tallies import Added, Tallies, Tally
from policies.pacing import Pace, Sums, added, begun, demand, pace
from policies.policy import Optimiser, Policy, WithinBudget
from router.job import Job


class Pacer:
    """Keeps the budgets of all policies."""

    def __init__(self, tallies: Tallies, clock: Callable[[], float] = time.time) -> None:
        self.tallies, self.clock = tallies, clock

    async def open(self, job: Job) -> None:
        """Tell the request at which multiplier it decides. No round trip, but a key's first."""
        objective = objective_of(job.policy)
        if objective is None:
            return
        now = self.clock()
        budgets = self._budgets(job, objective)
        tallies = await self.tallies.read(dict.fromkeys(budgets, _tally(begun(objective.period_s, now))))
        paces = [pace(usd, objective, tallies[key], now) for key, usd in budgets.items()]
        job.paced(max(paces, key=_tightness), shared=not self.tallies.down)

    async def close(self, job: Job) -> None:
        """Add what the request cost, in one round trip; nothing where nothing was bought."""
        objective = objective_of(job.policy)
        if objective is None or not job.run.calls:
            return
        now = self.clock()
        row, fresh = self._row(job, objective, now), _tally(begun(objective.period_s, now))
        await self.tallies.add(dict.fromkeys(self._budgets(job, objective), (row, fresh)))

    def _budgets(self, job: Job, objective: WithinBudget) -> dict[str, float]:
        """US dollars of a period, by key."""
        keys = {json.dumps([job.policy_name, objective.per]): objective.budget_usd}
        if objective.tenant_budget_usd is not None:
            keys[json.dumps([job.policy_name, objective.per, job.ask.purse.owner])] = objective.tenant_budget_usd
        return keys

    def _row(self, job: Job, objective: WithinBudget, now: float) -> Added:
        weighed = job.decisions[0][2].considered if job.decisions else ()
        row = added(objective.period_s, now, job.run.spent_usd, demand(weighed, objective, job.cost_multiplier))
        return Added(row.period, row.now, row.recent, row.fade)


def objective_of(policy: Policy) -> WithinBudget | None:
    """The policy's budget over time, where it has one."""
    return policy.objective if isinstance(policy, Optimiser) and isinstance(policy.objective, WithinBudget) else None


def _tightness(found: Pace) -> tuple[bool, float]:
    return found.spent, found.multiplier


def _tally(sums: Sums) -> Tally:
    return Tally(sums.period, sums.now, sums.usual, sums.recent)
