"""The guarantee under test: 300 calibration sets, and how often a setting was accepted that in truth loses more than was promised.

A log is taken for the whole population, so that the true loss of every setting is known, and calibration sets are drawn from it with
replacement. The policy is certified on each (`policies/certify.py`), next to the usual way: the cheapest setting whose observed drop is at
most epsilon. A violation is a choice that truly loses more than epsilon. Two populations: the embedded fleet under its own policy, played
by the service's pipeline over its dial; and a recorded pair of models, routed by the service's `decide` on what a probe says.

    python -m benchmarks.guarantee --log .outlay/fleet-log.jsonl.gz      # what `benchmarks.fleet_log` wrote, or `outlay collect`

Whether the promise is kept does not depend on which prompts the log holds; the costs do, and are fair only where no fit saw them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.sparse import csr_matrix, hstack
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.harness import PAGES, ROOT, TRAIN, Array, command, groups, interval, parser, publish, recordings, sides, table
from difficulty.belief import Belief, Success
from policies.certify import BETS, p_value, passed
from policies.decide import decide
from policies.facts import Facts, Market
from policies.plans import Single
from policies.policy import Optimiser, Worth
from router.baselines import Log, single
from router.certify import by_group, reference
from router.offline import at, opened, progress
from router.play import play

EPSILONS, DELTA, SETS = (0.02, 0.05), 0.1, 300
SIZES = (300, 1000)
"""Groups in a calibration set."""
FLEET_DIAL = tuple(2.0 ** (k / 4) for k in range(2, 11))
PAIR_DIAL = tuple(2.0 ** (k / 8) for k in range(49))
"""Fine where quality falls, so that an unlucky calibration set has a setting to be fooled by."""
NAIVE = "observed drop"


@dataclass(frozen=True)
class Population:
    """Every setting on every prompt, the safest setting first."""

    name: str
    loss: Array
    """Quality of the reference less the policy's, [settings, groups]."""
    cost: Array
    """Mean US dollars of a prompt, as a share of the reference's, [settings]."""

    @property
    def true_loss(self) -> Array:
        """What would be lost in service, [settings]."""
        return np.asarray(self.loss.mean(axis=1))


def main(argv: Sequence[str] | None = None) -> None:
    """Certify on all calibration sets, and publish."""
    form = parser("guarantee", __doc__ or "")
    form.add_argument("--log", type=Path, help="of `outlay collect` with the fleet; unset: the recorded pair alone")
    form.add_argument("--config", type=Path, default=ROOT / "configs" / "fleet.yaml")
    form.add_argument("--sets", type=int, default=SETS)
    options = form.parse_args(argv)
    made = [fleet(options.config, options.log)] if options.log else []
    made += [pair(name, rows, options.seed) for name, rows in recordings(options.data, "outcomes_routellm_gsm8k*.jsonl.gz").items()]
    results = {population.name: judged(population, options.sets, options.seed) for population in made}
    figures = {"delta": DELTA, "sets": options.sets, "populations": results}
    draw(made, results, PAGES / "guarantee.png")
    publish("guarantee", figures, page(figures))


# --- the populations ------------------------------------------------------------------------------------------------------


def fleet(config: Path, log: Path) -> Population:
    """The default policy of a configuration, on a log of prompts that no fit saw."""
    console, study = Console(stderr=True), opened(config, log, fresh=True)
    name = study.config.default_policy
    with progress(len(FLEET_DIAL) * len(study.rows), name, console) as step:
        runs = [play(study.parts, at(study.policy(name), multiplier), study.rows, study.estimates, step) for multiplier in FLEET_DIAL]
    against = study.parts.baseline or ""
    right, keys = reference(study.rows, against), [row["group"] for row in study.rows]
    dear = single(Log(study.rows, study.parts.market, study.estimates), against).cost.mean()
    loss = np.stack([by_group(keys, right - np.array([played.right for played in run])) for run in runs])
    return Population(f"fleet, {name}", loss, np.array([np.mean([played.cost_usd for played in run]) for run in runs]) / dear)


