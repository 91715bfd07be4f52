"""What an estimate would have to know to do better: how closely it must follow the gain, and what models' own draws say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from benchmarks.general_probe import read_as
from benchmarks.harness import TEST, Array, Ints
from benchmarks.two_model.figures import apgr, curve
from benchmarks.two_model.methods import ridge
from benchmarks.two_model.pairs import Pair, rotations

GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)
PLAYS = 50
GAP = 0.1
"""Pairs of models that were asked many times count if one is right so much more often."""


def followed(gain: Array, seed: int) -> list[tuple[float, float]]:
    """(correlation with the gain, APGR) of scores that are the gain, and noise otherwise."""
    rng, z = np.random.default_rng(seed), (gain - gain.mean()) / gain.std()

    def played(r: float) -> float:
        order = np.argsort(-(r * z + np.sqrt(1 - r * r) * rng.normal(size=len(z))))
        return apgr(*curve(gain[order]))

    return [(r, float(np.mean([played(r) for _ in range(PLAYS)]))) for r in GRID]


def foreseen(before: Pair, after: Pair, method: str) -> float | None:
    """Chance that a prompt whose dear answer was marked wrong, and is not any more, was ranked below another one; .5 is a coin."""
    from sklearn.metrics import roc_auc_score

    better = after.dear > before.dear
    sides = [(better[np.isfinite(row)], -row[np.isfinite(row)]) for row in before.scores[method]]
    found = [roc_auc_score(changed, low) for changed, low in sides if changed.any()]
    return float(np.mean(found)) if found else None


def drawn(one: Pair, rows: Sequence[Mapping[str, Any]], states: Array, seed: int) -> dict[str, Any] | None:
    """Models that were asked many times on these prompts: one draw of each is what happened, the others are what can be known.

    APGR and correlation, means over pairs of models and rotations: of somebody who knows k other draws of both models on the very prompt,
    and of a reader of prompts whose labels are one draw, or the mean of all others. None where few of the prompts have draws, or no two
    models a gap.
    """
    counted = {read_as(row["prompt"]): row for row in rows if row.get("prompt") and row["n"] > 1}
    at = np.array([i for i, prompt in enumerate(one.prompts) if prompt in counted], dtype=np.int64)
    if len(at) < len(one.prompts) / 2:
        return None
    mine = [counted[one.prompts[i]] for i in at]
    n, models = min(row["n"] for row in mine), sorted(set[str].intersection(*(set(row["c"]) for row in mine)))
    right = np.array([[row["c"][m] * n // row["n"] for m in models] for row in mine])
    rate = right.mean(axis=0) / n
    pairs = [(a, b) for a, b in permutations(range(len(models)), 2) if rate[b] - rate[a] >= GAP]
    if not pairs:
        return None
    test_sides = [side[at] == TEST for side in rotations(one.group, seed)]
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, float]]] = {}
    for a, b in pairs:
        for name, (gain, scores, test) in _played(right[:, [a, b]], n, states[at], test_sides, rng):
            order = np.argsort(-scores[test])
            found.setdefault(name, []).append((apgr(*curve(gain[test][order])), float(np.corrcoef(scores[test], gain[test])[0, 1])))
    means = {name: np.mean(values, axis=0).tolist() for name, values in found.items()}
    return {"prompts": len(at), "models": len(models), "pairs": len(pairs), "draws": n, "known": means}


def _played(right: Ints, n: int, states: Array, test_sides: Sequence[Any], rng: np.random.Generator) -> Any:
    """(who, (gain of the draw that happened, scores, test side)) for two models that were right `right` times of n, shape [N, 2]."""
    happened = rng.hypergeometric(right, n - right, 1)
    rest, gain = right - happened, np.diff(happened)[:, 0].astype(np.float64)
    for k in sorted({1, 3, n - 1}):
        seen = np.diff(rng.hypergeometric(rest, n - 1 - rest, k))[:, 0] / k + 1e-6 * rng.random(len(gain))
        yield from ((f"{k} other {'draws' if k > 1 else 'draw'} of both models", (gain, seen, test)) for test in test_sides)
    for name, label in (("one draw", gain), (f"{n - 1} draws", np.diff(rest)[:, 0] / (n - 1))):
        for test in test_sides:
            yield f"the prompt, each label the mean of {name}", (gain, ridge(states, label, np.flatnonzero(~test)), test)
