"""Forecasts are what a simulation of the same assumptions gives, and keep the laws that any forecast must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as but

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difficulty.belief import NODES, PRIOR, Belief, Channel
from difficulty.curves import Latency, PlanFit, Tokens
from policies.facts import Facts, Market
from policies.forecast import VERDICT_TOKENS, Stage, outline, stages, worst
from policies.optimise import Optimisation
from policies.outlook import Outlook, Tables, outlook
from policies.plans import BestOfN, Ensemble, Plan, Revise, Single, TreeSearch
from policies.policy import Optimiser, Worth
from tests.policies.conftest import CURVES, PRICES, belief

MARKET = Market(PRICES, frozenset({"small", "large"}), CURVES)
FACTS = Facts(input_tokens=14)


def look(plan: Plan, ease: float = 0.0, stop_at: float = 0.9, so_far: np.ndarray | None = None):
    way, so_far = Tables(belief(ease), MARKET).way(outline(plan, MARKET, FACTS)), None if so_far is None else so_far[None]
    return way.outline.rows, outlook(way, belief(ease).weights[None], so_far, np.array([stop_at]))


def expected(rows: Sequence[Stage], view: Outlook) -> tuple[float, float]:
    return float(view.cost_usd[0, 0]), float(view.latency_s[0, 0])


def simulate(n: int, batch: int, ease: float, stop_at: float, times: int = 40_000) -> tuple[float, float]:
    """(share of right answers, mean number of draws) of best-of-n played out, with the verifier of the market."""
    rng = np.random.default_rng(0)
    scores, b = CURVES.scores["reward"], belief(ease)
    right, wrong = np.asarray(scores.right), np.asarray(scores.wrong)
    node = rng.choice(len(NODES), size=times, p=PRIOR)
    p = 1 / (1 + np.exp(-b.logits["small"][node]))
    correct = rng.random((times, n)) < p[:, None]
    bins = np.where(correct, rng.choice(len(right), (times, n), p=right), rng.choice(len(wrong), (times, n), p=wrong))
    prior = 1 / (1 + np.exp(-b.logits["small"]))
    h = prior[:, None] * right + (1 - prior[:, None]) * wrong
    ends = int(np.argmax((PRIOR @ (prior[:, None] * right)) / (PRIOR @ h) >= stop_at))
    drawn = np.full(times, n)
    for end in range(batch, n, batch):
        drawn = np.where((drawn == n) & (bins[:, :end].max(axis=1) >= ends), end, drawn)
    seen = np.where(np.arange(n) < drawn[:, None], bins, -1)
    picked = (seen + rng.random(seen.shape) * 0.5).argmax(axis=1)  # ties at random
    return correct[np.arange(times), picked].mean(), drawn.mean()


@pytest.mark.parametrize(("n", "batch", "ease"), [(4, 4, 0.0), (8, 2, -1.0), (16, 4, -2.0), (16, 16, 1.0)])
def test_best_of_n_is_forecast_as_a_simulation_plays_it(n: int, batch: int, ease: float) -> None:
    """Quality and number of draws of the formula agree with playing the plan 40,000 times."""
    plan = BestOfN(backend="small", n=n, batch=batch, verifier="reward")
    _, view = look(plan, ease)
    quality, draws = simulate(n, batch, ease, 0.9)
    assert view.quality == pytest.approx(quality, abs=0.012)
    assert view.draws == pytest.approx(draws, rel=0.02)


@given(st.integers(1, 64), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_an_exact_checker_finds_any_right_answer(n: int, ease: float) -> None:
    """With a verifier that never errs, best-of-n is right as often as any of n draws is."""
    _, view = look(BestOfN(backend="small", n=n, batch=n, verifier="exact"), ease)
    p = 1 / (1 + np.exp(-belief(ease).logits["small"]))
    assert view.quality == pytest.approx(float(PRIOR @ (1 - (1 - p) ** n)), abs=2e-3)


@given(st.floats(-4, 4))
@settings(max_examples=30, deadline=None)
def test_one_draw_is_a_single_answer(ease: float) -> None:
    """Best of one is worth, costs and takes what one scored answer does."""
    one, single = look(BestOfN(backend="small", n=1, verifier="reward"), ease), look(Single(backend="small", verifier="reward"), ease)
    assert one[1].quality == pytest.approx(single[1].quality)
    assert expected(*one) == pytest.approx(expected(*single))
    assert single[1].quality == pytest.approx(belief(ease).p_correct("small"))


def test_the_first_attempt_of_a_revision_is_a_sample_at_its_price() -> None:
    """What was seen of the plan is of its later attempts: else its first would look cheaper than the same answer by another plan."""
    plan = Revise(backend="small", verifier="reward")
    market = but(MARKET, curves=but(CURVES, plans={plan.key: PlanFit(cost=0.5, latency=2.0)}))
    (first, later, *_), (seen, seen_later, *_) = (stages(plan, m, FACTS) for m in (MARKET, market))
    (single,) = stages(Single(backend="small", verifier="reward"), market, FACTS)
    assert first == seen == single
    assert seen_later.cost_usd == pytest.approx(later.cost_usd / 2)
    assert seen_later.latency_s == pytest.approx(later.latency_s * 2)


def searched(ease: float, channel: Channel, verifier: str = "reward") -> Outlook:
    plan = TreeSearch(backend="small", verifier=verifier)
    market = but(MARKET, curves=but(CURVES, plans={plan.key: PlanFit(channel)}))
    way = Tables(belief(ease), market).way(outline(plan, market, FACTS))
    return outlook(way, belief(ease).weights[None], None, np.array([0.9]))


@given(st.floats(-4, 4))
@settings(max_examples=30, deadline=None)
def test_a_search_that_finds_no_more_than_a_draw_ends_as_one(ease: float) -> None:
    """At each score too."""
    search, single = searched(ease, Channel()), look(Single(backend="small", verifier="reward"), ease)[1]
    assert search.quality == pytest.approx(single.quality)
    assert search.ways[0].end.under == pytest.approx(single.ways[0].end.under)


@given(st.floats(-4, 4), st.floats(0, 4))
@settings(max_examples=30, deadline=None)
def test_with_an_exact_checker_a_search_finds_what_its_channel_says(ease: float, shift: float) -> None:
    """However many plain draws that is."""
    found = float(PRIOR @ Channel(shift).p(belief(ease).logits["small"]))
    assert searched(ease, Channel(shift), "exact").quality == pytest.approx(found, abs=2e-3)


def test_a_score_says_of_a_searched_answer_what_it_says_of_any() -> None:
    """A search that finds more has more answers of every high score, wrong ones too: they are not the likelier right for that."""
    views = searched(-2.0, Channel(3.0)), look(Single(backend="small", verifier="reward"), -2.0)[1]
    search, single = (view.ways[0].end for view in views)
    assert search.kind.right == pytest.approx(single.kind.right)
    wrong = [float(PRIOR @ (end.step[-1] - end.held[-1])) for end in (search, single)]
    assert wrong[0] > wrong[1]


@given(st.floats(-4, 4), st.sampled_from([2, 4, 8, 16]))
@settings(max_examples=30, deadline=None)
def test_more_draws_are_no_worse_and_no_cheaper(ease: float, n: int) -> None:
    """Doubling n raises quality and cost, or leaves them."""
    few, many = (look(BestOfN(backend="small", n=m, verifier="reward"), ease) for m in (n, 2 * n))
    assert many[1].quality >= few[1].quality - 1e-9
    assert expected(*many)[0] >= expected(*few)[0] - 1e-15
    assert worst(many[0])[0] > worst(few[0])[0]


@given(st.floats(-4, 4), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
@settings(max_examples=30, deadline=None)
def test_stopping_later_never_costs_less(ease: float, one: float, other: float) -> None:
    """A higher threshold buys at least as many draws and at least as much quality."""
    low, high = sorted((one, other))
    plan = Revise(backend="small", verifier="reward", rounds=6)
    early, late = look(plan, ease, low), look(plan, ease, high)
    assert expected(*late)[0] >= expected(*early)[0] - 1e-15
    assert late[1].quality >= early[1].quality - 0.02


def test_the_expected_never_exceeds_the_worst() -> None:
    """What a plan is expected to cost and take lies under its 95th percentile."""
    for plan in (Single(backend="large"), Revise(backend="small", verifier="reward"), TreeSearch(backend="small", verifier="reward")):
        rows, view = look(plan)
        assert expected(rows, view)[0] <= worst(rows)[0]
        assert expected(rows, view)[1] <= worst(rows)[1]


@pytest.mark.parametrize("timed", [{"small"}, {"large"}, {"reward"}, {"small", "reward"}, {"small", "large"}])
def test_what_was_timed_in_part_is_never_quicker_at_worst_than_usually(timed: set[str]) -> None:
    """A verifier that was never timed takes its usual time; where a backend was not, nothing is known."""
    market = but(MARKET, curves=but(CURVES, latency={name: CURVES.latency[name] for name in timed}))
    for plan in (Single(backend="small", verifier="reward"), Ensemble(members={"small": 1, "large": 1})):
        (stage,) = stages(plan, market, FACTS)
        assert stage.worst_s > stage.latency_s if timed >= set(plan.backends) else stage.worst_s == 0


def test_many_short_waits_are_less_risky_than_one_long_one() -> None:
    """The slow cases of eight rounds do not come together: their worst case is under eight times that of one, and over eight means."""
    one, eight = (stages(BestOfN(backend="small", n=n, batch=2, verifier="reward"), MARKET, FACTS) for n in (2, 16))
    assert 8 * one[0].latency_s < worst(eight)[1] < 8 * worst(one)[1]


@pytest.mark.parametrize(("sigma_tokens", "sigma_s"), [(0.4, 0.2), (0.1, 0.4), (0.3, 0.3)])
def test_one_call_in_twenty_takes_longer_than_its_worst_case(sigma_tokens: float, sigma_s: float, facts: Facts) -> None:
    """Lengths and speeds drawn as the curves say exceed the worst case about once in twenty times, not once in a hundred."""
    curves = but(CURVES, tokens={"small": Tokens(5.0, 0.0, sigma_tokens)}, latency={"small": Latency(0.05, 0.005, sigma_s)})
    rng = np.random.default_rng(0)
    tokens = np.exp(5.0 + sigma_tokens * rng.standard_normal(100_000))
    seconds = (0.05 + 0.005 * tokens) * np.exp(sigma_s * rng.standard_normal(len(tokens)))
    [row] = stages(Single(backend="small"), Market(PRICES, curves=curves), facts)
    assert 0.04 < (seconds > row.worst_s).mean() < 0.07


def test_a_plan_is_never_forecast_to_be_right_more_than_always() -> None:
    """Also where a plan's later draws go through a channel of their own, and another plan may follow."""
    objective = Worth(value_of_correct_usd=3e-4)
    plans = (Revise(backend="small", verifier="reward"), BestOfN(backend="small", n=8, verifier="reward"), Single(backend="large"))
    for shift in (-3.0, 3.0):
        curves = but(CURVES, plans={"revise(small, verifier=reward)": PlanFit(Channel(shift, 0.7))})
        for ease in (-3.0, 0.0, 3.0):
            rows = Optimisation(Optimiser(objective=objective, plans=plans), but(MARKET, curves=curves), FACTS, belief(ease)).considered
            assert all(0 <= row.quality <= 1 + 1e-9 for row in rows)


