"""Cascades on recorded outcomes with confidence, cost and latency: the product's engine against tuned thresholds.

    python -m benchmarks.cascade            every file that fits outcomes_cascade_*, ten minutes of CPU time or more

The engine (`ladder.py`) is fitted on train and calibrate; so are the baselines, on both together. Every operating point (the value of a
right answer, in calls to the dearest model) is chosen before the test side is seen. A method's frontier is the hull of its points, each the
mean over splits; intervals are of a bootstrap over groups of near-duplicates, on each prompt's mean over the splits that tested it; there
is none where some resamples never get there. Cost at equal accuracy is such a figure; accuracy at equal cost, and what is left of a right
answer's value when the calls are paid, exist always, and stand beside it.

What came out: on GSM8K the engine is ahead of tuned thresholds at most values, on MMLU level with them: as dear at equal accuracy, and in
the value that is left behind by at most 0.014, ahead by at most 0.005. It was up to 0.05 behind there, for it went on asking: after a
model that was not sure it believed that others would be right in seven of ten cases where they were in less than five. Three causes. A
plan was weighed with one follower for all that it left open, sure and unsure alike. A model that is right on most prompts says in its
confidence what is hard for all, and the engine took it for what is hard for that model alone. And this benchmark told easy from hard
prompts by the chance before the outcomes were seen, where `outlay fit` takes the one after. Under a deadline of 2 s on GSM8K it was right
on 0.62 and is level with thresholds that are tuned for it: it kept time for a second backend that nobody could have kept, and refused
every step that ends in time nine times in ten though there was an answer in hand. What is left on MMLU: errors of one family of models go
together, which one shared difficulty does not know.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.harness import PAGES, TEST, Array, Ints, bootstrap, command, interval, mean_of, parser, publish, recordings, sides, table
from benchmarks.ladder import Engine, Played, Recorded, Variant, policy

DIALS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Values of a right answer, in calls to the dearest model."""
DEADLINES_S = (1.0, 2.0, 4.0)
DEADLINE_DIAL = 8.0
THRESHOLDS = 10
VARIANTS = {
    "ours": Variant(),
    "ours, no probe": Variant(probe=False),
    "ours, no shared difficulty": Variant(shared=False),
    "ours, no calibration": Variant(calibrated=False),
    "ours, no tempering": Variant(tempered=False),
    "ours, scores alike on easy and hard": Variant(by_ease=False),
    "ours, what may follow is not counted": Variant(settings={"OPEN_ENOUGH": 2.0}),
    "ours, what may follow is one case": Variant(settings={"CASES": 1}),
}
AT_VALUES = ("ours", "thresholds, up to 2", "thresholds, up to 3", "best model at that value", "router before the call")
"""Methods whose points are each tuned for one of the values."""
Points = list[tuple[Array, Array]]
"""(right, US dollars) of every test prompt, by operating point."""


# --- baselines ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chain:
    """Models asked in order until one is confident enough; the last answer that came in time goes out. FrugalGPT's form of a cascade."""

    models: tuple[int, ...]
    thresholds: tuple[float, ...]
    """By model, the last one's -inf."""

    def run(self, data: Recorded, rows: Ints, deadline_s: float = float("inf")) -> tuple[Array, Array, Array]:
        """(right, US dollars, whether nothing came in time) of each row; what is under way at the deadline is paid and cut off."""
        right, usd, seconds = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
        going, unanswered = np.ones(len(rows), bool), np.ones(len(rows), bool)
        for m, least in zip(self.models, self.thresholds, strict=True):
            usd += going * data.usd[rows, m]
            seconds += going * data.seconds[rows, m]
            going &= seconds <= deadline_s
            right, unanswered = np.where(going, data.right[rows, m], right), unanswered & ~going
            going &= data.confidence[rows, m] < least
        return right, usd, unanswered


