"""What a vote among several backends says: which answer is likeliest right, and how good such a vote is expected to be. Pure.

Given the latent difficulty each voter is right with its own chance p (and its score, where there is one, is that of a right or a wrong
answer), so that one of a strong backend outweighs several of weak ones. Source: Nitzan & Paroush 1982, "Optimal decision rules in
uncertain dichotomous choice situations", there for two answers. How wrong voters fall into camps is Ewens' sampling formula (1972, "The
sampling theory of selectively neutral alleles"), whose one number is the chance `agree` that two wrong answers are the same
(`votes.Votes`): there is no end of wrong answers, and what many wrong voters named draws more. Samples of one backend repeat each other:
n of them count as the 1 + slope * log n that a majority of n is worth in its log, each as a share of a vote. What either is worth on
recorded votes: `python -m benchmarks.ensemble`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

from difficulty.belief import TINY, Array, Belief, Channel, Evidence, logit, sigmoid
from difficulty.votes import Votes

Ints = NDArray[np.int64]
RIGHT, JOINS, APART = range(3)
"""What a voice may say: what is right, what the heaviest wrong voice says, or something else."""


def chances(belief: Belief, said: Sequence[str], voters: Sequence[Evidence], votes_of: Callable[[str], Votes]) -> dict[str, float]:
    """Chance that each answer is right, by what each voter said, those of most votes first; that of none of them is what they lack of 1."""
    drawn, heard = Counter(voter.backend for voter in voters), Counter((a, voter.backend) for a, voter in zip(said, voters, strict=True))
    answers = {answer: row for row, (answer, _) in enumerate(Counter(said).most_common())}
    counts = np.array([[float(heard[answer, name]) for name in drawn] for answer in answers])
    share = {name: (1 + max(votes_of(name).slope, 0.0) * log(n)) / n for name, n in drawn.items()}
    camps = _camps(counts @ np.array([*share.values()]), float(np.mean([votes_of(name).agree for name in drawn])))
    rows = np.tile(camps[:, None], len(belief.weights))
    for name in drawn:
        logs = np.zeros((len(rows), len(belief.weights_of(name))))
        for answer, voter in zip(said, voters, strict=True):
            if voter.backend == name:
                right, wrong = (share[name] * np.log(np.maximum(each, TINY)) for each in belief.joint(voter))
                logs += wrong
                logs[answers[answer]] += right - wrong
        rows += np.log(np.maximum(belief.shared(name, np.exp(logs)), TINY)) if belief.grid(name) else logs
    mass = np.exp(rows - rows.max()) @ belief.weights
    if all(voter.is_silent for voter in voters):
        mass[:-1] = _no_less_than_outvoted(mass[:-1], counts)
    return dict(zip(answers, (mass / mass.sum()).tolist(), strict=False))


def _camps(votes: Array, agree: float) -> Array:
    """Log likelihood of how the wrong votes fall, if each answer [A] in turn is the right one, and last if none is; up to a constant.

    Wrong answers of so many votes have the likelihood theta^A * prod Gamma(votes) / (theta (theta + 1) ... over all votes), so that two
    are the same with chance 1 / (1 + theta). It is the mean of prod share^votes over the shares of a Dirichlet process: votes need not be
    whole.
    """
    theta, every = max(1 / agree - 1, TINY), float(votes.sum())
    named = [-log(theta) - lgamma(n) - lgamma(theta + max(every - n, 0.0)) for n in votes.tolist()]
    return np.array([*named, -lgamma(theta + every)])


def _no_less_than_outvoted(mass: Array, counts: Array) -> Array:
    """An answer that each backend names as often as another or oftener, by votes [A, M], is as likely at least.

    No vote counts against what it is for, also not one of a backend that is believed to be right less often than its wrong answers agree:
    beliefs fitted on few prompts are that extreme for many (of recorded dates for 2 % of all votes), and hardly any prompt is.
    """
    outvoted = (counts[:, None] >= counts).all(axis=2)
    return np.asarray(np.where(outvoted, mass, 0.0).max(axis=1))


def vote(belief: Belief, members: Mapping[str, int], votes_of: Callable[[str], Votes], *, weighted: bool) -> Array:
    """Chance at each node that a vote of so many samples by backend is right, shape [J].

    A backend is taken for one voice, its own majority, which weighs as that majority is likely to be right; in a plain vote it weighs as
    it has samples, and a tie goes to the likelier. So two are worth what the heavier one is: how sure they are shows once they speak.
    """
    voices = [belief.shared(name, _majority(belief.logits[name], votes_of(name), n)) for name, n in members.items()]
    agree = np.array([votes_of(name).agree for name in members])
    likely = np.maximum([float(logit(belief.weights @ p)) for p in voices] - np.log(agree), 0.0)
    weights = likely if weighted else np.array(list(members.values())) + 1e-6 * likely
    outcomes = _outcomes(len(voices))
    chance = np.ones((len(outcomes), len(belief.weights)))
    for voice, p, a in zip(outcomes.T, voices, agree, strict=True):
        chance *= np.stack([p, (1 - p) * a, (1 - p) * (1 - a)])[voice]
    return np.asarray(_carried(outcomes, weights) @ chance)


@lru_cache(maxsize=8)
def _outcomes(voices: int) -> Ints:
    """All that so many voices may say, one outcome a row, shape [3^voices, voices]."""
    return np.array(list(product((RIGHT, JOINS, APART), repeat=voices)))


def _carried(outcomes: Ints, weights: Array) -> Array:
    """1 for each outcome in which the right voices outweigh the heaviest wrong one and all who join it. A tie is the heaviest voice's."""
    right, contra = outcomes == RIGHT, np.where(outcomes == RIGHT, 0.0, weights)
    joined = np.where(outcomes == JOINS, weights, 0.0)
    joined[np.arange(len(outcomes)), contra.argmax(axis=1)] = contra.max(axis=1)
    lead = right @ weights - joined.sum(axis=1)
    won = np.where(np.abs(lead) < 1e-12, right[:, weights.argmax()], lead > 0)
    return np.asarray(won, dtype=np.float64)


def _majority(logits: Array, votes: Votes, n: int) -> Array:
    """Chance at each node that the most frequent of n answers is right; of two it is the first."""
    return sigmoid(logits) if n < 3 else Channel(*votes.majority(n)).p(logits)
