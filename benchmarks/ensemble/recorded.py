"""Sets in which several models answered the same prompts, with the pools that are asked of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from adapters.answers import normalise
from benchmarks import harness
from benchmarks.harness import TEST, Ints

ORDERS = 1
"""How often each prompt with many draws is played, in other orders."""
DRAWN = 40
MOST = 250
"""Prompts of a set's test side that are played at most, so that all of it takes minutes."""
DATES = {"gpt35_80mix": ("gpt-3.5", 2.0), "llama2_13b_80mix": ("llama-2-13b", 0.5), "gpt4_12mix": ("gpt-4", 60.0)}
"""By file of dates: the model, and an assumed price in US dollars for a million output tokens (of four characters)."""
DATE_POOLS = ({"gpt-3.5": 4, "llama-2-13b": 4}, {"gpt-3.5": 4, "gpt-4": 1}, {"gpt-3.5": 3, "llama-2-13b": 3, "gpt-4": 1})

Answers = list[tuple[str, float]]
"""(number of the answer among those to its prompt, 1 if it is right)."""


@dataclass(frozen=True)
class Recorded:
    """Several models' answers to the same prompts."""

    name: str
    prompts: Sequence[str]
    answers: Mapping[str, Sequence[Answers]]
    """By model, by prompt."""
    usd: Mapping[str, float]
    """By model: an answer, on the mean."""
    priced: bool
    pools: Mapping[str, Mapping[str, int]]
    side: Ints
    group: Ints

    @cached_property
    def test(self) -> Ints:
        """The prompts that are played."""
        rows = np.flatnonzero(self.side == TEST)
        return np.sort(np.random.default_rng(len(rows)).permutation(rows)[:MOST])

    @property
    def orders(self) -> int:
        """How often each prompt is played."""
        return ORDERS if max(len(drawn[0]) for drawn in self.answers.values()) > 1 else 1

    def cost_usd(self, members: Mapping[str, int]) -> float:
        """What so many answers of each cost."""
        return sum(n * self.usd[name] for name, n in members.items())


def numbered(answer: Any, right: float, seen: dict[str, int]) -> tuple[str, float]:
    """All right answers to a prompt are one; wrong ones are told apart as the router does. No answer at all is like no other."""
    said = "" if right else f"none {len(seen)}" if answer in (None, "") else normalise(str(answer))
    return f"answer {0 if right else seen.setdefault(said, len(seen) + 1)}", float(right)


def of_outcomes(name: str, rows: Sequence[Mapping[str, Any]], seed: int) -> Recorded:
    """One answer of each model; pools by rank off the test side. Without recorded prices a call costs a tenth of a cent."""
    prompts = [row["prompt"] for row in rows]
    group = harness.groups(prompts)
    side = harness.sides(group, seed)
    learned = [row for row, where in zip(rows, side, strict=True) if where != TEST]
    models = list(rows[0]["outcomes"])
    strong = sorted(models, key=lambda model: -float(np.mean([row["outcomes"][model]["correct"] for row in learned])))
    middle = len(strong) // 2 - 2
    picked = {
        "five best": strong[:5],
        "five in the middle": strong[middle : middle + 5],
        "five over all ranks": [strong[round(i * (len(strong) - 1) / 4)] for i in range(5)],
    }
    used = list(dict.fromkeys(model for pool in picked.values() for model in pool))
    seen: list[dict[str, int]] = [{} for _ in rows]
    answers = {
        model: [[numbered(row["outcomes"][model].get("answer"), row["outcomes"][model]["correct"], seen[i])] for i, row in enumerate(rows)]
        for model in used
    }
    priced = "cost_usd" in rows[0]["outcomes"][models[0]]
    usd = {model: float(np.mean([row["outcomes"][model].get("cost_usd", 1e-3) for row in rows])) for model in used}
    pools = {label: dict.fromkeys(pool, 1) for label, pool in picked.items()}
    return Recorded(name, prompts, answers, usd, priced, pools, side, group)


def of_dates(files: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> Recorded:
    """Many draws of three models."""
    by_prompt = {file: {row["prompt"]: row["samples"] for row in files[f"samples_mot_date_{file}"]} for file in DATES}
    prompts = [prompt for prompt in by_prompt["gpt4_12mix"] if all(prompt in rows for rows in by_prompt.values())]
    group, seen = harness.groups(prompts), [dict[str, int]() for _ in prompts]
    answers = {
        model: [
            [numbered(sample["answer"], sample["correct"], seen[i]) for sample in by_prompt[file][prompt][:DRAWN]]
            for i, prompt in enumerate(prompts)
        ]
        for file, (model, _) in DATES.items()
    }
    usd = {
        model: usd_per_mtok * float(np.mean([s["chars"] for rows in by_prompt[file].values() for s in rows])) / 4 / 1e6
        for file, (model, usd_per_mtok) in DATES.items()
    }
    pools = {", ".join(f"{n} {model}" for model, n in pool.items()): pool for pool in DATE_POOLS}
    return Recorded("mot_date", prompts, answers, usd, True, pools, harness.sides(group, seed), group)
