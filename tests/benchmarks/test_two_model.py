"""The figures of routing between two models, on curves whose answer is known, and that nothing judged was learned from."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness import CALIBRATE, TEST, TRAIN
from benchmarks.two_model import Pair, Ranked, apgr, by_subject, cpt, hull, kernels, pair, ranked, resampled, rotations

N = 2000


def made(gain: np.ndarray) -> Pair:
    """Prompts on which the dear model adds `gain`."""
    cheap = np.where(gain < 0, 1.0, 0.0)
    n = len(gain)
    subject, others = np.arange(n) % 4, np.zeros((n, 0))
    return Pair("made", ("cheap", "dear"), ["p"] * n, cheap, cheap + gain, np.arange(n), others, subject, None)


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


def test_nothing_is_learned_from_the_test_side() -> None:
    """Other outcomes there change no score of the two methods that are beside the probe; other outcomes elsewhere do."""
    rng = np.random.default_rng(0)
    gain, side = rng.integers(0, 2, 100).astype(float), rng.permutation(np.repeat([TRAIN, CALIBRATE, TEST], [40, 20, 40]))
    alike = np.exp(-np.abs(np.subtract.outer(np.arange(100), np.arange(100))) / 5).astype(np.float32)
    for method in (lambda one: kernels(one, alike, side), lambda one: by_subject(one, side)):
        scores = method(made(gain))
        assert (method(made(np.where(side == TEST, 1 - gain, gain))) == scores).all()
        assert (method(made(np.where(side == TEST, gain, 1 - gain))) != scores).any()


def test_a_resample_draws_groups_whole_and_as_many_as_there_are() -> None:
    """Prompts of one group occur equally often, and the same seed draws the same."""
    group = np.repeat(np.arange(10), 3)
    draws = list(resampled(group, 5, 0))
    for counts, again in zip(draws, resampled(group, 5, 0), strict=True):
        by_group = counts.reshape(10, 3)
        assert (by_group == by_group[:, :1]).all()
        assert by_group[:, 0].sum() == 10
        assert (counts == again).all()


def test_the_hull_is_concave_and_above_every_point() -> None:
    x, y = np.arange(6.0), np.array([0.0, 3.0, 2.0, 5.0, 4.0, 6.0])
    hx, hy = hull(x, y)
    assert (np.interp(x, hx, hy) >= y - 1e-12).all()
    assert (np.diff(np.diff(hy) / np.diff(hx)) <= 1e-12).all()
