"""The recipe: `python -m fleet.train STAGE`. One stage a function, in the order of STAGES; each leaves files in the scratch folder and
resumes where it was killed. Weights are published to the output folder, figures and cards by `evaluate`.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, LlamaForTokenClassification

from fleet import revise
from fleet import reward as prm
from fleet.data import SIZES as NUMBERS
from fleet.data import Rows, training_rows
from fleet.files import ROOT, TEMPERATURES, load, publish
from fleet.fitting import Plan, Progress, fit, next_token_loss
from fleet.models import SIZES, new_model
from fleet.rollouts import Group, load_groups, new_groups, roll_out, save_groups
from fleet.sharpen import TEMPERATURE, sharpening_batches
from fleet.split import Split

SCRATCH = Path(".fleet-train")
PER_SIZE = {"small": 96, "large": 64}
MINUTES = {"small": 20.0, "large": 64.0, "reward": 6.0, "revise": 8.0, "revise-again": 11.0, "refresh": 8.0}
SHARPENINGS = ("sharpen-1", "sharpen-2")
MINUTES |= dict.fromkeys(SHARPENINGS, 12.0)

EXAMPLES = """examples:
  python -m fleet.train all                      everything, about three and a half hours on one core
  python -m fleet.train small --minutes 20       one stage; Ctrl-C, then --resume goes on from the last minute
  python -m fleet.train large --device cuda      on a GPU
  python -m fleet.train evaluate                 figures and cards from the published weights

stages, in order: small, rollouts, reward, revise, large, sharpen, refresh, evaluate.
large needs nothing of the ones before: run it beside them."""


@dataclass(frozen=True)
class Run:
    """One invocation: where, how long, from which seed."""

    minutes: float | None
    seed: int
    device: str
    out: Path
    scratch: Path
    resume: bool

    def plan(self, stage: str, muon_rate: float = 0.02, adam_rate: float = 0.005) -> Plan:
        """The stage's budget, with its checkpoint removed unless resuming."""
        if not self.resume:
            self.checkpoint(stage).unlink(missing_ok=True)
        return Plan(self.minutes or MINUTES[stage], muon_rate=muon_rate, adam_rate=adam_rate, seed=self.seed)

    def checkpoint(self, stage: str) -> Path:
        """Where a stage's state lies."""
        return self.scratch / f"{stage}.pt"


def train_base(run: Run, name: str) -> None:
    """A language model from nothing, on endless solved puzzles."""
    torch.manual_seed(run.seed)
    model = new_model(SIZES[name])
    model.config._attn_implementation = "eager"  # the fused kernel's backward is twice as slow in bf16 on a CPU

    def batches(rng: np.random.Generator) -> list[Rows]:
        return [training_rows(rng, k, PER_SIZE[name]) for k in NUMBERS]

    progress = fit(model, batches, next_token_loss, run.plan(name), run.checkpoint(name), run.device)
    finish(run, name, name, model, progress)
    if name == "small":
        publish(model, run.scratch / "small-base")


def finish(run: Run, name: str, stage: str, model: Any, progress: Progress) -> None:
    """Publish the weights, and note what this stage of theirs took; the card lists the notes."""
    publish(model, run.out / name)
    notes = run.scratch / "notes.json"
    known = json.loads(notes.read_text()) if notes.exists() else {}
    known.setdefault(name, {})[stage] = {**asdict(progress), "seed": run.seed, "device": run.device}
    notes.write_text(json.dumps(known, indent=1))


ROLLOUTS: dict[Split, tuple[int, int]] = {"train": (2500, 6), "validation": (250, 8)}
LARGE_ROLLOUTS: dict[Split, tuple[int, int]] = {"train": (1000, 4), "validation": (250, 4)}
OWN_ROLLOUTS: dict[Split, tuple[int, int]] = {"train": (2000, 4)}
FINAL_ROLLOUTS: dict[Split, tuple[int, int]] = {"train": (1000, 4), "validation": (250, 4)}


def make_rollouts(run: Run) -> None:
    """Marked answers of small, before it learned to revise."""
    roll(run, "small", run.scratch / "small-base", ROLLOUTS)


def roll(run: Run, name: str, folder: Path, wanted: dict[Split, tuple[int, int]], temperature: float = 1.0) -> None:
    """Marked answers of one model to fresh puzzles of each side."""
    model = load(folder, LlamaForCausalLM, run.device)
    for side, (puzzles, n) in wanted.items():
        groups = new_groups(run.seed + zlib.crc32(name.encode()), puzzles, side)
        save_groups(roll_out(model, groups, n, run.seed, temperature, f"{name} {side}"), run.scratch / f"{name}-{side}.jsonl.gz")


def refresh_reward(run: Run) -> None:
    """Bring the reward model up to what it will see: answers of the final small and large, and revised ones."""
    judge, calibration = published_reward(run)
    roll(run, "final-small", run.out / "small", FINAL_ROLLOUTS, TEMPERATURES["small"])
    roll(run, "large", run.out / "large", LARGE_ROLLOUTS, TEMPERATURES["large"])
    small = load(run.out / "small", LlamaForCausalLM, run.device)
    for side, (puzzles, _) in FINAL_ROLLOUTS.items():
        groups = new_groups(run.seed + 1, puzzles, side)
        trials = revise.play(small, judge, calibration, groups, run.seed, chains_per_puzzle=1)
        save_groups(revise.as_groups(trials), run.scratch / f"revised-{side}.jsonl.gz")
    fit_reward(run, judge, "refresh")