def test_a_backend_that_does_not_share_the_prompt_is_billed_for_it_each_time() -> None:
    """Sixteen samples read the prompt once where the backend can, sixteen times where it cannot."""
    plan = BestOfN(backend="small", n=16, batch=16, verifier="reward")
    shared, apart = (stages(plan, Market(PRICES, names, CURVES), FACTS)[0] for names in (frozenset({"small"}), frozenset()))
    assert apart.cost_usd - shared.cost_usd == pytest.approx(15 * 14 * 0.1 / 1e6)


CACHED = {"small": PRICES["small"][0] / 10, "reward": PRICES["reward"][0] / 10}
KEEPS = but(MARKET, cached_prices=CACHED, caches=frozenset(CACHED))


def test_batches_after_the_first_find_the_prompt_in_the_cache() -> None:
    """Backend and verifier have read it by then; the worst case does not count on it, and without a cache batches cost alike."""
    plan, spared = BestOfN(backend="small", n=6, batch=2, verifier="reward"), sum(0.9 * 14 * PRICES[name][0] for name in CACHED) / 1e6
    first, second, third = stages(plan, KEEPS, FACTS)
    assert first.cost_usd - second.cost_usd == pytest.approx(spared)
    assert second == third == stages(plan, KEEPS, FACTS, drawn=2)[0]
    assert first.worst_usd == second.worst_usd
    assert len({row.cost_usd for row in stages(plan, MARKET, FACTS)}) == 1


