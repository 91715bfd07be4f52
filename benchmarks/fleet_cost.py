"""Cost at equal accuracy on the embedded fleet: the policy against every fixed plan, their hull, routers before the first call, a tuned
cascade and an oracle; and what each part of the engine is worth.

    python -m benchmarks.fleet_log                    samples the fleet once, about an hour of one core
    python -m benchmarks.fleet_cost                   replays that log, about ten minutes

The policy is `balanced` of configs/fleet.yaml over its dial (what a dollar counts). Probe and verifier are charged. An ablation is the same
policy without one part. Intervals are 95 %, number sets resampled, all methods on the same resamples. Writes docs/benchmarks/fleet_cost.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from benchmarks.fleet_log import CONFIG, DEFAULT, read
from benchmarks.harness import PAGES, command, engine_with, interval, parser, prose, publish, table
from difficulty.artifact import open_probe
from difficulty.belief import PLAIN, Belief, Scores, logit, sigmoid
from difficulty.curves import Curves
from difficulty.learn import fit_scores
from difficulty.probe import Estimate
from policies.policy import Optimiser
from router.assembly import parts
from router.baselines import Array, Log, Method, baselines, best_of, cost_at, single
from router.config import load
from router.evaluate import resampled
from router.fit import samples
from router.offline import at
from router.parts import Parts
from router.play import estimates_of, play

NAME = "fleet_cost"
POLICY, LARGE = "balanced", "large"
MULTIPLIERS = (0.25, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0, 4.5, 7.0)
ABLATED = (0.25, 0.6, 1.4, 4.5)
PUZZLES_ABLATED = 800
NEVER = 1e9
NOISE = 2.0
"""Standard deviation of what is added to the log-odds of a degraded verifier."""
Rows = Sequence[Mapping[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """A policy and all that its decisions are made from."""

    parts: Parts
    policy: Optimiser
    rows: Rows
    estimates: Mapping[str, Estimate]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Constants of `policies.optimise` that are others in it."""

    def frontier(self, name: str, multipliers: Sequence[float]) -> Method:
        """The policy over its dial."""
        with engine_with(self.settings):
            runs = [play(self.parts, at(self.policy, multiplier), self.rows, self.estimates) for multiplier in multipliers]
        right, cost = (np.array([[getattr(p, of) for p in run] for run in runs]) for of in ("right", "cost_usd"))
        return Method(name, right, cost)

    def curves(self, change: Callable[[Curves], Curves]) -> World:
        """The same with other curves."""
        market = self.parts.market
        return replace(self, parts=replace(self.parts, market=replace(market, curves=change(market.curves))))


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
    world = opened(rows)
    engine, others = world.frontier("the policy", MULTIPLIERS), baselines(_log(world), [world.policy], LARGE)
    fewer = replace(world, rows=rows[:PUZZLES_ABLATED])
    parts_off = [("the policy", fewer), *ablations(fewer)]
    ablated = [without.frontier(name, ABLATED) for name, without in tqdm(parts_off, desc="ablations", leave=False)]
    figures = study(world, engine, others) | without_a_part(fewer, ablated) | {"believed": believed(world)}
    _draw(engine, others)
    publish(NAME, figures, page(figures))


def opened(rows: Rows) -> World:
    """The fleet's configuration over the rows."""
    config = load(CONFIG)
    policy, probe = config.policies[POLICY], config.probe
    assert isinstance(policy, Optimiser), f"{POLICY} is an optimiser"
    assert probe.artifact, "the fleet has a probe"
    assert probe.encoder, "and its encoder"
    return World(parts(config), policy, rows, estimates_of(open_probe(probe.artifact, probe.encoder, threads=1), rows))


def _log(world: World) -> Log:
    usd = world.parts.probe_price.input_usd_per_mtok / 1e6
    return Log(world.rows, world.parts.market, world.estimates, usd, np.arange(len(world.rows)))


# --- without a part -----------------------------------------------------------------------------------------------------


