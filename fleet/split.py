"""Which number sets may be trained on: a stable hash of the sorted multiset, decided once and for ever.

Splitting by number set and not by puzzle keeps "4 9 10 13 to make 24" and "… to make 25" on the same side.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALLEST, LARGEST = 1, 13
BASE = LARGEST + 1
VALIDATION_PERCENT, TEST_PERCENT = 5, 15

# The Game of 24 puzzles at ranks 901-1000 of 4nums.com by human solving time, on which Tree of Thoughts (Yao et al., 2023) reports.
HELD_OUT_GAME24 = (
    "4 5 6 10",
    "1 2 4 7",
    "2 5 8 11",
    "3 4 4 13",
    "6 7 8 9",
    "1 11 11 13",
    "1 8 10 11",
    "2 3 6 9",
    "1 3 5 9",
    "3 3 7 12",
    "4 5 7 9",
    "1 2 8 13",
    "4 6 6 9",
    "1 4 4 8",
    "1 5 10 11",
    "3 4 6 11",
    "2 4 8 9",
    "1 4 5 13",
    "2 2 7 12",
    "3 3 6 7",
    "1 5 9 13",
    "5 6 7 13",
    "5 5 8 10",
    "2 4 6 12",
    "6 7 8 11",
    "7 9 9 13",
    "3 6 9 12",
    "6 9 12 13",
    "4 7 9 13",
    "5 6 8 12",
    "2 4 6 7",
    "2 5 10 10",
    "6 6 7 12",
    "6 9 9 11",
    "5 8 11 12",
    "5 6 8 10",
    "6 11 12 13",
    "2 2 8 8",
    "2 7 12 13",
    "2 6 8 12",
    "3 4 9 13",
    "4 5 10 12",
    "1 2 7 11",
    "4 5 6 8",
    "6 10 12 13",
    "1 3 9 9",
    "1 4 4 11",
    "2 3 9 10",
    "1 2 3 13",
    "1 6 6 6",
    "1 2 2 9",
    "1 3 6 11",
    "5 10 12 13",
    "2 3 6 6",
    "6 7 10 12",
    "7 8 8 12",
    "3 4 6 8",
    "1 7 9 11",
    "2 3 6 13",
    "2 2 5 12",
    "2 6 8 13",
    "8 8 10 12",
    "1 3 8 13",
    "4 4 7 10",
    "1 7 10 13",
    "1 9 10 13",
    "3 3 4 11",
    "2 5 7 7",
    "3 9 10 13",
    "2 3 4 7",
    "4 4 8 12",
    "1 2 6 10",
    "1 5 12 12",
    "5 6 6 8",
    "7 7 8 11",
    "1 3 7 10",
    "3 3 9 12",
    "3 5 7 10",
    "4 10 12 13",
    "2 3 10 12",
    "3 4 6 6",
    "5 8 8 8",
    "6 8 8 12",
    "2 3 4 9",
    "2 6 7 11",
    "5 9 12 12",
    "1 2 7 12",
    "2 4 5 6",
    "5 5 8 13",
    "2 3 3 10",
    "3 4 8 12",
    "2 4 6 11",
    "2 2 8 9",
    "1 5 6 7",
    "5 8 10 11",
    "4 4 9 12",
    "2 5 6 6",
    "2 4 9 12",
    "4 8 11 13",
    "4 9 10 13",
)


def split(numbers: Iterable[int]) -> Split:
    """The side on which a multiset of numbers lies, whatever their order."""
    ordered = tuple(sorted(numbers))
    if ordered in _held_out():
        return "test"
    bucket = zlib.crc32(" ".join(map(str, ordered)).encode()) % 100
    if bucket < TEST_PERCENT:
        return "test"
    return "validation" if bucket < TEST_PERCENT + VALIDATION_PERCENT else "train"


@cache
def _held_out() -> frozenset[tuple[int, ...]]:
    return frozenset(tuple(sorted(map(int, line.split()))) for line in HELD_OUT_GAME24)


@cache
def split_table(k: int) -> NDArray[np.uint8]:
    """Index into SPLITS for every multiset of k numbers, at position `multiset_key`; 255 where there is none."""
    table = np.full(BASE**k, 255, dtype=np.uint8)
    for numbers in combinations_with_replacement(range(SMALLEST, LARGEST + 1), k):
        table[multiset_key(np.array([numbers]))[0]] = SPLITS.index(split(numbers))
    return table


def multiset_key(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of sorted numbers, shape (n, k), as one integer each."""
    weights = BASE ** np.arange(ordered.shape[1])
    key: NDArray[np.int64] = ordered @ weights
    return key