def test_a_revision_finds_what_the_one_before_it_read_in_the_cache() -> None:
    """So each adds the same to the bill, but for the cached price of what is longer; past the context, all after the prompt is new."""
    rows = stages(Revise(backend="small", rounds=6, verifier="reward"), KEEPS, FACTS)
    each = CURVES.tokens_of("small").mean(14) + VERDICT_TOKENS
    assert np.diff([row.cost_usd for row in rows[1:4]]) * 1e6 == pytest.approx(each * CACHED["small"])
    assert (rows[4].cost_usd - rows[3].cost_usd) * 1e6 == pytest.approx(2 * each * (PRICES["small"][0] - CACHED["small"]))
    plain = stages(Revise(backend="small", rounds=6, verifier="reward"), MARKET, FACTS)
    assert np.diff([row.cost_usd for row in plain[1:4]]) * 1e6 == pytest.approx(each * PRICES["small"][0])


def test_a_limit_on_tokens_bounds_cost_and_time() -> None:
    """`max_tokens` of the request cuts the forecast's length of an answer."""
    plan = Single(backend="large")
    free, cut = (stages(plan, MARKET, Facts(14, max_tokens=m))[0] for m in (None, 10))
    assert cut.worst_usd < free.worst_usd
    assert cut.latency_s < free.latency_s
    assert cut.worst_usd == pytest.approx(24 * 1.4 / 1e6)


