"""Test-time compute on the embedded fleet, after Snell et al. (2024): how many generations buy the accuracy of best-of-N, and when small
plus compute beats the model 14 times its size.

    python -m benchmarks.fleet_log                    samples the fleet once, about an hour of one core
    python -m benchmarks.fleet_compute                replays that log, some minutes

A generation is one answer of small by its tokens; one of large counts as 14. Compared are best-of-N, N to 256; the best plan of each fifth
of difficulty (by the probe), chosen on one half of the puzzles and measured on the other; and the engine, over its dial. Intervals are
95 %, number sets resampled, all methods on the same resamples. Writes docs/benchmarks/fleet_compute.md with a picture.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet_log import CONFIG, DEFAULT, read
from benchmarks.harness import PAGES, Array, Ints, command, interval, parser, publish, table
from policies.plans import BestOfN
from policies.policy import Optimiser
from router.baselines import Log, Picked, best_of, cost_at
from router.config import load
from router.evaluate import resampled
from router.fit import samples
from router.offline import at
from router.play import answers, play

NAME = "fleet_compute"
TIMES = 14
"""Parameters of large over those of small."""
SIZES = tuple(2**k for k in range(9))
BINS = 5
RATIOS = (0.16, 0.79, 22.0)
"""Tokens read and written in service over tokens of training, as in Snell et al., section 7."""
MULTIPLIERS = tuple(2.0**k for k in (-8, -6, -4, -3, -2, -1, 0, 1, 2))
TARGET = 64


@dataclass(frozen=True)
class Plan:
    """One way to spend: right [N] and generations [N], means over its draws."""

    name: str
    right: Array
    generations: Array


@dataclass(frozen=True)
class Bench:
    """The log and what was made of it."""

    log: Log
    rows: Sequence[dict[str, Any]]
    weights: Array
    """[N, 1 + draws]: the puzzles as they are, then resampled."""
    ease: Array
    """The probe's chance of one answer of small, [N]."""
    one: float
    """Tokens of one answer of small."""

    def mean(self, values: Array) -> Array:
        """Over puzzles, for each resample."""
        return np.asarray(values @ self.weights)


def main() -> None:
    """Replay and publish."""
    cli = parser(NAME, __doc__ or "")
    cli.add_argument("--log", type=Path, default=DEFAULT, help="what benchmarks.fleet_log wrote")
    cli.add_argument("--limit", type=int, help="only the first so many puzzles")
    options = cli.parse_args()
    rows = read(options.log)[: options.limit]
    if not rows:
        print(f"{options.log} holds nothing yet: `python -m benchmarks.fleet_log` samples the fleet into it", file=sys.stderr)
        return
    bench, config_parts, policy = _open(rows)
    bests = [_best_of(bench, n) for n in SIZES if n <= _fewest(rows)]
    fixed = [*bests, *_chains(bench)]
    figures = study(bench, bests, fixed, {name: _engine(bench, config_parts, one) for name, one in _engines(policy).items()})
    _draw(figures)
    publish(NAME, figures, page(figures))


def _open(rows: Sequence[dict[str, Any]]) -> tuple[Bench, Any, Optimiser]:
    from difficulty.artifact import open_probe
    from router.assembly import parts
    from router.play import estimates_of

    config = load(CONFIG)
    built, policy = parts(config), config.policies["balanced"]
    assert isinstance(policy, Optimiser), "balanced is an optimiser"
    estimates = estimates_of(open_probe(config.probe.artifact, config.probe.encoder, threads=1), rows)  # type: ignore[arg-type]
    log = Log(rows, built.market, estimates, built.probe_price.input_usd_per_mtok / 1e6, np.arange(len(rows)))
    one = float(np.mean([np.mean([a.tokens for a in answers(samples(row)["small"])]) for row in rows]))
    ease = np.array([estimates[row["prompt"]].p_correct["small"] for row in rows])
    deep = tuple(p.model_copy(update={"n": SIZES[-1]}) if isinstance(p, BestOfN) else p for p in policy.plans)
    free = policy.model_copy(update={"plans": deep, "limits": type(policy.limits)()})
    return Bench(log, rows, resampled([row["group"] for row in rows]), ease, one), built, free


def _fewest(rows: Sequence[dict[str, Any]]) -> int:
    return min(len(samples(row)["small"]["answers"]) for row in rows)


# --- the ways to spend --------------------------------------------------------------------------------------------------


def _best_of(bench: Bench, n: int) -> Plan:
    found: Picked = best_of(bench.log, "small", "reward", n)
    return Plan(f"best of {n}", found.right, np.full(len(found.right), float(n)))


