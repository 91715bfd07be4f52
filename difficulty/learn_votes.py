"""How `Votes` are fitted: from prompts with many samples each, whose answers were compared and marked. Plain statistics on arrays.

A log of nested samples is worth many votes: the samples of a prompt in any order are as likely, so each order is a vote of its own
(`prefixes`), and all prompts weigh the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from difficulty.votes import Tally, Votes, features

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

ORDERS = 10
"""Orders in which the samples of a prompt are voted on."""
CONTESTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5)
PRIOR_PROMPTS = 5.0
"""Prompts that the default worth of a lead, and the default agreement, count for."""
RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Sampled:
    """The samples of one prompt: a number for each answer, the same for equal ones, and whether it is right. Shapes [N]."""

    answer: Ints
    right: Array


@dataclass(frozen=True)
class Prefixes:
    """The vote after each of N samples, in V orders: arrays of shape [V, N]."""

    first: Ints
    second: Ints
    leader: Ints
    """Number of the answer that leads; of equals the one that came to it first."""
    right: Array
    """Whether the leader is right."""


def shuffled(sampled: Sampled, orders: int, n: int, rng: np.random.Generator) -> tuple[Ints, Array]:
    """(answers, marks) of `n` samples in each of so many random orders, each of shape [orders, n]."""
    order = rng.permuted(np.tile(np.arange(len(sampled.answer)), (orders, 1)), axis=1)[:, :n]
    return sampled.answer[order], sampled.right[order]


def prefixes(answer: Ints, right: Array) -> Prefixes:
    """The votes on samples in the order given; `answer` and `right` are [V, N]."""
    rows, n = np.arange(len(answer)), answer.shape[1]
    counts, marks = np.zeros((2, len(answer), int(answer.max()) + 1))
    first, second, leader = (np.zeros(answer.shape, dtype=np.int64) for _ in range(3))
    ahead = answer[:, 0]
    for i in range(n):
        counts[rows, answer[:, i]] += 1
        marks[rows, answer[:, i]] = right[:, i]
        ahead = np.where(counts[rows, answer[:, i]] > counts[rows, ahead], answer[:, i], ahead)
        leader[:, i], first[:, i] = ahead, counts[rows, ahead]
        others = counts.copy()
        others[rows, ahead] = 0
        second[:, i] = others.max(axis=1)
    return Prefixes(first, second, leader, marks[rows[:, None], leader])


def fit_votes(prompts: Sequence[Sampled], seed: int = 0) -> Votes:
    """Votes from prompts with two samples each or more."""
    rng = np.random.default_rng(seed)
    seen = [_Seen.of(sampled, rng) for sampled in prompts if len(sampled.answer) > 1]
    if not seen:
        return Votes()
    all_ = _Seen.joined(seen)
    intercept, on_share, on_lead = _logistic(all_)
    shift, slope = _majority(all_)
    base_rate = float(np.clip(np.mean([sampled.right.mean() for sampled in prompts]), 0.01, 0.99))
    return Votes(_contest(all_), _lead_worth(seen), intercept, on_share, on_lead, base_rate, shift, slope)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Votes after some of their samples, beside how they ended; arrays of shape [rows]."""

    tally: Ints
    """Leader, runner-up, all, and how many came after: [rows, 4]."""
    right: Array
    end_right: Array
    lasts: Array
    """Whether the leader was the leader at the end."""
    lead: Array
    """By what share of the votes of the two the leader at the end led this one then."""
    others: Array
    """Share of right answers, smoothed, among the samples after."""
    weight: Array

    @classmethod
    def of(cls, sampled: Sampled, rng: np.random.Generator) -> _Seen:
        """One prompt's votes, looked at after 1, 2, 3, 4, 6, 8, 12, ... samples, up to half of them."""
        total = len(sampled.answer)
        answer, right = shuffled(sampled, ORDERS, total, rng)
        vote = prefixes(answer, right)
        looks = np.array([n for n in _LOOKS if n == 1 or 2 * n <= total]) - 1
        n = np.broadcast_to(looks + 1, (ORDERS, len(looks)))
        after = right.sum(axis=1, keepdims=True) - right.cumsum(axis=1)[:, looks]
        tally = np.stack([vote.first[:, looks], vote.second[:, looks], n, total - n], axis=-1).reshape(-1, 4)
        end_right = np.broadcast_to(vote.right[:, -1:], n.shape).ravel()
        lasts = (vote.leader[:, looks] == vote.leader[:, -1:]).astype(np.float64).ravel()
        votes = np.bincount(answer[0])[vote.leader]
        lead = 1 - 2 * votes[:, looks] / (votes[:, looks] + votes[:, -1:])
        others = ((after + 0.5) / (total - n + 1)).ravel()
        return cls(tally, vote.right[:, looks].ravel(), end_right, lasts, lead.ravel(), others, np.full(n.size, 1 / n.size))

    @classmethod
    def joined(cls, parts: Sequence[_Seen]) -> _Seen:
        """All rows of all of them."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


_LOOKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def _contest(seen: _Seen) -> float:
    """The prior of the race under which leaders last as often as they did: the likeliest of a few."""
    states, place = np.unique(seen.tally, axis=0, return_inverse=True)
    kept, gone = (np.bincount(place.ravel(), seen.weight * rows, len(states)) for rows in (seen.lasts, 1 - seen.lasts))

    def loss(contest: float) -> float:
        votes = Votes(contest)
        last = np.clip([votes.lasts(Tally(first, second, n), left) for first, second, n, left in states.tolist()], 1e-6, 1 - 1e-6)
        return -float(kept @ np.log(last) + gone @ np.log1p(-last))

    return min(CONTESTS, key=loss)


def _lead_worth(seen: Sequence[_Seen]) -> float:
    """What changes of leader added to the chance of being right, over how far the new ones came to lead; a weak pull to the default, as
    of so many prompts more of those where it matters."""
    won, led = np.array([[one.weight @ (one.end_right - one.right), one.weight @ one.lead] for one in seen]).T
    pull = PRIOR_PROMPTS * float(led @ led) / max(float(led.sum()), 1e-9) + 1e-9
    return float(np.clip((won.sum() + pull * Votes().lead_worth) / (led.sum() + pull), 0.0, 1.0))


def _logistic(seen: _Seen) -> tuple[float, ...]:
    """Intercept and slopes of the log odds that a leader is right."""
    states, place = np.unique(seen.tally[:, :3], axis=0, return_inverse=True)
    x = np.array([features(Tally(*row)) for row in states.tolist()])[place.ravel()]
    return _fitted(x, seen.right, seen.weight)


def _majority(seen: _Seen) -> tuple[float, float]:
    """Shift and slope per log n of the channel of a majority. The share of right answers among the samples that it did not see stands for
    the chance of one; how well it does, votes of one say."""
    size, own = np.log(seen.tally[:, 2]), np.log(seen.others / (1 - seen.others))
    at_one, scale, shift, slope = _fitted(np.column_stack([np.ones_like(own), own, size, size * own]), seen.right, seen.weight)
    slope /= max(scale, 0.1)
    return shift - slope * at_one, slope


def _fitted(x: Array, right: Array, weight: Array) -> tuple[float, ...]:
    """Logistic regression with a weak ridge."""
    w = weight / weight.sum()

    def loss(beta: Array) -> tuple[float, Array]:
        z = x @ beta
        value = -w @ (right * log_expit(z) + (1 - right) * log_expit(-z)) + RIDGE / 2 * beta @ beta
        return float(value), -x.T @ (w * (right - expit(z))) + RIDGE * beta

    return tuple(float(b) for b in minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)


def fit_agreement(prompts: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, float]:
    """`Votes.agree` of every backend that shares prompts with another, from the wrong answers by backend to each prompt.

    All pairs of backends that were wrong on a prompt weigh the same, however often each was.
    """
    agreed, pairs = defaultdict[str, float](float), Counter[str]()
    for wrong in ({name: Counter(said) for name, said in prompt.items() if said} for prompt in prompts):
        for one, other in permutations(wrong, 2):
            same = sum(n * wrong[other][answer] for answer, n in wrong[one].items())
            agreed[one] += same / wrong[one].total() / wrong[other].total()
            pairs[one] += 1
    prior = PRIOR_PROMPTS * Votes().agree
    return {name: (agreed[name] + prior) / (n + PRIOR_PROMPTS) for name, n in pairs.items()}
