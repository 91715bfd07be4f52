"""How the curves are fitted from labelled draws: scores of each verifier, channels, tempering, tokens, latency.

Plain statistics on arrays: no model, no file, no policy. The estimators are maximum likelihood with a weak prior where a small log
would otherwise give a wild number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, nnls
from scipy.special import expit, log_expit, logsumexp
from sklearn.isotonic import IsotonicRegression

from difficulty.belief import NODES, Array, Channel, Scores, logit, prior_of
from difficulty.curves import Latency, Tokens
from difficulty.learn_success import PRIOR_WEIGHT


def fit_channel(logits: Array, weights: Array, right: ArrayLike) -> Channel:
    """How draws of another kind do on prompts whose plain logit is known: sigmoid(shift + slope * logit).

    `logits` and `weights` are [N, J] over nodes, `right` [N] of 0 and 1.
    """
    y = np.asarray(right, dtype=np.float64)[:, None]

    def loss(theta: Array) -> float:
        x = theta[0] + theta[1] * logits
        each = logsumexp(np.log(np.maximum(weights, 1e-300)) + y * log_expit(x) + (1 - y) * log_expit(-x), axis=1)
        return float(-each.sum() + PRIOR_WEIGHT / 2 * (theta[0] ** 2 + (theta[1] - 1) ** 2))

    if len(y) == 0:
        return Channel()
    shift, steep = minimize(loss, np.array([0.0, 1.0]), method="L-BFGS-B", bounds=[(-6, 6), (0.2, 3.0)]).x
    return Channel(float(shift), float(steep))


def seen_from(logits: Array, size: int) -> Array:
    """The logits [N, J] of a backend on a grid of another that has so many nodes: its own part is averaged out."""
    chance = expit(logits).reshape(len(logits), len(NODES), -1)
    own = prior_of(float(chance.shape[2] > 1)).reshape(len(NODES), -1)
    return np.repeat(logit((chance * own).sum(axis=2) / own.sum(axis=1)), size // len(NODES), axis=1)


GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def fit_tempering(logits: Mapping[str, Array], evidence: Array, right: Mapping[str, Array], draws: Mapping[str, Array]) -> float:
    """The exponent on the likelihoods under which answers that were seen predict best those that were not.

    `evidence` [N, J] is the log likelihood at each node of the scores seen, on the grid of the backend that was seen; `logits` by backend
    [N, J] are on the same grid (`seen_from`); `right` and `draws` [N] count what is to be predicted, by backend.
    """
    prior = np.log(prior_of(float(evidence.shape[1] != len(NODES))))

    def loss(exponent: float) -> float:
        joint = prior + exponent * evidence
        weights = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        chance = {name: np.clip((weights * expit(x)).sum(axis=1), 1e-6, 1 - 1e-6) for name, x in logits.items()}
        each = [right[name] * np.log(c) + (draws[name] - right[name]) * np.log1p(-c) for name, c in chance.items()]
        return -float(sum((row / np.maximum(draws[name].mean(), 1e-9)).sum() for name, row in zip(chance, each, strict=True)))

    return min(GRID, key=loss)


def fit_scores(
    scores: ArrayLike, right: ArrayLike, chance: ArrayLike | None = None, ease: ArrayLike | None = None, bins: int = 24
) -> Scores:
    """A verifier's score model: equal-mass bins, P(right | bin) made monotone by isotonic regression, likelihoods by Bayes.

    `chance` [N] is how likely one more answer of the same backend to the same prompt is right; with it, the tables for easy and hard
    prompts are told apart by expectation maximisation (an answer at chance p is from the easy table with p, from the hard one with 1 - p).
    `ease` [N] is how easy the prompt is for all backends (the mean of `EASE`); the one under which the scores are likelier is taken.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.float64)
    edges = np.unique(np.quantile(s, np.linspace(0, 1, bins + 1)[1:-1]))
    k = np.searchsorted(edges, s, side="right")
    base = float(np.clip(y.mean(), 0.01, 0.99))
    counts = np.stack([np.bincount(k, weights=w, minlength=len(edges) + 1) for w in (y, 1 - y)]).astype(np.float64)
    if chance is None:
        right_table, wrong_table = _monotone(counts, base)
        return Scores(_floats(edges), right_table, wrong_table, base)
    ways = [_told_apart(k, y, np.asarray(p, dtype=np.float64), counts) for p in (chance, ease) if p is not None]
    shared = len(ways) > 1 and ways[1][1] > ways[0][1]
    easy, hard = (_monotone(of, base) for of in ways[shared][0])
    return Scores(_floats(edges), *easy, base, *hard, shared=shared)


