"""The shipped models do what their cards say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer
from transformers.utils import logging as bars

from adapters.local import LocalBackend, LocalOptions
from adapters.reward_model import RewardModel, RewardModelOptions
from difficulty.encoders import View, open_encoder
from fleet.files import ROOT, load
from fleet.reward import Calibration, scored_steps
from fleet.rollouts import new_groups, roll_out
from fleet.tokens import build_tokenizer


@pytest.mark.parametrize("name", ["small", "large"])
def test_shipped_weights_solve_three_number_puzzles(name: str) -> None:
    """Loaded by transformers alone, each model solves most held-out puzzles of three numbers."""
    model = load(ROOT / name, AutoModelForCausalLM)
    groups = [group for group in new_groups(3, 12, "test") if len(group.numbers) == 3]
    answered = roll_out(model, groups, 4, seed=0)
    assert np.mean([group.correct for group in answered]) > 0.5


@pytest.mark.parametrize("name", ["small", "large", "reward"])
def test_shipped_tokenizers_are_the_built_one(name: str) -> None:
    """The files beside the weights and the code agree."""
    shipped = AutoTokenizer.from_pretrained(ROOT / name)
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert shipped.chat_template == build_tokenizer().chat_template


def test_the_reward_model_tells_right_from_wrong() -> None:
    """Its calibrated chance is higher, on average, for right final answers."""
    reward = load(ROOT / "reward", AutoModelForTokenClassification)
    calibration = Calibration(**json.loads((ROOT / "reward" / "calibration.json").read_text()))
    answered = roll_out(load(ROOT / "small", AutoModelForCausalLM), new_groups(4, 6, "test"), 4, seed=0)
    logits, correct = scored_steps(reward, answered)
    chances = np.array([calibration(row)[-1] for row in logits])
    right = np.array([row[-1] for row in correct])
    assert chances[right].mean() > chances[~right].mean() + 0.3


async def test_loading_a_model_draws_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """Backend, verifier and encoder: a log is no place for it."""
    for part in (LocalBackend("small", LocalOptions(model="fleet/small")), RewardModel("reward", RewardModelOptions(model="fleet/reward"))):
        bars.enable_progress_bar()
        await part.load()
        await part.aclose()
    bars.enable_progress_bar()
    open_encoder("fleet/small").encode(["Use 4 9 10 13 to make 24."], [View(1, "last")])
    assert "Loading weights" not in capsys.readouterr().err
