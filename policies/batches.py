"""How many answers to draw at once, where the plan leaves it open. Pure.

A batch reads the prompt once, where the backend shares it among samples, and waits one round; but it draws on after an answer that would
have been enough. With a price c(m) of a batch of m and a chance P(m) that one of its answers is right, tries that are alike are cheapest
in batches of the least c(m) / P(m); after each batch the belief that all of it was wrong says what the next one should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from difficulty.belief import TINY, Array
from policies.plans import BestOfN

BATCHES = (1, 2, 4, 8, 16)
UNPRICED = 4
"""Answers drawn at once by a policy that does not say what anything is worth."""


def equal(n: int, size: int) -> list[int]:
    """n answers in batches of a size; the last takes what is left."""
    whole, rest = divmod(n, size)
    return [size] * whole + [rest] * (rest > 0)


def unpriced(plan: BestOfN, drawn: int) -> list[int]:
    """The batches still to come, by what the plan says alone."""
    return equal(max(plan.n - drawn, 0), plan.batch or UNPRICED)


def cheapest(all_wrong: Sequence[float], n: int, prices: Mapping[int, float]) -> list[int]:
    """The sizes of n answers' batches, each of the least price over its chance of a right answer, if all before it were wrong.

    `all_wrong` is the chance of that by the number of answers, up to n and the largest size more; `prices` are those of the sizes to
    choose from.
    """
    found: list[int] = []
    drawn = 0
    while drawn < n:
        goes_on = max(all_wrong[drawn], 1e-300)
        dear = {m: price / max(1 - all_wrong[drawn + m] / goes_on, 1e-12) for m, price in prices.items()}
        found.append(min(min(dear, key=dear.__getitem__), n - drawn))
        drawn += found[-1]
    return found


def all_wrong(p: Array, weights: Array, n: int) -> list[float]:
    """Chance that the first 0, 1, ... n answers are all wrong, each right at each node with chance `p`; `weights` are the belief, [J]."""
    chances: list[float] = (weights @ np.exp(np.multiply.outer(np.log(np.maximum(1 - p, TINY)), np.arange(n + 1)))).tolist()
    return chances
