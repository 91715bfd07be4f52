"""How each backend's chance of answering right is fitted from counts: what it is by itself, and how much of it others share.

A backend whose prompts were drawn several times is fitted alone first: intercept, slope, and how wide its chances are, whoever else is in
the log. Then, with these held, how much of that width is shared, from all backends together. In one fit of everything a single number u
for each prompt would have to serve all backends, and where many draws of many backends show it sharply the likelihood gives up each one's
own shape to place it: 27 models with ten draws each were believed to be right in 27 to 35 % of all cases where 25 % were. Source: Joe
1997, "Multivariate Models and Dependence Concepts", inference functions for margins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp

from difficulty.belief import DEFAULT_SPREAD, NO_OWN, NODES, OWN_NODES, OWN_PRIOR, PRIOR, Array, Success, logit

PRIOR_WEIGHT = 2.0
"""Weak pull of slopes to 1 and of shifts to 0, in units of half a squared deviation."""
ROUNDS = 2
"""Times that each backend alone and all together are fitted in turn: how a width is split changes the nodes that it is seen at."""
WIDEST = 12.0

Counts = Mapping[str, Array]
"""By backend, of shape [N] over prompts."""


def fit_success(features: Counts, right: Counts, draws: Counts) -> dict[str, Success]:
    """What is fitted of every backend, from e_m(x) (out of fold), right draws, and draws (0 where it was not tried).

    Parts of a backend's own are kept only where the log shows them: several backends of which at least two have prompts drawn twice or
    more, and a likelihood that they raise by more than one for each.
    """
    shared = fit_shared(features, right, draws)
    repeated = [name for name in features if (np.asarray(draws[name]) > 1).any()]
    if len(repeated) < 2:
        return shared
    found = _with_own(features, right, draws, shared, repeated)
    gain = evidence(found, features, right, draws) - evidence(shared, features, right, draws)
    return found if gain > len(repeated) else shared


def fit_shared(features: Counts, right: Counts, draws: Counts) -> dict[str, Success]:
    """(intercept, slope, spread) of every backend, jointly, where there is nothing but the shared difficulty.

    Maximises sum_i log sum_j w_j prod_m p_mj^k (1 - p_mj)^(n - k). The spread is known only where some prompts have two draws or more,
    of whichever backends; where none has, the default stands.
    """
    names, e, k, n = _stacked(features, right, draws)
    free = np.ones((3, len(names)))

    def loss(theta: Array) -> tuple[float, Array]:
        value, grad = _loss(np.concatenate([theta.reshape(3, -1), 0 * free[:1]]), e, k, n)
        return value, grad[:3].ravel()

    share = (k.sum(axis=1) + 0.5) / (n.sum(axis=1) + 1)
    spreads = (0.0, 6.0) if (n.sum(axis=0) > 1).any() else (DEFAULT_SPREAD, DEFAULT_SPREAD)
    bounds = [(-8.0, 8.0)] * len(names) + [(0.0, 5.0)] * len(names) + [spreads] * len(names)
    tried = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in _starts(share)]
    found = min(tried, key=lambda one: float(one.fun)).x.reshape(3, len(names))
    return {name: Success(*(float(v) for v in found[:, m])) for m, name in enumerate(names)}


def evidence(success: Mapping[str, Success], features: Counts, right: Counts, draws: Counts) -> float:
    """Log likelihood of all draws, nats."""
    return float(logsumexp(_by_node(success, features, right, draws), axis=1).sum())


def posterior(success: Mapping[str, Success], features: Counts, right: Counts, draws: Counts, backend: str | None = None) -> Array:
    """Weights for each prompt after its draws, over the shared nodes [N, J] or those of a backend's grid."""
    joint = _by_node(success, features, right, draws)
    if backend is not None and success[backend].own:
        own = _own(success[backend], *(np.asarray(of[backend], dtype=np.float64) for of in (features, right, draws)))
        joint = (joint - logsumexp(own, axis=2))[:, :, None] + own
        joint = joint.reshape(len(joint), -1)
    return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))


# --- the likelihood -----------------------------------------------------------------------------------------------------


def _by_node(success: Mapping[str, Success], features: Counts, right: Counts, draws: Counts) -> Array:
    """Log of the weight of each shared node and the draws of a prompt, [N, J]."""
    each = (
        logsumexp(_own(curve, *(np.asarray(of[name], dtype=np.float64) for of in (features, right, draws))), axis=2)
        for name, curve in success.items()
    )
    return np.asarray(sum(each, np.log(PRIOR)))


def _own(curve: Success, e: Array, k: Array, n: Array) -> Array:
    """Log likelihood of a backend's draws and of its own part, given the shared one, [N, J, K]."""
    given = OWN_PRIOR if curve.own else NO_OWN
    x = curve.logits(e).reshape(len(e), *given.shape)
    return np.asarray(n[:, None, None] * log_expit(x) - (n - k)[:, None, None] * x + np.log(given))


