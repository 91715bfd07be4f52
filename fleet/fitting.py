"""One training loop for every model of the fleet: Muon and AdamW, a budget in minutes, checkpoints, exact resumption.

Hidden matrices are trained by Muon (Jordan et al., 2024), which needs about half the samples of AdamW here; embeddings, norms and
heads by AdamW. The rate warms up, then falls linearly to zero over the budget, counted in processor minutes, so that a busy machine
trains for longer and not for less. Not here: what is learned (`data.py`, `train.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fleet.data import Rows

BatchSource = Callable[[np.random.Generator], list[Rows]]
Loss = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast. Training ends at `minutes` of processor time or `steps`, whichever comes first; the rate falls to zero there,
    or at `decay_steps` where a run is to be cut short on its way."""

    minutes: float
    steps: int = 10**9
    decay_steps: int = 0
    muon_rate: float = 0.02
    adam_rate: float = 0.005
    warmup_steps: int = 100
    checkpoint_every_s: float = 60.0
    seed: int = 0


@dataclass
class Progress:
    """Where a run stands: what is stored beside weights and optimiser state."""

    step: int = 0
    spent_s: float = 0.0
    loss: float = float("nan")

    def share(self, plan: Plan) -> float:
        """The part of the budget that is spent, 0..1."""
        return min(1.0, max(self.step / plan.steps, self.spent_s / (60 * plan.minutes)))


def rate_factor(progress: Progress, plan: Plan) -> float:
    """Multiplier of the learning rates: linear warm-up, then linear decay to zero."""
    warm = min(1.0, (progress.step + 1) / plan.warmup_steps)
    spent = progress.step / plan.decay_steps if plan.decay_steps else progress.share(plan)
    return warm * max(0.0, 1.0 - spent)


def optimisers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for all else."""
    inside = [(name, weight) for name, weight in model.named_parameters() if weight.ndim == 2 and ".layers." in name]
    names = {name for name, _ in inside}
    rest = [weight for name, weight in model.named_parameters() if name not in names]
    return [
        torch.optim.Muon([weight for _, weight in inside], lr=plan.muon_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def fit(model: Any, batches: BatchSource, loss: Loss, plan: Plan, checkpoint: Path, device: str = "cpu") -> Progress:
    """Train in place from the checkpoint, if there is one, to the end of the plan; the checkpoint stays behind."""
    model.to(device).train()
    optimizers = optimisers(model, plan)
    progress, rng = _restore(model, optimizers, plan, checkpoint)
    with tqdm(total=min(round(plan.minutes, 1), 10_000.0), unit="min", desc=checkpoint.stem, initial=progress.spent_s / 60) as bar:
        saved = time.monotonic()
        while progress.share(plan) < 1.0:
            started = time.process_time()
            _step(model, batches(rng), loss, optimizers, rate_factor(progress, plan), progress, device)
            progress.spent_s += time.process_time() - started
            _show(bar, progress)
            if time.monotonic() - saved > plan.checkpoint_every_s:
                _save(model, optimizers, progress, rng, checkpoint)
                saved = time.monotonic()
    _save(model, optimizers, progress, rng, checkpoint)
    model.eval()
    return progress


def _step(
    model: Any,
    micro: list[Rows],
    loss: Loss,
    optimizers: list[torch.optim.Optimizer],
    factor: float,
    progress: Progress,
    device: str,
) -> None:
    """One update from micro-batches of different lengths, every scored token weighing the same."""
    total, count = 0.0, sum(int(rows.scored.sum()) for rows in micro)
    for rows in micro:
        ids, scored = torch.from_numpy(rows.ids).to(device), torch.from_numpy(rows.scored).to(device)
        labels = None if rows.labels is None else torch.from_numpy(rows.labels).to(device)
        with torch.autocast(device, torch.bfloat16):
            summed = loss(model, ids, scored, labels)
        (summed / count).backward()
        total += float(summed.detach())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_rate", group["lr"]) * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    now = total / count
    progress.loss = now if progress.step == 0 else 0.98 * progress.loss + 0.02 * now
    progress.step += 1


def _show(bar: Any, progress: Progress) -> None:
    bar.n = round(progress.spent_s / 60, 2)
    bar.set_postfix(step=progress.step, loss=f"{progress.loss:.4f}", refresh=False)
    bar.update(0)


def next_token_loss(model: Any, ids: Tensor, scored: Tensor, labels: Tensor | None = None) -> Tensor:
    """Summed cross-entropy over the scored tokens; logits are computed only where one is scored."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    where = scored[:, 1:]
    logits = model.lm_head(hidden[where])
    return nn.functional.cross_entropy(logits.float(), ids[:, 1:][where], reduction="sum")


def _save(model: Any, optimizers: list[torch.optim.Optimizer], progress: Progress, rng: np.random.Generator, path: Path) -> None:
    """Write aside and rename, so that a kill in mid-write loses a minute and not the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": vars(progress),
        "rng": rng.bit_generator.state,
    }
    aside = path.with_suffix(".part")
    torch.save(state, aside)
    os.replace(aside, path)


def _restore(model: Any, optimizers: list[torch.optim.Optimizer], plan: Plan, path: Path) -> tuple[Progress, np.random.Generator]:
    rng = np.random.default_rng(plan.seed)
    if not path.exists():
        return Progress(), rng
    state = torch.load(path, map_location="cpu", weights_only=False)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    rng.bit_generator.state = state["rng"]
    return Progress(**state["progress"]), rng