def pair(name: str, rows: Sequence[Mapping[str, Any]], seed: int) -> Population:
    """Two recorded models, the cheap one 20 times cheaper, on the prompts that the probe did not learn from."""
    models = sorted(rows[0]["outcomes"], key=lambda model: np.mean([row["outcomes"][model]["correct"] for row in rows]))
    names = dict(zip(("small", "large"), (models[0], models[-1]), strict=True))
    right = {n: np.array([float(row["outcomes"][model]["correct"]) for row in rows]) for n, model in names.items()}
    group = groups([row["prompt"] for row in rows])
    side = sides(group, seed)
    features = probe([row["prompt"] for row in rows], right, side == TRAIN)
    kept = np.flatnonzero(side != TRAIN)
    dear = []
    for i in kept:
        e = {n: float(values[i]) for n, values in features.items()}
        dear.append(bisect_left(PAIR_DIAL, True, key=partial(goes_small, e)))
    chosen = np.arange(len(PAIR_DIAL))[:, None] < np.array(dear)
    lost = (right["large"] - right["small"])[kept] * ~chosen
    return Population(
        name, np.stack([by_group(group[kept].tolist(), row) for row in lost]), chosen.mean(axis=1) + (~chosen).mean(axis=1) / 20
    )


def probe(prompts: Sequence[str], right: Mapping[str, Array], train: Any) -> dict[str, Array]:
    """Decision functions by model: logistic regression on words and the prompt's length."""
    words = TfidfVectorizer(min_df=2, sublinear_tf=True).fit([p for p, mine in zip(prompts, train, strict=True) if mine])
    x = hstack([words.transform(prompts), csr_matrix(np.log1p([[len(p)] for p in prompts]) - 5)]).tocsr()
    return {name: LogisticRegression(C=1.0, max_iter=500).fit(x[train], y[train] > 0.5).decision_function(x) for name, y in right.items()}


PAIR = Optimiser(objective=Worth(value_of_correct_usd=1.0), plans=(Single(backend="small"), Single(backend="large")))
PAIR_MARKET = Market({"small": (0.05, 0.05), "large": (1.0, 1.0)})


def goes_small(features: Mapping[str, float], multiplier: float) -> bool:
    """Whether the service would ask the small one first, where at multiplier 1 a large answer costs a hundredth of a right one."""
    belief = Belief.prior(features, {name: Success(spread=0.0) for name in features})
    facts = Facts(input_tokens=0, max_tokens=1, cost_multiplier=multiplier * 1e4)
    plan = decide(PAIR, PAIR_MARKET, facts, belief).plan
    return plan is not None and plan.backends == ("small",)


# --- the trials -----------------------------------------------------------------------------------------------------------


def judged(population: Population, sets: int, seed: int) -> dict[str, Any]:
    """Violations, cost and power by size of the calibration set, epsilon and method."""
    salt = int(hashlib.sha256(population.name.encode()).hexdigest()[:8], 16)
    rng, groups_there = np.random.default_rng([seed, salt]), population.loss.shape[1]
    draws = {n: [rng.integers(0, groups_there, n) for _ in range(sets)] for n in SIZES}
    rows = [
        {"n": n, "epsilon": epsilon, "method": method} | tried(population, draws[n], epsilon, method)
        for n in SIZES
        for epsilon in EPSILONS
        for method in (NAIVE, *BETS)
    ]
    curve = {"true_loss": population.true_loss.tolist(), "cost": population.cost.tolist()}
    return {"groups": groups_there, "rows": rows, **curve}


def tried(population: Population, draws: Sequence[Any], epsilon: float, method: str) -> dict[str, Any]:
    """Over all calibration sets: what the cheapest accepted setting truly loses and costs; the reference answers where there is none."""
    accepted = np.array([cheapest(population.loss[:, drawn], epsilon, method) for drawn in draws])
    some = accepted >= 0
    broken = some & (population.true_loss[accepted] > epsilon)
    chance = binomtest(int(broken.sum()), len(broken)).proportion_ci(0.95, "exact")
    cost = np.where(some, population.cost[accepted], 1.0)
    allowed = population.true_loss <= epsilon
    best = float(population.cost[allowed].min()) if allowed.any() else 1.0
    return {
        "violations": [float(broken.mean()), float(chance.low), float(chance.high)],
        "none": float((~some).mean()),
        "cost": float(cost.mean()),
        "best_cost": best,
    }


