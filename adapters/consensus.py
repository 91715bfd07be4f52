"""Verifiers that need nothing but the samples: how many agree, and how sure the model was of its words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from pydantic import Field

from adapters.answers import is_finished, normalise
from adapters.options import Options
from adapters.scoring import FreeVerifier, PatternOption
from adapters.types import Call, ChatRequest, Choice, Verdict

IMPOSSIBLE = -1e6
"""Stands for a log-probability of minus infinity, which sums do not survive."""


class VotesOptions(Options):
    """Agreement among the answers of a set."""

    kind: Literal["votes"] = "votes"
    pattern: PatternOption | None = Field(None, description="regular expression whose last match (group 1) is the answer that is voted on")


class ConfidenceOptions(Options):
    """The model's own certainty."""

    kind: Literal["confidence"] = "confidence"
    window: int | None = Field(None, ge=1, description="tokens; set: the least certain stretch of so many decides, unset: the whole answer")


class VotesVerifier(FreeVerifier):
    """The share of the set's finished answers that say the same: self-consistency, Wang et al. 2022. Of one answer it says nothing."""

    def __init__(self, name: str, options: VotesOptions) -> None:
        super().__init__(name)
        self._pattern = options.pattern

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer; an unfinished one has no vote and no score."""
        said = [normalise(choice.text, self._pattern) if is_finished(choice) else None for choice in choices]
        votes = Counter(answer for answer in said if answer is not None)
        return [self._verdict(answer, votes) for answer in said]

    @staticmethod
    def _verdict(answer: str | None, votes: Counter[str]) -> Verdict:
        if answer is None:
            return Verdict(None, reason="unfinished")
        return Verdict(votes[answer] / votes.total(), reason=f"{votes[answer]} of {votes.total()} agree")


class ConfidenceVerifier(FreeVerifier):
    """exp of the mean log-probability of the answer's tokens: of all, or of the least certain window (Fu et al. 2025, "Deep think with
    confidence")."""

    def __init__(self, name: str, options: ConfidenceOptions) -> None:
        super().__init__(name)
        self._window = options.window

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer; none where the backend gave no log-probabilities."""
        return [self._verdict(choice.logprobs) for choice in choices]

    def _verdict(self, logprobs: Sequence[float] | None) -> Verdict:
        if not logprobs:
            return Verdict(None, reason="no log-probabilities; ask the backend for them with logprobs: true")
        if any(math.isnan(value) for value in logprobs):
            return Verdict(None, reason="a log-probability is not a number")
        return Verdict(min(1.0, math.exp(_least_mean(logprobs, self._window or len(logprobs)))))


def _least_mean(values: Sequence[float], window: int) -> float:
    """The lowest mean over any `window` values in a row (over all, if there are fewer)."""
    window = min(window, len(values))
    sums = [0.0, *accumulate(max(value, IMPOSSIBLE) for value in values)]
    return min(end - start for start, end in zip(sums, sums[window:], strict=False)) / window
