"""A probe for backends that it was never fitted for: it knows a weak and a strong tier, and each backend stands somewhere between them.

A backend of strength s has the logit (1 - s) * weak + s * strong: 0 is the weak tier, 1 the strong one, outside of them it goes on in a
straight line. Where nobody says, strength follows the order of prices. `difficulty/general` is such a probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import pi, sqrt

from difficulty.belief import DEFAULT_SPREAD, logit, sigmoid
from difficulty.probe import Estimate, Probe

TIERS = ("weak", "strong")
"""The backends of a probe of tiers: labels of each come from models of about that class."""

_WIDER = sqrt(1 + pi / 8 * DEFAULT_SPREAD**2)
"""A belief spreads the logit by what the prompt does not show; so much wider, its mean is the calibrated chance again (MacKay 1992)."""


def by_rank(backends: Sequence[str]) -> dict[str, float]:
    """Strengths from 0 to 1 in equal steps; the only one is in the middle."""
    return {name: rank / (len(backends) - 1) if len(backends) > 1 else 0.5 for rank, name in enumerate(backends)}


class TierProbe:
    """Answers for `strengths` what `tiers` says of its two."""

    def __init__(self, tiers: Probe, strengths: Mapping[str, float]) -> None:
        self._tiers, self._strengths = tiers, dict(strengths)

    @property
    def backends(self) -> tuple[str, ...]:
        """Those whose strength is given."""
        return tuple(self._strengths)

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        """As the probe of tiers, and fails as it does."""
        return [self._placed(estimate) for estimate in self._tiers.estimate(texts)]

    def _placed(self, estimate: Estimate) -> Estimate:
        weak, strong = (float(logit(estimate.p_correct[tier])) for tier in TIERS)
        logits = {name: weak + strength * (strong - weak) for name, strength in self._strengths.items()}
        chances = {name: float(sigmoid(value)) for name, value in logits.items()}
        return replace(estimate, features={name: _WIDER * value for name, value in logits.items()}, p_correct=chances)