def _told_apart(k: NDArray[np.intp], y: Array, p: Array, counts: Array) -> tuple[Array, float]:
    """Expected counts (easy or hard; right or wrong; bin) by how easy the answers' prompts are, and the log likelihood of the scores."""
    found, total = np.empty((2, *counts.shape)), 0.0
    for side, (rows, marginal) in enumerate(zip((y == 1, y == 0), counts, strict=True)):
        found[:, side] = of = np.array(_easy_and_hard(k[rows], p[rows], marginal))
        easy, hard = of / of.sum(axis=1, keepdims=True)
        total += float(np.log(p[rows] * easy[k[rows]] + (1 - p[rows]) * hard[k[rows]]).sum())
    return found, total


EASY_OR_HARD = 20.0
"""Answers' worth of pull of the easy and the hard table towards their common one."""


def _easy_and_hard(k: NDArray[np.intp], p: Array, marginal: Array, rounds: int = 100) -> tuple[Array, Array]:
    """Expected counts in each bin of answers from the easy table and from the hard one, each of shape [K]."""
    common = (marginal + 0.5) / (marginal + 0.5).sum()
    easy = hard = common
    for _ in range(rounds):
        from_easy = p * easy[k] / (p * easy[k] + (1 - p) * hard[k])
        counts = np.stack([np.bincount(k, weights=w, minlength=len(common)) for w in (from_easy, 1 - from_easy)]) + EASY_OR_HARD * common
        easy, hard = counts / counts.sum(axis=1, keepdims=True)
    return counts[0], counts[1]


def _monotone(counts: Array, base: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Likelihoods of the bins if right and if wrong, from counts [2, K] of right and wrong answers; their ratio never falls."""
    right, total, rank = counts[0], counts.sum(axis=0) + 1e-3, np.arange(counts.shape[1])
    share = (right + base) / (total + 1)
    share = IsotonicRegression(y_min=1e-3, y_max=1 - 1e-3).fit(rank, share, sample_weight=total).predict(rank)
    if_right, if_wrong = total * share, total * (1 - share)
    return _floats(if_right / if_right.sum()), _floats(if_wrong / if_wrong.sum())


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def fit_tokens(input_tokens: ArrayLike, output_tokens: ArrayLike) -> Tokens:
    """Log-normal length of an answer, linear in the log of the prompt's length."""
    x, y = (np.log(np.maximum(np.asarray(tokens, dtype=np.float64), 1)) for tokens in (input_tokens, output_tokens))
    slope = float(np.cov(x, y)[0, 1] / (x.var(ddof=1) + 1e-3)) if len(x) > 2 else 0.0
    rest = y - slope * x
    return Tokens(float(rest.mean()), slope, float(max(rest.std(), 0.05)))


def fit_latency(output_tokens: ArrayLike, seconds: ArrayLike) -> Latency:
    """Seconds to begin and seconds a token, both at least 0, by least squares on relative errors; log-normal around them."""
    tokens, s = np.asarray(output_tokens, dtype=np.float64), np.maximum(np.asarray(seconds, dtype=np.float64), 1e-6)
    (first, each), _ = nnls(np.column_stack([np.ones_like(tokens), tokens]) / s[:, None], np.ones_like(s))
    spread = np.log(s / np.maximum(first + each * tokens, 1e-6))
    return Latency(float(first * np.exp(spread.mean())), float(each * np.exp(spread.mean())), float(max(spread.std(), 0.05)))