def tuned(data: Recorded, rows: Ints, values_usd: Sequence[float], longest: int, deadline_s: float = float("inf")) -> list[Chain]:
    """For each value of a right answer the chain of at most `longest` models, and its thresholds, that earned most on the rows."""
    found = [(-np.inf, Chain((0,), (-np.inf,)))] * len(values_usd)
    for models in (chain for k in range(1, longest + 1) for chain in combinations(range(len(data.names)), k)):
        levels = [np.quantile(data.confidence[rows, m], np.linspace(0, 1, THRESHOLDS)) for m in models[:-1]]
        for thresholds in np.stack(np.meshgrid(*levels, indexing="ij"), axis=-1).reshape(-1, len(levels)) if levels else [()]:
            chain = Chain(models, (*map(float, thresholds), -np.inf))
            right, usd, _ = chain.run(data, rows, deadline_s)
            for i, value in enumerate(values_usd):
                found[i] = max(found[i], (value * right.mean() - usd.mean(), chain), key=lambda pair: pair[0])
    return [chain for _, chain in found]


def before_the_call(engine: Engine, rows: Ints, value_usd: float) -> Ints:
    """The model that an ex-ante router asks, once, for each row: by the engine's own estimate before the first call."""
    chance = np.column_stack([engine.before(name)[rows] for name in engine.data.names])
    return np.asarray((value_usd * chance - engine.data.usd.mean(axis=0)).argmax(axis=1), dtype=np.int64)


# --- one split ----------------------------------------------------------------------------------------------------------


def one_split(data: Recorded, seed: int) -> tuple[Ints, dict[str, Points], dict[str, tuple[Array, ...]]]:
    """(test rows, every method's points on them, what each did under a deadline: right, US dollars, nothing in time)."""
    side = sides(data.group, seed)
    rows, seen = np.flatnonzero(side == TEST), np.flatnonzero(side != TEST)
    values = [dial * data.usd[seen].mean(axis=0).max() for dial in DIALS]
    engines = {name: Engine.fit(data, side, variant) for name, variant in VARIANTS.items()}
    points: dict[str, Points] = {"one model, mixed at random": [(data.right[rows, m], data.usd[rows, m]) for m in range(len(data.names))]}
    asked = [before_the_call(engines["ours"], rows, value) for value in values]
    points["router before the call"] = [(data.right[rows, m], data.usd[rows, m]) for m in asked]
    points["best model at that value"] = [chain.run(data, rows)[:2] for chain in tuned(data, seen, values, 1)]
    for longest in (2, 3):
        points[f"thresholds, up to {longest}"] = [chain.run(data, rows)[:2] for chain in tuned(data, seen, values, longest)]
    for name, engine in engines.items():
        points[name] = [_right_usd(_played(engine, rows, value)) for value in values]
    best = [(value * data.right[rows] - data.usd[rows]).argmax(axis=1) for value in values]
    points["oracle"] = [(data.right[rows, m], data.usd[rows, m]) for m in best]
    return rows, points, _under_deadlines(engines["ours"], rows, seen, values[DIALS.index(DEADLINE_DIAL)])


def _under_deadlines(engine: Engine, rows: Ints, seen: Ints, value_usd: float) -> dict[str, tuple[Array, ...]]:
    data = engine.data
    found: dict[str, tuple[Array, ...]] = {}
    [unaware] = tuned(data, seen, [value_usd], 3)
    for deadline_s in DEADLINES_S:
        played = _played(engine, rows, value_usd, deadline_s)
        nothing = np.array([float(p.unanswered) for p in played])
        found[f"{deadline_s:g} s: ours"] = (*_right_usd(played), nothing)
        [aware] = tuned(data, seen, [value_usd], 3, deadline_s)
        found[f"{deadline_s:g} s: thresholds, tuned for it"] = aware.run(data, rows, deadline_s)
        found[f"{deadline_s:g} s: thresholds, tuned without"] = unaware.run(data, rows, deadline_s)
    return found