def ablations(world: World) -> Iterator[tuple[str, World]]:
    """The world without each part of the engine."""
    yield "no probe: every prompt looks like the average one", replace(world, estimates=_alike(world.estimates))
    yield (
        "no latent difficulty (t = 0)",
        world.curves(lambda c: replace(c, success={k: replace(v, spread=0.0) for k, v in c.success.items()})),
    )
    yield (
        "no difficulty of a model's own (s = 0)",
        world.curves(lambda c: replace(c, success={k: replace(v, spread=hypot(v.spread, v.own), own=0.0) for k, v in c.success.items()})),
    )
    yield "what may follow a plan is not counted", replace(world, settings={"OPEN_ENOUGH": 2.0})
    yield "what may follow is one case, not four by the score", replace(world, settings={"CASES": 1})
    yield "samples in batches of 4 at least", replace(world, settings={"BATCHES": (4, 8, 16)})
    yield (
        "revisions and searches are plain draws (no channel)",
        world.curves(lambda c: replace(c, plans={k: replace(v, channel=PLAIN) for k, v in c.plans.items()})),
    )
    yield (
        "scores alike on easy and hard prompts",
        world.curves(lambda c: replace(c, scores={k: _one_table(v) for k, v in c.scores.items()})),
    )
    yield f"a noisy verifier (log-odds +- {NOISE:g})", _noisy(world)
    for kind in dict.fromkeys(plan.kind for plan in world.policy.plans if LARGE not in plan.backends):
        plans = tuple(plan for plan in world.policy.plans if plan.kind != kind or LARGE in plan.backends)
        yield f"no {kind}", replace(world, policy=world.policy.model_copy(update={"plans": plans}))
    plans = tuple(plan for plan in world.policy.plans if LARGE not in plan.backends)
    yield "no large", replace(world, policy=world.policy.model_copy(update={"plans": plans}))


def _each(values: Mapping[str, T], change: Callable[[T], T]) -> dict[str, T]:
    return {name: change(value) for name, value in values.items()}


