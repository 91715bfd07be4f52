"""Each estimator finds the numbers that its data were drawn with."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.special import expit

from difficulty.after_wrong import believed_after_wrong, seen_after_wrong
from difficulty.belief import NODES, PRIOR, Success
from difficulty.learn import fit_channel, fit_latency, fit_scores, fit_tempering, fit_tokens, seen_from
from difficulty.learn_success import fit_shared, fit_success, posterior

TRUE = {"small": Success(-0.5, 0.9, 1.2), "large": Success(0.3, 1.1, 0.8)}
N = 1500


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    e, u = rng.normal(size=N) * 1.5, rng.normal(size=N)
    features = {"small": e, "large": e + 1 + 0.3 * rng.normal(size=N)}
    draws = {"small": np.full(N, 16), "large": np.full(N, 4)}
    right = {m: rng.binomial(draws[m], expit(t.intercept + t.slope * features[m] + t.spread * u)) for m, t in TRUE.items()}
    return rng, u, features, right, draws


def test_success_is_recovered_from_counts(drawn) -> None:
    """Intercept, slope and spread of both backends, from 16 and 4 draws of 1,500 prompts."""
    _, _, features, right, draws = drawn
    for name, found in fit_success(features, right, draws).items():
        true = TRUE[name]
        assert found.intercept == pytest.approx(true.intercept, abs=0.15)
        assert found.slope == pytest.approx(true.slope, abs=0.15)
        assert found.spread == pytest.approx(true.spread, abs=0.15)


def test_draws_tell_where_the_latent_difficulty_lies(drawn) -> None:
    """The posterior mean of u follows the true u closely after twenty draws."""
    _, u, features, right, draws = drawn
    weights = posterior(TRUE, features, right, draws)
    assert weights.sum(axis=1) == pytest.approx(np.ones(N))
    assert np.corrcoef(weights @ NODES, u)[0, 1] > 0.85


def test_a_channel_is_recovered(drawn) -> None:
    """Draws whose odds were shifted are seen to be, though each prompt has only one of them; without draws it is a plain sample."""
    rng, u, features, right, draws = drawn
    weights = posterior(TRUE, features, right, draws)
    plain = TRUE["small"].intercept + TRUE["small"].slope * features["small"]
    y = rng.random(N) < expit(0.8 + plain + TRUE["small"].spread * u)
    logits = plain[:, None] + TRUE["small"].spread * NODES
    assert fit_channel(logits, weights, y).shift == pytest.approx(0.8, abs=0.2)
    both = fit_channel(logits, weights, rng.random(N) < expit(0.5 + 0.6 * (plain + TRUE["small"].spread * u)))
    assert (both.shift, both.slope) == (pytest.approx(0.5, abs=0.2), pytest.approx(0.6, abs=0.15))
    assert fit_channel(logits[:0], weights[:0], []).shift == 0.0


@pytest.mark.parametrize(("copies", "exponent"), [(1, 1.0), (3, 0.3)])
def test_evidence_is_tempered_as_much_as_it_repeats_itself(drawn, copies: int, exponent: float) -> None:
    """Independent scores are taken whole; where each one stands for three that say the same, a third of it is."""
    rng, u, features, _, _ = drawn
    logits = {m: (t.intercept + t.slope * features[m])[:, None] + t.spread * NODES for m, t in TRUE.items()}
    chance = {m: expit(t.intercept + t.slope * features[m] + t.spread * u) for m, t in TRUE.items()}
    seen = rng.random((N, 4)) < chance["small"][:, None]
    p = expit(logits["small"])[:, None, :]
    said = np.where(seen[:, :, None], p * 0.9 + (1 - p) * 0.1, p * 0.1 + (1 - p) * 0.9)
    evidence = copies * np.log(said).sum(axis=1)
    draws = {m: np.full(N, 12) for m in TRUE}
    right = {m: rng.binomial(draws[m], chance[m]) for m in TRUE}
    assert fit_tempering(logits, evidence, right, draws) == pytest.approx(exponent, abs=0.21)


@cache
def fitted_widths(own: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Success]]:
    """Those counts for 1,000 prompts, and what is fitted of them."""
    counts = widths(own, 1000)
    return *counts, fit_success(*counts)


def widths(own: float, prompts: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Counts of three backends, 12 draws each, that share half a width of 2 and have `own` for themselves."""
    rng = np.random.default_rng(5)
    u, e = rng.normal(size=prompts), rng.normal(size=prompts)
    right = {name: rng.binomial(12, expit(a + e + u + own * rng.normal(size=prompts))) for name, a in (("a", -1.0), ("b", 0.0), ("c", 1.0))}
    return dict.fromkeys(right, e), right, dict.fromkeys(right, np.full(prompts, 12))


