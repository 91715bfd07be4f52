"""A probe of tiers: what it says of backends that it has never seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.belief import Belief
from difficulty.probe import Estimate
from difficulty.tiers import TierProbe, by_rank

CHANCES = st.floats(0.02, 0.98)


class Tiers:
    """Says the same of every prompt."""

    backends = ("weak", "strong")

    def __init__(self, weak: float, strong: float) -> None:
        self.chances = {"weak": weak, "strong": strong}

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        return [Estimate({"weak": -9.0, "strong": 9.0}, self.chances, "probe", len(text), tokens_read=3) for text in texts]


def placed(weak: float, strong: float, **strengths: float) -> Estimate:
    return TierProbe(Tiers(weak, strong), strengths).estimate(["a prompt"])[0]


@given(CHANCES, CHANCES)
def test_strength_0_is_the_weak_tier_and_1_the_strong_one(weak: float, strong: float) -> None:
    estimate = placed(weak, strong, mini=0.0, maxi=1.0)
    assert estimate.p_correct == pytest.approx({"mini": weak, "maxi": strong})
    assert (estimate.input_tokens, estimate.tokens_read) == (8, 3)


@given(CHANCES, CHANCES)
def test_the_belief_that_starts_from_it_has_the_calibrated_chance(weak: float, strong: float) -> None:
    """What `explain` shows is what the probe says, though the belief spreads it over the nodes."""
    estimate = placed(weak, strong, mini=0.0, maxi=1.0)
    belief = Belief.prior(estimate.features, {})
    assert belief.p_correct("mini") == pytest.approx(weak, abs=0.012)
    assert belief.p_correct("maxi") == pytest.approx(strong, abs=0.012)


def test_strengths_in_between_and_beyond_go_on_in_a_straight_line_of_the_logit() -> None:
    chances = placed(0.5, 0.8, local=-0.5, middle=0.5, best=1.5).p_correct
    assert chances["local"] < 0.5 < chances["middle"] < 0.8 < chances["best"] < 1


def test_without_a_word_strength_follows_the_order_given() -> None:
    assert by_rank(["a", "b", "c"]) == {"a": 0.0, "b": 0.5, "c": 1.0}
    assert by_rank(["only"]) == {"only": 0.5}
    assert by_rank([]) == {}