def _alike(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    known = list(estimates.values())
    features, chance = (
        {name: float(np.mean([getattr(e, of)[name] for e in known])) for name in known[0].features} for of in ("features", "p_correct")
    )
    return {prompt: replace(e, features=features, p_correct=chance, tokens_read=0) for prompt, e in estimates.items()}


def _one_table(scores: Scores) -> Scores:
    """What both tables say at the base rate, for every prompt."""
    right, wrong = (tuple(map(float, table[0])) for table in scores.likelihoods(np.array([scores.base_rate])))
    return replace(scores, right=right, wrong=wrong, right_hard=(), wrong_hard=())


def _noisy(world: World) -> World:
    """Every recorded score disturbed, and its calibration fitted again on the disturbed ones."""
    rng = np.random.default_rng(0)
    rows = json.loads(json.dumps(world.rows))
    seen: list[tuple[float, float, float]] = []
    for row in rows:
        chance = world.estimates[row["prompt"]].p_correct
        for trace in row["traces"]:
            backend = trace["plan"].removeprefix("sample(").removesuffix(")")
            for answer in trace["answers"]:
                for scored, key in ((answer.get("scores", {}), "reward"), (answer, "score")):
                    if scored.get(key) is not None:
                        scored[key] = float(sigmoid(logit(scored[key]) + NOISE * rng.normal()))
                if backend in chance:
                    seen.append((answer["scores"]["reward"], answer["correct"], chance[backend]))
    scores = fit_scores(*np.array(seen).T)
    return replace(world, rows=rows).curves(lambda curves: replace(curves, scores={**curves.scores, "reward": scores}))


# --- what is believed ---------------------------------------------------------------------------------------------------

FAILED = (0, 2, 4, 8, 16)
"""Samples of small, none of which scored one half."""


def believed(world: World, parts: int = 3) -> list[dict[str, Any]]:
    """After so many samples that failed, by third of the probe's word from the hardest on: the chance of one more being right as it is
    believed, and how many of the samples not seen are."""
    curves, found = world.parts.market.curves, []
    for n in FAILED:
        rows: list[tuple[float, float, float]] = []
        for row in world.rows:
            seen, e = samples(row)["small"]["answers"], world.estimates[row["prompt"]].features
            if all(answer["scores"]["reward"] < 0.5 for answer in seen[:n]):
                scores = {answer["text"]: answer["scores"]["reward"] for answer in seen[:n]}  # an answer counts once
                prior = Belief.prior(e, curves.success, tempering=curves.tempering)
                belief = prior.after([curves.scores_of("reward").seen("small", score) for score in scores.values()])
                rows.append((e["small"], belief.p_correct("small"), float(np.mean([answer["correct"] for answer in seen[n:]]))))
        thirds = np.array_split(np.array(sorted(rows)), parts)
        found.append({"failed": n, "puzzles": len(rows), "thirds": [third[:, 1:].mean(axis=0).tolist() for third in thirds]})
    return found


# --- the figures --------------------------------------------------------------------------------------------------------


def study(world: World, engine: Method, others: Sequence[Method]) -> dict[str, Any]:
    """Against every other method. Costs are in US dollars for a million prompts."""
    weights, targets = resampled([row["group"] for row in world.rows]), _targets(world, others)
    return {
        "puzzles": len(world.rows),
        "frontier": [
            {"multiplier": m, "right": _interval(engine.right[i] @ weights), "cost": _interval(1e6 * engine.cost[i] @ weights)}
            for i, m in enumerate(MULTIPLIERS)
        ],
        "targets": {
            name: {"right": _interval(m.right[0] @ weights), "cost": _interval(1e6 * m.cost[0] @ weights)} for name, m in targets.items()
        },
        "paid": {name: {m.name: _over(m, target, target, weights) for m in [engine, *others]} for name, target in targets.items()},
        "against": {name: {m.name: _over(engine, m, target, weights) for m in others} for name, target in targets.items()},
    }


def without_a_part(world: World, ablated: Sequence[Method]) -> dict[str, Any]:
    """What each ablation pays for the same accuracy, over what the whole policy (the first of them) does."""
    weights, (whole, *without) = resampled([row["group"] for row in world.rows]), ablated
    targets = _targets(world, [best_of_16(world)])
    return {
        "puzzles_ablated": len(world.rows),
        "without": {name: {m.name: _over(m, whole, target, weights) for m in without} for name, target in targets.items()},
    }


def _targets(world: World, others: Sequence[Method]) -> dict[str, Method]:
    best = next(m for m in others if m.name == "best of 16, small by reward")
    return {"large once": single(_log(world), LARGE), "best of 16": best}


def best_of_16(world: World) -> Method:
    """The fixed plan that is to be matched."""
    found = best_of(_log(world), "small", "reward", 16)
    return Method("best of 16, small by reward", found.right[None], found.cost[None])


def _over(method: Method, other: Method, target: Method, weights: Array) -> list[float] | None:
    """What a method pays for the target's accuracy over what another does; None where one of them never reaches it."""
    paid, others = _pays(method, target, weights), other.cost[0] @ weights if other is target else _pays(other, target, weights)
    return _interval(paid / others) if np.isfinite(paid[0]) and np.isfinite(others[0]) else None


def _pays(method: Method, target: Method, weights: Array) -> Array:
    return cost_at(method.right @ weights, method.cost @ weights, target.right[0] @ weights)


def _interval(values: Array) -> list[float]:
    """[value, low, high]; a bound beyond which it is never reached is NEVER."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975], method="inverted_cdf")
    return [float(v) if np.isfinite(v) else NEVER for v in (values[0], low, high)]


# --- the page -----------------------------------------------------------------------------------------------------------


def page(figures: Mapping[str, Any]) -> str:
    """docs/benchmarks/fleet_cost.md."""
    lines = [
        "# Cost at equal accuracy on the fleet",
        "",
        f"{command(NAME)} {figures['puzzles']:,} held-out puzzles, sampled once and replayed; the policy is `{POLICY}` over its dial.",
        "Probe and verifier are charged. 95 % intervals over number sets, paired.",
        "",
        "![accuracy against cost](fleet_cost.png)",
        "",
    ]
    for name, target in figures["targets"].items():
        rows = [
            [method, _text(paid), _text(against) if (against := figures["against"][name].get(method)) else ""]
            for method, paid in figures["paid"][name].items()
        ]
        lines += [
            f"## At the accuracy of {name}: {interval(target['right'])}, ${interval(target['cost'], '.1f')} a million",
            "",
            table(["", f"cost, {name} = 1 (95 %)", "the policy's cost over it (95 %)"], rows),
            "",
        ]
    names = list(figures["targets"])
    rows = [[part, *(_text(figures["without"][name][part]) for name in names)] for part in figures["without"][names[0]]]
    lines += [
        "## Without a part",
        "",
        f"Cost at equal accuracy over that of the whole policy, on the first {figures['puzzles_ablated']:,} puzzles.",
        "",
    ]
    lines += [table(["", *(f"at {name}" for name in names)], rows), "", WITHOUT, "", "## The dial", ""]
    thirds = [[f"{row['failed']}", f"{row['puzzles']:,}", *(f"{b:.3f} / {t:.3f}" for b, t in row["thirds"])] for row in figures["believed"]]
    lines[-2:-2] = [table(["samples that failed", "puzzles", "hardest third", "middle", "easiest third"], thirds), ""]
    dial = [[f"x {p['multiplier']:.3g}", interval(p["right"]), interval(p["cost"], ".1f")] for p in figures["frontier"]]
    return "\n".join([*lines, table(["a dollar counts", "right (95 %)", "$ a million (95 %)"], dial)])


WITHOUT = prose(
    """Below 1 the policy is better without the part. On this fleet a revision is about as much oftener right than a fresh sample as it is
    dearer, a search is worth about as many samples as it costs, and verified samples of small are a better buy than large: so what is
    made to choose among these has little to choose. It is there for models with which it pays ([what each part is worth, and
    where](README.md#what-each-part-is-worth)). The probe saves a third at large's accuracy, and costs a tenth at best of 16's. The cause
    is seen below, in what is believed of one more sample (left) and what is so (right), after samples of which none scored one half: too
    little of puzzles that looked hard, too much of those that looked easy. One width for all that the probe does not know is too simple:
    what it takes for hard is hard, what it takes for easy may be anything. Two fifths of that tenth are the probe's own price, $1.43 a
    million.""",
    """A width exp(w e) times as large was tried, fitted on the same log. It mends that table (0.143 / 0.143 and 0.301 / 0.283 after two
    failures, 0.121 / 0.115 and 0.226 / 0.204 after four), and does not pay: at six settings of the dial, best of 16's accuracy costs 0.98
    (0.94 to 1.02) of what it does here, and large's 1.06 (1.03 to 1.09). For a second mistake hid the first: answers to the hardest
    puzzles are a quarter longer than the forecast takes them to be, to the easiest a quarter shorter, and a policy that no longer gives
    the hard ones up too soon pays for that. With lengths that depend on e as well it is 0.96 (0.92 to 1.00) and 0.98 (0.96 to 1.01), and
    on the first 800 puzzles the policy without the probe pays 1.00 (0.95 to 1.04) of that at best of 16's accuracy. Such lengths alone
    bring nothing there (1.00 (0.96 to 1.04)). The two belong together, and the engine has neither yet.""",
)


def _text(value: Sequence[float] | None) -> str:
    if value is None:
        return "never"
    return interval(value, ".2f").replace(f"{NEVER:.2f}", "never")


def _draw(engine: Method, others: Sequence[Method]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for method in others:
        x, y = 1e6 * method.cost.mean(axis=1), method.right.mean(axis=1)
        if len(x) == 1 and not method.name.startswith("best of"):
            axis.plot(x, y, "s", color="0.45", markersize=4)
            axis.annotate(method.name.partition("(")[0], (x[0], y[0]), fontsize=7, color="0.35", xytext=(4, -8), textcoords="offset points")
    best = [m for m in others if m.name.startswith("best of") and ", small" in m.name]
    axis.plot([1e6 * m.cost.mean() for m in best], [m.right.mean() for m in best], ".-", color="0.6", label="best of n, small")
    for name, style in (("tuned cascade", ":"), ("oracle", "--")):
        for method in (m for m in others if name in m.name):
            axis.plot(1e6 * method.cost.mean(axis=1), method.right.mean(axis=1), style, color="C1", label=method.name)
    axis.plot(1e6 * engine.cost.mean(axis=1), engine.right.mean(axis=1), "o-", label="the policy over its dial", markersize=4)
    axis.set_xscale("log")
    axis.set_xlabel("US dollars for a million puzzles")
    axis.set_ylabel("right")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / f"{NAME}.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