def _chains(bench: Bench) -> list[Plan]:
    """The recorded revisions and searches, run whole."""
    keys = [t["plan"] for t in bench.rows[0]["traces"] if not t["plan"].startswith("sample(")]
    found = []
    for key in keys:
        traces = [next(t for t in row["traces"] if t["plan"] == key) for row in bench.rows]
        right = np.array([t["answers"][t["chosen"]]["correct"] if t.get("chosen") is not None else 0.0 for t in traces])
        tokens = np.array([sum(call[4] for call in t["calls"] if call[0] == "generate") for t in traces])
        found.append(Plan(key.partition("(")[0], right, tokens / bench.one))
    return found


def _engines(policy: Optimiser) -> dict[str, Optimiser]:
    """The whole policy, and what it is when it may only draw independent answers of small."""
    samples_only = tuple(plan for plan in policy.plans if isinstance(plan, BestOfN))
    return {"engine, all plans": policy, "engine, samples only": policy.model_copy(update={"plans": samples_only})}


def _engine(bench: Bench, built: Any, policy: Optimiser) -> list[Plan]:
    """A policy over its dial."""
    found = []
    for multiplier in MULTIPLIERS:
        played = play(built, at(policy, multiplier), bench.rows, bench.log.estimates)
        spent = [
            sum(c["output_tokens"] * (TIMES if c["target"] == "large" else 1) for c in p.decision["calls"] if c["kind"] == "generate")
            for p in played
        ]
        found.append(Plan(f"x {multiplier:g}", np.array([p.right for p in played]), np.array(spent) / bench.one))
    return found


# --- the figures --------------------------------------------------------------------------------------------------------


def study(bench: Bench, bests: Sequence[Plan], fixed: Sequence[Plan], engines: Mapping[str, Sequence[Plan]]) -> dict[str, Any]:
    """All of them."""
    target = next((plan for plan in bests if plan.name == f"best of {TARGET}"), bests[-1])
    by_bin = _by_bin(bench, fixed)
    methods = {"best plan per fifth (two-fold)": by_bin, **engines}
    return {
        "puzzles": len(bench.rows),
        "samples": _fewest(bench.rows),
        "best_of": {plan.name: _point(bench, plan) for plan in bests},
        "chains": {plan.name: _point(bench, plan) for plan in fixed[len(bests) :]},
        "engines": {name: {plan.name: _point(bench, plan) for plan in plans} for name, plans in engines.items()},
        "per_fifth": {plan.name: _point(bench, plan) for plan in by_bin},
        "target": target.name,
        "ratio": {name: _ratio(bench, plans, target) for name, plans in methods.items()},
        "large": _against_large(bench, fixed),
    }


def _point(bench: Bench, plan: Plan) -> dict[str, list[float]]:
    return {"right": _interval(bench.mean(plan.right)), "generations": _interval(bench.mean(plan.generations))}


