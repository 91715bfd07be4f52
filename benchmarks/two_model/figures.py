"""What a ranking of prompts is worth: shares of the gap recovered for shares of dear calls, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import Array, Ints
from benchmarks.two_model.pairs import Pair
from difficulty.conversation import CHARACTERS_PER_TOKEN

SHARES = np.linspace(0, 1, 11)
SHOWN = np.linspace(0, 1, 26)
PROBE_USD_PER_MTOK = 0.001
"""What the probe reads is charged with: 6 ms of one core (at 4 cents an hour) for 100 tokens."""

Figure = Callable[[Array, Array], float]
"""(share of dear calls, share of the gap recovered), each of shape [n + 1], to a figure."""


def curve(gain: Array, weight: Array | Ints | None = None) -> tuple[Array, Array]:
    """(share of dear calls, share of the gap recovered) of prompts in the order they are sent up; prompt i counts weight[i] times."""
    if weight is None:
        weight = np.ones(len(gain))
    share, recovered = np.zeros((2, len(gain) + 1))
    np.cumsum(weight, out=share[1:])
    np.cumsum(weight * gain, out=recovered[1:])
    return share / share[-1], recovered / (recovered[-1] or np.nan)


def apgr(share: Array, recovered: Array) -> float:
    """Mean share of the gap over eleven shares of dear calls (trapezoids), as RouteLLM has it; .5 is a coin."""
    at = np.interp(SHARES, share, recovered)
    return float((at.sum() - (at[0] + at[-1]) / 2) / (len(at) - 1))


def cpt(target: float) -> Figure:
    """The least percent of dear calls that recovers `target` of the gap."""
    return lambda share, recovered: float(share[np.argmax(recovered >= target)] * 100)


FIGURES: dict[str, Figure] = {"apgr": apgr, "cpt50": cpt(0.5), "cpt80": cpt(0.8)}


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The test side of one rotation, the prompt that is worth the dear model most first; shape [n] each."""

    rows: Ints
    gain: Array


def ranked(one: Pair, scores: Array) -> list[Ranked]:
    """One for each rotation."""
    orders = [np.argsort(-row, kind="stable")[: int(np.isfinite(row).sum())] for row in scores]
    return [Ranked(order, one.gain[order]) for order in orders]


def judge(one: Pair, ours: str, draws: int, seed: int) -> dict[str, Any]:
    """Figures of every method with intervals, and what `ours` has more than each, on the same resampled prompts."""
    turns = {name: ranked(one, scores) for name, scores in one.scores.items()}
    resamples = [None, *resampled(one.group, draws, seed)]
    by_method = {name: np.array([_figures(found, counts) for counts in resamples]) for name, found in turns.items()}

    def figures(name: str) -> dict[str, Any]:
        mine = dict(zip(FIGURES, map(_interval, by_method[name].T), strict=True))
        shown = np.mean([np.interp(SHOWN, *curve(turn.gain)) for turn in turns[name]], axis=0)
        area = float(np.mean([aiq(one, turn) for turn in turns[name]]))
        more = _interval(by_method[ours][:, 0] - by_method[name][:, 0])
        return {
            **mine,
            "aiq": area,
            "probe_has_more": more,
            "correlation": correlation(one, one.scores[name]),
            "curve": [round(float(v), 4) for v in shown],
        }

    return {
        "models": list(one.models),
        "prompts": len(one.prompts),
        "quality": [float(one.cheap.mean()), float(one.dear.mean())],
        "dear_does_worse": float((one.gain < 0).mean()),
        "labels": round(float(np.isnan(one.scores[ours]).sum(axis=1).mean())),
        "other_models": len(one.others),
        "methods": {name: figures(name) for name in turns},
    }


def resampled(group: Ints, draws: int, seed: int) -> Iterator[Ints]:
    """How often each prompt occurs, whole groups drawn with replacement."""
    place, rng = np.unique(group, return_inverse=True)[1], np.random.default_rng(seed)
    size = int(place.max()) + 1
    for _ in range(draws):
        yield np.bincount(rng.integers(0, size, size), minlength=size)[place]


def correlation(one: Pair, scores: Array) -> float:
    """Of the scores with the gain, mean over rotations' test sides."""
    with np.errstate(invalid="ignore"):  # equal scores correlate with nothing
        found = [np.corrcoef(row[np.isfinite(row)], one.gain[np.isfinite(row)])[0, 1] for row in scores]
    return float(np.nan_to_num(found).mean())


def aiq(one: Pair, turn: Ranked) -> float:
    """Mean quality under the concave hull, over normalised cost: dollars where they are recorded (the probe's own charged), else calls."""
    n = len(turn.rows)
    quality = np.concatenate([[0.0], np.cumsum(turn.gain)]) / n + one.cheap[turn.rows].mean()
    cost = np.arange(n + 1) / n
    if one.cost_usd is not None:
        cheap, dear = one.cost_usd[:, turn.rows]
        read = sum(len(one.prompts[i]) for i in turn.rows) / CHARACTERS_PER_TOKEN * PROBE_USD_PER_MTOK / 1e6
        spent = np.concatenate([[0.0], np.cumsum(np.maximum(dear - cheap, 0))])
        cost = (spent + read) / spent[-1]
    return float(np.interp(np.linspace(0, 1, 101), *hull(cost, quality)).mean())


def hull(x: Array, y: Array) -> tuple[Array, Array]:
    """Upper concave hull of points sorted by x: what a coin between two settings reaches."""
    kept: list[int] = []
    for i in range(len(x)):
        while len(kept) > 1 and (y[kept[-1]] - y[kept[-2]]) * (x[i] - x[kept[-2]]) <= (y[i] - y[kept[-2]]) * (x[kept[-1]] - x[kept[-2]]):
            kept.pop()
        kept.append(i)
    return x[kept], y[kept]


def _figures(turns: Sequence[Ranked], counts: Ints | None) -> Array:
    """All of FIGURES, each the mean over rotations."""
    curves = [curve(turn.gain, None if counts is None else counts[turn.rows]) for turn in turns]
    return np.asarray(np.mean([[figure(*found) for figure in FIGURES.values()] for found in curves], axis=0))


def _interval(values: Array) -> tuple[float, float, float]:
    """(the first value, 95 % interval of the others; a resample of a small set may have no gap to recover, and is left out)."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)