def _played(engine: Engine, rows: Ints, value_usd: float, deadline_s: float = float("inf")) -> list[Played]:
    buys = policy(engine.data.names, value_usd)
    return [engine.play(int(row), buys, deadline_s) for row in rows]


def _right_usd(played: Sequence[Played]) -> tuple[Array, Array]:
    return np.array([p.right for p in played]), np.array([p.usd for p in played])


# --- over splits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """Of one method: each tested prompt's mean over the splits that tested it, shape [points, N]."""

    right: Array
    usd: Array

    def hull(self, of: Ints) -> tuple[Array, Array]:
        """(US dollars, right): corners of the upper hull of the points' means over some rows."""
        return hull(self.usd[:, of].mean(axis=1), self.right[:, of].mean(axis=1))

    def usd_at(self, target: float, of: Ints) -> float:
        """US dollars a prompt at which the hull reaches so many right; nan where it never does."""
        usd, right = self.hull(of)
        return float(np.interp(target, right, usd)) if target <= right[-1] else float("nan")

    def right_at(self, usd: float, of: Ints) -> float:
        """The share that is right at so many US dollars a prompt; what costs less than the first corner is mixed with no answer."""
        corner_usd, right = self.hull(of)
        return float(np.interp(usd, np.append(0.0, corner_usd), np.append(0.0, right)))

    def utility(self, point: int, value_usd: float) -> Array:
        """Of each prompt at an operating point: what is left of a right answer's value when the calls are paid, as a share of it."""
        return np.asarray(self.right[point] - self.usd[point] / value_usd)


def hull(usd: Array, right: Array) -> tuple[Array, Array]:
    """Corners of the upper left hull: what mixing points at random can reach, rising in both."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(zip(usd.tolist(), right.tolist(), strict=True), key=lambda point: (point[0], -point[1])):
        if corners and y <= corners[-1][1]:
            continue
        while len(corners) > 1 and _left_of(corners[-2], corners[-1], (x, y)):
            corners.pop()
        corners.append((x, y))
    found = np.array(corners)
    return found[:, 0], found[:, 1]


def _left_of(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) >= (c[0] - a[0]) * (b[1] - a[1])


def study(data: Recorded, seed: int, splits: int) -> tuple[dict[str, Any], dict[str, Means]]:
    """(figures, frontiers) of one file."""
    count = np.zeros(len(data.group))
    sums: dict[str, Array] = {}
    for number in range(splits):
        rows, points, timed = one_split(data, seed + number)
        count[rows] += 1
        rests = {name: np.stack([np.stack(pair) for pair in pairs]) for name, pairs in points.items()}
        rests |= {name: np.stack(outcome)[None] for name, outcome in timed.items()}
        for name, values in rests.items():
            sums.setdefault(name, np.zeros((*values.shape[:2], len(count))))[:, :, rows] += values
        print(f"split {number + 1} of {splits}", flush=True, file=sys.stderr)
    tested = np.flatnonzero(count)
    means = {name: values[:, :, tested] / count[tested] for name, values in sums.items()}
    frontiers = {name: Means(values[:, 0], values[:, 1]) for name, values in means.items() if " s: " not in name}
    timed_means = {name: values[0] for name, values in means.items() if " s: " in name}
    return _figures(data, data.group[tested], frontiers, timed_means) | {"splits": splits}, frontiers


def _figures(data: Recorded, group: Ints, frontiers: Mapping[str, Means], timed: Mapping[str, Array]) -> dict[str, Any]:
    alone = frontiers["one model, mixed at random"]
    accuracy, usd = alone.right.mean(axis=1), alone.usd.mean(axis=1)
    targets = {"best": int(accuracy.argmax()), "dearest": len(data.names) - 1}
    ours, everyone = frontiers["ours"], np.arange(len(group))

    def ratio(method: Means, large: int) -> tuple[float, float, float]:
        """Cost at the large model's accuracy over its cost."""
        return bootstrap(lambda i: method.usd_at(float(alone.right[large, i].mean()), i) / float(alone.usd[large, i].mean()), group)

    def saved(name: str) -> tuple[float, float, float]:
        """Cost of ours over that of another, at the accuracy of the best model."""
        other = frontiers[name]

        def of(i: Ints) -> float:
            target = float(alone.right[targets["best"], i].mean())
            return ours.usd_at(target, i) / other.usd_at(target, i)

        return bootstrap(of, group)

    def gained(name: str) -> tuple[float, float, float]:
        """Accuracy of ours less that of another, at half the cost of the best model."""

        def of(i: Ints) -> float:
            half = float(alone.usd[targets["best"], i].mean()) / 2
            return ours.right_at(half, i) - frontiers[name].right_at(half, i)

        return bootstrap(of, group)

    return {
        "prompts": len(data.group),
        "tested": len(group),
        "models": {n: {"right": float(r), "usd_per_1000": 1000 * float(c)} for n, r, c in zip(data.names, accuracy, usd, strict=True)},
        "targets": {name: data.names[m] for name, m in targets.items()},
        "cost_at": {name: {to: ratio(method, m) for to, m in targets.items()} for name, method in frontiers.items()},
        "best_reached": {name: float(method.right.mean(axis=1).max()) for name, method in frontiers.items()},
        "ours_to": {name: saved(name) for name in frontiers if name != "ours"},
        "ours_less_at_half_cost": {name: gained(name) for name in frontiers if name != "ours"},
        "right_at_half_cost": {name: method.right_at(float(usd[targets["best"]]) / 2, everyone) for name, method in frontiers.items()},
        "at_values": _by_value(frontiers, [dial * float(usd[-1]) for dial in DIALS], group),
        "deadlines": _by_deadline(timed, DEADLINE_DIAL * float(usd[-1]), group),
    }


