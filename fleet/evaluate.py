"""Figures on held-out puzzles: pass@k by number count with intervals, the reward model's AUC and calibration, revision against
resampling. Written to a `figures.json` beside each model, from which `cards.py` writes the cards. Every set here is of the test side;
calibration and choices used the validation side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, LlamaForTokenClassification

from fleet import reward as prm
from fleet.cards import write_card
from fleet.data import SIZES
from fleet.files import TEMPERATURES, load
from fleet.intervals import wilson
from fleet.revise import as_groups, compare, play
from fleet.rollouts import Group, load_groups, new_groups, roll_out, save_groups
from fleet.split import HELD_OUT_GAME24

PUZZLES_PER_SIZE, SAMPLES = 100, 64
CUTS = (1, 16, 64)
Figures = dict[str, Any]


def evaluate_all(out: Path, scratch: Path, seed: int, device: str) -> None:
    """Measure every published model and write its figures and card."""
    notes = json.loads((scratch / "notes.json").read_text())
    answered = {name: answers(out / name, scratch, "held-out", seed, device) for name in ("small", "large")}
    human = {name: answers(out / name, scratch, "game24", seed, device) for name in answered}
    for name, groups in answered.items():
        figures = {"held_out": pass_figures(groups), "game24_901_1000": _pass_at(human[name])}
        if (temperature := TEMPERATURES.get(name)) is not None:
            own = answers(out / name, scratch, "held-out", seed, device, temperature)
            figures["own_temperature"] = {"temperature": temperature, **pass_figures(own)}
        _write(out / name, figures, notes.get(name, {}), name)
    reward = load(out / "reward", LlamaForTokenClassification, device)
    rounds, revised = _revision(out, reward, answered["small"], seed, device)
    _write(out / "small", {"revision": rounds}, {}, "small")
    judged = {name: _first(groups, 16) for name, groups in answered.items()} | {"revised": revised}
    _write(out / "reward", reward_figures(reward, out, judged), notes.get("reward", {}), "reward")


def answers(folder: Path, scratch: Path, kind: str, seed: int, device: str, temperature: float = 1.0) -> list[Group]:
    """64 answers a puzzle, kept in the scratch folder under the digest of the weights: measuring again costs nothing until they change."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    kept = scratch / f"answers-{kind}-{folder.name}-{seed}-{digest}-{temperature:g}.jsonl.gz"
    if not kept.exists():
        groups = new_groups(seed, PUZZLES_PER_SIZE, "test") if kind == "held-out" else game24()
        model = load(folder, LlamaForCausalLM, device)
        save_groups(roll_out(model, groups, SAMPLES, seed, temperature, f"{folder.name} {kind}"), kept)
    return load_groups(kept)


def game24() -> list[Group]:
    """The 100 puzzles on which Tree of Thoughts reports, as groups without a solution."""
    return [Group(tuple(map(int, line.split())), 24, "") for line in HELD_OUT_GAME24]


def _write(folder: Path, figures: Figures, training: Figures, name: str) -> None:
    path = folder / "figures.json"
    known = json.loads(path.read_text()) if path.exists() and not training else {}
    known.update(figures)
    if training:
        known["training"] = training
    path.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n")
    write_card(folder, name, known)


def pass_figures(groups: Sequence[Group]) -> Figures:
    """pass@1, @16 and @64 over all sizes and for each, with 95 % bootstrap intervals over puzzles."""
    by_size = {str(k): [group for group in groups if len(group.numbers) == k] for k in SIZES}
    return {"all": _pass_at(groups), **{k: _pass_at(of_size) for k, of_size in by_size.items()}}


def _pass_at(groups: Sequence[Group]) -> Figures:
    right = np.array([sum(group.correct) for group in groups])
    return {f"pass@{k}": interval(np.array([pass_at(SAMPLES, int(c), k) for c in right])) for k in CUTS} | {"puzzles": len(groups)}


def pass_at(n: int, correct: int, k: int) -> float:
    """The unbiased estimator of Chen et al. (2021): the chance that k of n samples, `correct` of them right, hold a right one."""
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))


def interval(values: NDArray[np.float64], draws: int = 2000) -> list[float]:
    """Mean with its 95 % interval, [mean, low, high]: bootstrap over puzzles, or Wilson's where each puzzle is only solved or not, since
    a bootstrap of nothing but successes would claim certainty."""
    if np.isin(values, (0.0, 1.0)).all():
        return [round(float(x), 4) for x in (values.mean(), *wilson(int(values.sum()), len(values)))]
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), low, high)]


def reward_figures(reward: Any, out: Path, answered: dict[str, list[Group]]) -> Figures:
    """AUC on final answers and at each step, calibration error, for the answers of each model."""
    calibration = prm.Calibration(**json.loads((out / "reward" / "calibration.json").read_text()))
    return {name: _reward_on(reward, calibration, groups) for name, groups in answered.items()}


def _first(groups: Sequence[Group], n: int) -> list[Group]:
    return [Group(g.numbers, g.target, g.solution, g.answers[:n], g.correct[:n]) for g in groups]


def _reward_on(reward: Any, calibration: prm.Calibration, groups: Sequence[Group]) -> Figures:
    logits, correct = prm.scored_steps(reward, groups)
    outcome = np.array([row[-1] for row in correct])
    per_step = {}
    for step in range(max(SIZES) - 1):  # a malformed answer may have more lines; there are too few of them to rank
        rows = [row for row in range(len(logits)) if len(logits[row]) > step]
        per_step[str(step + 1)] = round(prm.auc(np.array([logits[row][step] for row in rows]), outcome[rows]), 4)
    final = np.array([row[-1] for row in logits])
    everywhere = calibration(np.concatenate(logits))
    return {
        "auc_final": round(prm.auc(final, outcome), 4),
        "auc_by_step": per_step,
        "calibration_error_steps": round(prm.calibration_error(everywhere, np.concatenate(correct)), 4),
        "calibration_error_final": round(prm.calibration_error(calibration(final), outcome), 4),
        "answers": len(logits),
    }


def _revision(out: Path, reward: Any, groups: Sequence[Group], seed: int, device: str) -> tuple[list[Figures], list[Group]]:
    calibration = prm.Calibration(**json.loads((out / "reward" / "calibration.json").read_text()))
    trials = play(load(out / "small", LlamaForCausalLM, device), reward, calibration, groups, seed)
    return [{key: round(value, 4) for key, value in asdict(row).items()} for row in compare(trials, groups)], as_groups(trials)
