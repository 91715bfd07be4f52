"""What is believed about one prompt: how likely each backend is to answer it right, and how likely each answer so far is right.

Backends share a latent difficulty u ~ N(0, 1), held on Gauss-Hermite nodes u_j with weights w_j:

    p_m(x, u_j) = sigmoid(a_m + b_m * e_m(x) + t_m * u_j)

so "the small one failed" makes the large one less likely too, and a large t_m says that wrong answers repeat and sampling is futile.
A scored answer moves the weights (`Belief.after`). Nothing here knows a price or decides anything: that is `policies/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difficulty.votes import Tally

Array = NDArray[np.float64]

_hermite_x, _hermite_w = np.polynomial.hermite_e.hermegauss(21)
NODES: Array = _hermite_x
"""The latent difficulty at the quadrature nodes, shape [J]; positive is easier."""
PRIOR: Array = _hermite_w / _hermite_w.sum()
"""Weights of a standard normal at the nodes, shape [J]."""

DEFAULT_SPREAD = 1.0
"""t of a backend that nothing was fitted for: some prompts are hard for it and stay hard."""


def sigmoid(x: Array | float) -> Array:
    """The logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0))), dtype=np.float64)


def logit(p: Array | float) -> Array:
    """Inverse of `sigmoid`; p is kept away from 0 and 1."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Success:
    """A backend's chance of answering right: sigmoid(intercept + slope * e + spread * u)."""

    intercept: float = 0.0
    slope: float = 1.0
    spread: float = DEFAULT_SPREAD

    def line(self, feature: float) -> tuple[float, float]:
        """The logit as a line in u: (at u = 0, slope)."""
        return self.intercept + self.slope * feature, self.spread


@dataclass(frozen=True, slots=True)
class Channel:
    """How a plan's draw differs from a plain sample: its logit is shift + slope * (the plain sample's)."""

    shift: float = 0.0
    slope: float = 1.0

    def p(self, logits: Array) -> Array:
        """Chance at each node that such a draw is right, shape [J]."""
        return sigmoid(self.shift + self.slope * logits)


PLAIN = Channel()
"""An independent sample."""


