"""docs/benchmarks/ensemble.md and its picture. What it says follows from the figures, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.ensemble.recorded import DRAWN, MOST

NAME = "ensemble"


def page(findings: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [f"# Several models together\n\n{harness.command(NAME)}\n\n{ABOUT}\n{CUT}\n\n![accuracy of pools]({NAME}.png)\n"]
    for name, found in findings.items():
        rows = [_line(label, pool) for label, pool in found["pools"].items()]
        parts.append(f"## {name}\n\n{found['prompts']} test prompts.\n\n{harness.table(HEAD, rows)}\n")
        equal = [
            (label, what, f"{100 * share:.1f}", harness.interval(pool["over_equal_cost"][what], "+.1f"))
            for label, pool in found["pools"].items()
            for what, share in pool["equal_cost"].items()
        ]
        if equal:
            parts.append(f"At the pool's cost:\n\n{harness.table(('pool', 'best of', 'right', 'pool has more'), equal)}\n")
        said = [_said(label, pool) for label, pool in found["pools"].items()]
        parts.append(f"{harness.table(('pool', 'expected', 'said of the answer', 'right', 'log loss', *ABLATIONS), said)}\n")
        if found["engine"]:
            engine = harness.table(ENGINE, map(_engine, found["engine"]))
            parts.append(f"The engine, without and with these pools among its plans:\n\n{engine}\n")
    return "\n".join([*parts, reading(findings)])


HEAD = ("pool", "best alone", "others alone", "heads", "weighted", "over the best, points", "over heads, points")
ABLATIONS = ("default agreement", "samples independent")
ENGINE = ("a right answer, $", "right without", "with", "$/1,000 without", "with", "uses a pool", "gain, % of a right answer")


def _line(label: str, pool: Mapping[str, Any]) -> Sequence[str]:
    best = pool["best"]
    others = ", ".join(f"{100 * share:.1f}" for name, share in pool["alone"].items() if name != best)
    heads, weighted = (f"{100 * pool['right'][what]:.1f}" for what in ("heads", "weighted"))
    intervals = (harness.interval(pool[what], "+.1f") for what in ("over_best", "over_heads"))
    return label, f"{100 * pool['alone'][best]:.1f} ({best})", others, heads, weighted, *intervals


def _said(label: str, pool: Mapping[str, Any]) -> Sequence[str]:
    shares = (pool["expected"]["weighted"], pool["said"]["weighted"], pool["right"]["weighted"])
    ablations = (pool["ablations"].get(what) for what in ABLATIONS)
    losses = (f"{100 * right[0]:.1f} / {right[1]:.2f}" if right else "" for right in ablations)
    return label, *(f"{100 * share:.1f}" for share in shares), f"{pool['log_loss']:.2f}", *losses


def _engine(row: Mapping[str, Any]) -> Sequence[str]:
    right, usd = ([row[side][what] for side in ("without", "with")] for what in ("right", "cost_usd"))
    gain = harness.interval([100 * share for share in row["gain_share"]], "+.2f")
    shares, dollars = (f"{100 * share:.1f}" for share in right), (f"{1e3 * each:.3f}" for each in usd)
    return f"{row['value_usd']:g}", *shares, *dollars, f"{100 * row['ensembles_used']:.0f} %", gain


ABOUT = """\
Each pool is asked at once, the router's `ensemble` plan; *weighted* is its vote by how likely each voice is to be right, *heads* the plain
majority. The best member is the one that is best off the test side. Accuracy in %, intervals 95 % over groups of prompts, paired."""
CUT = f"Of a set's test side {MOST} prompts are played at most, drawn at random; where models were drawn many times, {DRAWN} of the draws."


def reading(findings: Mapping[str, Mapping[str, Any]]) -> str:
    """What follows from the figures, whatever they are."""
    pools = {f"{name}: {label}": pool for name, found in findings.items() for label, pool in found["pools"].items()}
    engine = [(name, row) for name, found in findings.items() for row in found["engine"]]
    equal = {f"{label} against {what}": over for label, pool in pools.items() for what, over in pool["over_equal_cost"].items()}
    over = {label: 100 * (pool["expected"]["weighted"] - pool["right"]["weighted"]) for label, pool in pools.items()}
    most = max(over, key=lambda label: over[label])
    learned = sum(pool["log_loss"] < pool["ablations"]["default agreement"][1] for pool in pools.values())
    told = [f"{name} at {row['value_usd']:g} dollars ({_changed(row)})" for name, row in engine if not _straddles(row["gain_share"])]
    used = sum(row["ensembles_used"] > 0 for _, row in engine)
    return harness.prose(
        f"""Right answers, by the intervals. Weights against heads: {_told({label: pool["over_heads"] for label, pool in pools.items()})}
        A pool against its best member alone: {_told({label: pool["over_best"] for label, pool in pools.items()})} A pool against more
        samples of one member at its cost: {_told(equal)}""",
        f"""What a pool is expected to give is {np.mean(list(over.values())):+.1f} points off on the mean, and at most {over[most]:+.1f}
        ({most}). Learned agreement of wrong answers lowers the log loss of what is said in {learned} of {len(pools)} pools.""",
        f"""With pools among its plans the engine used one in {used} of {len(engine)} cases (a set and a value of a right answer). What
        right answers bring over what was paid then differs, by its interval, on {"; ".join(told) or "none"}.""",
        CONCLUSION,
    )


CONCLUSION = """\
So where a pool does not gain on its best member, and more is expected of it than it gives, it belongs into a policy that names it for a
reason (models known to err apart, or seconds that are dear), not into every list of plans."""


def _straddles(interval: Sequence[float]) -> bool:
    return interval[1] <= 0 <= interval[2]


def _told(found: Mapping[str, Sequence[float]]) -> str:
    """How often there are more, and fewer, and where."""

    def named(up: bool) -> str:
        there = [f"{label}, {one[0]:+.1f}" for label, one in found.items() if not _straddles(one) and (one[0] > 0) == up]
        return f"{len(there)} ({'; '.join(there)})" if there else "none"

    return f"more in {named(True)} of {len(found)}, fewer in {named(False)}, the others not told apart."


def _changed(row: Mapping[str, Any]) -> str:
    return f"{100 * row['gain_share'][0]:+.1f} % of a right answer, a pool used for {100 * row['ensembles_used']:.0f} %"


def picture(findings: Mapping[str, Mapping[str, Any]]) -> None:
    """By pool: each member, heads, and the weighted vote."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pools = [(f"{name}: {label}", pool) for name, found in findings.items() for label, pool in found["pools"].items()]
    figure, axis = pyplot.subplots(figsize=(9, 0.42 * len(pools) + 1))
    for y, (_, pool) in enumerate(reversed(pools)):
        axis.plot([100 * share for share in pool["alone"].values()], [y] * len(pool["alone"]), "o", color="0.75", label="a member alone")
        axis.plot(100 * pool["right"]["heads"], y, "|", color="tab:orange", ms=14, mew=3, label="heads")
        axis.plot(100 * pool["right"]["weighted"], y, "|", color="tab:blue", ms=14, mew=3, label="weighted")
    axis.set_yticks(range(len(pools)), [label for label, _ in reversed(pools)], fontsize=7)
    axis.set_xlabel("right, %")
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[:3], labels[:3], fontsize=7, loc="lower left")
    figure.tight_layout()
    harness.PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(harness.PAGES / f"{NAME}.png", dpi=80)
