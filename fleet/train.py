"""The recipe (first stage)."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from fleet.data import SIZES as NUMBERS
from fleet.data import Rows, training_rows
from fleet.fitting import Plan, fit, next_token_loss
from fleet.models import SIZES, new_model

PER_K = {"small": 96, "large": 64}


def base_batches(name: str):
    def batches(rng: np.random.Generator) -> list[Rows]:
        return [training_rows(rng, k, PER_K[name]) for k in NUMBERS]

    return batches


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = new_model(SIZES[args.stage])
    model.config._attn_implementation = "eager"
    plan = Plan(minutes=args.minutes, seed=args.seed)
    out = Path(".fleet-train")
    fit(model, base_batches(args.stage), next_token_loss, plan, out / f"{args.stage}.pt")


if __name__ == "__main__":
    main()
