"""The baselines: each is what its name says, and what is learned is never learned on the prompt that is judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from difficulty.labels import folds
from difficulty.probe import Estimate
from policies.facts import Market
from router.baselines import Log, Method, across, baselines, best_of, by_length, cost_at, hull, random_mix, single
from tests.router.logs import rows

MARKET = Market({"small": (1.0, 1.0), "large": (20.0, 20.0), "checked": (0.1, 0.0)}, frozenset({"small"}))


@pytest.fixture(scope="module")
def log() -> Log:
    """200 prompts; the probe knows roughly how easy each is for the small one."""
    found, noise = rows(200), np.random.default_rng(1)
    ease = [4 * (np.mean([a["correct"] for a in row["traces"][0]["answers"]]) - 0.5) + noise.normal(0, 0.3) for row in found]
    estimates = {row["prompt"]: Estimate({"small": e, "large": 1.0}, {}, "probe", 12, 12) for row, e in zip(found, ease, strict=True)}
    return Log(found, MARKET, estimates, 1e-6, np.arange(200))


def at_reference(log: Log, found: dict[str, Method], name: str) -> float:
    """What a method pays for large's quality, where always large pays 1."""
    large = found["always large"]
    method = found[name]
    target = large.right.mean(axis=1)
    return float(cost_at(method.right.mean(axis=1)[:, None], method.cost.mean(axis=1)[:, None], target)[0] / large.cost.mean())


def test_fixed_plans_give_and_cost_what_was_recorded(log: Log) -> None:
    """One answer is the mean of all; of n, one prompt is read, n answers are written, and each distinct one is scored."""
    one, (small, *_) = single(log, "small"), log.marks("small")
    assert one.right[0, 0] == small.mean()
    assert one.cost[0, 0] == pytest.approx((12 + 20) * 1e-6)
    four = best_of(log, "small", "checked", 4)
    assert four.cost[0] == pytest.approx((12 + 80) * 1e-6 + (4 * 12 + 80) * 1e-7, rel=0.01)
    assert four.right.mean() > one.right.mean() + 0.05


def test_a_fixed_plan_reads_a_prompt_from_the_cache_as_the_policy_does(log: Log) -> None:
    """The verifier keeps what it reads, at a quarter of the price: of four answers' prompts, three cost that."""
    keeps = replace(log, market=replace(MARKET, caches=frozenset({"checked"}), cached_prices={"checked": 0.025}))
    saved = best_of(log, "small", "checked", 4).cost - best_of(keeps, "small", "checked", 4).cost
    assert saved == pytest.approx(np.full(200, 3 * 12 * 0.075e-6), rel=0.02)


def test_a_mixture_lies_on_the_line_and_costs_what_the_line_says() -> None:
    """Half way between (1 $, 0.4) and (3 $, 0.8): 0.6 for 2 $. A target that is never reached costs infinity."""
    right, cost = np.array([[0.4], [0.8]]), np.array([[1.0], [3.0]])
    assert cost_at(right, cost, np.array([0.6]))[0] == pytest.approx(2.0)
    assert cost_at(right, cost, np.array([0.3]))[0] == 1.0
    assert cost_at(right, cost, np.array([0.9]))[0] == np.inf
    small, large = (Method(n, np.full((1, 4), r), np.full((1, 4), c)) for n, r, c in (("s", 0.4, 1.0), ("l", 0.8, 3.0)))
    mixed = random_mix(small, large)
    assert (mixed.right.mean(axis=1) - 0.4) / 0.4 == pytest.approx((mixed.cost.mean(axis=1) - 1) / 2)


def test_who_knows_more_pays_less(log: Log) -> None:
    """For large's quality: the oracle least, then a second look or the probe, then chance; the hull is no dearer than any fixed plan."""
    found = {m.name: m for m in baselines(log, [], "large")}
    pays = {name: at_reference(log, found, name) for name in found}
    assert pays["always large"] == pytest.approx(1.0)
    assert pays["oracle over fixed plans"] < pays["router before the first call"] < pays["random mix"]
    assert pays["oracle over fixed plans"] < pays["tuned cascade"] < 1
    assert pays["hull of all fixed plans"] <= min(usd for name, usd in pays.items() if name.startswith(("always", "best of"))) + 1e-12


def test_nothing_is_learned_from_the_prompt_that_is_judged(log: Log) -> None:
    """Whoever learns sees other folds only, groups whole, and what it says comes back in the rows' order."""
    fold = folds([row["group"] for row in log.rows], 0)

    def learned(learn: np.ndarray, ask: np.ndarray) -> np.ndarray:
        assert not set(fold[learn]) & set(fold[ask])
        return ask.astype(float)

    assert across(log, learned, 0) == pytest.approx(np.arange(200))


def test_length_alone_sends_the_longest_prompts_up() -> None:
    """The prompts of most tokens are the first to go to large."""
    found = rows(10)
    for i, row in enumerate(found):
        row["traces"][0]["calls"][0][3] = i
    log = Log(found, MARKET, {}, judged=np.arange(10))
    method = by_length(log, single(log, "small"), single(log, "large"))
    up = method.cost[5] > 5e-4
    assert up.any()
    assert up.tolist() == sorted(up.tolist())


def test_the_hull_holds_every_plan() -> None:
    """Its settings are all of theirs."""
    plans = [Method(str(k), np.full((1, 3), k / 4), np.full((1, 3), float(k))) for k in range(4)]
    assert hull(plans).right.shape == (4, 3)