def cheapest(loss: Array, epsilon: float, method: str) -> int:
    """Place of the cheapest accepted setting; -1 where there is none."""
    if method == NAIVE:
        good = np.flatnonzero(loss.mean(axis=1) <= epsilon)
        return int(good[-1]) if len(good) else -1
    p_values: list[float] = []
    while len(p_values) < len(loss) and (not p_values or p_values[-1] <= DELTA):
        p_values.append(p_value(loss[len(p_values)], epsilon, method))
    return passed(p_values, DELTA) - 1


# --- the report -----------------------------------------------------------------------------------------------------------


def draw(made: Sequence[Population], results: Mapping[str, Any], path: Path) -> None:
    """Violation rates against delta."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(made), figsize=(6 * len(made), 3.6), squeeze=False, sharey=True)
    for axis, population in zip(axes[0], made, strict=True):
        cases = [(n, epsilon) for n in SIZES for epsilon in EPSILONS]
        for k, method in enumerate((NAIVE, *BETS)):
            found = [100 * row["violations"][0] for row in results[population.name]["rows"] if row["method"] == method]
            axis.bar(np.arange(len(cases)) + 0.2 * k - 0.3, found, 0.2, label=method if method == NAIVE else f"certified, {method}")
        axis.axhline(100 * DELTA, color="black", linestyle="--", linewidth=1)
        axis.set_xticks(range(len(cases)), [f"n = {n}\nε = {epsilon}" for n, epsilon in cases])
        axis.set_title(population.name)
    axes[0][0].set_ylabel("promise broken, % of calibration sets")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def page(figures: Mapping[str, Any]) -> str:
    """docs/benchmarks/guarantee.md."""
    parts = [
        "# The guarantee under test",
        "",
        command("guarantee"),
        "",
        f"{figures['sets']} calibration sets each, drawn with replacement from a log that is taken for the whole",
        "population, so that what a setting truly loses is known. *Broken*: the cheapest accepted setting truly loses more than ε.",
        f"The promise is that this happens in at most {100 * DELTA:.0f} % of the sets. Cost is that of the setting taken, relative",
        "to always asking the reference (which answers where nothing is accepted); *at best* is the cheapest setting that truly",
        "keeps to ε. Three ways to bet are tried (`policies/certify.py`); `outlay certify` uses the first.",
        "",
        _kept(figures),
        "",
        "![how often the promise was broken](guarantee.png)",
        "",
    ]
    for name, result in figures["populations"].items():
        head = ["groups, ε, method", "broken, %", "nothing accepted, %", "cost", "at best"]
        lines = [
            [f"{row['n']:,}, {row['epsilon']}, {row['method']}", interval([100 * v for v in row["violations"]], ".1f"),
             f"{100 * row['none']:.1f}", f"{row['cost']:.3f}", f"{row['best_cost']:.3f}"]
            for row in result["rows"]
        ]  # fmt: skip
        parts += [f"## {name} ({result['groups']:,} groups)", "", table(head, lines), ""]
    return "\n".join(parts)


def _kept(figures: Mapping[str, Any]) -> str:
    """What came out, in a sentence or two."""
    rows = [row for result in figures["populations"].values() for row in result["rows"]]
    naive = [100 * row["violations"][0] for row in rows if row["method"] == NAIVE]
    worst = max((row for row in rows if row["method"] != NAIVE), key=lambda row: row["violations"][0])
    share, _, high = (100 * v for v in worst["violations"])
    return (
        f"Certified settings broke it in {share:.1f} % of the sets at most (95 % interval up to {high:.1f} %), over"
        f" {len(rows) - len(naive)} cases: it is {'kept' if share <= 100 * DELTA else 'NOT kept'}. The usual way, the cheapest setting"
        f" whose observed drop is at most ε, broke it in {min(naive):.0f} to {max(naive):.0f} %. What certainty costs is the difference"
        " between *cost* and *at best*; it shrinks with more prompts."
    )


if __name__ == "__main__":
    main()
