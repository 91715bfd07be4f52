"""The loop, the revision data and the reward model's arithmetic, on models of a few hundred parameters."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fleet.data import Rows, training_rows
from fleet.evaluate import interval, pass_at
from fleet.fitting import Plan, fit, next_token_loss
from fleet.models import Size, new_model
from fleet.revise import doubted_step, verdict
from fleet.reward import Calibration, calibrate, new_reward, step_logits
from fleet.rollouts import new_groups, roll_out


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads cost more than they give on models of this size."""
    torch.set_num_threads(1)


TINY = Size(layers=1, width=16, heads=2, inner=16)


def batches(rng: np.random.Generator) -> list[Rows]:
    return [training_rows(rng, 3, 8)]


def tiny(seed: int = 0) -> object:
    torch.manual_seed(seed)
    return new_model(TINY)


def plan(steps: int, whole: int = 40) -> Plan:
    return Plan(minutes=1e9, steps=steps, warmup_steps=5, decay_steps=whole)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    """Forty steps on tiny batches learn something."""
    progress = fit(tiny(), batches, next_token_loss, plan(40), tmp_path / "a.pt")
    assert progress.loss < 5.5


def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    """Stopping half-way and resuming gives the same weights, bit for bit."""
    whole, broken, resumed = tiny(), tiny(), tiny(seed=1)
    fit(whole, batches, next_token_loss, plan(12), tmp_path / "whole.pt")
    fit(broken, batches, next_token_loss, plan(6), tmp_path / "broken.pt")
    fit(resumed, batches, next_token_loss, plan(12), tmp_path / "broken.pt")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("chances", "step"),
    [([0.5, 0.2, 0.1], 2), ([0.05, 0.9], 1), ([0.5, 0.4, 0.3], 3), ([0.4, 0.3, 0.14], 3), ([0.6], 1)],
)
def test_the_verdict_names_the_first_step_where_the_chance_halves(chances: list[float], step: int) -> None:
    """First halving (the first step: below a tenth), else the lowest."""
    assert doubted_step(chances) == step
    assert verdict(step) == f"Step {step} looks wrong. Try again."
    assert verdict(None) == "That looks wrong. Try again."


def test_calibration_is_monotone_and_honest() -> None:
    """On logits that mean what they say, calibrated chances come close to the outcomes, and never fall as the logit rises."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000) * 2
    correct = rng.random(20_000) < 1 / (1 + np.exp(-logits))
    calibration = calibrate(logits, correct)
    assert list(calibration.y) == sorted(calibration.y)
    assert abs(calibration(np.array([0.0]))[0] - 0.5) < 0.05
    assert Calibration((0.0, 1.0), (0.2, 0.8))(np.array([-5.0, 0.5, 5.0])).tolist() == [0.2, 0.5, 0.8]


def test_the_reward_model_scores_every_step_and_pads_nothing_in() -> None:
    """One logit a step, the same alone and in a batch of longer answers."""
    reward = new_reward(tiny()).eval()  # type: ignore[arg-type]
    prompts = [[2, 9, 14, 15, 3], [2, 9, 14, 3]]
    answers = ["13-9=4 ; 4 4 10\n10-4=6 ; 4 6\n6*4=24", "4+5=9 ; 9 9\n9+9=18"]
    together = step_logits(reward, prompts, answers)
    assert [len(row) for row in together] == [3, 2]
    alone = step_logits(reward, prompts[1:], answers[1:])[0]
    np.testing.assert_allclose(together[1], alone, atol=1e-5)


def test_rollouts_are_marked_and_repeatable() -> None:
    """The same seed gives the same answers; every answer has its mark."""
    groups = new_groups(0, 2, "validation")
    model = tiny().eval()  # type: ignore[attr-defined]
    first, second = (roll_out(model, groups, 3, seed=5) for _ in range(2))
    assert first == second
    assert all(len(group.answers) == len(group.correct) == 3 for group in first)


def test_pass_at_k_is_the_chance_of_drawing_a_right_one() -> None:
    """Against drawing, for a handful of counts."""
    rng = random.Random(0)
    for right in (0, 1, 5, 16):
        marks = [True] * right + [False] * (16 - right)
        drawn = sum(any(rng.sample(marks, 4)) for _ in range(4000)) / 4000
        assert abs(drawn - pass_at(16, right, 4)) < 0.03


def test_a_clean_sweep_is_not_certainty() -> None:
    """A hundred of a hundred leaves room below one; a mixed sample has its mean inside its interval."""
    assert interval(np.ones(100)) == [1.0, 0.963, 1.0]
    mean, low, high = interval(np.linspace(0, 1, 50))
    assert low < mean < high
