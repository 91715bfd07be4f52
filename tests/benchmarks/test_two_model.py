"""The figures of routing between two models, on curves whose answer is known, and that nothing judged was learned from."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.harness import CALIBRATE, TEST, TRAIN
from benchmarks.two_model import limits, page
from benchmarks.two_model.__main__ import pairs
from benchmarks.two_model.figures import apgr, cpt, curve, hull, judge, ranked, resampled
from benchmarks.two_model.methods import AGAIN, DIFFERENCE, OTHERS, PROBE, UNSEEN, asked_again, by_subject, ridge
from benchmarks.two_model.pairs import Pair, pair, rotations

N = 2000


def made(gain: np.ndarray) -> Pair:
    """Prompts on which the dear model adds `gain`."""
    cheap = np.where(gain < 0, 1.0, 0.0)
    n = len(gain)
    prompts = [f"prompt {i}" for i in range(n)]
    return Pair("made", ("maker/cheap", "dear"), prompts, cheap, cheap + gain, np.arange(n), {}, np.arange(n) % 4, None)


def figures(one: Pair, scores: np.ndarray) -> tuple[float, float]:
    (turn,) = ranked(one, scores[None])
    found = curve(turn.gain)
    return apgr(*found), cpt(0.5)(*found)


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
    written = np.repeat(gain, counts)
    assert np.interp(np.arange(1, 51) / 50, *curve(gain, counts)) == pytest.approx(written.cumsum() / written.sum())


def test_the_test_sides_cover_every_prompt_twice_and_groups_stay_together() -> None:
    group = np.repeat(np.arange(300), 2)
    turns = list(rotations(group, 0))
    assert (sum((side == TEST).astype(int) for side in turns) == 2).all()
    for side in turns:
        assert {TRAIN, CALIBRATE, TEST} == set(side.tolist())
        assert (side[::2] == side[1::2]).all()


def recorded(i: int) -> dict[str, object]:
    marks = {"best": (1.0, 1.0), "near": (0.9, 0.5), "mini": (0.6, 0.05), "nano": (0.1, 0.01)}
    outcomes = {name: {"correct": float(i < right * 10), "cost_usd": cost} for name, (right, cost) in marks.items()}
    return {"prompt": f"question {i} about {'abcdefghij'[i]}", "outcomes": outcomes}


def test_of_many_models_the_dear_one_is_the_best_and_the_cheap_one_the_best_at_a_tenth() -> None:
    rows = [recorded(i) for i in range(10)]
    found = pair("made", rows, {"made": rows})
    assert found.models == ("mini", "best")
    assert set(found.others) == {"made:near", "made:nano"}


def test_the_cheap_models_marks_elsewhere_rank_the_prompts_it_failed_there_first() -> None:
    one = made(np.array([1.0, 0.0, 1.0, 0.0]))
    assert asked_again(one, 0) is None
    one.others["elsewhere:cheap"] = np.array([0.0, 1.0, 0.0, 1.0])
    scores = asked_again(one, 0)
    assert scores is not None
    assert set(np.argsort(-scores)[:2]) == {0, 2}


def test_nothing_is_learned_from_the_test_side() -> None:
    """Other outcomes there change no score; other outcomes elsewhere do."""
    rng = np.random.default_rng(0)
    gain, side = rng.integers(0, 2, 100).astype(float), rng.permutation(np.repeat([TRAIN, CALIBRATE, TEST], [40, 20, 40]))
    gain[side == TEST] = rng.permutation(np.repeat([0.0, 1.0], 20))
    seen, x = np.flatnonzero(side != TEST), gain[:, None] + rng.normal(size=(100, 3))
    for method in (lambda one: ridge(x, one.gain, seen), lambda one: by_subject(one, seen)):
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


def test_a_set_with_marks_put_right_is_judged_by_both_marks() -> None:
    """By the old ones first, then by the new, with how many changed."""
    rows = [
        {"prompt": gold, "gold": gold, "outcomes": {"dear": {"correct": mark, "answer": answer}, "cheap": {"correct": 0, "answer": "?"}}}
        for gold, answer, mark in (("720", "720", 1), ("720", "720.00", 0), ("7", "seven", 0))
    ]
    old, new = pairs({"made": rows}, {"made": rows})
    assert (old[0].gain.sum(), old[1]) == (1, {})
    assert (new[0].gain.sum(), new[1]) == (2, {"dear": 1, "cheap": 0})
    assert new[0].others == {}


def test_a_ranking_that_puts_the_regraded_prompts_last_has_foreseen_them() -> None:
    rng = np.random.default_rng(2)
    before, after = made((rng.random(N) < 0.2).astype(float)), made(np.ones(N))
    after.dear = np.where(np.arange(N) % 50 == 0, 1.0, before.dear)
    changed = after.dear > before.dear
    for side in rotations(before.group, 0):
        before.note("low", side == TEST, rng.random(N) - 2 * changed)
        before.note("blind", side == TEST, rng.random(N))
    assert limits.foreseen(before, after, "low") == 1
    assert limits.foreseen(before, after, "blind") == pytest.approx(0.5, abs=0.1)
    assert limits.foreseen(before, before, "low") is None


def test_a_score_that_follows_the_gain_more_closely_recovers_more() -> None:
    gain = (np.random.default_rng(0).random(N) < 0.2).astype(float)
    found = limits.followed(gain, 0)
    assert [r for r, _ in found] == sorted(limits.GRID)
    assert all(a < b for (_, a), (_, b) in pairwise(found))


def counted(one: Pair, rate: np.ndarray) -> list[dict[str, object]]:
    """Ten draws of a model that is always wrong, and of one that is right at these rates."""
    right = np.random.default_rng(1).binomial(10, rate)
    return [{"prompt": p, "n": 10, "c": {"never": 0, "at times": int(c)}} for p, c in zip(one.prompts, right, strict=True)]


def test_who_knows_more_draws_of_both_models_does_better_and_who_reads_nothing_of_use_is_a_coin() -> None:
    rng = np.random.default_rng(0)
    one = made(np.ones(N))
    found = limits.drawn(one, counted(one, rng.choice([0.1, 0.9], N)), rng.normal(size=(N, 3)), 0)
    assert found is not None
    one_other, nine = (found["known"][f"{k} of both models"] for k in ("1 other draw", "9 other draws"))
    assert 0.5 < one_other[0] < nine[0]
    assert found["known"]["the prompt, each label the mean of 9 draws"][0] == pytest.approx(0.5, abs=0.05)
    assert limits.drawn(one, counted(one, np.full(N, 0.5))[: N // 3], rng.normal(size=(N, 3)), 0) is None


def judged(quality: float, aimed: str) -> str:
    """A page of one set with an aim, whose methods follow the gain so closely."""
    rng = np.random.default_rng(2)
    one = made((rng.random(N) < 0.2).astype(float))
    one.name = aimed
    z = (one.gain - one.gain.mean()) / one.gain.std()
    for side in rotations(one.group, 0):
        for name in (PROBE, DIFFERENCE, UNSEEN, "difference, 100 labels", "prompt length", OTHERS, AGAIN):
            one.note(name, side == TEST, quality * z + rng.normal(size=N))
    found = judge(one, PROBE, 20, 0) | {"regraded": {}, "followed": limits.followed(one.gain, 0), "drawn": None}
    return page.page({one.name: found})


def test_the_page_says_that_an_aim_is_missed_only_where_it_is() -> None:
    (aimed, _), *_ = page.AIMS.items()
    missed, met = judged(0.05, aimed), judged(0.5, aimed)
    assert "### Why the aim is missed" in missed
    assert "times as much of the gain's variance" in missed
    assert "### How the aim is met" in met
    assert "times as much" not in met
    assert "### " not in judged(0.05, "outcomes_without_aim")
