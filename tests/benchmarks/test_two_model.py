"""The figures of routing between two models, on curves whose answer is known, and that nothing judged was learned from."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness import CALIBRATE, TEST, TRAIN
from benchmarks.two_model import Pair, Ranked, apgr, cpt, hull, pair, ranked, rotations

N = 2000


def made(gain: np.ndarray) -> Pair:
    """Prompts on which the dear model adds `gain`."""
    cheap = np.where(gain < 0, 1.0, 0.0)
    return Pair("made", ("cheap", "dear"), ["p"] * len(gain), cheap, cheap + gain, np.arange(len(gain)), np.zeros((len(gain), 0)), None)


def figures(one: Pair, scores: np.ndarray) -> tuple[float, float]:
    (turn,) = ranked(one, scores[None])
    share, recovered = turn.curve(np.ones(len(scores), dtype=np.int64))
    return apgr(share, recovered), cpt(0.5)(share, recovered)


def test_a_coin_has_an_apgr_of_a_half_and_an_oracle_the_whole_gap_at_once() -> None:
    rng = np.random.default_rng(0)
    one = made((rng.random(N) < 0.2).astype(float))
    coin = figures(one, rng.random(N))
    assert coin == (pytest.approx(0.5, abs=0.04), pytest.approx(50, abs=6))
    assert figures(one, one.gain) == (pytest.approx(0.9, abs=0.02), pytest.approx(10, abs=1.5))
    assert figures(one, -one.gain)[0] == pytest.approx(0.1, abs=0.02)


def test_prompts_that_occur_twice_in_a_resample_count_twice() -> None:
    """Counts give the same curve as writing the rows out."""
    rng = np.random.default_rng(1)
    gain, rows = rng.choice([-1.0, 0.0, 1.0], 50, p=[0.1, 0.5, 0.4]), rng.integers(0, 50, 50)
    counts = np.bincount(rows, minlength=50)
    share, recovered = Ranked(np.arange(50), gain).curve(counts)
    written = np.repeat(gain, counts)
    assert np.interp(np.arange(1, 51) / 50, share, recovered) == pytest.approx(written.cumsum() / written.sum())


def test_the_test_sides_cover_every_prompt_twice_and_groups_stay_together() -> None:
    group = np.repeat(np.arange(300), 2)
    turns = list(rotations(group, 0))
    assert (sum((side == TEST).astype(int) for side in turns) == 2).all()
    for side in turns:
        assert {TRAIN, CALIBRATE, TEST} == set(side.tolist())
        assert (side[::2] == side[1::2]).all()


def test_of_many_models_the_dear_one_is_the_best_and_the_cheap_one_the_best_at_a_tenth() -> None:
    def row(i: int) -> dict[str, object]:
        marks = {"best": (1.0, 1.0), "near": (0.9, 0.5), "mini": (0.6, 0.05), "nano": (0.1, 0.01)}
        outcomes = {name: {"correct": float(i < right * 10), "cost_usd": cost} for name, (right, cost) in marks.items()}
        return {"prompt": f"question {i} about {'abcdefghij'[i]}", "outcomes": outcomes}

    rows = [row(i) for i in range(10)]
    found = pair("made", rows, {"made": rows})
    assert found.models == ("mini", "best")
    assert found.others.shape == (10, 2)


def test_the_hull_is_concave_and_above_every_point() -> None:
    x, y = np.arange(6.0), np.array([0.0, 3.0, 2.0, 5.0, 4.0, 6.0])
    hx, hy = hull(x, y)
    assert (np.interp(x, hx, hy) >= y - 1e-12).all()
    assert (np.diff(np.diff(hy) / np.diff(hx)) <= 1e-12).all()
