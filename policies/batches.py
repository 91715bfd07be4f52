"""How many answers to draw at once, where the plan leaves it open. Pure.

A batch reads the prompt once, where the backend shares it among samples, and waits one round; but it draws on after an answer that would
have been enough. With a price c(m) of a batch of m and a chance P(m) that one of its answers is right, tries that are alike are cheapest
in batches of the least c(m) / P(m); after each batch the belief that all of it was wrong says what the next one should be.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from difficulty.belief import Array
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


def cheapest(p: Array, weights: Array, n: int, prices: Mapping[int, float]) -> list[int]:
    """The sizes of n answers' batches, each of the least price over its chance of a right answer, if all before it were wrong.

    `p` is the chance at each node that an answer is right and `weights` the belief, [J]; `prices` are those of the sizes to choose from.
    """
    sizes, price = np.array(list(prices)), np.array(list(prices.values()))
    all_wrong = weights @ np.exp(np.multiply.outer(np.log1p(-p), np.arange(n + sizes.max() + 1)))
    goes_wrong = all_wrong[np.arange(n)[:, None] + sizes] / np.maximum(all_wrong[:n, None], 1e-300)
    best = sizes[np.argmin(price / np.maximum(1 - goes_wrong, 1e-12), axis=1)]
    found: list[int] = []
    left = n
    while left:
        found.append(min(int(best[n - left]), left))
        left -= found[-1]
    return found
