"""Rollouts: many answers of a model to training or validation puzzles, each marked right or wrong by the checker.

What the reward model, the revision fine-tune and rejection sampling learn from. Kept as gzipped JSON lines in the scratch folder.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from fleet.data import SIZES, Ints, answer_ids, random_traces
from fleet.phrasing import PHRASINGS
from fleet.puzzles import Puzzle, check, prompt
from fleet.sampling import sample
from fleet.split import Split
from fleet.tokens import build_tokenizer


@dataclass(frozen=True)
class Group:
    """All answers of one model to one puzzle; `solution` is the trace that the puzzle was made from."""

    numbers: tuple[int, ...]
    target: int
    solution: str
    answers: tuple[str, ...] = ()
    correct: tuple[bool, ...] = ()

    @property
    def puzzle(self) -> Puzzle:
        """The puzzle alone."""
        return Puzzle(self.numbers, self.target)


def new_groups(seed: int, per_size: int, side: Split) -> list[Group]:
    """Fresh puzzles of one side, the same number of each size, numbers in random order, without answers yet."""
    rng = np.random.default_rng([seed, ["train", "validation", "test"].index(side)])
    tokenizer = build_tokenizer()
    return [group for k in SIZES for group in _of_size(rng, k, per_size, side, tokenizer)]


def _of_size(rng: np.random.Generator, k: int, n: int, side: Split, tokenizer: PreTrainedTokenizerFast) -> Iterable[Group]:
    traces = random_traces(rng, k, n, side)
    numbers: Ints = rng.permuted(traces.numbers, axis=1)
    solutions = tokenizer.batch_decode(answer_ids(traces), skip_special_tokens=True)
    for row, target, solution in zip(numbers.tolist(), traces.target.tolist(), solutions, strict=True):
        yield Group(tuple(row), target, solution)


def roll_out(model: Any, groups: list[Group], n: int, seed: int, temperature: float = 1.0, label: str = "rollouts") -> list[Group]:
    """The groups with n answers each, under random phrasings."""
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(seed)
    prompts = [prompt(group.puzzle, int(rng.integers(len(PHRASINGS)))) for group in groups]
    sampled = sample(model, [chat_ids(tokenizer, text) for text in prompts], n, seed, temperature, label=label)
    return [_marked(group, tokenizer.batch_decode(rows, skip_special_tokens=True)) for group, rows in zip(groups, sampled, strict=True)]


def chat_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The token ids of one user turn, ready for an answer."""
    turn = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    return ids


def _marked(group: Group, answers: list[str]) -> Group:
    text = prompt(group.puzzle)
    correct = tuple(check(text, answer) == 1.0 for answer in answers)
    return Group(group.numbers, group.target, group.solution, tuple(answers), correct)


def save_groups(groups: Iterable[Group], path: Path) -> None:
    """Write aside and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    with gzip.open(aside, "wt", compresslevel=3) as stream:
        for group in groups:
            stream.write(json.dumps(asdict(group)) + "\n")
    os.replace(aside, path)


def load_groups(path: Path) -> list[Group]:
    """The groups of one file."""
    with gzip.open(path, "rt") as stream:
        return [_group(json.loads(line)) for line in stream]


def _group(row: dict[str, Any]) -> Group:
    return Group(tuple(row["numbers"]), row["target"], row["solution"], tuple(row["answers"]), tuple(row["correct"]))
