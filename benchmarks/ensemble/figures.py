"""What a pool is worth: against its members, heads, and more samples of one at its cost; and whether the engine gains by having it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.ensemble.recorded import Recorded
from benchmarks.ensemble.world import World
from benchmarks.harness import TEST, Array
from difficulty.votes import Votes
from policies.plans import BestOfN, Ensemble, Plan, Single
from policies.policy import Optimiser, Worth
from router.play import Played

WORTH = (1e-3, 1e-2, 1e-1)
"""What a right answer is worth in US dollars, where the engine chooses."""


def of(found: Sequence[Played], what: str) -> Array:
    return np.array([float(getattr(one, what)) for one in found])


def log_loss(found: Sequence[Played]) -> float:
    """Of the chance that is said of each answer that went out."""
    chance, right = np.clip(of(found, "chance"), 1e-3, 1 - 1e-3), of(found, "right")
    return float(-(right * np.log(chance) + (1 - right) * np.log(1 - chance)).mean())


def expected(found: Sequence[Played]) -> float:
    """What the plan was expected to be right before it was run, on the mean."""
    return float(np.mean([one.decision["decisions"][0]["considered"][0]["quality"] for one in found]))


def judged(world: World, label: str, members: Mapping[str, int]) -> dict[str, Any]:
    """A pool against each of its members alone, also at equal cost, and against heads."""
    data, group = world.data, np.array([int(row["group"]) for row in world.rows])
    single = {name: world.alone(name) for name in members}
    best = max(single, key=lambda name: float(_learned_right(data, name)))
    runs = {"weighted": world.run(Ensemble(members=dict(members))), "heads": world.run(Ensemble(members=dict(members), select="majority"))}
    usd = data.cost_usd(members)
    equal = {}
    for name in members:
        n = min(round(usd / data.usd[name]), min(map(len, data.answers[name])))
        if n > 1:
            equal[f"{n} of {name}"] = world.run(BestOfN(backend=name, n=n, batch=n, select="majority"))
    right = {what: of(found, "right") for what, found in runs.items()}

    def against(other: Array) -> tuple[float, float, float]:
        return harness.bootstrap(harness.mean_of(100 * (right["weighted"] - other)), group)

    return {
        "pool": dict(members),
        "usd": usd,
        "alone": {name: float(right.mean()) for name, right in single.items()},
        "best": best,
        "right": {what: float(values.mean()) for what, values in right.items()},
        "equal_cost": {what: float(of(found, "right").mean()) for what, found in equal.items()},
        "over_best": against(single[best]),
        "over_heads": against(right["heads"]),
        "over_equal_cost": {what: against(of(found, "right")) for what, found in equal.items()},
        "expected": {what: expected(found) for what, found in runs.items()},
        "said": {what: float(of(found, "chance").mean()) for what, found in runs.items()},
        "log_loss": log_loss(runs["weighted"]),
        "ablations": ablated(world, members),
    }


def ablated(world: World, members: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """(share right, log loss) of the weighted vote with the default agreement of wrong answers, and with samples taken for independent."""
    plan, found = Ensemble(members=dict(members)), {}
    found["default agreement"] = world.with_votes(agree=Votes().agree).run(plan)
    if (most := max(members.values())) > 1:
        found["samples independent"] = world.with_votes(slope=(most - 1) / log(most)).run(plan)
    return {what: (float(of(runs, "right").mean()), log_loss(runs)) for what, runs in found.items()}


def _learned_right(data: Recorded, name: str) -> float:
    """Share of right answers off the test side: by it the best member is named."""
    return float(np.mean([np.mean([mark for _, mark in data.answers[name][int(i)]]) for i in np.flatnonzero(data.side != TEST)]))


def chosen(world: World) -> list[dict[str, Any]]:
    """The engine with and without ensembles among its plans: what a right answer brings over what was paid."""
    data, group, found = world.data, np.array([int(row["group"]) for row in world.rows]), []
    singles: list[Plan] = [Single(backend=name) for name in data.answers]
    votes: list[Plan] = [BestOfN(backend=name, n=8, select="majority") for name, rows in data.answers.items() if len(rows[0]) > 1]
    pools: list[Plan] = [Ensemble(members=dict(members)) for members in data.pools.values()]
    for value in WORTH:
        objective = Worth(value_of_correct_usd=value)
        runs = [world.play(Optimiser(objective=objective, plans=tuple(plans))) for plans in (singles + votes, singles + votes + pools)]
        without, with_pools = ({what: of(run, what) for what in ("right", "cost_usd")} for run in runs)
        gain = value * (with_pools["right"] - without["right"]) - (with_pools["cost_usd"] - without["cost_usd"])
        used = float(np.mean([any(action.startswith("ensemble") for action in one.actions) for one in runs[1]]))
        means = [{what: float(values.mean()) for what, values in run.items()} for run in (without, with_pools)]
        share = harness.bootstrap(harness.mean_of(gain / value), group)
        found.append({"value_usd": value, "without": means[0], "with": means[1], "ensembles_used": used, "gain_share": share})
    return found
