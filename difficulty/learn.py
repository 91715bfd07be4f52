"""How the curves are fitted from labelled draws: success of each backend, scores of each verifier, channels, tokens, latency.

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

from difficulty.belief import NODES, PRIOR, Array, Channel, Scores, Success, logit
from difficulty.curves import Latency, Tokens

PRIOR_WEIGHT = 2.0
"""Weak pull of slopes to 1 and of shifts to 0, in units of half a squared deviation."""


def fit_success(features: Mapping[str, Array], right: Mapping[str, Array], draws: Mapping[str, Array]) -> dict[str, Success]:
    """(intercept, slope, spread) of every backend, jointly, the latent difficulty integrated out.

    Each mapping is by backend, arrays of shape [N] over prompts: e_m(x) (out of fold), right draws, draws (0 where it was not tried).
    Maximises sum_i log sum_j w_j prod_m p_mj^k (1 - p_mj)^(n - k). The spread is known only where some prompts have two draws or more.
    """
    names = list(features)
    e, k, n = (np.stack([np.asarray(rows[name], dtype=np.float64) for name in names]) for rows in (features, right, draws))

    def loss(theta: Array) -> tuple[float, Array]:
        a, b, t = theta.reshape(3, len(names), 1)
        x = (a + b * e)[:, :, None] + (t[:, :, None] * NODES)
        joint = (k[:, :, None] * log_expit(x) + (n - k)[:, :, None] * log_expit(-x)).sum(axis=0) + np.log(PRIOR)
        total = logsumexp(joint, axis=1, keepdims=True)
        pull = k[:, :, None] - n[:, :, None] * expit(x)
        weighted = pull * np.exp(joint - total)
        by_prompt = weighted.sum(axis=2)
        grad = np.stack([by_prompt.sum(axis=1), (by_prompt * e).sum(axis=1), (weighted * NODES).sum(axis=(1, 2))])
        off = np.stack([np.zeros(len(names)), theta.reshape(3, -1)[1] - 1, np.zeros(len(names))])
        return float(-total.sum() + PRIOR_WEIGHT / 2 * (off**2).sum()), (PRIOR_WEIGHT * off - grad).ravel()

    share = (k.sum(axis=1) + 0.5) / (n.sum(axis=1) + 1)
    bounds = [(-8, 8)] * len(names) + [(0, 5)] * len(names) + [(0.0, 6)] * len(names)
    tried = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in _starts(share)]
    found = min(tried, key=lambda one: float(one.fun)).x.reshape(3, len(names))
    return {name: Success(*(float(v) for v in found[:, m])) for m, name in enumerate(names)}


def _starts(share: Array) -> list[Array]:
    """Where to climb from, each of shape [3 * M]: even odds, and twice the odds seen (sigmoid(a / sqrt(1 + pi t^2 / 8)) is about the mean).

    With many draws the likelihood has several tops: from even odds alone, 27 models with ten draws each on 160 prompts were taken to be
    right in 36 % of all cases where 25 % were.
    """
    ones = np.ones(len(share))
    seen = [np.concatenate([np.clip(logit(share) * np.sqrt(1 + np.pi * t**2 / 8), -8, 8), ones, t * ones]) for t in (0.7, 2.0)]
    return [np.concatenate([0 * ones, ones, 0.7 * ones]), *seen]


def posterior(
    success: Mapping[str, Success], features: Mapping[str, Array], right: Mapping[str, Array], draws: Mapping[str, Array]
) -> Array:
    """Weights over the nodes for each prompt after its draws, shape [N, J]."""
    joint = np.log(PRIOR)
    for name, curve in success.items():
        x = (curve.intercept + curve.slope * np.asarray(features[name], dtype=np.float64))[:, None] + curve.spread * NODES
        k, n = np.asarray(right[name])[:, None], np.asarray(draws[name])[:, None]
        joint = joint + k * log_expit(x) + (n - k) * log_expit(-x)
    return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))


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


GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def fit_tempering(logits: Mapping[str, Array], evidence: Array, right: Mapping[str, Array], draws: Mapping[str, Array]) -> float:
    """The exponent on the likelihoods under which answers that were seen predict best those that were not.

    `logits` by backend [N, J]; `evidence` [N, J] is the log likelihood at each node of the scores seen; `right` and `draws` [N] count what
    is to be predicted, by backend.
    """

    def loss(exponent: float) -> float:
        joint = np.log(PRIOR) + exponent * evidence
        weights = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        chance = {name: np.clip((weights * expit(x)).sum(axis=1), 1e-6, 1 - 1e-6) for name, x in logits.items()}
        each = [right[name] * np.log(c) + (draws[name] - right[name]) * np.log1p(-c) for name, c in chance.items()]
        return -float(sum((row / np.maximum(draws[name].mean(), 1e-9)).sum() for name, row in zip(chance, each, strict=True)))

    return min(GRID, key=loss)


def fit_scores(scores: ArrayLike, right: ArrayLike, chance: ArrayLike | None = None, bins: int = 24) -> Scores:
    """A verifier's score model: equal-mass bins, P(right | bin) made monotone by isotonic regression, likelihoods by Bayes.

    `chance` [N] is how likely each answer was right before it was scored; with it, the tables for easy and hard prompts are told apart
    by expectation maximisation (an answer at chance p is from the easy table with p, from the hard one with 1 - p).
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.float64)
    edges = np.unique(np.quantile(s, np.linspace(0, 1, bins + 1)[1:-1]))
    k = np.searchsorted(edges, s, side="right")
    base = float(np.clip(y.mean(), 0.01, 0.99))
    counts = np.stack([np.bincount(k, weights=w, minlength=len(edges) + 1) for w in (y, 1 - y)]).astype(np.float64)
    if chance is None:
        right_table, wrong_table = _monotone(counts, base)
        return Scores(_floats(edges), right_table, wrong_table, base)
    p = np.asarray(chance, dtype=np.float64)
    parts = [_easy_and_hard(k[rows], p[rows], marginal) for rows, marginal in zip((y == 1, y == 0), counts, strict=True)]
    easy, hard = (_monotone(np.stack([part[side] for part in parts]), base) for side in (0, 1))
    return Scores(_floats(edges), *easy, base, *hard)


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