def test_the_best_answer_so_far_is_kept_unless_a_better_one_comes() -> None:
    """A plan never makes things worse: with a nearly certain answer in hand its quality stays."""
    sure = np.full_like(PRIOR, 0.97)
    _, view = look(BestOfN(backend="small", n=4, verifier="reward"), -3.0, 0.99, sure)
    assert view.quality >= 0.965
    _, unscored = look(Single(backend="small"), -3.0, 0.99, sure)
    assert unscored.quality == pytest.approx(0.97)


def test_what_is_left_of_a_plan_begins_after_what_was_drawn() -> None:
    """After 8 of 16 draws in batches of 4, two batches are left; after all, none."""
    plan = BestOfN(backend="small", n=16, verifier="reward")
    rows = stages(plan, MARKET, FACTS)
    assert [row.draws for row in rows] == [4, 4, 4, 4]
    assert len(stages(plan, MARKET, FACTS, drawn=8)) == 2
    assert stages(plan, MARKET, FACTS, drawn=16) == ()
    assert [row.draws for row in stages(plan, MARKET, FACTS, drawn=9)] == [4, 3]


OWN = Belief({"small": (-0.5, 1.0, 1.4), "large": (0.5, 0.9, 1.2)})


def test_plans_after_each_other_are_forecast_as_a_simulation_plays_them() -> None:
    """Two backends with parts of their own: quality and cost of best-of-4 of small, then of one of large or of small again where that
    fails, agree with playing 200,000 prompts whose shared and own difficulties are drawn."""
    exact = {"verifier": "exact"}
    first, upwards = BestOfN(backend="small", n=4, batch=4, **exact), Single(backend="large", **exact)
    again = BestOfN(backend="small", n=2, batch=2, **exact)
    rng, times = np.random.default_rng(0), 200_000
    u, (v, w) = rng.normal(size=times), rng.normal(size=(2, times))
    p, q = (1 / (1 + np.exp(-(c + t * u + s * own))) for (c, t, s), own in zip(OWN.lines.values(), (v, w), strict=True))
    failed, failed_again = 1 - (rng.random((4, times)) < p).any(axis=0), 1 - (rng.random((2, times)) < p).any(axis=0)
    policy = Optimiser(objective=Worth(value_of_correct_usd=1.0), plans=(first, upwards, again))
    for other, right in ((upwards, rng.random(times) < q), (again, ~failed_again.astype(bool))):
        plans = Optimisation(policy.model_copy(update={"plans": (first, other)}), MARKET, FACTS, OWN)
        considered = plans.considered[0]
        assert considered.quality == pytest.approx(1 - (failed * ~right).mean(), abs=6e-3)
        step = stages(other, MARKET, FACTS)[0].cost_usd
        assert considered.cost_usd == pytest.approx(stages(first, MARKET, FACTS)[0].cost_usd + failed.mean() * step, rel=0.01)


