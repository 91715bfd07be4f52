"""Fitting a probe: scaler, PCA, L2 logistic regression for each backend (scikit-learn), Platt's calibration; collapsed to one matrix.

Layer, pooling and dimension are chosen together by log loss on the validation side, the penalty for each backend. The probe that is
returned is then fitted on train and validation; it never saw the test side. Calibration uses decision functions of folds that did not
see the prompt. (The choice itself has seen validation, which favours it there by a hair; the test side is free of that.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from difficulty.belief import logit, sigmoid
from difficulty.encoders import Encoder, Encoding, View
from difficulty.errors import FitError
from difficulty.labels import FOLDS, TEST, TRAIN, VALIDATION, Counts, Labelled, Mask, Table, folds, sides, table
from difficulty.probe import SCALARS, Array, LinearProbe, design

DIMENSIONS = (8, 16, 32, 64, 128)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""scikit-learn's C: the inverse of the L2 penalty."""

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the share of it that is done."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What validation chose."""

    view: View
    dimensions: int
    strengths: Mapping[str, float]
    """By backend."""
    loss: float
    """Mean log loss of a draw on the validation side, over backends."""
    considered: Mapping[str, float]
    """The same for the best of every view, by its name."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedProbe:
    """A probe, and all that is needed to judge it and to learn curves on top. Rows are the prompts of `table`."""

    head: LinearProbe
    choice: Choice
    table: Table
    encoding: Encoding
    """Of the chosen view."""
    side: Counts
    """`labels.TRAIN`, `VALIDATION` or `TEST` of each prompt."""
    out_of_fold: dict[str, Array]
    """e_m by backend, every prompt by a model that did not see it: other folds for train and validation, the final probe for test."""
    seed: int

    def row(self, prompt: str) -> int:
        """Where a prompt is. Raises KeyError."""
        return {text: index for index, text in enumerate(self.table.prompts)}[prompt]


def fit_probe(
    rows: Iterable[Labelled],
    encoder: Encoder,
    *,
    views: Sequence[View] | None = None,
    dimensions: Sequence[int] = DIMENSIONS,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    progress: Progress = lambda stage, done: None,
    split: Mapping[str, int] | None = None,
) -> FittedProbe:
    """Learn a probe from labels. The same labels, encoder and seed give the same probe. Raises FitError or EncoderError.

    `split` gives the side of each group, for those who split by themselves; unset, the side is a hash of group and seed.
    """
    labels = table(rows)
    side = sides(labels.groups, seed) if split is None else np.array([split[group] for group in labels.groups])
    encoding = _encode(encoder, labels.prompts, tuple(views or encoder.views), progress)
    choice = _choose(encoding, labels, side, dimensions, strengths, seed, progress)
    encoding = Encoding({choice.view: encoding.states[choice.view]}, encoding.tokens, encoding.tokens_read, encoding.nll)
    head, out_of_fold = fit_head(encoding, labels, side, choice, seed=seed, progress=progress)
    return FittedProbe(head, choice, labels, encoding, side, out_of_fold, seed)


def fit_head(
    encoding: Encoding, labels: Table, side: Counts, choice: Choice, *, seed: int = 0, progress: Progress = lambda stage, done: None
) -> tuple[LinearProbe, dict[str, Array]]:
    """The calibrated probe on all that is not test, and decision functions of every prompt by a model that did not see it."""
    x, seen, fold = design(encoding, choice.view), side != TEST, folds(labels.groups, seed)
    weights, bias = _linear(x, labels, seen, choice, seed)
    held_out = x @ weights.T + bias
    for number in range(FOLDS):
        rest, mine = seen & (fold != number), seen & (fold == number)
        if mine.any() and rest.any():
            held_out[mine] = _affine(x[mine], *_linear(x, labels, rest, choice, seed))
        progress("fit", (number + 1) / FOLDS)
    platt = [_platt(held_out[seen, m], labels.successes[b][seen], labels.draws[b][seen]) for m, b in enumerate(labels.backends)]
    slope, shift = np.array(platt).T
    head = LinearProbe(choice.view, labels.backends, weights, bias, slope, shift)
    return head, {name: held_out[:, m] for m, name in enumerate(labels.backends)}


def log_loss(p: Array, successes: Counts, draws: Counts) -> float:
    """Mean negative log-likelihood of a draw, nats."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return float(-(successes * np.log(p) + (draws - successes) * np.log1p(-p)).sum() / draws.sum())


_PLATT_STRENGTH = 100.0
"""Weak enough to leave any slope that the data show, strong enough that labels without overlap do not make it infinite."""

# --- reading the prompts ----------------------------------------------------------------------------------------------


def _encode(encoder: Encoder, prompts: Sequence[str], views: tuple[View, ...], progress: Progress, at_once: int = 256) -> Encoding:
    parts = []
    for start in range(0, len(prompts), at_once):
        parts.append(encoder.encode(prompts[start : start + at_once], views))
        progress("encode", min(1.0, (start + at_once) / len(prompts)))
    return Encoding.joined(parts)


# --- choosing by validation -------------------------------------------------------------------------------------------


