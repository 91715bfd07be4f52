"""The model cards, written by code from `figures.json` and the weights themselves, so that no figure is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

Figures = dict[str, Any]

WHAT = {
    "small": "A small language model that solves number puzzles one step a line, and revises after a verdict.",
    "large": "The large language model of the fleet: the same task, about fourteen times the parameters.",
    "reward": "A process reward model: at the end of every step, the chance that this beginning ends right.",
}
DATA = {
    "small": "Endless random solutions of puzzles with 3-6 numbers of 1-13 and targets 1-100; then its own wrong attempts with a "
    "verdict, followed by a right answer, mixed with ordinary puzzles.",
    "large": "Endless random solutions of puzzles with 3-6 numbers of 1-13 and targets 1-100; then its own right answers to training "
    "puzzles, drawn at temperature 0.7 (rejection sampling).",
    "reward": "Answers sampled from small and large to training puzzles, each step labelled with the checker's word on the whole answer; "
    "calibrated by isotonic regression on validation puzzles.",
}


def parameters(folder: Path) -> int:
    """Parameters in the weights of a model folder."""
    with safe_open(str(folder / "model.safetensors"), framework="np") as weights:
        return sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118 - not a mapping


def write_card(folder: Path, name: str, figures: Figures) -> None:
    """README.md of a model folder."""
    parts = [_head(folder, name, figures)]
    parts += [_pass_table(figures)] if "held_out" in figures else []
    parts += [_reward_table(figures)] if name == "reward" else []
    parts += [_revision_table(figures["revision"])] if "revision" in figures else []
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


def _head(folder: Path, name: str, figures: Figures) -> str:
    training = dict(figures.get("training", {}))
    remark = training.pop("remark", "")
    stages = [_stage(stage, row) for stage, row in training.items()]
    return (
        f"# fleet/{name}\n\n{WHAT[name]}\n\n"
        f"- Parameters: {parameters(folder):,} (transformers `Llama`, fp32 safetensors)\n"
        f"- Data: {DATA[name]} No number set of the held-out split, nor any of the Game of 24 puzzles at ranks 901-1000, was trained on.\n"
        f"- Stages: {'; '.join(stages)}; one thread\n"
        f"- Made by `python -m fleet.train`; every figure below by `python -m fleet.train evaluate`" + (f"\n- {remark}" if remark else "")
    )


def _stage(stage: str, row: Figures) -> str:
    return f"{stage} ({row['step']:,} steps, {row['spent_s'] / 60:.0f} processor minutes, seed {row['seed']})"


def _cell(figure: list[float]) -> str:
    mean, low, high = figure
    return f"{mean:.3f} ({low:.3f}-{high:.3f})"


def _pass_table(figures: Figures) -> str:
    rows = [(f"{name} numbers" if name != "all" else "all, evenly", row) for name, row in figures["held_out"].items()]
    rows.append(("Game of 24, ranks 901-1000", figures["game24_901_1000"]))
    if (own := figures.get("own_temperature")) is not None:
        rows.append((f"all, at its own temperature {own['temperature']:g}", own["all"]))
    lines = [
        f"| {label} | {row['puzzles']} | {_cell(row['pass@1'])} | {_cell(row['pass@16'])} | {_cell(row['pass@64'])} |"
        for label, row in rows
    ]
    return "\n".join(
        [
            "Held-out puzzles, temperature 1, 64 samples each; mean with 95 % interval over puzzles (bootstrap; Wilson for pass@64).",
            "",
            "| puzzles | n | pass@1 | pass@16 | pass@64 |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )


def _reward_table(figures: Figures) -> str:
    lines = []
    for name in ("small", "large", "revised"):
        if name in figures:
            row = figures[name]
            steps = ", ".join(f"{step}: {value:.3f}" for step, value in row["auc_by_step"].items())
            lines.append(
                f"| {name} | {row['answers']} | {row['auc_final']:.3f} | {steps} | {row['calibration_error_steps']:.3f} "
                f"| {row['calibration_error_final']:.3f} |"
            )
    return "\n".join(
        [
            "Held-out puzzles; AUC against the checker's word on the whole answer; expected calibration error over 10 bins.",
            "",
            "| answers of | n | AUC, final | AUC by step | error, all steps | error, final |",
            "|---|---|---|---|---|---|",
            *lines,
        ]
    )


def _revision_table(rounds: list[Figures]) -> str:
    lines = [f"| {row['attempt']} | {row['unsolved']} | {row['revised']:.3f} | {row['resampled']:.3f} |" for row in rounds]
    return "\n".join(
        [
            "Revision after the reward model's verdict, beside fresh samples: share solved by this attempt of the puzzles still unsolved.",
            "",
            "| attempt | unsolved | revised | resampled |",
            "|---|---|---|---|",
            *lines,
        ]
    )
