"""Every fixed plan and the policy `balanced` on held-out puzzles of the embedded fleet, live, over the gateway; plans by difficulty.

    python -m benchmarks.fleet_plans                    1,000 puzzles, about half an hour on two cores
    python -m benchmarks.fleet_plans --results FILE     only the tables, from a results.json of an earlier run

Probe and verifier are charged. Ratios and differences are paired by puzzle, with 95 % intervals of 2,000 bootstrap draws over number sets.
Writes docs/fleet-plans.md, benchmarks/results/fleet_plans.json, the picture docs/frontier.* and the table of the README; the last line
printed is the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import machine, table
from fleet.demo.asking import BASELINE, CHOSEN, OFFERS
from fleet.demo.command import main as demo
from fleet.demo.figures import short
from fleet.intervals import wilson

ROOT = Path(__file__).parents[1]
PAGE, FIGURES = ROOT / "docs" / "fleet-plans.md", ROOT / "benchmarks" / "results" / "fleet_plans.json"
DRAWS = 2000
Array = NDArray[np.float64]
Actions = Sequence[tuple[str, ...]]
"""Plans that a policy ran, by puzzle."""
ByOffer = Mapping[str, Array]
POLICIES = tuple(offer.name for offer in OFFERS if offer.plan is None)


def main() -> None:
    """Run, unless there are results; then the tables."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_plans", description=__doc__, formatter_class=form)
    parser.add_argument("--puzzles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--results", type=Path, help="results.json of an earlier run")
    options = parser.parse_args()
    path = options.results or ROOT / ".outlay" / "fleet_plans" / "results.json"
    if options.results is None:
        demo(["--puzzles", str(options.puzzles), "--seed", str(options.seed), "--minutes", "600", "--out", str(path.parent), "--publish"])
    figures = study(json.loads(path.read_text()))
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(figures))
    print(json.dumps(figures))


def study(results: Mapping[str, Any]) -> dict[str, Any]:
    """All figures, from the requests of a run."""
    by_puzzle: dict[str, dict[str, Any]] = defaultdict(dict)
    for request in results["requests"]:
        by_puzzle[request["question"]["prompt"]][request["offer"]] = request
    rows = [row for row in by_puzzle.values() if len(row) == len(OFFERS)]
    groups = [" ".join(sorted(_numbers(row[CHOSEN.name]))) for row in rows]
    right = {offer.name: np.array([float(row[offer.name]["right"]) for row in rows]) for offer in OFFERS}
    cost = {offer.name: np.array([row[offer.name]["cost_usd"] for row in rows]) for offer in OFFERS}
    p_small = np.array([next(p for request in row.values() if (p := request["p_small"]) is not None) for row in rows])
    actions = {name: [tuple(map(short, row[name]["actions"])) for row in rows] for name in POLICIES}
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "puzzles": len(rows),
        "offers": {name: _offer(right[name], cost[name], cost[BASELINE.name]) for name in right},
        "against": {p: {name: _against(right, cost, p, name, groups) for name in right if name not in POLICIES} for p in POLICIES},
        "quintiles": _quintiles(p_small, right, cost, actions[CHOSEN.name]),
        "where_run": {name: _where_run(actions[name], right, cost) for name in POLICIES},
    }


def _numbers(request: Mapping[str, Any]) -> list[str]:
    """What the prompt's numbers are, target included: puzzles with the same ones are near-duplicates."""
    return [word.strip(".,:;?!") for word in request["question"]["prompt"].split() if word.strip(".,:;?!").isdigit()]


def _offer(right: Array, cost: Array, large: Array) -> dict[str, float]:
    low, high = wilson(int(right.sum()), len(right))
    usd = float(cost.mean())
    return {"right": float(right.mean()), "low": low, "high": high, "usd_per_1000": 1000 * usd, "to_large": usd / float(large.mean())}


def _against(right: ByOffer, cost: ByOffer, policy: str, other: str, groups: Sequence[str]) -> dict[str, list[float]]:
    """A policy against a fixed plan: [value, low, high] of the difference in accuracy and the ratio of costs."""
    mine, theirs, paid, their_cost = right[policy], right[other], cost[policy], cost[other]
    return {
        "accuracy": bootstrap(lambda i: float(mine[i].mean() - theirs[i].mean()), groups),
        "cost": bootstrap(lambda i: float(paid[i].mean() / their_cost[i].mean()), groups),
    }


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], groups: Sequence[str], draws: int = DRAWS) -> list[float]:
    """[value, low, high]: the statistic of all rows, and its 95 % interval over resampled groups."""
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    rng = np.random.default_rng(0)
    seen = [statistic(np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])) for _ in range(draws)]
    return [statistic(np.arange(len(groups))), *map(float, np.quantile(seen, [0.025, 0.975]))]