def test_what_is_shared_is_told_from_what_is_each_backends_own() -> None:
    """Intercept, slope, shared and own width of three backends from counts; where nothing is their own the fit is the shared one."""
    for found in fitted_widths(1.7)[3].values():
        assert found.slope == pytest.approx(1.0, abs=0.2)
        assert found.spread == pytest.approx(1.0, abs=0.25)
        assert found.own == pytest.approx(1.7, abs=0.25)
    assert fitted_widths(0.0)[3] == fit_shared(*widths(0.0, 1000))


def test_what_a_backend_is_alone_does_not_depend_on_the_others() -> None:
    """The width of a backend, and how often it is believed to be right, stay when a backend of another kind is fitted beside it."""
    features, right, draws, fitted = fitted_widths(1.7)
    rng = np.random.default_rng(6)
    other = {"a": right["a"], "c": rng.binomial(12, np.where(rng.random(1000) < 0.8, 0.02, 0.98))}
    one, two = fitted["a"], fit_success({name: features[name] for name in other}, other, draws)["a"]
    assert np.hypot(one.spread, one.own) == pytest.approx(np.hypot(two.spread, two.own), abs=0.1)
    assert one.intercept == pytest.approx(two.intercept, abs=0.1)


def test_own_parts_need_two_backends_with_repeated_draws() -> None:
    """From one label a prompt, or from one backend, only the shared part is fitted."""
    features, right, draws = widths(1.7, 300)
    once = {name: np.minimum(k, 1) for name, k in right.items()}
    assert all(c.own == 0 for c in fit_success(features, once, {name: np.minimum(n, 1) for name, n in draws.items()}).values())
    assert fit_success({"a": features["a"]}, right, draws)["a"].own == 0


def test_what_a_wrong_answer_says_of_the_next_is_believed_as_it_is_seen() -> None:
    """Of pairs of recorded draws, the share right after a wrong one is what the fit believes; without own parts others are taken to fail
    together far more than they do. A prompt with one draw says nothing of a second one of the same backend."""
    features, right, draws, found = fitted_widths(1.7)
    seen, believed = seen_after_wrong(right, draws), believed_after_wrong(found, features)
    assert all(believed[pair] == pytest.approx(share, abs=0.04) for pair, share in seen.items())
    without = believed_after_wrong(fit_shared(features, right, draws), features)
    off = {pair: abs(without[pair] - share) for pair, share in seen.items()}
    assert max(off.values()) > 0.08
    once = seen_after_wrong({"a": np.array([0.0, 1.0]), "b": np.array([1.0, 1.0])}, dict.fromkeys("ab", np.ones(2)))
    assert np.isnan(once["a", "a"])
    assert once["a", "b"] == 1.0


def test_draws_tell_a_backends_own_difficulty() -> None:
    """The posterior on a backend's grid has the shared one as its margin, and its mean follows that backend's share of right draws."""
    features, right, draws, found = fitted_widths(1.7)
    whole, shared = posterior(found, features, right, draws, "a"), posterior(found, features, right, draws)
    assert whole.reshape(1000, len(NODES), -1).sum(axis=2) == pytest.approx(shared)
    believed = (whole * expit(found["a"].logits(features["a"]))).sum(axis=1)
    assert np.corrcoef(believed, right["a"] / 12)[0, 1] > 0.97
    others = expit(seen_from(found["b"].logits(features["b"]), whole.shape[1]))
    assert (whole * others).sum(axis=1).mean() == pytest.approx(right["b"].mean() / 12, abs=0.03)


def test_scores_become_monotone_calibrated_bins() -> None:
    """Likelihoods are distributions, calibration rises with the score and matches Bayes' rule on the true densities."""
    rng = np.random.default_rng(1)
    right = rng.random(20_000) < 0.4
    score = rng.normal(0.3 + 0.4 * right, 0.15)
    found = fit_scores(score, right)
    assert (sum(found.right), sum(found.wrong)) == (pytest.approx(1), pytest.approx(1))
    assert found.base_rate == pytest.approx(0.4, abs=0.02)
    chances = [found.calibrated(s) for s in np.linspace(-0.2, 1.2, 30)]
    assert (np.diff(chances) >= -1e-12).all()
    odds = 0.4 / 0.6 * np.exp(((0.55 - 0.3) ** 2 - (0.55 - 0.7) ** 2) / (2 * 0.15**2))
    assert found.calibrated(0.55) == pytest.approx(odds / (1 + odds), abs=0.08)


