"""What is believed about one prompt: how likely each backend is to answer it right, and how likely each answer so far is right.

Backends share a latent difficulty u ~ N(0, 1), and each has one of its own, v_m ~ N(0, 1), for what is hard for it alone:

    p_m(x, u, v_m) = sigmoid(a_m + b_m * e_m(x) + t_m * u + s_m * v_m)

so "the small one failed" makes the large one less likely too, by what t_m and t_n share, and a large t_m or s_m says that wrong answers
repeat and sampling is futile. Both are held on Gauss-Hermite nodes: u on J nodes with weights [J]; and, as own parts are independent given
u, v_m on K nodes with weights given u [J, K], for each backend by itself. A backend's grid is J * K nodes, flattened; where s_m is 0, the J
shared ones. A scored answer moves the weights (`Belief.after`). Nothing here knows a price or decides anything: that is `policies/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difficulty.frozen import frozen
from difficulty.once import once
from difficulty.votes import Tally

Array = NDArray[np.float64]
Line = tuple[float, ...]
"""A logit as a line in u and v: (at 0, slope in u), and where a backend has a part of its own the slope in v."""

_hermite_x, _hermite_w = np.polynomial.hermite_e.hermegauss(21)
NODES: Array = _hermite_x
"""The latent difficulty at the quadrature nodes, shape [J]; positive is easier."""
PRIOR: Array = _hermite_w / _hermite_w.sum()
"""Weights of a standard normal at the nodes, shape [J]."""
_hermite_x, _hermite_w = np.polynomial.hermite_e.hermegauss(7)
OWN_NODES: Array = _hermite_x
"""A backend's own difficulty at its quadrature nodes, shape [K]."""
OWN_PRIOR: Array = np.tile(_hermite_w / _hermite_w.sum(), (len(NODES), 1))
"""Their weights given the shared one, shape [J, K]."""
NO_OWN: Array = np.ones((len(NODES), 1))
"""The same where a backend has no part of its own."""
_PLAIN_NODES = tuple(zip(NODES.tolist(), PRIOR.tolist(), strict=True))
"""The shared nodes and their prior as plain numbers: a sum over 21 of them is made sooner than numpy is called."""
EASE: Array = 1.0 / (1.0 + np.exp(-3.4 * NODES))
"""How easy a prompt is for all backends, from 0 to 1, at the shared nodes, [J]: nearly the normal distribution function at 2u."""
TINY = 1e-300
"""For logarithms and quotients of what may be 0."""

DEFAULT_SPREAD = 1.0
"""t of a backend that nothing was fitted for: some prompts are hard for it and stay hard."""


def sigmoid(x: Array | float) -> Array:
    """The logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.minimum(np.maximum(x, -40.0), 40.0))), dtype=np.float64)


def logit(p: Array | float) -> Array:
    """Inverse of `sigmoid`; p is kept away from 0 and 1."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Success:
    """A backend's chance of answering right: sigmoid(intercept + slope * e + spread * u + own * v)."""

    intercept: float = 0.0
    slope: float = 1.0
    spread: float = DEFAULT_SPREAD
    own: float = 0.0

    def line(self, feature: float) -> Line:
        """The logit as a line."""
        centre = self.intercept + self.slope * feature
        return (centre, self.spread, self.own) if self.own else (centre, self.spread)

    def logits(self, features: Array | float) -> Array:
        """Logits of the chance at each node of the backend's grid, [..., N] of features [...]."""
        return np.add.outer(self.intercept + self.slope * np.asarray(features), on_grid(self.spread, self.own))


@dataclass(frozen=True, slots=True)
class Channel:
    """How a plan's draw differs from a plain sample: its logit is shift + slope * (the plain sample's)."""

    shift: float = 0.0
    slope: float = 1.0

    def logits(self, plain: Array) -> Array:
        """Of the chance at each node that such a draw is right, from those of a plain sample, shape [J]."""
        return self.shift + self.slope * plain

    def p(self, logits: Array) -> Array:
        """Chance at each node that such a draw is right, shape [J]."""
        return sigmoid(self.logits(logits))


PLAIN = Channel()
"""An independent sample."""


