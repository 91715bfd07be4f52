"""`outlay evaluate`: the frontier of every policy over its dial on held-out prompts, with intervals, against every baseline.

Writes evaluate.json, evaluate.md and frontier.png, all or none of them. Intervals are 95 %, groups of prompts resampled, all methods on
the same resamples, so that ratios are paired.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from router.baselines import Array, Log, Method, baselines, cost_at, single
from router.errors import ConfigError, have_instead
from router.offline import Study, at, dial, opened, progress
from router.play import Played, play

DRAWS = 1000


@dataclass(frozen=True)
class Frontier:
    """One policy over its dial."""

    name: str
    multipliers: tuple[float, ...]
    method: Method
    latency_s: Array
    """Shape [S, N]."""


def run_evaluate(config: Path, log: Path, out: Path, names: Sequence[str], against: str | None, fresh: bool) -> None:
    """Play, compare, write. Ctrl-C leaves what was there before. Raises ConfigError or FitError."""
    console, study = Console(stderr=True), opened(config, log, fresh)
    reference = against or study.parts.baseline or ""
    if reference not in study.parts.backends:
        raise ConfigError(f"--against: no backend '{reference}'; {have_instead(reference, study.parts.backends)}")
    policies = {name: study.policy(name) for name in names or study.config.policies}
    frontiers = []
    with progress(sum(len(dial(policy)) for policy in policies.values()) * len(study.rows), "evaluate", console) as step:
        for name, policy in policies.items():
            runs = [play(study.parts, at(policy, m), study.rows, study.estimates, step) for m in dial(policy)]
            frontiers.append(_frontier(name, dial(policy), runs))
    table = _log(study)
    others = baselines(table, list(policies.values()), reference)
    figures = compared(study, frontiers, others, _judged(single(table, reference), table), reference)
    written(out, figures, frontiers, others)
    console.print(f"{out / 'evaluate.md'}: {len(study.rows)} held-out prompts; also evaluate.json and frontier.png", soft_wrap=True)


def compared(study: Study, frontiers: Sequence[Frontier], others: Sequence[Method], large: Method, reference: str) -> dict[str, Any]:
    """All figures: each point of each policy, and what every method pays for the reference's quality."""
    weights = resampled([row["group"] for row in study.rows])
    target, dear = _means(large.right, weights)[0], _means(large.cost, weights)[0]
    pays = {m.name: _pays(m, weights, target) for m in [*(f.method for f in frontiers), *others]}
    return {
        "prompts": len(study.rows),
        "groups": len({row["group"] for row in study.rows}),
        "reference": {"backend": reference, "right": _interval(target), "usd_per_1000": _interval(1000 * dear)},
        "policies": {frontier.name: _points(frontier, weights) for frontier in frontiers},
        "cost_at_reference": {name: _interval(usd / dear) for name, usd in pays.items()},
        "against": {f.name: {m.name: _interval(_over(pays[f.name], pays[m.name])) for m in others} for f in frontiers},
    }


