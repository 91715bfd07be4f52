"""Requests played against the embedded fleet's fitted curves: each decision is the service's own, each draw and each verdict is drawn.

Played beforehand on a grid of difficulty and of the multiplier on cost, so that a day of requests takes its episodes from a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.harness import Array
from difficulty.belief import OWN_NODES, OWN_PRIOR, PLAIN, PRIOR, TINY, Belief, Channel, Evidence, sigmoid
from policies.decide import decide, next_draws
from policies.facts import Decision, Facts, Market
from policies.forecast import Stage, draws_in, stages
from policies.pacing import GRID, demand
from policies.plans import Ensemble, Plan, Revise, Source, TreeSearch
from policies.policy import MOST, Optimiser, WithinBudget

PROMPT_TOKENS = 14
EASE: Array = np.arange(-4.0, 4.01, 0.5)
"""Grid of the probe's word on a prompt, e of the small model, shape [E]."""
LARGE_IS_EASIER = 0.9
"""e of the large model less that of the small one: so that it is right on 60 % of the first days' prompts against 43 %."""
MULTIPLIERS: Array = np.concatenate([[1.0], 2.0 ** np.arange(9, 16.01, 0.5), [MOST]])
"""Grid of multipliers at which episodes are played, shape [M]."""
EPISODES = 40
"""In each cell of the two grids."""


@dataclass(frozen=True)
class Episodes:
    """By cell: cost and correctness, shape [E, M, K], and the demand of the first decision, [E, M, 1 + G]."""

    cost_usd: Array
    right: Array
    demand: Array


def play_all(policy: Optimiser, market: Market, seed: int) -> Episodes:
    """Every cell of the grid."""
    assert isinstance(policy.objective, WithinBudget), "demand is noted for budgets only"
    nodes = np.searchsorted(np.cumsum(PRIOR), (np.arange(EPISODES) + 0.5) / EPISODES)
    shape = (len(EASE), len(MULTIPLIERS))
    found = Episodes(np.zeros((*shape, EPISODES)), np.zeros((*shape, EPISODES)), np.zeros((*shape, 1 + len(GRID))))
    for i, j in np.ndindex(shape):
        cell = Cell(policy, market, float(EASE[i]), float(MULTIPLIERS[j]))
        found.demand[i, j] = demand(cell.decide(cell.prior, frozenset()).considered, policy.objective, cell.facts.cost_multiplier)
        for k, node in enumerate(nodes):
            found.cost_usd[i, j, k], found.right[i, j, k] = Episode(cell, int(node), np.random.default_rng((seed, k))).play()
    return found


class Cell:
    """Decisions at one difficulty and multiplier, each made once: without limits they depend on what was run and seen alone."""

    def __init__(self, policy: Optimiser, market: Market, ease: float, multiplier: float) -> None:
        curves = market.curves
        self.policy, self.market = policy, market
        self.prior = Belief.prior({"small": ease, "large": ease + LARGE_IS_EASIER}, curves.success, tempering=curves.tempering)
        self.facts = Facts(input_tokens=PROMPT_TOKENS, cost_multiplier=multiplier)
        self._decided: dict[Any, Decision] = {}
        self._next: dict[Any, int] = {}

    def decide(self, belief: Belief, done: frozenset[str]) -> Decision:
        """The service's decision."""
        key = belief.evidence, done
        if key not in self._decided:
            self._decided[key] = decide(self.policy, self.market, replace(self.facts, done=done), belief)
        return self._decided[key]

    def next_draws(self, belief: Belief, done: frozenset[str], plan: Plan, drawn: int) -> int:
        """How many answers the service would draw next of a plan that has drawn so many."""
        key = belief.evidence, done, drawn
        if key not in self._next:
            self._next[key] = next_draws(self.policy, self.market, replace(self.facts, done=done), belief, plan, drawn)
        return self._next[key]


class Episode:
    """One request, from its first decision to its last."""

    def __init__(self, cell: Cell, node: int, rng: np.random.Generator) -> None:
        self.cell, self.belief, self.rng = cell, cell.prior, rng
        self.at = {name: self._node(name, node) for name in self.belief.lines}
        """The true difficulty: by backend, its node on the backend's grid."""
        self.done: frozenset[str] = frozenset()
        self.cost_usd = 0.0

    def play(self) -> tuple[float, float]:
        """(US dollars, chance at the true difficulty that the answer is right, given what the verifier said)."""
        while (plan := self.cell.decide(self.belief, self.done).plan) is not None:
            self.done |= {plan.key}
            self._run(plan)
        best = self.belief.best_answer
        assert best is not None, "a request without limits is answered"
        return self.cost_usd, float(self.belief.right_by_node(best)[self.at[best.backend]])

    def _node(self, backend: str, shared: int) -> int:
        """A node of the backend's grid at that shared one: what is the backend's own is drawn."""
        if not self.belief.grid(backend):
            return shared
        return shared * len(OWN_NODES) + int(self.rng.choice(len(OWN_NODES), p=OWN_PRIOR[0]))

    def _run(self, plan: Plan) -> None:
        """Stage after stage, while more is worth it."""
        assert not isinstance(plan, Ensemble), "episodes are of plans of one backend"
        drawn = 0
        while n := self.cell.next_draws(self.belief, self.done, plan, drawn):
            row = stages(plan, self.cell.market, self.cell.facts, drawn, [n])[0]
            if isinstance(plan, TreeSearch):
                self._search(plan, row)
            else:
                channel = self.cell.market.curves.plan(plan.key).channel if isinstance(plan, Revise) and drawn else PLAIN
                for _ in range(row.draws):
                    self._draw(plan, float(row.p(self.cell.prior)[self.at[plan.backend]]), channel)
            drawn += row.draws
            self.cost_usd += row.cost_usd

    def _draw(self, plan: Source, p: float, channel: Channel) -> None:
        """One answer, right with that chance, and what the verifier says of it."""
        right = bool(self.rng.random() < p)
        self.belief = self.belief.after([self._scored(plan, right, channel) if plan.verifier else Evidence(plan.backend, channel)])

    def _search(self, plan: TreeSearch, row: Stage) -> None:
        """One answer, as the best of the plain draws that the search is worth."""
        at = self.at[plan.backend]
        p, n = (float(of[at]) for of in (self.belief.by_node(plan.backend), draws_in(row, self.belief)))
        draws = [self._scored(plan, bool(self.rng.random() < p), PLAIN) for _ in range(max(1, int(n + self.rng.random())))]
        self.belief = self.belief.after([max(draws, key=lambda one: one.if_right / max(one.if_wrong, TINY))])

    def _scored(self, plan: Source, right: bool, channel: Channel) -> Evidence:
        """The verifier's word on an answer: one of its bins, as often as right or wrong answers to so hard a prompt fall into it."""
        scores = self.cell.market.curves.scores_of(plan.verifier or "")
        of_right, of_wrong = scores.likelihoods(sigmoid(self.belief.logits[plan.backend][[self.at[plan.backend]]]))
        chances = (of_right if right else of_wrong)[0]
        k = int(self.rng.choice(len(chances), p=chances / chances.sum()))
        return scores.seen(plan.backend, (scores.edges[0] - 1, *scores.edges)[k], channel)