def sharpen_large(run: Run) -> None:
    """Large learns from its own right answers to training puzzles, in rounds, each from the answers of the one before."""
    for stage in SHARPENINGS:
        own = run.scratch / f"{stage}-train.jsonl.gz"
        if not (run.resume and own.exists()):
            roll(run, stage, run.out / "large", OWN_ROLLOUTS, TEMPERATURE)
        model = load(run.out / "large", LlamaForCausalLM, run.device)
        model.config._attn_implementation = "eager"
        plan = run.plan(stage, muon_rate=0.006, adam_rate=0.0015)
        progress = fit(model, sharpening_batches(load_groups(own)), next_token_loss, plan, run.checkpoint(stage), run.device)
        finish(run, "large", stage, model, progress)


def published_reward(run: Run) -> tuple[Any, prm.Calibration]:
    """The reward model and its calibration, as published."""
    folder = run.out / "reward"
    return load(folder, LlamaForTokenClassification, run.device), prm.Calibration(**json.loads((folder / "calibration.json").read_text()))


JUDGED = ("small", "final-small", "large", "revised")
"""Rollouts that the reward model learns from, as far as they are made."""


def gathered(run: Run, side: str) -> list[Group]:
    """The reward model's rollouts of one side."""
    paths = [run.scratch / f"{name}-{side}.jsonl.gz" for name in JUDGED]
    return [group for path in paths if path.exists() for group in load_groups(path)]


def train_reward(run: Run) -> None:
    """The process reward model from small's body, then its calibration on validation puzzles."""
    torch.manual_seed(run.seed)
    fit_reward(run, prm.new_reward(load(run.scratch / "small-base", LlamaForCausalLM, run.device)), "reward")


def fit_reward(run: Run, model: Any, stage: str) -> None:
    """Train on all rollouts there are, publish, calibrate."""
    model.config._attn_implementation = "eager"
    batches = prm.reward_batches(prm.pools(gathered(run, "train")))
    plan = run.plan(stage, muon_rate=0.01, adam_rate=0.002)
    progress = fit(model, batches, prm.step_loss, plan, run.checkpoint(stage), run.device)
    finish(run, "reward", stage, model, progress)
    logits, correct = prm.scored_steps(model, gathered(run, "validation"))
    calibration = prm.calibrate(np.concatenate(logits), np.concatenate(correct))
    (run.out / "reward" / "calibration.json").write_text(json.dumps(asdict(calibration)) + "\n")
    final = prm.auc(np.array([row[-1] for row in logits]), np.array([row[-1] for row in correct]))
    print(f"{stage}: AUC on final answers of validation puzzles {final:.3f}")


def train_revise(run: Run) -> None:
    """Small learns to revise, first from continuations of its own wrong answers, then from its own revisions; the result replaces small."""
    small = load(run.scratch / "small-base", LlamaForCausalLM, run.device)
    fit_revision(run, small, "revise", revise.collect)
    fit_revision(run, small, "revise-again", revise.collect_again)


def revise_again(run: Run) -> None:
    """The second pass of revision alone, from the published small."""
    fit_revision(run, load(run.out / "small", LlamaForCausalLM, run.device), "revise-again", revise.collect_again)


def fit_revision(run: Run, model: Any, stage: str, collect: Callable[..., list[revise.Chain]]) -> None:
    """One pass: collect chains from rollouts, train on them and ordinary puzzles, publish."""
    judge, calibration = published_reward(run)
    chains = collect(model, judge, calibration, load_groups(run.scratch / "small-train.jsonl.gz"), run.seed)
    model.config._attn_implementation = "eager"
    plan = run.plan(stage, muon_rate=0.006, adam_rate=0.0015)
    progress = fit(model, revise.revision_batches(chains), next_token_loss, plan, run.checkpoint(stage), run.device)
    finish(run, "small", stage, model, progress)
    model.config._attn_implementation = "sdpa"


def evaluate(run: Run) -> None:
    """Figures and cards."""
    from fleet.evaluate import evaluate_all

    evaluate_all(run.out, run.scratch, run.seed, run.device)


STAGES: dict[str, Callable[[Run], None]] = {
    "small": lambda run: train_base(run, "small"),
    "rollouts": make_rollouts,
    "reward": train_reward,
    "revise": train_revise,
    "revise-again": revise_again,
    "large": lambda run: train_base(run, "large"),
    "sharpen": sharpen_large,
    "refresh": refresh_reward,
    "evaluate": evaluate,
}


def main() -> None:
    """Parse the command line and run one stage, or all."""
    parser = argparse.ArgumentParser(
        "python -m fleet.train",
        description="Train the embedded fleet.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--minutes", type=float, help="budget of a stage in processor minutes; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=ROOT, help="where model folders are published")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="checkpoints and rollouts; safe to delete")
    parser.add_argument("--resume", action="store_true", help="go on from the stage's last checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    run = Run(args.minutes, args.seed, device, args.out, args.scratch, args.resume)
    whole = [name for name in STAGES if name != "revise-again"]  # part of revise
    for name in whole if args.stage == "all" else [args.stage]:
        STAGES[name](run)


if __name__ == "__main__":
    main()
