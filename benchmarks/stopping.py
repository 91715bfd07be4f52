"""Votes on recorded samples, in many random orders, and the rules that stop them early. Judged in `early_stop.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betainc

from benchmarks import harness
from benchmarks.harness import Array, Ints
from difficulty.learn_votes import Prefixes, Sampled, prefixes, shuffled
from difficulty.votes import Tally, Votes

LONGEST = 40
PRICES = (0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0007, 0.0008, 0.0009, 0.001, 0.0012, 0.0015, 0.002)
"""Of a sample, over the value of a right answer."""
MAY_LOSE = 0.1
"""Points against self-consistency that a price may cost."""


@dataclass(frozen=True)
class Recorded:
    """One file: the samples of a model on the prompts of a task."""

    name: str
    prompts: tuple[str, ...]
    sampled: tuple[Sampled, ...]
    n: int
    """Samples of self-consistency."""
    orders: int

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]], orders: int) -> Recorded:
        """Samples without an answer have no vote, unless a prompt has too few others: then "none" is an answer."""
        n = min(LONGEST, max(len(row["samples"]) for row in rows) // 5 * 5)
        kept = [(row["prompt"], voters) for row in rows if len(voters := _voters(row["samples"], n)) >= n]
        return cls(name, tuple(prompt for prompt, _ in kept), tuple(_sampled(voters) for _, voters in kept), n, orders)

    @property
    def agreement(self) -> float:
        """Mean share of the most frequent answer: where it is low there is nothing to vote on."""
        return float(np.mean([np.bincount(sampled.answer).max() / len(sampled.answer) for sampled in self.sampled]))

    @cached_property
    def answers(self) -> tuple[Ints, Array]:
        """The answers and marks of every vote, each [prompts * orders, n]."""
        rng = np.random.default_rng(len(self.name))
        drawn = [shuffled(sampled, self.orders, self.n, rng) for sampled in self.sampled]
        return np.concatenate([a for a, _ in drawn]), np.concatenate([r for _, r in drawn])

    @cached_property
    def group(self) -> Ints:
        """Of each prompt, the same for near-duplicates."""
        return harness.groups(self.prompts)

    @cached_property
    def half(self) -> Ints:
        """0 or 1 for each prompt: what is learned on one half is judged on the other."""
        return harness.sides(self.group, 0, (0.5, 0.5))

    @cached_property
    def votes(self) -> Prefixes:
        """All votes, after every sample."""
        return prefixes(*self.answers)

    @cached_property
    def states(self) -> tuple[list[list[int]], Ints]:
        """The distinct (leader, runner-up, all) and where each vote is at which, [prompts * orders, n]."""
        n = np.broadcast_to(np.arange(1, self.n + 1), self.votes.first.shape)
        code = (self.votes.first * 256 + self.votes.second) * 256 + n
        distinct, place = np.unique(code, return_inverse=True)
        return [[c >> 16, c >> 8 & 255, c & 255] for c in distinct.tolist()], place.reshape(code.shape)

    def judged(self, stops: Any) -> Judged:
        """A rule, given for each vote after each sample whether it would stop."""
        at = np.where(stops.any(axis=1), stops.argmax(axis=1), self.n - 1)
        right = self.votes.right[np.arange(len(at)), at]
        return Judged(*(rows.reshape(-1, self.orders).mean(axis=1) for rows in (right, at + 1.0)))


@dataclass(frozen=True)
class Judged:
    """How a rule did, by prompt, the mean over orders."""

    right: Array
    samples: Array

    @classmethod
    def by_half(cls, half: Ints, one: Judged, other: Judged) -> Judged:
        """The prompts of half 0 as one rule did, those of half 1 as the other."""
        return cls(np.where(half == 0, one.right, other.right), np.where(half == 0, one.samples, other.samples))

    def against(self, everything: Judged, adaptive: Judged) -> tuple[float, float]:
        """(points against self-consistency, samples over Adaptive-Consistency's)."""
        return 100 * float((self.right - everything.right).mean()), float(self.samples.mean() / adaptive.samples.mean())


def _voters(samples: Sequence[Mapping[str, Any]], n: int) -> Sequence[Mapping[str, Any]]:
    answered = [s for s in samples if s["answer"] not in (None, "")]
    return answered if len(answered) >= n else samples


def _sampled(voters: Sequence[Mapping[str, Any]]) -> Sampled:
    number: dict[Any, int] = {}
    said = [number.setdefault(s["answer"], len(number)) for s in voters]
    return Sampled(np.array(said, dtype=np.int64), np.array([float(s["correct"]) for s in voters]))


# --- the rules: for each vote after each sample, whether to stop ----------------------------------------------------------


def self_consistency(recorded: Recorded, n: int | None = None) -> Judged:
    """All samples, or so many."""
    return recorded.judged(np.arange(1, recorded.n + 1) == np.full((len(recorded.votes.first), 1), n or recorded.n))


def adaptive_consistency(recorded: Recorded, at: float = 0.95) -> Judged:
    """Aggarwal et al. 2023: once the chance that the leader is the more frequent one of the two, under a uniform prior, is `at`."""
    vote = recorded.votes
    return recorded.judged(1 - betainc(vote.first + 1, vote.second + 1, 0.5) >= at)


def esc(recorded: Recorded, window: int = 5) -> Judged:
    """Li et al. 2024, "Escape sky-high cost": once a window of samples, one after the other, agrees whole."""
    answer = recorded.answers[0]
    stops = np.zeros(answer.shape, dtype=bool)
    for start in range(0, answer.shape[1] - window + 1, window):
        stops[:, start + window - 1] = (answer[:, start : start + window] == answer[:, [start]]).all(axis=1)
    return recorded.judged(stops)


def ours(recorded: Recorded, votes: Votes, price: float, batch: int = 1, left: Callable[[int], int] | None = None) -> Judged:
    """`Votes.course`: while the next batch is worth its price. `left` of n may misstate how many samples are to come (an ablation)."""
    states, place = recorded.states
    to_come = left or (lambda n: recorded.n - n)
    on = [n % batch == 0 and votes.goes_on(Tally(f, s, n), to_come(n), batch, price) for f, s, n in states]
    looks = np.array([n % batch == 0 for _, _, n in states])
    return recorded.judged((looks & ~np.array(on))[place])


def sure(recorded: Recorded, votes: Votes, at: float) -> Judged:
    """The race without a price: once the leader stays the leader with this chance."""
    states, place = recorded.states
    return recorded.judged(np.array([votes.lasts(Tally(f, s, n), recorded.n - n) >= at for f, s, n in states])[place])
