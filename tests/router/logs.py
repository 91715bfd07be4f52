"""A made-up log of `outlay collect` (two backends, a noisy verifier, prompts of known difficulty), and its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from difficulty.curves import Curves, Tokens

PLANS: list[dict[str, Any]] = [
    {"single": {"backend": "small", "verifier": "checked"}},
    {"best_of_n": {"backend": "small", "n": 4, "batch": 1, "verifier": "checked"}},
    {"single": {"backend": "large", "verifier": "checked"}},
]


def config(**policy: Any) -> dict[str, Any]:
    """A configuration with one policy `balanced`, and one of rules."""
    price = {"small": 1.0, "large": 20.0}
    value = {"objective": {"value_of_correct_usd": 1e-3}, "plans": PLANS, "limits": {"cost_usd": 0.01}, **policy}
    return {
        "backends": {name: {"kind": "scripted", "price": {"input_usd_per_mtok": p, "output_usd_per_mtok": p}} for name, p in price.items()},
        "verifiers": {"checked": {"kind": "regex", "pattern": "right"}},
        "policies": {"balanced": value, "cheap": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]}},
    }


def write_config(path: Path, **policy: Any) -> Path:
    """The same in a file."""
    curves = path.with_name("curves.json")
    Curves(tokens={name: Tokens(3.0, 0.0, 0.1) for name in ("small", "large")}).save(curves)
    path.write_text(yaml.safe_dump(config(**policy) | {"curves": str(curves)}))
    return path


def rows(n: int, seed: int = 0, large: float = 0.7) -> list[dict[str, Any]]:
    """`n` prompts: small is right with a chance that differs by prompt, large with that of `large`; scores say so with some error."""
    rng = np.random.default_rng(seed)
    return [_row(rng, i, {"small": float(rng.beta(1.0, 0.8)), "large": large}) for i in range(n)]


def write_log(path: Path, *args: Any, **kwargs: Any) -> Path:
    """The same in a file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(*args, **kwargs)))
    return path


def _row(rng: np.random.Generator, i: int, p: dict[str, float]) -> dict[str, Any]:
    traces = [_samples(rng, name, p[name], draws) for name, draws in (("small", 8), ("large", 2))]
    return {"version": 1, "prompt": f"question {i} of {'many ' * (i % 5)}words", "group": f"g{i // 2}", "traces": traces}


def _samples(rng: np.random.Generator, name: str, p: float, draws: int) -> dict[str, Any]:
    marks = rng.random(draws) < p
    scores = np.clip(rng.normal(np.where(marks, 0.8, 0.3), 0.2), 0, 0.999)
    found = [
        {"text": f"{name} {k} {'right' if mark else 'wrong'}", "correct": float(mark), "scores": {"checked": float(score)}}
        for k, (mark, score) in enumerate(zip(marks, scores, strict=True))
    ]
    calls = [["generate", name, 1, 12, 20, 0.1], ["generate", name, draws - 1, 12, 20 * (draws - 1), 0.2]]
    cost = sum(c[3] + c[4] for c in calls) * (1e-6 if name == "small" else 2e-5)
    return {"plan": f"sample({name})", "answers": found, "calls": calls, "cost_usd": cost, "latency_s": 0.1}