@dataclass(frozen=True)
class Scores:
    """A verifier's scores in K bins: how often right and wrong answers fall in each. Bin k holds edges[k-1] <= score < edges[k].

    A verifier knows a right answer to a hard prompt less surely than one to an easy prompt, so there are two tables: one for prompts that
    the backend always answers right, one for those that it never does. At a chance p between, scores fall as p of the first and 1 - p of
    the second; or, if `shared`, as the shared difficulty says (`EASE`) whoever answers. Many a backend is right on half of all prompts with
    a chance near 1, and its confidence still tells which of them others get wrong. An exact checker is the same with two bins and no error
    (`Scores.exact`).
    """

    edges: tuple[float, ...]
    right: tuple[float, ...]
    wrong: tuple[float, ...]
    base_rate: float = 0.5
    """Share of right answers among those it was fitted on."""
    right_hard: tuple[float, ...] = ()
    """`right` at a chance of 0; empty: the same as at 1."""
    wrong_hard: tuple[float, ...] = ()
    shared: bool = False

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

    def likelihoods(self, ease: Array) -> tuple[Array, Array]:
        """(P(bin | right), P(bin | wrong)) on prompts that are so easy (`Belief.ease`), shape [J]; each of shape [J, K]."""
        right, wrong = ((hard[:, None] + (easy - hard)[:, None] * ease).T for easy, hard in self._tables)
        return right, wrong

    @once
    def _tables(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        right, wrong = np.asarray(self.right), np.asarray(self.wrong)
        return (right, np.asarray(self.right_hard or right)), (wrong, np.asarray(self.wrong_hard or wrong))

    def seen(self, backend: str, score: float, channel: Channel = PLAIN) -> Evidence:
        """What an answer of that raw score says."""
        k, (right, wrong) = self.bin(score), self._tables
        easy, hard = (float(right[0][k]), float(wrong[0][k])), (float(right[1][k]), float(wrong[1][k]))
        return Evidence(backend, channel, *easy, *hard, shared=self.shared)


@frozen
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
    shared: bool = False
    """Whether hard prompts are those that are hard for all backends."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing scored the answer, so that it says nothing of the prompt."""
        return self.if_right == self.if_wrong == 1.0 and self.if_right_hard is None and self.if_wrong_hard is None


@frozen(slots=False)
class Belief:
    """Weights over the nodes, each backend's logit as a line, and the answers seen so far."""

    lines: Mapping[str, Line]
    """By backend."""
    weights: Array = field(default_factory=lambda: PRIOR)
    """Over the shared nodes, [J]."""
    evidence: tuple[Evidence, ...] = ()
    source: str = "probe"
    """Where the estimate came from: probe, heuristic, none."""
    tempering: float = 1.0
    """Exponent on the likelihoods, at most 1: answers to one prompt err together more than the model says."""
    own: Mapping[str, Array] = field(default_factory=dict)
    """By backend that has a part of its own and has answered: the weights of that part given the shared one, [J, K]."""

    @classmethod
    def prior(cls, features: Mapping[str, float], success: Mapping[str, Success], source: str = "probe", tempering: float = 1.0) -> Belief:
        """Before the first call. `features` are e_m(x) by backend; a backend without a fitted `Success` takes e_m(x) for its logit."""
        lines = {name: success.get(name, Success()).line(feature) for name, feature in features.items()}
        return cls(lines, source=source, tempering=tempering)

    def shifted(self, shifts: Mapping[str, float]) -> Belief:
        """The same with some backends' logits moved: what feedback has shown to be off (`difficulty/feedback.py`)."""
        if not shifts:
            return self
        moved = {name: (centre + shifts.get(name, 0.0), *slopes) for name, (centre, *slopes) in self.lines.items()}
        return replace(self, lines=moved).before.after(self.evidence)

    @once
    def logits(self) -> Mapping[str, Array]:
        """By backend: logit of the chance at each node of its grid."""
        return {name: centre + on_grid(*slopes) for name, (centre, *slopes) in self.lines.items()}

    def by_node(self, backend: str, channel: Channel = PLAIN) -> Array:
        """Chance at each node of its grid that a draw of this backend is right; the same array each time."""
        key = backend, channel.shift, channel.slope
        if key not in self._by_node:
            self._by_node[key] = channel.p(self.logits[backend])
        return self._by_node[key]

    @once
    def _by_node(self) -> dict[tuple[str, float, float], Array]:
        return {}

    def ease(self, backend: str, shared: bool) -> Array:
        """How easy the prompt is at each node of a backend's grid: its chance there, or what all share."""
        by_node = self.by_node(backend)
        return np.repeat(EASE, len(by_node) // len(EASE)) if shared else by_node

    def p_correct(self, backend: str, channel: Channel = PLAIN) -> float:
        """Chance that the next draw of this backend is right."""
        key = backend, channel.shift, channel.slope
        if key not in self._p_correct:
            self._p_correct[key] = self._mean(backend, channel)
        return self._p_correct[key]

    @once
    def _p_correct(self) -> dict[tuple[str, float, float], float]:
        return {}

    def _mean(self, backend: str, channel: Channel) -> float:
        centre, spread, *own = self.lines[backend]
        if own or self.weights is not PRIOR or channel != PLAIN or abs(centre) + 8 * abs(spread) > 40:
            return float(self.weights_of(backend) @ self.by_node(backend, channel))
        return float(sum([weight / (1.0 + exp(-centre - spread * node)) for node, weight in _PLAIN_NODES]))

    def grid(self, backend: str) -> str:
        """Which grid a backend is on: its own, or the shared one (""), which stands where a backend is asked for as well."""
        return backend if len(self.lines.get(backend, ())) > 2 else ""

    def weights_of(self, backend: str) -> Array:
        """Weights over the nodes of a backend's grid, [N]."""
        return (self.weights[:, None] * self._given(backend)).ravel() if self.grid(backend) else self.weights

    def shared(self, backend: str, values: Array) -> Array:
        """The mean at each shared node of what is known at each node of a backend's grid, [..., N] as [..., J]."""
        given = self._given(backend)
        return (values.reshape(*values.shape[:-1], *given.shape) * given).sum(axis=-1) if self.grid(backend) else values

    def _given(self, backend: str) -> Array:
        """Weights of a backend's own part given the shared one, [J, K]."""
        return self.own.get(backend, OWN_PRIOR) if self.grid(backend) else NO_OWN

    def after(self, answers: Iterable[Evidence]) -> Belief:
        """The belief after more answers were seen."""
        seen = tuple(answers)
        if all(answer.is_silent for answer in seen):
            return self._with(seen)
        weights, own = self.weights, dict(self.own)
        for answer in seen:
            right, wrong = self.joint(answer)
            given = own.get(answer.backend, self._given(answer.backend))
            joint = weights[:, None] * given * ((right + wrong) ** self.tempering).reshape(given.shape)
            joint = joint / joint.sum()
            weights = joint.sum(axis=1)
            if self.grid(answer.backend):
                own[answer.backend] = joint / np.maximum(weights, TINY)[:, None]
        return replace(self, weights=weights, evidence=self.evidence + seen, own=own)

    def _with(self, silent: tuple[Evidence, ...]) -> Belief:
        """The same with answers that say nothing; what is known of the backends is so still."""
        found = replace(self, evidence=self.evidence + silent)
        known = self.__dict__
        found.__dict__.update({name: known[name] for name in ("logits", "_by_node", "_p_correct", "_unseen") if name in known})
        return found

    @property
    def before(self) -> Belief:
        """The belief as it was before the first answer."""
        return replace(self, weights=PRIOR, evidence=(), own={})

    def right_by_node(self, answer: Evidence) -> Array:
        """Chance at each node of its backend's grid that an answer seen is right."""
        right, wrong = self.joint(answer)
        return right / (right + wrong)

    def joint(self, answer: Evidence) -> tuple[Array, Array]:
        """Chance at each node of this score and a right answer, and of this score and a wrong one."""
        p, ease = self.by_node(answer.backend, answer.channel), self.ease(answer.backend, answer.shared)
        return p * _between(answer.if_right_hard, answer.if_right, ease), (1 - p) * _between(answer.if_wrong_hard, answer.if_wrong, ease)

    @once
    def chances(self) -> tuple[float, ...]:
        """Chance that each answer seen is right, in the order of `evidence`."""
        return tuple(self.chance(answer) for answer in self.evidence)

    def chance(self, answer: Evidence) -> float:
        """Chance that an answer seen is right."""
        if answer.is_silent:
            return self.p_correct(answer.backend, answer.channel)
        return float(self.weights_of(answer.backend) @ self.right_by_node(answer))

    @once
    def best(self) -> float:
        """Chance that the best answer so far is right; 0 where there is none."""
        return max(self.chances, default=0.0)

    @once
    def best_answer(self) -> Evidence | None:
        """The answer that is likeliest right; None where there is no answer."""
        return self.evidence[self.chances.index(self.best)] if self.evidence else None

    def best_on(self, backend: str) -> Array | None:
        """Chance at each node of a backend's grid that the best answer so far is right; None where there is no answer."""
        if self.best_answer is None:
            return None
        origin, right = self.best_answer.backend, self._best_right
        if self.grid(origin) == self.grid(backend):
            return right
        return np.asarray(self.carried(self.weights_of(origin)[None], right[None], origin, backend)[1][0])

    @once
    def _best_right(self) -> Array:
        assert self.best_answer is not None, "asked for where there is an answer"
        return self.right_by_node(self.best_answer)

    def carried(self, weights: Array, right: Array, origin: str, backend: str) -> tuple[Array, Array]:
        """F beliefs on the grid of `origin`, and a chance at each of its nodes, both [F, N], as they are on the grid of another backend:
        what is origin's own is averaged out, what is the other's is as it was."""
        if self.grid(origin) == self.grid(backend):
            return weights, right
        joint, given = weights.reshape(len(weights), len(NODES), -1), self._given(backend)
        shared = joint.sum(axis=2)
        held = (joint * right.reshape(joint.shape)).sum(axis=2) / np.maximum(shared, TINY)
        return (shared[:, :, None] * given).reshape(len(weights), -1), np.repeat(held, given.shape[1], axis=1)

    def as_json(self) -> dict[str, Any]:
        """For the decision log: `from_json` builds the same belief again."""
        return {**self._unseen, "evidence": [_row(answer) for answer in self.evidence]}

    @once
    def _unseen(self) -> dict[str, Any]:
        """What of `as_json` an answer that says nothing leaves as it is."""
        return {
            "source": self.source,
            "tempering": self.tempering,
            "p_correct": {name: self.p_correct(name) for name in self.lines},
            "lines": {name: list(line) for name, line in self.lines.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Belief:
        """The belief that `as_json` wrote."""
        lines = {name: tuple(line) for name, line in data["lines"].items()}
        seen = (_answer(*row) for row in data["evidence"])
        return cls(lines, source=data["source"], tempering=data["tempering"]).after(seen)


def on_grid(spread: float, own: float = 0.0) -> Array:
    """What u and v add to a logit at each node of a backend's grid."""
    return np.add.outer(spread * NODES, own * OWN_NODES).ravel() if own else spread * NODES


def prior_of(own: float) -> Array:
    """Weights of such a grid before the first answer."""
    return (PRIOR[:, None] * OWN_PRIOR).ravel() if own else PRIOR


def _between(hard: float | None, easy: float, ease: Array) -> Array | float:
    return easy if hard is None else ease * easy + (1 - ease) * hard


def _answer(
    backend: str, shift: float, slope: float, right: float, wrong: float,
    right_hard: float | None = None, wrong_hard: float | None = None, *more: int,
) -> Evidence:  # fmt: skip
    votes = Tally(*more) if len(more) > 1 else None
    return Evidence(backend, Channel(shift, slope), right, wrong, right_hard, wrong_hard, votes, len(more) == 1)


def _row(answer: Evidence) -> list[Any]:
    """An answer seen as plain data, the counts of a vote at its end, or a 1 if hard is what is hard for all; what is None to its end is
    left out."""
    row = [answer.backend, answer.channel.shift, answer.channel.slope, answer.if_right, answer.if_wrong]
    if answer.votes is not None:
        return [*row, answer.if_right_hard, answer.if_wrong_hard, answer.votes.first, answer.votes.second, answer.votes.n]
    if answer.if_right_hard is None and answer.if_wrong_hard is None:
        return row
    return [*row, answer.if_right_hard, answer.if_wrong_hard, *[1] * answer.shared]
