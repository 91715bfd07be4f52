"""Searches and revisions of the embedded fleet against best-of-n at the same price, on its hardest puzzles (five and six numbers).

    python -m benchmarks.fleet_search --puzzles 300       about fifty minutes of one core

Every plan is run whole by the service's own strategies, with the reward model as verifier; what it read and wrote is charged. How often
best-of-n would be right at a plan's price is read off the line through its own points, over the logarithm of the price.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.types import Call, ChatRequest, Price
from benchmarks.harness import PAGES, ROOT, Array, bootstrap, command, interval, mean_of, publish, table
from fleet.questions import Question, questions
from policies.plans import BestOfN, Plan, Revise, TreeSearch
from router.assembly import parts
from router.config import load
from router.learning import without_probe
from router.parts import Parts
from router.run import Run
from router.strategies import STRATEGIES

SEED = 77
HARD = 5
"""Numbers of a puzzle, at least."""
SAMPLES: Mapping[str, Plan] = {
    f"best of {n}": BestOfN(backend="small", n=n, batch=min(n, 4), verifier="reward") for n in (2, 4, 8, 16, 32, 64)
}
BEAMS = ((1, 4), (1, 8), (2, 4), (2, 8), (4, 8), (4, 16), (8, 16), (8, 32))
OTHERS: Mapping[str, Plan] = {
    **{f"revise, {n} rounds": Revise(backend="small", verifier="reward", rounds=n) for n in (2, 4, 8)},
    **{f"search, beam {w} of {n}": TreeSearch(backend="small", verifier="reward", beam_width=w, samples=n) for w, n in BEAMS},
    "search, beam 4 of 16, lookahead 1": TreeSearch(backend="small", verifier="reward", beam_width=4, samples=16, lookahead=1),
    "search, beam 4 of 16, by product": TreeSearch(backend="small", verifier="reward", beam_width=4, samples=16, aggregate="prod"),
}


def main() -> None:
    """Run, and publish."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_search", description=__doc__, formatter_class=form)
    parser.add_argument("--puzzles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "fleet.yaml")
    options = parser.parse_args()
    hard = [q for q in questions(3 * options.puzzles, options.seed, "test") if q.size >= HARD][: options.puzzles]
    right, cost = asyncio.run(played(parts(without_probe(load(options.config))), hard))
    groups = [question.group for question in hard]
    plans = {name: judged(name, right, cost, groups) for name in right}
    figures = {"puzzles": len(hard), "plans": plans}
    draw(plans, PAGES / "fleet_search.png")
    publish("fleet_search", figures, page(figures))


async def played(world: Parts, puzzles: Sequence[Question]) -> tuple[dict[str, Array], dict[str, Array]]:
    """By plan: 1 where its answer is right, and US dollars; each of shape [puzzles]."""
    from tqdm import tqdm

    plans, rows = {**SAMPLES, **OTHERS}, []
    for question in tqdm(puzzles, unit="puzzle"):
        rows.append([await _one(world, plan, question.prompt) for plan in plans.values()])
    found = np.array(rows)
    return {name: found[:, i, 0] for i, name in enumerate(plans)}, {name: found[:, i, 1] for i, name in enumerate(plans)}


async def _one(world: Parts, plan: Plan, prompt: str) -> tuple[float, float]:
    """(1 if right, US dollars) of a plan run whole."""
    run, request = Run(world.backends, world.verifiers, scope=str(plan)), ChatRequest(({"role": "user", "content": prompt},))
    chosen = await STRATEGIES[plan.kind](plan, request, run)
    assert chosen is not None, "nothing was drawn before"
    (truth,) = await world.verifiers["exact"].score(request, [chosen.choice], Call(Price()))
    return truth.score or 0.0, run.spent_usd


def judged(name: str, right: Mapping[str, Array], cost: Mapping[str, Array], groups: Sequence[str]) -> dict[str, Any]:
    """Accuracy and price of a plan, and how far it is above best-of-n at that price; paired by puzzle."""

    def above(rows: Any) -> float:
        prices = [np.log(cost[other][rows].mean()) for other in SAMPLES]
        at_price = np.interp(np.log(cost[name][rows].mean()), prices, [right[other][rows].mean() for other in SAMPLES])
        return float(right[name][rows].mean() - at_price)

    return {
        "right": bootstrap(mean_of(right[name]), groups),
        "usd_per_million": 1e6 * float(cost[name].mean()),
        "above_samples": None if name in SAMPLES else bootstrap(above, groups),
    }


def draw(plans: Mapping[str, Any], path: Path) -> None:
    """Accuracy against price: the line of best-of-n, and the others as points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2))
    for kind, names in (("best of n", list(SAMPLES)), *((k, [n for n in OTHERS if n.startswith(k)]) for k in ("revise", "search"))):
        xs, ys = zip(*((plans[name]["usd_per_million"], 100 * plans[name]["right"][0]) for name in names), strict=True)
        axis.plot(xs, ys, "o-" if kind == "best of n" else "o", label=kind)
    axis.set(xscale="log", xlabel="US dollars for a million puzzles", ylabel="right, %")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def page(figures: Mapping[str, Any]) -> str:
    """docs/benchmarks/fleet_search.md."""
    rows = [
        [name, interval(row["right"]), f"{row['usd_per_million']:.1f}", _points(row["above_samples"])]
        for name, row in figures["plans"].items()
    ]
    return f"""# Searches and revisions against samples at the same price

{command("fleet_search")} {figures["puzzles"]} held-out puzzles of five and six numbers, each plan run whole; the reward model verifies
and is charged. 95 % intervals over number sets, paired.

![accuracy against price](fleet_search.png)

{table(["plan", "right (95 %)", "$ a million", "above best-of-n at its price, points"], rows)}
"""


def _points(value: Sequence[float] | None) -> str:
    return "" if value is None else interval([100 * x for x in value], "+.1f")


if __name__ == "__main__":
    main()
