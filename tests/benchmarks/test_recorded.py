"""Benchmarks on recorded outcomes: what they count is what was recorded, and what is tuned is tuned on the side it is given."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import revise_or_resample, samples_or_search, weak_tests
from benchmarks.cascade import Chain, Means, hull, tuned
from benchmarks.harness import TEST, sides
from benchmarks.ladder import Engine, Recorded, Variant, policy

USD, SECONDS = (1e-4, 1e-3), (0.5, 1.0)


def recorded(size: int = 240, seed: int = 7) -> Recorded:
    """Two models: a cheap one that knows when it is right, and a dear one that always is."""
    rng = np.random.default_rng(seed)
    cheap = (rng.random(size) < 0.6).astype(float)
    confidence = np.column_stack([np.clip(0.2 + 0.6 * cheap + 0.2 * rng.random(size), 0, 1), np.full(size, 0.9)])
    ones = np.ones((size, 2))
    right = np.column_stack([cheap, np.where(np.arange(size) % 40 == 0, 0.0, 1.0)])
    prompts = [f"question {i}" for i in range(size)]
    return Recorded(("cheap", "dear"), prompts, np.arange(size), right, confidence, ones * USD, ones * SECONDS, 10 * ones, 10 * ones)


def test_a_chain_goes_on_until_a_model_is_confident_and_pays_for_every_call() -> None:
    """Below the threshold the next model is asked; both are paid."""
    data, rows = recorded(), np.arange(240)
    right, usd, unanswered = Chain((0, 1), (0.5, -np.inf)).run(data, rows)
    asked_both = data.confidence[:, 0] < 0.5
    assert usd == pytest.approx(USD[0] + asked_both * USD[1])
    assert (right == np.where(asked_both, data.right[:, 1], data.right[:, 0])).all()
    assert not unanswered.any()


@pytest.mark.parametrize(("deadline_s", "nothing", "both_paid"), [(0.4, 1.0, False), (0.6, 0.0, True), (2.0, 0.0, True)])
def test_at_the_deadline_the_last_answer_in_time_goes_out(deadline_s: float, nothing: float, both_paid: bool) -> None:
    """A call under way at the deadline is paid and lost; without any answer by then nothing is right."""
    data, rows = recorded(), np.arange(240)
    right, usd, unanswered = Chain((0, 1), (2.0, -np.inf)).run(data, rows, deadline_s)
    assert unanswered.mean() == nothing
    assert usd == pytest.approx(sum(USD) if both_paid else USD[0])
    expected = {0.4: np.zeros(240), 0.6: data.right[:, 0], 2.0: data.right[:, 1]}[deadline_s]
    assert (right == expected).all()


def test_thresholds_follow_what_a_right_answer_is_worth() -> None:
    """Worth little, the cheap model alone is best; worth more, the dear one takes over where the cheap one is not sure."""
    data, rows = recorded(), np.arange(240)
    poor, rich = tuned(data, rows, [1e-5, 1e-1], 2)
    assert poor.models == (0,)
    assert rich.models == (0, 1)
    assert rich.run(data, rows)[0].mean() > 0.9


def test_a_hull_rises_and_lies_on_no_point_that_is_beaten() -> None:
    """Of four points the one below the line between its neighbours is left out; cost at a level beyond the best is not a number."""
    usd, right = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.55, 0.9, 0.8])
    assert hull(usd, right)[0].tolist() == [1.0, 3.0]
    means = Means(right[:, None], usd[:, None])
    assert means.usd_at(0.7, np.array([0])) == pytest.approx(2.0)
    assert np.isnan(means.usd_at(0.95, np.array([0])))
    assert [means.right_at(paid, np.array([0])) for paid in (0.5, 2.0, 9.0)] == pytest.approx([0.25, 0.7, 0.9])
    assert means.utility(1, 10.0) == pytest.approx([0.55 - 0.2])


def test_the_engine_goes_up_where_the_cheap_model_is_not_sure() -> None:
    """Played on the test side: right more often than the cheap model, for less than the dear one; all that was called is paid."""
    data = recorded()
    side = sides(data.group, 0)
    engine = Engine.fit(data, side, Variant(probe=False))
    played = [engine.play(int(row), policy(data.names, 4e-3)) for row in np.flatnonzero(side == TEST)]
    assert np.mean([p.right for p in played]) > 0.9
    assert np.mean([p.usd for p in played]) < USD[1]
    assert {round(p.usd, 6) for p in played} <= {round(v, 6) for v in (USD[0], USD[1], sum(USD))}


def test_under_a_deadline_the_engine_starts_nothing_that_will_not_end_in_time() -> None:
    """With time for the cheap model only, it alone is called; with time for none, nothing is, and nothing is paid."""
    data = recorded()
    engine = Engine.fit(data, sides(data.group, 0), Variant(probe=False))
    tight, none = (engine.play(0, policy(data.names, 1.0), deadline_s) for deadline_s in (0.8, 0.1))
    assert (tight.calls, tight.usd) == (1, pytest.approx(USD[0]))
    assert (none.unanswered, none.usd) == (True, 0.0)


def test_two_samples_are_two_different_draws() -> None:
    """With k right of ten, both of two different draws are wrong with chance (10-k)(9-k)/90; a repair adds what it fixed."""
    rows = [{"id": str(i), "prompt": f"problem {i}", "outcomes": {"m": {"correct": share}}} for i, share in enumerate((0.0, 0.1, 0.9))]
    repairs = [{**row, "outcomes": {"m": {"correct": share}}} for row, share in zip(rows, (0.2, 0.1, 1.0), strict=True)]
    data = revise_or_resample.Recorded.of(rows, repairs)
    assert data.resampled[:, 0] == pytest.approx([0.0, 0.2, 1.0])
    assert data.revised[:, 0] == pytest.approx([0.2, 0.1, 1.0])


def test_samples_that_pass_the_same_tests_are_one_cluster() -> None:
    """One that did not run passes none, as one that fails all does, but agrees with nobody."""
    samples = [{"correct": c, "passes": p, "answer": "..."} for c, p in ((1, [1, 0]), (0, [1, 0]), (0, []), (0, [0, 0]))]
    problem = weak_tests.Problem.of({"samples": samples})
    assert problem.passed.tolist() == [0.5, 0.5, 0, 0]
    assert problem.cluster[0] == problem.cluster[1]
    assert len(set(problem.cluster.tolist())) == 3


def test_a_fixed_plan_stops_at_its_first_right_answer() -> None:
    """Found in the second batch: two batches are paid, and no search."""
    marks = np.zeros((1, 100))
    marks[0, 15] = 1
    logs = samples_or_search.Logs(
        dict.fromkeys(("standard", "cot"), marks), dict.fromkeys(("standard", "cot"), np.array([0.1])), np.ones(1), np.ones(1)
    )
    found = samples_or_search.fixed(logs, 0, dict.fromkeys(("standard", "cot"), np.arange(100)))
    assert found["cot, 50, then search"] == (1.0, pytest.approx(0.2))
    assert found["cot, 10"] == (0.0, pytest.approx(0.1))
    assert found["cot, 10, then search"] == (1.0, pytest.approx(1.1))
