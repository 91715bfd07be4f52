"""A candidate: one finished answer with what is known about it. The pool of a run holds them in the order they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.types import Choice


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished answer of a run."""

    choice: Choice
    backend: str
    plan: str
    """Key of the plan that produced it."""
    score: float | None = None
    """Calibrated chance of being right, as the verifier sees it on its own; None where nothing scored it."""
    raw_score: float | None = None
    verifier: str | None = None
    steps: tuple[float, ...] = ()
    """A process reward model's score after each step."""
    votes: float | None = None
    """Share of the (weighted) vote, where one was held."""
    reason: str = ""
    """What the verifier said."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.choice.text


def best(pool: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the highest score; an unscored one loses to a scored one, the first wins a tie; None of an empty pool."""
    return max(pool, key=lambda c: (c.choice.finish_reason != "cancelled", c.score is not None, c.score or 0.0), default=None)
