"""A candidate: one finished answer with what is known about it. The pool of a run holds them in the order they came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from adapters.answers import normalise
from adapters.types import Choice
from difficulty.frozen import frozen


@frozen
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
    cluster: str = ""
    """How it behaves, where the verifier can tell: those of one cluster vote as one."""
    fault: str = ""
    """Why it is not what was asked for: it has not the form (a JSON Schema), or its backend withheld it; empty where it is."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.choice.text

    @property
    def lacks(self) -> str:
        """What a client misses where nothing better came: the `form`, or what was withheld; empty of an answer that may be one."""
        return self.choice.withheld or ("form" if self.fault else "")


def best(pool: Sequence[Candidate]) -> Candidate | None:
    """The candidate of the highest rank; the first wins a tie; None of an empty pool."""
    return max(pool, key=_rank, default=None)


def distinct(first: Candidate, pool: Sequence[Candidate], pattern: str | None = None) -> tuple[Candidate, ...]:
    """One candidate for each different answer of the pool, `first` before all others, these by rank and then by how many say the same.

    What counts as the same answer is what `adapters.answers.normalise` finds, by the pattern if there is one; but a last number is not
    taken for the answer, as it is in a vote: two ways to the same number are two choices to a person.
    """
    said = {id(c): normalise(c.text, pattern, guess=False) for c in (first, *pool)}
    votes = Counter(said[id(c)] for c in pool)
    whole = [c for c in pool if c.choice.finish_reason != "cancelled"]
    ordered = (first, *sorted(whole, key=lambda c: (_rank(c), votes[said[id(c)]]), reverse=True))
    found: dict[str, Candidate] = {}
    for c in ordered:
        found.setdefault(said[id(c)], c)
    return tuple(found.values())


def _rank(candidate: Candidate) -> tuple[bool, bool, bool, bool, float]:
    """Of the form asked for, not withheld, whole, scored, by score: in this order."""
    finished = candidate.choice.finish_reason != "cancelled"
    return not candidate.fault, not candidate.choice.withheld, finished, candidate.score is not None, candidate.score or 0.0
