"""The estimate of one prompt, and the two kinds of probe that make it: on hidden states here, by rules of thumb in `heuristic.py`.

Fitting uses scikit-learn; what it finds (scaler, PCA, logistic regression) is linear, so serving is one matrix-vector product
in numpy. A probe gives numbers and knows no threshold: what follows from them is the policy's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from difficulty.belief import sigmoid
from difficulty.encoders import Encoder, Encoding, View
from difficulty.errors import ArtifactError
from difficulty.frozen import frozen

Array = NDArray[np.float64]
Source = Literal["probe", "heuristic", "fallback"]

SCALARS = 2
"""Columns beside the hidden state: log(1 + tokens), and the prompt's negative log-likelihood a token."""


@frozen
class Estimate:
    """How hard one prompt looks, for each backend."""

    features: Mapping[str, float]
    """e_m(x) by backend: the decision function (a logit, higher is easier) that a belief starts from."""
    p_correct: Mapping[str, float]
    """Calibrated P(one answer of this backend is right)."""
    source: Source
    input_tokens: int
    """Length of the text classified."""
    tokens_read: int = 0
    """Tokens that an encoder had to read for this; 0 from memory or by rule of thumb. The probe is charged by them."""


class Probe(Protocol):
    """Texts in, one estimate for each out, in order. Blocks; `service.ProbeService` keeps it off the event loop."""

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that it has an opinion on."""

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        """Raises a DifficultyError, or whatever the model code raises."""


def design(encoding: Encoding, view: View) -> Array:
    """What the linear model sees, shape [N, D + 2]: hidden state, log(1 + tokens), negative log-likelihood a token."""
    return np.column_stack([encoding.states[view], np.log1p(encoding.tokens), encoding.nll]).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """All that was learned. M backends, a view of width D."""

    view: View
    backends: tuple[str, ...]
    weights: Array
    """Shape [M, D + 2], in the columns of `design`."""
    bias: Array
    """Shape [M]."""
    slope: Array
    """Shape [M]; with `shift`, Platt's calibration of the decision function (never negative)."""
    shift: Array
    """Shape [M]."""

    def decision(self, x: Array) -> Array:
        """e_m(x) of rows of `design`, shape [N, M]."""
        return x @ self.weights.T + self.bias

    def p_correct(self, decision: Array) -> Array:
        """Calibrated probabilities, shape [N, M]."""
        return sigmoid(decision * self.slope + self.shift)


class EncoderProbe:
    """A linear probe on an encoder's hidden states."""

    def __init__(self, encoder: Encoder, head: LinearProbe) -> None:
        self.encoder, self.head = encoder, head

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that it was fitted for."""
        return self.head.backends

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        """One pass of the encoder over all texts, and one product."""
        encoding = self.encoder.encode(texts, [self.head.view])
        x = design(encoding, self.head.view)
        if x.shape[1] != self.head.weights.shape[1]:
            found, wanted = x.shape[1] - SCALARS, self.head.weights.shape[1] - SCALARS
            raise ArtifactError(f"encoder '{self.encoder.name}' gives {found} numbers a prompt, the probe was fitted on {wanted}; refit it")
        decision = self.head.decision(x)
        chances = self.head.p_correct(decision)
        return [
            Estimate(self._by_backend(e), self._by_backend(p), "probe", int(tokens), int(read))
            for e, p, tokens, read in zip(decision, chances, encoding.tokens, encoding.tokens_read, strict=True)
        ]

    def _by_backend(self, values: Array) -> dict[str, float]:
        return dict(zip(self.backends, map(float, values), strict=True))