def _interval(values: Array) -> list[float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return [float(values[0]), float(low), float(high)]


def _ratio(bench: Bench, plans: Sequence[Plan], target: Plan) -> list[float] | None:
    """Generations of the target over those at which the plans, or mixtures of two of them, are as accurate."""
    right, spent = (np.array([bench.mean(getattr(plan, of)) for plan in plans]) for of in ("right", "generations"))
    needed = cost_at(right, spent, bench.mean(target.right))
    return _interval(bench.mean(target.generations) / needed) if np.isfinite(needed[0]) else None


def _fifths(bench: Bench) -> Ints:
    order = np.argsort(np.argsort(bench.ease))
    return np.asarray(order * BINS // len(order))


def _by_bin(bench: Bench, fixed: Sequence[Plan]) -> list[Plan]:
    """For each price of a generation, the plan of each fifth that is worth most on the other half of the puzzles."""
    fifth, half = _fifths(bench), np.arange(len(bench.rows)) % 2
    right, spent = (np.array([getattr(plan, of) for plan in fixed]) for of in ("right", "generations"))
    found = []
    for price in 2.0 ** np.arange(-20, -2, 1.5):
        chosen = np.zeros(len(bench.rows), dtype=np.int64)
        for fold in (0, 1):
            for b in range(BINS):
                learn = (half != fold) & (fifth == b)
                chosen[(half == fold) & (fifth == b)] = np.argmax((right[:, learn] - price * spent[:, learn]).mean(axis=1))
        rows = np.arange(len(bench.rows))
        found.append(Plan(f"price {price:.5f}", right[chosen, rows], spent[chosen, rows]))
    return found


def _against_large(bench: Bench, fixed: Sequence[Plan]) -> list[dict[str, Any]]:
    """By fifth and ratio of service to training: small with as much compute as one answer of large costs, training included."""
    fifth, half = _fifths(bench), np.arange(len(bench.rows)) % 2
    large = np.array([np.mean([a["correct"] for a in samples(row)["large"]["answers"]]) for row in bench.rows])
    right, spent = (np.array([getattr(plan, of) for plan in fixed]) for of in ("right", "generations"))
    found = []
    for ratio in RATIOS:
        budget = TIMES + 3 / ratio * (TIMES - 1)
        for b in range(BINS):
            best = np.zeros(len(large))
            for fold in (0, 1):
                learn, test = (half != fold) & (fifth == b), (half == fold) & (fifth == b)
                fits = spent[:, learn].mean(axis=1) <= budget
                best[test] = right[np.argmax(np.where(fits, right[:, learn].mean(axis=1), -1.0))][test]
            here = fifth == b
            weights = bench.weights[here] / bench.weights[here].sum(axis=0)
            found.append(
                {
                    "ratio": ratio, "budget": budget, "fifth": b,
                    "large": _interval(large[here] @ weights), "small": _interval(best[here] @ weights),
                    "gain": _interval((best - large)[here] @ weights),
                }
            )  # fmt: skip
    return found


# --- the page -----------------------------------------------------------------------------------------------------------


def page(figures: dict[str, Any]) -> str:
    """docs/benchmarks/fleet_compute.md."""
    ways = [*figures["best_of"].items(), *figures["chains"].items()]
    ways += [(f"{engine}, {name}", point) for engine, points in figures["engines"].items() for name, point in points.items()]
    rows = [[name, interval(point["right"]), interval(point["generations"], ".1f")] for name, point in ways]
    ratios = [[name, interval(value, ".1f") if value else "never reached"] for name, value in figures["ratio"].items()]
    hard = ["hardest", "2nd", "3rd", "4th", "easiest"]
    large = [
        [
            f"{row['ratio']:g} ({row['budget']:.0f})",
            hard[row["fifth"]],
            interval(row["large"]),
            interval(row["small"]),
            interval(row["gain"]),
        ]
        for row in figures["large"]
    ]
    return "\n".join(
        [
            "# Test-time compute on the fleet",
            "",
            f"{command(NAME)} {figures['puzzles']:,} held-out puzzles, {figures['samples']} answers of small to each, sampled once and",
            "replayed. A generation is one answer of small by its tokens; one of large counts as 14. 95 % intervals over number sets.",
            "",
            "![accuracy against generations](fleet_compute.png)",
            "",
            f"## Generations for the accuracy of {figures['target']}",
            "",
            f"How many times fewer than {TARGET}. The engine ends when more is not worth its price; its dial is what a dollar counts.",
            "It is told prices, not generations: with the verifier charged, an answer of large costs as much as about 11 of small.",
            "Best of 64 is nearly as accurate as best of 256: what is missing are wrong answers that the verifier takes for right ones. So",
            "near that ceiling a point more or less decides; where no setting of the dial is as accurate in a resample, its ratio counts",
            "as 0.",
            "",
            table(["", "times fewer (95 %)"], ratios),
            "",
            "## Every way to spend",
            "",
            table(["", "right (95 %)", "generations (95 %)"], rows),
            "",
            "## Small with compute against the model 14 times larger",
            "",
            "By fifth of difficulty (the probe's), at three ratios of tokens in service to tokens of training. In brackets: how many",
            "answers of small cost what one of large does, its training included (14 + 39 / ratio). The plan is chosen on the other half",
            "of the puzzles.",
            "",
            table(["ratio", "fifth", "large once", "small, best plan", "gain"], large),
        ]
    )


def _draw(figures: Mapping[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    lines = {"best of N": (figures["best_of"], "s-"), "best plan per fifth": (figures["per_fifth"], "^--")}
    lines |= {name: (points, style) for (name, points), style in zip(figures["engines"].items(), ("o:", "o-"), strict=True)}
    for name, (rows, style) in lines.items():
        points = sorted((row["generations"][0], *row["right"]) for row in rows.values())
        x, y, low, high = map(np.array, zip(*points, strict=True))
        axis.plot(x, y, style, label=name, markersize=4)
        axis.fill_between(x, low, high, alpha=0.15)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("generations a puzzle")
    axis.set_ylabel("right")
    axis.set_title(f"{figures['puzzles']:,} held-out puzzles: the engine stops when it has its answer", fontsize=10)
    axis.legend(frameon=False)
    figure.tight_layout()
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / f"{NAME}.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