def resampled(groups: Sequence[str], draws: int = DRAWS) -> Array:
    """Weights of the rows, [N, 1 + draws]: first as they are, then with whole groups resampled."""
    names, place = np.unique(groups, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    weights = np.concatenate([np.ones((len(groups), 1)), counts[:, place].T], axis=1)
    return np.asarray(weights / weights.sum(axis=0))


def _means(values: Array, weights: Array) -> Array:
    return np.asarray(values @ weights)


def _pays(method: Method, weights: Array, target: Array) -> Array:
    return cost_at(_means(method.right, weights), _means(method.cost, weights), target)


def _over(a: Array, b: Array) -> Array:
    """a / b; infinity where either was never reached."""
    return np.where(np.isfinite(a) & np.isfinite(b), a / np.where(np.isfinite(b), b, 1.0), np.inf)


def _interval(values: Array) -> list[float] | None:
    """[value, low, high]; None where it is never reached."""
    if not np.isfinite(values[0]):
        return None
    low, high = np.quantile(values[1:], [0.025, 0.975], method="inverted_cdf")
    return [float(v) if np.isfinite(v) else 1e9 for v in (values[0], low, high)]


def _frontier(name: str, multipliers: tuple[float, ...], runs: Sequence[Sequence[Played]]) -> Frontier:
    right, cost, seconds = (np.array([[getattr(p, of) for p in run] for run in runs]) for of in ("right", "cost_usd", "latency_s"))
    return Frontier(name, multipliers, Method(name, right, cost), seconds)


def _points(frontier: Frontier, weights: Array) -> list[dict[str, Any]]:
    right, cost = _means(frontier.method.right, weights), _means(frontier.method.cost, weights)
    return [
        {
            "multiplier": multiplier,
            "right": _interval(right[i]),
            "usd_per_1000": _interval(1000 * cost[i]),
            "latency_s": {f"p{q}": float(np.percentile(frontier.latency_s[i], q)) for q in (50, 95)},
        }
        for i, multiplier in enumerate(frontier.multipliers)
    ]


def _log(study: Study) -> Log:
    rows = [*study.rows, *study.seen]
    price = study.parts.probe_price.input_usd_per_mtok / 1e6
    return Log(rows, study.parts.market, study.estimates, price, np.arange(len(study.rows)))


def _judged(method: Method, log: Log) -> Method:
    return Method(method.name, method.right[:, log.judged], method.cost[:, log.judged])


# --- the files ----------------------------------------------------------------------------------------------------------


def written(out: Path, figures: Mapping[str, Any], frontiers: Sequence[Frontier], others: Sequence[Method]) -> None:
    """Made beside their place, then moved there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        made = Path(aside)
        (made / "evaluate.json").write_text(json.dumps(figures, indent=1) + "\n")
        (made / "evaluate.md").write_text(page(figures))
        _draw(frontiers, others, made / "frontier.png")
        out.mkdir(exist_ok=True)
        for file in made.iterdir():
            shutil.move(file, out / file.name)


def page(figures: Mapping[str, Any]) -> str:
    """evaluate.md."""
    reference = figures["reference"]
    lines = [
        "# Policies against baselines",
        "",
        f"{figures['prompts']} held-out prompts in {figures['groups']} groups; 95 % intervals over resampled groups.",
        "Probe and verifiers are charged.",
        f"{reference['backend']}: right {_text(reference['right'])}, ${_text(reference['usd_per_1000'], '.4f')} per 1,000.",
        "",
        f"## Cost at the quality of {reference['backend']}, which costs 1",
        "",
        "| | cost | " + " | ".join(f"{name}, relative to it" for name in figures["against"]) + " |",
        "| --- | --: |" + " --: |" * len(figures["against"]),
    ]
    for name, cost in figures["cost_at_reference"].items():
        ratios = [_text(rows[name]) if name in rows else "" for rows in figures["against"].values()]
        lines.append(f"| {name} | {_text(cost)} | " + " | ".join(ratios) + " |")
    for name, points in figures["policies"].items():
        lines += ["", f"## {name}", "", "| a dollar counts | right | $/1,000 | p50/p95 s |", "| --- | --: | --: | --: |"]
        lines += [
            f"| x {p['multiplier']:g} | {_text(p['right'])} | {_text(p['usd_per_1000'], '.4f')} "
            f"| {p['latency_s']['p50']:.2f}/{p['latency_s']['p95']:.2f} |"
            for p in points
        ]
    return "\n".join(["", *lines, ""]).lstrip("\n")


def _text(value: Sequence[float] | None, form: str = ".3f") -> str:
    if value is None:
        return "never"
    high = "never" if value[2] >= 1e9 else f"{value[2]:{form}}"
    return f"{value[0]:{form}} ({value[1]:{form}} to {high})"


def _draw(frontiers: Sequence[Frontier], others: Sequence[Method], path: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib: pip install '.[demo]' in Outlay's folder") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5))
    for method in others:
        x, y = 1000 * method.cost.mean(axis=1), method.right.mean(axis=1)
        axis.plot(x, y, "." if len(x) == 1 or method.name.startswith("hull") else "--", color="0.7", linewidth=1)
        if len(x) == 1 and method.name.startswith(("always", "best of")):
            axis.annotate(method.name, (x[0], y[0]), fontsize=6, color="0.4")
    for frontier in frontiers:
        axis.plot(1000 * frontier.method.cost.mean(axis=1), frontier.method.right.mean(axis=1), "o-", label=frontier.name, markersize=4)
    axis.set_xscale("log")
    axis.set_xlabel("US dollars for 1,000 prompts")
    axis.set_ylabel("right")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