def _by_value(frontiers: Mapping[str, Means], values: Sequence[float], group: Ints) -> dict[str, Any]:
    """By method, at each value of a right answer: its utility, and how much more ours has."""
    return {
        name: [
            {"utility": float(mine.mean()), "ours_less": bootstrap(mean_of(frontiers["ours"].utility(i, value) - mine), group)}
            for i, value in enumerate(values)
            for mine in [frontiers[name].utility(i, value)]
        ]
        for name in dict.fromkeys((*AT_VALUES, *VARIANTS))
    }


def _by_deadline(timed: Mapping[str, Array], value: float, group: Ints) -> dict[str, Any]:
    """By deadline and method: what was right in time, what it cost, and how much more utility ours has under that deadline."""
    left = {name: right - paid / value for name, (right, paid, _) in timed.items()}
    return {
        name: {
            "right": bootstrap(mean_of(right), group),
            "usd_per_1000": 1000 * float(paid.mean()),
            "nothing_in_time": bootstrap(mean_of(nothing), group),
            "utility": float(left[name].mean()),
            "ours_less": bootstrap(mean_of(left[name.split(":")[0] + ": ours"] - left[name]), group),
        }
        for name, (right, paid, nothing) in timed.items()
    }


# --- the report ---------------------------------------------------------------------------------------------------------