def _quintiles(p_small: Array, right: ByOffer, cost: ByOffer, actions: Actions) -> list[dict[str, Any]]:
    """From the hardest fifth to the easiest, by what the probe said before the first call."""
    return [
        {"p_small": [float(p_small[rows].min()), float(p_small[rows].max())]}
        | _on(rows, right, cost)
        | {"ran": dict(Counter(plan for i in rows for plan in dict.fromkeys(actions[i])).most_common())}
        for rows in np.array_split(np.argsort(p_small), 5)
    ]


def _on(rows: NDArray[np.int64], right: ByOffer, cost: ByOffer) -> dict[str, Any]:
    """Every offer on some of the puzzles."""
    large = cost[BASELINE.name][rows].mean()
    return {
        "right": {name: float(values[rows].mean()) for name, values in right.items()},
        "to_large": {name: float(values[rows].mean() / large) for name, values in cost.items()},
    }


def _where_run(actions: Actions, right: ByOffer, cost: ByOffer) -> dict[str, Any]:
    """Where the policy ran a plan at all: what it reached there, beside each fixed plan on the same puzzles."""
    plans = Counter(plan for found in actions for plan in dict.fromkeys(found))
    rows = {plan: np.array([i for i, found in enumerate(actions) if plan in found]) for plan, _ in plans.most_common()}
    return {plan: {"puzzles": len(where)} | _on(where, right, cost) for plan, where in rows.items()}


# --- the page -----------------------------------------------------------------------------------------------------------


def page(figures: Mapping[str, Any]) -> str:
    """docs/fleet-plans.md."""
    names = [offer.name for offer in OFFERS]
    overall = [[n, _share(o), f"{o['to_large']:.2f}"] for n, o in figures["offers"].items()]
    against = [
        [f"{policy} against {name}", _points(row["accuracy"]), _interval(row["cost"])]
        for policy, rows in figures["against"].items()
        for name, row in rows.items()
    ]
    quintiles = [[f"{q['p_small'][0]:.2f} to {q['p_small'][1]:.2f}", *_cells(q), _ran(q["ran"])] for q in figures["quintiles"]]
    chosen = [
        [f"{policy}: {plan} ({row['puzzles']})", *_cells(row)]
        for policy, rows in figures["where_run"].items()
        for plan, row in rows.items()
    ]
    return "\n".join(
        [
            "# What each plan gives, and where the policy buys it",
            "",
            f"`python -m benchmarks.fleet_plans`, {figures['date']}, {figures['machine']}: {figures['puzzles']:,} held-out puzzles of 3 to",
            "6 numbers in equal parts, live over the gateway. Cost is relative to one answer of the large model; probe and verifier are",
            "charged.",
            "",
            table(["plan", "right, % (95 %)", "cost, large = 1"], overall),
            "",
            "## The policies against each fixed plan",
            "",
            "Paired by puzzle; bootstrap over number sets.",
            "",
            table(["", "accuracy, points (95 %)", "cost ratio (95 %)"], against),
            "",
            "## By difficulty",
            "",
            "Fifths of the puzzles by the probe's chance for one answer of the small model, the hardest first. Right, % / cost.",
            "",
            table(["fifth", *names, "balanced ran"], quintiles),
            "",
            "## Where a policy ran a plan",
            "",
            "The puzzles on which the policy ran the plan (maybe with others), and what each offer does on those. Right, % / cost.",
            "",
            table(["policy: plan (puzzles)", *names], chosen),
            "",
        ]
    )


def _share(row: Mapping[str, float]) -> str:
    return f"{100 * row['right']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [f"{100 * row['right'][offer.name]:.0f} / {row['to_large'][offer.name]:.2f}" for offer in OFFERS]


def _ran(ran: Mapping[str, int]) -> str:
    return ", ".join(f"{plan} {count}" for plan, count in ran.items())


def _points(value: Sequence[float]) -> str:
    return f"{100 * value[0]:+.1f} ({100 * value[1]:+.1f} to {100 * value[2]:+.1f})"


def _interval(value: Sequence[float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


if __name__ == "__main__":
    main()
