"""Two models on the same prompts, out of recordings of two or more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.general_probe import read_as
from benchmarks.harness import CALIBRATE, TEST, TRAIN, Array, Ints, groups, sides
from benchmarks.marks import Rows

CHEAP = 0.1
"""Of more than two models the dear one is the best, the cheap one the best of those that cost at most so much of it."""


@dataclass(eq=False)
class Pair:
    """Two models on N prompts. `cheap` and `dear` are their quality in 0..1, shape [N]."""

    name: str
    models: tuple[str, str]
    prompts: list[str]
    cheap: Array
    dear: Array
    group: Ints
    others: dict[str, Array]
    """Quality of every other model on the same prompts, by recording and model; shape [N] each."""
    subject: Ints
    """Number of each prompt's subject, where it is recorded; else all 0. Shape [N]."""
    cost_usd: Array | None
    """Shape [2, N]."""
    scores: dict[str, Array] = field(default_factory=dict)
    """By method and rotation, higher where the dear one is worth more; shape [5, N], NaN outside of the test side."""

    @property
    def gain(self) -> Array:
        """What the dear one adds, shape [N]."""
        return self.dear - self.cheap

    def note(self, method: str, test: Any, scores: Array) -> None:
        """Keep what a method says of one more rotation's test side."""
        row = np.where(test, scores, np.nan)[None]
        self.scores[method] = np.concatenate([self.scores[method], row]) if method in self.scores else row


def pair(name: str, rows: Rows, everything: Mapping[str, Rows]) -> Pair:
    """The two models of a recording; where there are more, by quality and price (see CHEAP)."""
    models = sorted({model for row in rows for model in row["outcomes"]})
    whole = [row for row in rows if len(row["outcomes"]) == len(models)]
    quality = {m: np.array([row["outcomes"][m]["correct"] for row in whole], dtype=np.float64) for m in models}
    costs = {m: np.array([row["outcomes"][m].get("cost_usd", np.nan) for row in whole], dtype=np.float64) for m in models}
    dear = max(models, key=lambda m: quality[m].mean())
    limit = CHEAP * costs[dear].mean() if len(models) > 2 else np.nan
    cheap = max((m for m in models if m != dear and not costs[m].mean() > limit), key=lambda m: quality[m].mean())
    prompts = [read_as(row["prompt"]) for row in whole]
    subject = np.unique([row.get("subject", "") for row in whole], return_inverse=True)[1]
    known = None if np.isnan(costs[dear]).any() else np.stack([costs[cheap], costs[dear]])
    others = _others(whole, {cheap, dear}, name, everything)
    return Pair(name, (cheap, dear), prompts, quality[cheap], quality[dear], groups(prompts), others, subject, known)


def _others(rows: Rows, two: set[str], name: str, everything: Mapping[str, Rows]) -> dict[str, Array]:
    """The models that answered at least nine in ten of these prompts, here or in another recording."""
    by_prompt: dict[str, dict[str, float]] = {row["prompt"]: {} for row in rows}
    for file, found in everything.items():
        for row in found:
            if row.get("prompt") in by_prompt:
                seen = {f"{file}:{m}": float(o["correct"]) for m, o in row["outcomes"].items() if file != name or m not in two}
                by_prompt[row["prompt"]].update(seen)
    columns = sorted({m for seen in by_prompt.values() for m in seen})
    full = {m: np.array([by_prompt[row["prompt"]].get(m, np.nan) for row in rows]) for m in columns}
    return {m: np.nan_to_num(marks, nan=0.5) for m, marks in full.items() if np.isfinite(marks).mean() > 0.9}


def rotations(group: Ints, seed: int) -> Iterator[Ints]:
    """Five 40/20/40 splits; every prompt is in the test side of two."""
    fifth = sides(group, seed, (0.2,) * 5)
    for turn in range(5):
        yield np.array([TEST, TEST, CALIBRATE, TRAIN, TRAIN])[(fifth - turn) % 5]