def page(figures: Mapping[str, Any]) -> str:
    """The page, as Markdown."""
    about = (__doc__ or "").strip().split("\n\n")[2:]
    parts = ["# Cascades on recorded models", command("cascade"), *about, "![accuracy against cost](cascade.png)"]
    for name, one in figures["files"].items():
        best, dearest = (one["targets"][k] for k in ("best", "dearest"))
        large = one["models"][best]
        parts += [
            f"## {name}",
            f"{one['prompts']} prompts, {len(one['models'])} models, {one['splits']} splits. Cost at the accuracy of the best single model"
            f" ({best}, {large['right']:.3f} right at ${large['usd_per_1000']:.3f} for 1,000) and of the dearest ({dearest}), in units of"
            " that model's cost, `-` where a method never gets there; and the share that is right at half the cost of the best.",
            table(
                ["method", "cost, to the best", "to the dearest", "ours to it", "right at half of it", "ours less it", "most right"],
                _methods(one),
            ),
            "What is left of a right answer's value when the calls are paid, as a share of it; values in calls to the dearest model:",
            table(["value", *AT_VALUES, *(f"ours less {name}" for name in AT_VALUES if name != "ours")], _at_values(one)),
            "The same, ours less ours without a part of the engine, by the value of a right answer:",
            table(["", *(f"{dial:g}" for dial in DIALS)], _without(one)),
            f"Under a deadline, at a right answer worth {DEADLINE_DIAL:g} calls to the dearest model:",
            table(["", "right", "$/1,000", "nothing in time", "left of the value", "ours less it"], _deadlines(one)),
        ]
    return "\n\n".join(parts)


def _methods(one: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in one["cost_at"].items():
        saved, more = _or_none(one["ours_to"].get(name)), one["ours_less_at_half_cost"].get(name)
        half, most = f"{one['right_at_half_cost'][name]:.3f}", f"{one['best_reached'][name]:.3f}"
        yield [name, _or_none(found["best"]), _or_none(found["dearest"]), saved, half, interval(more) if more else "-", most]


def _at_values(one: Mapping[str, Any]) -> Iterator[list[str]]:
    for i, dial in enumerate(DIALS):
        rows = [one["at_values"][name][i] for name in AT_VALUES]
        yield [f"{dial:g}", *(f"{row['utility']:.3f}" for row in rows), *(interval(row["ours_less"]) for row in rows[1:])]


def _without(one: Mapping[str, Any]) -> Iterator[list[str]]:
    for name in VARIANTS:
        if name != "ours":
            yield [name.removeprefix("ours, "), *(interval(row["ours_less"]) for row in one["at_values"][name])]


def _deadlines(one: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in one["deadlines"].items():
        less = "-" if name.endswith(": ours") else interval(found["ours_less"])
        left = f"{found['utility']:.3f}"
        yield [name, interval(found["right"]), f"{found['usd_per_1000']:.3f}", interval(found["nothing_in_time"]), left, less]


def _or_none(value: Sequence[float] | None) -> str:
    if value is None or np.isnan(value[0]):
        return "-"
    return f"{value[0]:.2f}" if np.isnan(value[1]) else interval(value, ".2f")


def picture(frontiers: Mapping[str, Mapping[str, Means]]) -> None:
    """Frontiers of every file, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn = ("ours", "thresholds, up to 3", "thresholds, up to 2", "router before the call", "one model, mixed at random")
    figure, axes = plt.subplots(1, len(frontiers), figsize=(6 * len(frontiers), 4.5), squeeze=False)
    for axis, (name, methods) in zip(axes[0], frontiers.items(), strict=True):
        for i, method in enumerate(drawn):
            usd, right = methods[method].hull(np.arange(methods[method].right.shape[1]))
            axis.plot(1000 * usd, 100 * right, "o-", label=method, color=f"C{i}", lw=2.5 if i == 0 else 1.2, ms=4, zorder=9 - i)
        axis.set(xscale="log", xlabel="US dollars for 1,000 prompts", ylabel="right, %", title=name)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / "cascade.png", dpi=110)


def main() -> None:
    """Every file that fits, then page, picture and figures."""
    arguments = parser("cascade", __doc__ or "")
    arguments.add_argument("--splits", type=int, default=2, help="random splits of each file")
    options = arguments.parse_args()
    files: dict[str, Any] = {}
    frontiers: dict[str, dict[str, Means]] = {}
    for name, rows in recordings(options.data, "outcomes_cascade_*").items():
        files[name], frontiers[name] = study(Recorded.of(rows), options.seed, options.splits)
    picture(frontiers)
    figures = {"dials": DIALS, "files": files}
    publish("cascade", figures, page(figures))


if __name__ == "__main__":
    main()
