"""Endless training data, vectorised: random integer traces over training number sets, laid out as token rows.

A trace starts from k numbers and joins two at a time until one is left, which becomes the target; so every puzzle has a solution and
none is stored. Zero never appears as a result: multiplying by it would make any spare numbers vanish. All arrays of one call share k,
so one phrasing gives rows of one length and nothing is wasted on padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fleet.phrasing import PHRASINGS, Phrasing, render
from fleet.split import LARGEST, SMALLEST, SPLITS, Split, multiset_key, split_table
from fleet.tokens import ASSISTANT, END, LARGEST_NUMBER, PAD, USER, build_tokenizer, number_id, vocabulary

Ints = NDArray[np.int64]
SIZES = (3, 4, 5, 6)
LARGEST_TARGET = 100
OPERATORS = "+-*/"
ABSENT = 9999


@dataclass(frozen=True)
class Traces:
    """n puzzles of k numbers with one solution each. `numbers` (n, k) sorted; `steps` (n, k-1, 4) of left, operator index, right,
    result; `left` a list of k-1 arrays, the sorted numbers left after each step."""

    numbers: Ints
    steps: Ints
    left: list[Ints]

    @property
    def target(self) -> Ints:
        """What the last step gives, shape (n,)."""
        return self.steps[:, -1, 3]


def random_traces(rng: np.random.Generator, k: int, n: int, side: Split = "train") -> Traces:
    """n traces over number sets of one side of the split, with targets 1..100."""
    parts: list[Traces] = []
    while sum(len(part.numbers) for part in parts) < n:
        parts.append(_acceptable(_draw(rng, k, 3 * n), side))
    joined = Traces(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.steps for part in parts]),
        [np.concatenate(states) for states in zip(*(part.left for part in parts), strict=True)],
    )
    return _take(joined, np.arange(n))


def _draw(rng: np.random.Generator, k: int, n: int) -> Traces:
    numbers = np.sort(rng.integers(SMALLEST, LARGEST + 1, (n, k)), axis=1)
    state, steps, left = numbers, [], []
    for _ in range(k - 1):
        step, state = _random_step(rng, state)
        steps.append(step)
        left.append(state)
    return Traces(numbers, np.stack(steps, axis=1), left)


def _random_step(rng: np.random.Generator, state: Ints) -> tuple[Ints, Ints]:
    """Join a random pair of every row by a random valid operator, larger operand first (sums and products have one order less)."""
    rows = np.arange(len(state))
    pair = _pairs(state.shape[1])[rng.integers(0, state.shape[1] * (state.shape[1] - 1) // 2, len(state))]
    small, large = state[rows, pair[:, 0]], state[rows, pair[:, 1]]
    results = np.stack([large + small, large - small, large * small, large // small], axis=1)
    valid = (results >= 1) & (results <= LARGEST_NUMBER)
    valid[:, 3] &= large % small == 0
    choice = np.where(valid, rng.random(results.shape), -1.0).argmax(axis=1)
    result = results[rows, choice]
    after = state.copy()
    after[rows, pair[:, 0]], after[rows, pair[:, 1]] = result, ABSENT
    after.sort(axis=1)
    return np.stack([large, choice, small, result], axis=1), after[:, :-1]


@cache
def _pairs(m: int) -> Ints:
    return np.array(list(combinations(range(m), 2)))


def _acceptable(traces: Traces, side: Split) -> Traces:
    sides = split_table(traces.numbers.shape[1])[multiset_key(traces.numbers)]
    in_range = (traces.steps[:, :, 3] <= LARGEST_NUMBER).all(axis=1) & (traces.target <= LARGEST_TARGET)
    return _take(traces, np.flatnonzero((sides == SPLITS.index(side)) & in_range))


def _take(traces: Traces, rows: Ints) -> Traces:
    return Traces(traces.numbers[rows], traces.steps[rows], [state[rows] for state in traces.left])


@dataclass(frozen=True)
class Rows:
    """Token rows of one batch: `ids` (n, length) padded on the right, `scored` a mask of the tokens that the loss counts,
    `labels` (n,) what a classifier should say, None for a language model."""

    ids: Ints
    scored: NDArray[np.bool_]
    labels: NDArray[np.float32] | None = None


def training_rows(rng: np.random.Generator, k: int, n: int, phrasings: int = 4) -> Rows:
    """n solved training puzzles of k numbers, under a few random phrasings, numbers in random order."""
    traces = random_traces(rng, k, n)
    answers = answer_ids(traces)
    chosen = rng.choice(len(PHRASINGS), size=phrasings, replace=False)
    blocks = []
    for part, index in zip(np.array_split(np.arange(n), phrasings), chosen, strict=True):
        numbers = rng.permuted(traces.numbers[part], axis=1)
        blocks.append((prompt_ids(PHRASINGS[index], numbers, traces.target[part]), answers[part]))
    return stack_rows(blocks)


def stack_rows(blocks: list[tuple[Ints, Ints]]) -> Rows:
    """Blocks of (prompt, answer) rows as one array, padded on the right; the loss counts the answers."""
    length = max(prompt.shape[1] + answer.shape[1] for prompt, answer in blocks)
    ids, scored = [], []
    for prompt, answer in blocks:
        row = np.full((len(prompt), length), PAD)
        mask = np.zeros(row.shape, dtype=bool)
        end = prompt.shape[1] + answer.shape[1]
        row[:, : prompt.shape[1]], row[:, prompt.shape[1] : end] = prompt, answer
        mask[:, prompt.shape[1] : end] = True
        ids.append(row)
        scored.append(mask)
    return Rows(np.concatenate(ids), np.concatenate(scored))


def prompt_ids(phrasing: Phrasing, numbers: Ints, target: Ints) -> Ints:
    """<|user|> prompt <|assistant|> for every row of numbers."""
    layout = _prompt_layout(phrasing, numbers.shape[1])
    ids = np.tile(np.maximum(layout, 0), (len(numbers), 1))
    for slot in range(numbers.shape[1]):
        ids[:, layout == -1 - slot] = number_id(0) + numbers[:, slot : slot + 1]
    ids[:, layout == _TARGET_SLOT] = number_id(0) + target[:, None]
    return ids


_TARGET_SLOT = -100


@cache
def _prompt_layout(phrasing: Phrasing, k: int) -> Ints:
    """Token ids of a phrasing, with negative places for its numbers (-1, -2, …) and its target."""
    slots = list(range(101, 101 + k))
    ids = np.array(build_tokenizer()(render(slots, LARGEST_NUMBER, phrasing))["input_ids"])
    for index, slot in enumerate(slots):
        ids[ids == number_id(slot)] = -1 - index
    ids[ids == number_id(LARGEST_NUMBER)] = _TARGET_SLOT
    return np.concatenate([[USER], ids, [ASSISTANT]])


def answer_ids(traces: Traces) -> Ints:
    """ "13-9=4 ; 4 4 10\\n … 6*4=24 <|end|>" for every row; the last step lists nothing, since only its result is left."""
    words = vocabulary()
    operators = np.array([words[mark] for mark in OPERATORS])
    n = len(traces.numbers)

    def always(token: int) -> Ints:
        return np.full((n, 1), token)

    columns: list[Ints] = []
    for index, state in enumerate(traces.left):
        large, choice, small, result = traces.steps[:, index].T[:, :, None]
        columns += [number_id(0) + large, operators[choice], number_id(0) + small, always(words["="])]
        columns.append(number_id(0) + result)
        last = index == len(traces.left) - 1
        columns += [always(END)] if last else [always(words[";"]), number_id(0) + state, always(words["\n"])]
    return np.concatenate(columns, axis=1)