def _loss(theta: Array, e: Array, k: Array, n: Array) -> tuple[float, Array]:
    """Negative log likelihood of (intercept, slope, spread, own) [4, M] with the pull on slopes, and its gradient [4, M]."""
    a, b, t, s = theta[:, :, None]
    nodes, given = (OWN_NODES, OWN_PRIOR) if theta[3].any() else (np.zeros(1), NO_OWN)
    x = ((a + b * e)[:, :, None] + t[:, :, None] * NODES)[..., None] + s[..., None, None] * nodes
    log_p, k, n = log_expit(x), k[:, :, None, None], n[:, :, None, None]
    each = n * log_p - (n - k) * x + np.log(given)
    inner = logsumexp(each, axis=3)
    joint = inner.sum(axis=0) + np.log(PRIOR)
    total = logsumexp(joint, axis=1, keepdims=True)
    pull = (k - n * np.exp(log_p)) * np.exp(each - (inner - (joint - total))[..., None])
    by_node = pull.sum(axis=3)
    by_prompt = by_node.sum(axis=2)
    grad = [by_prompt.sum(axis=1), (by_prompt * e).sum(axis=1), (by_node * NODES).sum(axis=(1, 2)), (pull * nodes).sum(axis=(1, 2, 3))]
    off = np.zeros_like(theta)
    off[1] = theta[1] - 1
    return float(-total.sum() + PRIOR_WEIGHT / 2 * (off**2).sum()), PRIOR_WEIGHT * off - np.array(grad)


def _stacked(features: Counts, right: Counts, draws: Counts) -> tuple[list[str], Array, Array, Array]:
    names = list(features)
    e, k, n = (np.stack([np.asarray(rows[name], dtype=np.float64) for name in names]) for rows in (features, right, draws))
    return names, e, k, n


def _starts(share: Array) -> list[Array]:
    """Where to climb from, each of shape [3 * M]: even odds, and twice the odds seen (sigmoid(a / sqrt(1 + pi t^2 / 8)) is about the mean).

    With many draws the likelihood has several tops: from even odds alone, 27 models with ten draws each on 160 prompts were taken to be
    right in 36 % of all cases where 25 % were.
    """
    ones = np.ones(len(share))
    seen = [np.concatenate([np.clip(logit(share) * np.sqrt(1 + np.pi * t**2 / 8), -8, 8), ones, t * ones]) for t in (0.7, 2.0)]
    return [np.concatenate([0 * ones, ones, 0.7 * ones]), *seen]


# --- each alone, then what is shared --------------------------------------------------------------------------------------


def _with_own(features: Counts, right: Counts, draws: Counts, shared: Mapping[str, Success], repeated: list[str]) -> dict[str, Success]:
    """Backends with repeated draws by their own width and the share of it that others have, the others as they fit in beside them.

    A width w is t = w cos(angle) shared and s = w sin(angle) own.
    """
    names, e, k, n = _stacked(features, right, draws)
    theta = np.array([[c.intercept, c.slope, c.spread, 0.0] for c in (shared[name] for name in names)]).T
    alone = np.array([name in repeated for name in names])
    theta[3, alone] = np.pi / 4
    for number in range(ROUNDS):
        for m in np.flatnonzero(alone):
            theta[:3, m] = _alone(theta[:, m], e[[m]], k[[m]], n[[m]], first=number == 0)
        theta = _together(theta, alone, e, k, n)
    return {name: Success(*(float(v) for v in _split(theta)[:, m])) for m, name in enumerate(names)}


def _split(theta: Array) -> Array:
    """(intercept, slope, width, angle) as (intercept, slope, spread, own), each [4, M]."""
    a, b, width, angle = theta
    return np.stack([a, b, width * np.cos(angle), np.where(angle > 1e-3, width * np.sin(angle), 0.0)])


def _alone(start: Array, e: Array, k: Array, n: Array, first: bool) -> Array:
    """(intercept, slope, width) of one backend by its own draws."""
    angle = start[3]

    def loss(free: Array) -> tuple[float, Array]:
        value, grad = _loss(_split(np.append(free, angle)[:, None]), e, k, n)
        return value, np.array([*grad[:2, 0], grad[2, 0] * np.cos(angle) + grad[3, 0] * np.sin(angle)])

    share = float(logit((k.sum() + 0.5) / (n.sum() + 1)))
    wide = [np.array([share * np.sqrt(1 + np.pi * w**2 / 8), 1.0, w]) for w in (0.7, 2.0, 6.0)] if first else []
    bounds = [(-2 * WIDEST, 2 * WIDEST), (0.0, 5.0), (0.0, WIDEST)]
    tried: list[Any] = [minimize(loss, one, jac=True, method="L-BFGS-B", bounds=bounds) for one in (start[:3], *wide)]
    return np.asarray(min(tried, key=lambda one: float(one.fun)).x)


def _together(start: Array, alone: Array, e: Array, k: Array, n: Array) -> Array:
    """How much is shared: the angles of those fitted alone, and all of the others, by the draws of all."""

    def loss(free: Array) -> tuple[float, Array]:
        theta = free.reshape(4, -1)
        value, grad = _loss(_split(theta), e, k, n)
        cos, sin = np.cos(theta[3]), np.sin(theta[3])
        width = grad[2] * cos + grad[3] * sin
        angle = theta[2] * (grad[3] * cos - grad[2] * sin)
        return value, np.concatenate([grad[0], grad[1], width, angle])

    low, high = np.where(alone, start, [[-8.0], [0.0], [0.0], [0.0]]), np.where(alone, start, [[8.0], [5.0], [6.0], [0.0]])
    low[3], high[3] = 0.0, np.where(alone, np.pi / 2, 0.0)
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", bounds=np.stack([low.ravel(), high.ravel()], axis=1))
    return np.asarray(found.x.reshape(4, -1))
