"""What a vote among several backends says: which answer is likeliest right, and how good such a vote is expected to be. Pure.

Given the latent difficulty each voter is right with its own chance p (and its score, where there is one, is that of a right or a wrong
answer), and a wrong one names one of `WRONG` wrong answers. That makes log(p * WRONG / (1 - p)) the weight of a vote, so that a vote of a
strong backend outweighs several of weak ones. Source: Nitzan & Paroush 1982, "Optimal decision rules in uncertain dichotomous choice
situations", there for two answers. Samples of one backend repeat each other: n of them count as the 1 + slope * log n that a majority of
n is worth in its log (`votes.Votes.slope`). On recorded votes that halves the log loss of the chances (`python -m benchmarks.ensemble`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import log

import numpy as np

from difficulty.belief import Array, Belief, Channel, Evidence, logit, sigmoid
from difficulty.votes import Votes

WRONG = 3
"""Wrong answers that a prompt is taken to have, all alike."""


def chances(belief: Belief, said: Sequence[str], voters: Sequence[Evidence], votes_of: Callable[[str], Votes]) -> dict[str, float]:
    """Chance that each answer is right, by what each voter said; that of none of them is what they lack of 1."""
    drawn = Counter(voter.backend for voter in voters)
    share = {name: (1 + max(votes_of(name).slope, 0.0) * log(n)) / n for name, n in drawn.items()}
    answers = dict.fromkeys(said, np.zeros_like(belief.weights))
    all_wrong = np.zeros_like(belief.weights)
    for answer, voter in zip(said, voters, strict=True):
        right, wrong = (share[voter.backend] * np.log(np.maximum(each, 1e-300)) for each in belief.joint(voter))
        wrong = wrong - share[voter.backend] * log(WRONG)
        all_wrong = all_wrong + wrong
        answers[answer] = answers[answer] + right - wrong
    unsaid = max(WRONG + 1 - len(answers), 0)
    rows = np.stack([*answers.values(), np.full_like(all_wrong, log(unsaid) if unsaid else -np.inf)]) + all_wrong
    mass = np.exp(rows - rows.max()) @ belief.weights
    return dict(zip(answers, (mass / mass.sum()).tolist(), strict=False))


def vote(belief: Belief, members: Mapping[str, int], votes_of: Callable[[str], Votes], *, weighted: bool) -> Array:
    """Chance at each node that a vote of so many samples by backend is right, shape [J].

    A backend is taken for one voice, its own majority, which weighs as that majority is likely to be right (in a plain vote, as it has
    samples). So two of different weight are worth what the heavier one is: how sure each of them is only shows once they have voted.
    """
    voices = [_majority(belief.logits[name], votes_of(name), n) for name, n in members.items()]
    likely = [max(float(logit(belief.weights @ p)) + log(WRONG), 0.0) for p in voices]
    weights = likely if weighted else list(members.values())
    right = np.zeros_like(belief.weights)
    for outcome in product((True, False), repeat=len(voices)):
        chance = np.prod([p if is_right else 1 - p for p, is_right in zip(voices, outcome, strict=True)], axis=0)
        right += chance * _carries(weights, outcome)
    return right


def _carries(weights: Sequence[float], right: Sequence[bool]) -> float:
    """Chance that the right voices outweigh the wrong ones, which all agree or all differ. Of a tie the heaviest's first."""
    pro = sum(w for w, is_right in zip(weights, right, strict=True) if is_right)
    contra = [w for w, is_right in zip(weights, right, strict=True) if not is_right]
    agree = WRONG ** -(len(contra) - 1.0) if contra else 1.0
    first = bool(right[int(np.argmax(weights))])
    against = ((sum(contra), agree), (max(contra, default=0.0), 1 - agree))
    return sum(share for weight, share in against if pro > weight or (pro == weight and pro and first))


def _majority(logits: Array, votes: Votes, n: int) -> Array:
    """Chance at each node that the most frequent of n answers is right; of two it is the first."""
    return sigmoid(logits) if n < 3 else Channel(*votes.majority(n)).p(logits)
