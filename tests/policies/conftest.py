"""A small market for decisions: two backends, a good verifier, fitted numbers of a plausible size."""

from __future__ import annotations

import numpy as np
import pytest

from difficulty.belief import Belief, Channel, Scores, Success
from difficulty.curves import Curves, Latency, PlanFit, Tokens
from policies.facts import Facts, Market


def graded(bins: int = 12, sharpness: float = 0.5) -> Scores:
    """A verifier whose high scores are right more often."""
    k = np.arange(bins)
    right, wrong = np.exp(sharpness * k), np.exp(-sharpness * k)
    return Scores(tuple(np.arange(1, bins) / bins), tuple(right / right.sum()), tuple(wrong / wrong.sum()))


CURVES = Curves(
    success={"small": Success(0.0, 1.0, 1.2), "large": Success(1.0, 1.0, 1.0)},
    tokens={"small": Tokens(3.6, 0.0, 0.2), "large": Tokens(3.6, 0.0, 0.2)},
    latency={"small": Latency(0.05, 0.002, 0.3), "large": Latency(0.1, 0.005, 0.3), "reward": Latency(0.01, 0.0, 0.3)},
    scores={"reward": graded(), "exact": Scores.exact()},
    plans={
        "revise(small, verifier=reward)": PlanFit(Channel(0.3, 1.0)),
        "tree_search(small, verifier=reward)": PlanFit(Channel(1.5, 0.8)),
    },
)
PRICES = {"small": (0.1, 0.1), "large": (1.4, 1.4), "reward": (0.1, 0.1), "exact": (0.0, 0.0)}


@pytest.fixture
def market() -> Market:
    return Market(PRICES, frozenset({"small", "large"}), CURVES)


@pytest.fixture
def facts() -> Facts:
    return Facts(input_tokens=14)


def belief(ease: float) -> Belief:
    """Before the first call, for a prompt of that ease (a logit)."""
    return Belief.prior({"small": ease, "large": ease}, CURVES.success)
