"""A set with what was learned of it, and its plans and policies played through the whole pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np

from adapters.scripted import scripted
from adapters.types import Price
from benchmarks.ensemble.recorded import Answers, Recorded
from benchmarks.harness import TEST, Array, Ints
from benchmarks.ladder import estimate
from difficulty.curves import Curves, Tokens
from difficulty.learn_success import fit_success
from difficulty.learn_votes import Sampled, fit_agreement, fit_votes
from difficulty.probe import Estimate
from difficulty.votes import Votes
from policies.facts import Market
from policies.plans import Plan
from policies.policy import Policy, Rule, Rules, When
from router.parts import Parts
from router.play import Played, play

TOKENS = 100
"""Output tokens that every answer is played with; its price is what its model's answers cost on the mean."""


@dataclass(frozen=True)
class World:
    """A set with what was learned of it, ready to be played."""

    data: Recorded
    parts: Parts
    estimates: Mapping[str, Estimate]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def learned(cls, data: Recorded, seed: int) -> World:
        """Curves from all that is not the test side."""
        right = {name: np.array([sum(mark for _, mark in drawn) for drawn in rows]) for name, rows in data.answers.items()}
        draws = {name: np.array([float(len(drawn)) for drawn in rows]) for name, rows in data.answers.items()}
        share = np.mean([right[name] / draws[name] for name in right], axis=0)
        e, known = estimate(data.prompts, share, data.group, data.side), data.side != TEST
        success = fit_success(dict.fromkeys(right, e[known]), *({name: of[name][known] for name in of} for of in (right, draws)))
        votes = learned_votes(data, np.flatnonzero(known))
        tokens = dict.fromkeys(right, Tokens(log(TOKENS), 0.0, 0.0))
        prices = {name: (0.0, usd / TOKENS * 1e6) for name, usd in data.usd.items()}
        backends = {name: scripted(name, price=Price(*prices[name])) for name in right}
        market = Market(prices, frozenset(right), Curves(success, tokens, votes=votes, source="recorded"))
        estimates = {prompt: Estimate(dict.fromkeys(right, float(e[i])), {}, "probe", TOKENS) for i, prompt in enumerate(data.prompts)}
        rng = np.random.default_rng(seed)
        rows = [_row(data, int(i), rng) for i in data.test for _ in range(data.orders)]
        return cls(data, Parts(backends, {}, "", market), estimates, rows)

    def play(self, policy: Policy) -> list[Played]:
        return play(self.parts, policy, self.rows, self.estimates)

    def run(self, plan: Plan) -> list[Played]:
        """One plan, whole."""
        return self.play(Rules(rules=(Rule(when=When(), then=(plan,)),), until=1.0))

    def alone(self, name: str) -> Array:
        """1 for each row of which a model's one answer is right."""
        place = list(self.data.answers).index(name)
        return np.array([row["traces"][place]["answers"][0]["correct"] for row in self.rows])

    def with_votes(self, **values: float) -> World:
        """The same, believing this of every model's votes."""
        votes = {name: replace(of_one, **values) for name, of_one in self.parts.market.curves.votes.items()}
        curves = replace(self.parts.market.curves, votes=votes)
        return replace(self, parts=replace(self.parts, market=replace(self.parts.market, curves=curves)))


def learned_votes(data: Recorded, rows: Ints) -> dict[str, Votes]:
    """From some prompts: of models with many draws how they vote, of all how often wrong answers are alike."""
    agree = fit_agreement([{name: [text for text, mark in of[i] if not mark] for name, of in data.answers.items()} for i in rows])
    many = {name: of for name, of in data.answers.items() if len(of[0]) > 1}
    votes = {name: fit_votes([_sampled(of[i]) for i in rows]) for name, of in many.items()}
    return {name: replace(votes.get(name, Votes()), agree=agree.get(name, Votes().agree)) for name in data.answers}


def _sampled(drawn: Answers) -> Sampled:
    return Sampled(np.array([int(text.split()[1]) for text, _ in drawn]), np.array([mark for _, mark in drawn]))


def _row(data: Recorded, i: int, rng: np.random.Generator) -> dict[str, Any]:
    """A prompt as `outlay collect` would have logged it, its draws in a random order."""
    traces = []
    for name, rows in data.answers.items():
        drawn = [rows[i][k] for k in rng.permutation(len(rows[i]))]
        answers = [{"text": text, "correct": mark} for text, mark in drawn]
        calls = [["generate", name, len(drawn), TOKENS, TOKENS * len(drawn), 1.0]]
        traces.append({"plan": f"sample({name})", "answers": answers, "calls": calls})
    return {"prompt": data.prompts[i], "group": str(data.group[i]), "traces": traces}