def _choose(
    encoding: Encoding, labels: Table, side: Counts, dimensions: Sequence[int], strengths: Sequence[float], seed: int, progress: Progress
) -> Choice:
    train, check = side == TRAIN, side == VALIDATION
    _enough(labels, train, check)
    best: dict[View, tuple[float, int, dict[str, float]]] = {}
    for done, view in enumerate(encoding.states, start=1):
        x = design(encoding, view)
        basis = _Basis.fit(x[train], max(dimensions), seed)
        reduced = basis.project(x)
        sizes = sorted({min(d, len(basis.components)) for d in dimensions})
        best[view] = min((_validated(reduced, d, labels, train, check, strengths) for d in sizes), key=lambda tried: tried[0])
        progress("choose", done / len(encoding.states))
    view = min(best, key=lambda v: best[v][0])
    loss, size, chosen = best[view]
    return Choice(view, size, chosen, loss, {f"layer {v.layer}, {v.pooling}": round(found[0], 5) for v, found in best.items()})


def _enough(labels: Table, train: Mask, check: Mask) -> None:
    for name in labels.backends:
        if not (labels.draws[name][train].any() and labels.draws[name][check].any()):
            raise FitError(f"backend '{name}': no labels in train or validation; label some hundred prompts of it")


def _validated(
    reduced: Array, size: int, labels: Table, train: Mask, check: Mask, strengths: Sequence[float]
) -> tuple[float, int, dict[str, float]]:
    """(validation loss over backends, size, best strength by backend) with the first `size` components."""
    x = np.delete(reduced, np.s_[size:-SCALARS], axis=1)
    chosen, losses = {}, []
    for name in labels.backends:
        k, n = labels.successes[name], labels.draws[name]
        fits = {c: _logistic(x[train], k[train], n[train], c) for c in strengths}
        tried = {c: log_loss(sigmoid(_affine(x[check], *fit)), k[check], n[check]) for c, fit in fits.items()}
        chosen[name] = min(tried, key=lambda c: tried[c])
        losses.append(tried[chosen[name]])
    return float(np.mean(losses)), size, chosen


# --- the linear pipeline ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
    """Standardised columns, hidden state in d principal components, the scalars left beside them."""

    mean: Array
    scale: Array
    components: Array
    """Shape [d, D]."""

    @classmethod
    def fit(cls, x: Array, dimensions: int, seed: int) -> _Basis:
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(x)
        states = scaler.transform(x)[:, :-SCALARS]
        with np.errstate(invalid="ignore"):  # constant states have no variance to take shares of
            pca = PCA(n_components=min(dimensions, *states.shape), random_state=seed).fit(states)
        return cls(scaler.mean_, scaler.scale_, pca.components_)

    def project(self, x: Array) -> Array:
        """Shape [N, d + 2]."""
        z = (x - self.mean) / self.scale
        return np.hstack([z[:, :-SCALARS] @ self.components.T, z[:, -SCALARS:]])

    def collapse(self, weights: Array, bias: float) -> tuple[Array, float]:
        """The same function of the columns of `design`."""
        d = len(self.components)
        flat = np.concatenate([weights[:d] @ self.components, weights[d:]]) / self.scale
        return flat, bias - float(flat @ self.mean)


def _linear(x: Array, labels: Table, rows: Mask, choice: Choice, seed: int) -> tuple[Array, Array]:
    """Weights [M, D + 2] and bias [M] from those rows."""
    basis = _Basis.fit(x[rows], choice.dimensions, seed)
    reduced = basis.project(x[rows])
    pairs = [
        basis.collapse(*_logistic(reduced, labels.successes[name][rows], labels.draws[name][rows], choice.strengths[name]))
        for name in labels.backends
    ]
    return np.array([weights for weights, _ in pairs]), np.array([bias for _, bias in pairs])


def _affine(x: Array, weights: Array, bias: Array | float) -> Array:
    return np.asarray(x @ np.transpose(weights) + bias)


def _logistic(x: Array, successes: Counts, draws: Counts, strength: float) -> tuple[Array, float]:
    """L2 logistic regression; a prompt with k of n right enters as right with weight k and as wrong with weight n - k."""
    from sklearn.linear_model import LogisticRegression

    k, wrong = successes, draws - successes
    if not k.any() or not wrong.any():
        # All right or all wrong: nothing tells prompts apart, and the rate is shrunk as by Jeffreys' prior.
        return np.zeros(x.shape[1]), float(logit((k.sum() + 0.5) / (draws.sum() + 1.0)))
    right, failed = k > 0, wrong > 0
    model = LogisticRegression(C=strength, max_iter=2000)
    y = np.repeat([1, 0], [right.sum(), failed.sum()])
    model.fit(np.concatenate([x[right], x[failed]]), y, np.concatenate([k[right], wrong[failed]]))
    return model.coef_[0], float(model.intercept_[0])


def _platt(decision: Array, successes: Counts, draws: Counts) -> tuple[float, float]:
    """Slope and shift; a slope below zero would say that the probe is wrong-headed, and becomes the base rate instead."""
    coefficients, shift = _logistic(decision[:, None], successes, draws, _PLATT_STRENGTH)
    slope: Any = coefficients[0]
    if slope > 0:
        return float(slope), shift
    return 0.0, float(logit((successes.sum() + 0.5) / (draws.sum() + 1.0)))