def test_an_ensemble_of_backends_with_own_parts_is_forecast_as_a_simulation_plays_it() -> None:
    """Three answers of small and one of large, at once: each backend's own difficulty is drawn once for all its answers. By an exact
    verifier, and by a graded one that picks the answer whose score and backend make it likeliest right."""
    rng, times = np.random.default_rng(1), 100_000
    u, v = rng.normal(size=times), rng.normal(size=(2, times))
    p = [1 / (1 + np.exp(-(c + t * u + s * own))) for (c, t, s), own in zip(OWN.lines.values(), v, strict=True)]
    right = np.array([rng.random(times) < p[m] for m in (0, 0, 0, 1)])
    exact, graded = (Ensemble(members={"small": 3, "large": 1}, select="best", verifier=name) for name in ("exact", "reward"))
    assert look_from(OWN, exact).quality == pytest.approx(right.any(axis=0).mean(), abs=6e-3)
    table = [np.asarray(of) for of in (CURVES.scores["reward"].wrong, CURVES.scores["reward"].right)]
    bins = np.where(right, *(rng.choice(len(of), right.shape, p=of) for of in table[::-1]))
    chance = [q * table[1] / (q * table[1] + (1 - q) * table[0]) for q in (OWN.p_correct("small"), OWN.p_correct("large"))]
    likely = np.array([chance[m][bins[i]] for i, m in enumerate((0, 0, 0, 1))]) + 1e-9 * rng.random(right.shape)
    assert look_from(OWN, graded).quality == pytest.approx(right[likely.argmax(axis=0), np.arange(times)].mean(), abs=8e-3)


def look_from(start: Belief, plan: Plan) -> Outlook:
    way = Tables(start, MARKET).way(outline(plan, MARKET, FACTS))
    return outlook(way, start.weights_of(way.grid)[None], None, np.array([0.995]))


def test_after_its_own_failures_a_backend_is_left_for_another() -> None:
    """Where what is hard is hard for one backend alone, failures of small raise the worth of large over small's; where it is hard for both,
    they do not."""

    def lead(line: tuple[float, ...]) -> float:
        prior = Belief({"small": (0.0, *line), "large": (0.0, *line)})
        after = prior.after([CURVES.scores["exact"].seen("small", 0.0)] * 4)
        plans = (BestOfN(backend=name, n=2, verifier="exact") for name in ("small", "large"))
        policies = (Optimiser(objective=Worth(value_of_correct_usd=1e-2), plans=(plan,)) for plan in plans)
        small, large = (Optimisation(policy, MARKET, FACTS, after).considered[0].quality for policy in policies)
        return large - small

    alone, together = lead((0.3, 3.0)), lead((3.0,))
    assert alone > 0.05
    assert together == pytest.approx(0.0, abs=0.01)


def test_failed_draws_make_the_prompt_harder_for_every_backend() -> None:
    """The belief that an outlook leaves open is what updating on low scores gives: small's failures lower large's chance."""
    _, view = look(BestOfN(backend="small", n=8, batch=8, verifier="exact"), 0.0)
    _, _, (weights,), _ = view.left_open(1)
    open_belief = Belief(belief(0.0).lines, weights)
    assert open_belief.p_correct("large") < belief(0.0).p_correct("large") - 0.1
    assert open_belief.p_correct("small") < 0.2


def test_the_higher_an_answer_scored_the_less_is_expected_of_what_follows() -> None:
    """What a plan leaves open falls apart into cases by its best score: together they are all of it, and the answer in hand is likelier
    right in each than in the one before."""
    _, view = look(BestOfN(backend="small", n=2, batch=2, verifier="reward"), 0.0, 0.95)
    _, (whole,), (weights,), (right,) = view.left_open(1)
    _, share, beliefs, rights = view.left_open(4)
    assert len(share) > 2
    assert whole == pytest.approx(PRIOR @ view.ways[0].end.under[view.ends[0, 0]])
    assert (share.sum(), share @ beliefs) == (pytest.approx(whole), pytest.approx(whole * weights))
    chances = (beliefs * rights).sum(axis=1)
    assert (np.diff(chances) > 0).all()
    assert share @ chances == pytest.approx(whole * (weights @ right))


