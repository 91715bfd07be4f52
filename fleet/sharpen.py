"""Rejection sampling: a model learns from its own answers that the checker accepted (STaR, Zelikman et al., 2022).

Random traces spread over every way to a target; a model's own right answers are the ways it can walk. They are drawn at a lower
temperature than 1, and mixed with ordinary puzzles, one in four, so that the puzzles it cannot solve yet are not forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fleet.data import SIZES, Rows, prompt_ids, stack_rows, training_rows
from fleet.fitting import BatchSource
from fleet.phrasing import PHRASINGS
from fleet.reward import Pool, pools
from fleet.rollouts import Group
from fleet.tokens import PAD

TEMPERATURE = 0.7


def accepted(groups: Sequence[Group]) -> list[Group]:
    """The groups with their distinct right answers only."""
    kept = []
    for group in groups:
        right = tuple(dict.fromkeys(answer for answer, good in zip(group.answers, group.correct, strict=True) if good))
        if right:
            kept.append(replace(group, answers=right, correct=(True,) * len(right)))
    return kept


def answer_rows(rng: np.random.Generator, pool: Pool, n: int, phrasings: int = 4) -> Rows:
    """n answers of a pool as language-model rows, under fresh phrasings and number orders."""
    blocks = []
    for part in np.array_split(rng.integers(0, len(pool.target), n), phrasings):
        numbers = rng.permuted(pool.numbers[part], axis=1)
        phrasing = PHRASINGS[rng.integers(len(PHRASINGS))]
        blocks.append((prompt_ids(phrasing, numbers, pool.target[part]), pool.answers[part]))
    rows = stack_rows(blocks)
    return Rows(rows.ids, rows.scored & (rows.ids != PAD))


def sharpening_batches(groups: Sequence[Group], own: int = 48, ordinary: int = 16) -> BatchSource:
    """Accepted answers and ordinary puzzles, so many of each size a batch."""
    by_size = pools(accepted(groups))

    def batches(rng: np.random.Generator) -> list[Rows]:
        accepted_rows = [answer_rows(rng, by_size[k], own) for k in SIZES]
        return accepted_rows + [training_rows(rng, k, ordinary) for k in SIZES]

    return batches