def test_a_verifier_that_is_less_sure_of_right_answers_to_hard_prompts_is_seen_through() -> None:
    """Scores fall as those of an easy and of a hard prompt, by the chance before they were seen; both kinds are told apart."""
    rng = np.random.default_rng(2)
    chance = rng.beta(0.8, 0.8, 30_000)
    right = rng.random(len(chance)) < chance
    sure = rng.random(len(chance)) < chance
    score = np.where(right, np.where(sure, 0.95, 0.6), np.where(rng.random(len(chance)) < 0.9, 0.05, 0.6)) + rng.normal(
        0, 0.01, len(chance)
    )
    found = fit_scores(score, right, chance)
    easy, hard = (table[0] for table in found.likelihoods(np.array([1.0]))), (table[0] for table in found.likelihoods(np.array([0.0])))
    (right_easy, wrong_easy), (right_hard, wrong_hard) = easy, hard
    middle = found.bin(0.5)
    assert right_easy[found.bin(0.8) :].sum() > 0.9
    assert right_hard[middle : found.bin(0.8)].sum() > 0.8
    assert wrong_easy[middle:].sum() == pytest.approx(wrong_hard[middle:].sum(), abs=0.05)


@pytest.mark.parametrize("shared", [True, False])
def test_the_log_says_for_whom_a_prompt_that_lowers_scores_is_hard(shared: bool) -> None:
    """Scores of right answers are lower on prompts that are hard for all, or for the backend itself; whichever it is, the fit finds out."""
    rng = np.random.default_rng(3)
    chance, ease = rng.beta(0.8, 0.8, 20_000), rng.beta(0.5, 0.5, 20_000)
    right = rng.random(len(chance)) < chance
    sure = rng.random(len(chance)) < (ease if shared else chance)
    score = np.where(right, np.where(sure, 0.95, 0.6), 0.05) + rng.normal(0, 0.01, len(chance))
    found = fit_scores(score, right, chance, ease)
    assert found.shared == shared
    assert found.right[-1] > 5 * found.right_hard[-1]


def test_a_verifier_that_says_one_thing_of_all_is_worth_nothing() -> None:
    """A constant score leaves the chance at the base rate, whatever its value."""
    found = fit_scores(np.full(200, 0.7), np.arange(200) % 4 == 0)
    assert found.calibrated(0.7) == pytest.approx(0.25, abs=0.02)


def test_lengths_and_seconds_are_recovered() -> None:
    """Log-normal tokens by prompt length; seconds to begin and a token; never negative."""
    rng = np.random.default_rng(2)
    read = rng.integers(5, 500, 3000)
    tokens = fit_tokens(read, np.exp(2 + 0.3 * np.log(read) + 0.4 * rng.normal(size=3000)))
    assert tokens.intercept == pytest.approx(2, abs=0.1)
    assert (tokens.slope, tokens.sigma) == (pytest.approx(0.3, abs=0.03), pytest.approx(0.4, abs=0.03))
    out = rng.integers(10, 200, 3000)
    latency = fit_latency(out, (0.05 + 0.01 * out) * np.exp(0.2 * rng.normal(size=3000)))
    assert latency.mean(100) == pytest.approx(1.05, rel=0.06)
    assert latency.sigma == pytest.approx(0.2, abs=0.03)
    assert fit_latency([10, 20], [0.2, 0.1]).per_token_s >= 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_backends_with_many_draws_are_believed_to_be_right_as_often_as_they_were(seed: int) -> None:
    """Where most prompts are far too hard the fit does not stop at a poor top of the likelihood."""
    rng = np.random.default_rng(seed)
    u, names = rng.normal(size=60), ("m0", "m1", "m2")
    right = {name: rng.binomial(50, expit(i - 6 + 5 * u + rng.normal(0, 1.5, 60))).astype(float) for i, name in enumerate(names)}
    fitted = fit_success(dict.fromkeys(names, np.zeros(60)), right, dict.fromkeys(names, np.full(60, 50.0)))
    believed = np.array([expit(fitted[n].intercept + fitted[n].spread * NODES) @ PRIOR for n in names])
    assert np.abs(believed - [right[n].mean() / 50 for n in names]).mean() < 0.07