def test_a_dear_follower_is_counted_on_only_where_it_pays() -> None:
    """After a cheap scored try the large backend is reckoned with for the low scores alone, not for all that the try leaves open."""
    plans = (Single(backend="small", verifier="reward"), Single(backend="large"))
    one = Optimisation(Optimiser(objective=Worth(value_of_correct_usd=2.5e-4), plans=plans), MARKET, FACTS, belief(0.5))
    first, then = (c.cost_usd for c in one.considered)
    (prospect, _) = one._prospects.values()
    share, kept = prospect.view.left_open(8, [prospect.place])[1], prospect.mean[0]
    followed = (first - kept) / then
    assert share[0] < followed < share.sum() - share[-1] / 2


def test_a_majority_of_likely_answers_is_likelier_right_than_one() -> None:
    """The normal approximation: voting helps an easy prompt; fewer than three votes decide nothing."""

    def vote(n: int, ease: float) -> float:
        return look(BestOfN(backend="small", n=n, select="majority"), ease)[1].quality[0, 0]

    assert vote(15, 2.0) > belief(2.0).p_correct("small") + 0.05
    assert vote(2, 2.0) == pytest.approx(belief(2.0).p_correct("small"))


@given(st.floats(-4, 3), st.integers(0, 6), st.floats(5e-5, 2e-3))
@settings(max_examples=40, deadline=None)
def test_a_longer_plan_is_never_worth_less(ease: float, failed: int, value: float) -> None:
    """It may be given up: best of 64 is worth at least what best of 16 is, however hopeless the prompt."""
    plans = [BestOfN(backend="small", n=n, batch=1, verifier="reward") for n in (16, 64)]
    after = belief(ease).after([CURVES.scores["reward"].seen("small", 0.05)] * failed)
    worth = [Optimisation(Optimiser(objective=Worth(value_of_correct_usd=value), plans=(plan,)), MARKET, FACTS, after) for plan in plans]
    short, long = (one.considered[0].utility_usd for one in worth)
    assert long >= short - 1e-12


def test_a_plan_is_looked_at_as_far_as_it_is_sure_to_fit() -> None:
    """Sixty-four rounds do not fit before the deadline, some do: the plan is run, and refused only where not even its first stage fits."""
    policy = Optimiser(objective=Worth(value_of_correct_usd=1e-3), plans=(BestOfN(backend="small", n=64, batch=1, verifier="reward"),))
    for deadline, refused in ((60.0, False), (1.0, False), (0.01, True)):
        seen = Optimisation(policy, MARKET, but(FACTS, deadline_s=deadline), belief(-2.0)).considered[0]
        assert bool(seen.refused) == refused
        assert refused or seen.latency_q95_s <= deadline


def test_beliefs_taken_together_are_taken_alike() -> None:
    """Many beliefs in one call end as each of them does alone."""
    plan = Revise(backend="small", verifier="reward", rounds=4)
    way = Tables(belief(0.0), MARKET).way(outline(plan, MARKET, FACTS))
    rng = np.random.default_rng(0)
    weights, so_far, stop = rng.dirichlet(np.ones(len(NODES)), 5), rng.random((5, len(NODES))), rng.uniform(0.5, 0.99, 5)
    together = outlook(way, weights, so_far, stop)
    for f in range(5):
        alone = outlook(way, weights[[f]], so_far[[f]], stop[[f]])
        assert alone.ending[:, 0, 0] == pytest.approx(together.ending[:, 0, f])


@pytest.mark.parametrize("plan", [
    Single(backend="small", verifier="reward"), BestOfN(backend="small", n=8, batch=4, verifier="reward"),
    Revise(backend="small", verifier="reward"), TreeSearch(backend="small", verifier="reward"),
])  # fmt: skip
def test_what_a_cache_spares_is_expected_but_not_counted_on(plan: Plan) -> None:
    """Where a prompt was read, its price is the cached one; the worst case is that of a cache that forgot all. No cache, no difference."""
    keeps, facts = KEEPS, [FACTS, but(FACTS, read=frozenset(CACHED))]
    plain, before, after = (stages(plan, m, f) for m, f in ((MARKET, facts[0]), (keeps, facts[0]), (keeps, facts[1])))
    usd = [sum(row.cost_usd for row in rows) for rows in (plain, before, after)]
    assert usd[0] >= usd[1] > usd[2]
    assert worst(plain) == worst(before) == worst(after)
    assert [row.cost_usd for row in stages(plan, MARKET, facts[1])] >= [row.cost_usd for row in after]
    dear = but(keeps, cached_prices={})
    assert sum(row.cost_usd for row in stages(plan, dear, facts[1])) == pytest.approx(usd[0])