@dataclass(frozen=True)
class Scores:
    """A verifier's scores in K bins: how often right and wrong answers fall in each. Bin k holds edges[k-1] <= score < edges[k].

    A verifier knows a right answer to a hard prompt less surely than one to an easy prompt, so there are two tables: one for prompts that
    the backend always answers right, one for those that it never does. At a chance p between, scores fall as p of the first and 1 - p of
    the second. An exact checker is the same with two bins and no error (`Scores.exact`).
    """

    edges: tuple[float, ...]
    right: tuple[float, ...]
    wrong: tuple[float, ...]
    base_rate: float = 0.5
    """Share of right answers among those it was fitted on."""
    right_hard: tuple[float, ...] = ()
    """`right` at a chance of 0; empty: the same as at 1."""
    wrong_hard: tuple[float, ...] = ()

    @classmethod
    def exact(cls) -> Scores:
        """A verifier that is never mistaken."""
        return cls((0.5,), (1e-6, 1 - 1e-6), (1 - 1e-6, 1e-6))

    @classmethod
    def unfitted(cls, bins: int = 8) -> Scores:
        """A verifier taken at its word: a score of s says that the odds of being right are s : 1 - s."""
        centre = (np.arange(bins) + 0.5) / bins
        return cls(tuple(np.arange(1, bins) / bins), tuple(centre / centre.sum()), tuple((1 - centre) / (1 - centre).sum()))

    def bin(self, score: float) -> int:
        """Number of the bin of a raw score."""
        return int(np.searchsorted(self.edges, score, side="right"))

    def calibrated(self, score: float) -> float:
        """P(right | score) at the base rate."""
        k = self.bin(score)
        right, wrong = self.likelihoods(np.array([self.base_rate]))
        odds = right[0, k] * self.base_rate, wrong[0, k] * (1 - self.base_rate)
        return float(odds[0] / sum(odds))

    def likelihoods(self, p: Array) -> tuple[Array, Array]:
        """(P(bin | right), P(bin | wrong)) where an answer is right with chance p, shape [J]; each of shape [J, K]."""
        (right, right_hard), (wrong, wrong_hard) = self._tables
        share = p[:, None]
        return share * right + (1 - share) * right_hard, share * wrong + (1 - share) * wrong_hard

    @cached_property
    def _tables(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        right, wrong = np.asarray(self.right), np.asarray(self.wrong)
        return (right, np.asarray(self.right_hard or right)), (wrong, np.asarray(self.wrong_hard or wrong))

    def seen(self, backend: str, score: float, channel: Channel = PLAIN) -> Evidence:
        """What an answer of that raw score says."""
        k, (right, wrong) = self.bin(score), self._tables
        easy, hard = (float(right[0][k]), float(wrong[0][k])), (float(right[1][k]), float(wrong[1][k]))
        return Evidence(backend, channel, *easy, *hard)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One answer seen: which backend drew it through which channel, and the likelihood of its score if right and if wrong.

    All are 1 for an answer that nothing scored.
    """

    backend: str
    channel: Channel = PLAIN
    if_right: float = 1.0
    if_wrong: float = 1.0
    if_right_hard: float | None = None
    """`if_right` on a prompt that the backend never answers right; None: the same."""
    if_wrong_hard: float | None = None
    votes: Tally | None = None
    """Of the leader of a vote: how it stood. Its likelihoods are those of the tally, and the voters are no evidence beside it."""


@dataclass(frozen=True)
class Belief:
    """Weights over the nodes, each backend's logit as a line in u, and the answers seen so far."""

    lines: Mapping[str, tuple[float, float]]
    """By backend: logit of the chance at u = 0, and its slope in u."""
    weights: Array = field(default_factory=lambda: PRIOR)
    evidence: tuple[Evidence, ...] = ()
    source: str = "probe"
    """Where the estimate came from: probe, heuristic, none."""
    tempering: float = 1.0
    """Exponent on the likelihoods, at most 1: answers to one prompt err together more than the model says."""

    @classmethod
    def prior(cls, features: Mapping[str, float], success: Mapping[str, Success], source: str = "probe", tempering: float = 1.0) -> Belief:
        """Before the first call. `features` are e_m(x) by backend; a backend without a fitted `Success` takes e_m(x) for its logit."""
        lines = {name: success.get(name, Success()).line(feature) for name, feature in features.items()}
        return cls(lines, source=source, tempering=tempering)

    def shifted(self, shifts: Mapping[str, float]) -> Belief:
        """The same with some backends' logits moved: what feedback has shown to be off (`difficulty/feedback.py`)."""
        if not shifts:
            return self
        moved = {name: (centre + shifts.get(name, 0.0), slope) for name, (centre, slope) in self.lines.items()}
        return replace(self, lines=moved).before.after(self.evidence)

    @cached_property
    def logits(self) -> Mapping[str, Array]:
        """By backend: logit of the chance at each node, shape [J]."""
        return {name: centre + slope * NODES for name, (centre, slope) in self.lines.items()}

    def p_correct(self, backend: str, channel: Channel = PLAIN) -> float:
        """Chance that the next draw of this backend is right."""
        return float(self.weights @ channel.p(self.logits[backend]))

    def after(self, answers: Iterable[Evidence]) -> Belief:
        """The belief after more answers were seen."""
        weights, seen = self.weights, tuple(answers)
        for answer in seen:
            right, wrong = self.joint(answer)
            weights = weights * (right + wrong) ** self.tempering
            weights = weights / weights.sum()
        return replace(self, weights=weights, evidence=self.evidence + seen)

    @property
    def before(self) -> Belief:
        """The belief as it was before the first answer."""
        return replace(self, weights=PRIOR, evidence=())

    def right_by_node(self, answer: Evidence) -> Array:
        """Chance at each node that an answer seen is right, shape [J]."""
        right, wrong = self.joint(answer)
        return right / (right + wrong)

    def joint(self, answer: Evidence) -> tuple[Array, Array]:
        """Chance at each node of this score and a right answer, and of this score and a wrong one, each of shape [J]."""
        logits = self.logits[answer.backend]
        p, ease = answer.channel.p(logits), sigmoid(logits)
        return p * _between(answer.if_right_hard, answer.if_right, ease), (1 - p) * _between(answer.if_wrong_hard, answer.if_wrong, ease)

    @cached_property
    def chances(self) -> tuple[float, ...]:
        """Chance that each answer seen is right, in the order of `evidence`."""
        return tuple(float(self.weights @ self.right_by_node(answer)) for answer in self.evidence)

    @property
    def best(self) -> float:
        """Chance that the best answer so far is right; 0 where there is none."""
        return max(self.chances, default=0.0)

    @cached_property
    def best_by_node(self) -> Array | None:
        """Chance at each node that the best answer so far is right, shape [J]; None where there is no answer."""
        if not self.evidence:
            return None
        return self.right_by_node(self.evidence[self.chances.index(self.best)])

    def as_json(self) -> dict[str, Any]:
        """For the decision log: `from_json` builds the same belief again."""
        return {
            "source": self.source,
            "tempering": self.tempering,
            "p_correct": {name: self.p_correct(name) for name in self.lines},
            "lines": {name: list(line) for name, line in self.lines.items()},
            "evidence": [_row(answer) for answer in self.evidence],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Belief:
        """The belief that `as_json` wrote."""
        lines = {name: (line[0], line[1]) for name, line in data["lines"].items()}
        seen = (_answer(*row) for row in data["evidence"])
        return cls(lines, source=data["source"], tempering=data["tempering"]).after(seen)


def _between(hard: float | None, easy: float, ease: Array) -> Array | float:
    return easy if hard is None else ease * easy + (1 - ease) * hard


def _answer(
    backend: str, shift: float, slope: float, right: float, wrong: float,
    right_hard: float | None = None, wrong_hard: float | None = None, *votes: int,
) -> Evidence:  # fmt: skip
    return Evidence(backend, Channel(shift, slope), right, wrong, right_hard, wrong_hard, Tally(*votes) if votes else None)


def _row(answer: Evidence) -> list[Any]:
    """An answer seen as plain data, the counts of a vote at its end; what is None to its end is left out."""
    row = [answer.backend, answer.channel.shift, answer.channel.slope, answer.if_right, answer.if_wrong]
    if answer.votes is not None:
        return [*row, answer.if_right_hard, answer.if_wrong_hard, answer.votes.first, answer.votes.second, answer.votes.n]
    return row if answer.if_right_hard is None and answer.if_wrong_hard is None else [*row, answer.if_right_hard, answer.if_wrong_hard]
