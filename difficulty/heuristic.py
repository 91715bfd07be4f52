"""The probe that needs no model: rules of thumb on the text, and an honest prior for each backend.

Used where no artifact is configured, and as the fallback when the probe is down and the policy says so. It orders prompts
by how much they ask for; it has never seen an answer, so its probabilities stay near the prior.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import exp, tanh

from difficulty.belief import logit
from difficulty.conversation import CHARACTERS_PER_TOKEN
from difficulty.probe import Estimate, Source


def _words(*words: str) -> re.Pattern[str]:
    """Each of these whole words, in lower case.

    As `\\b(?:one|other)\\b` finds them, ignoring case; but so the search skips all characters that none of them begins with: a quarter
    of the time, and of a prompt of 2,000 characters the difference was half a millisecond.
    """
    return re.compile("|".join(rf"{word}(?<=\b{word})\b" for word in words))


_ASKED = ("why", "how", "prove", "derive", "explain", "compare", "design", "optimi[sz]e", "debug", "refactor", "plan")
_BOUND = ("must", "exactly", "without", "only", "each", "every", "at least", "at most", "no more than", "unless", "except", "not")
_SIGNS: tuple[tuple[re.Pattern[str], bool, float, float], ...] = (
    # what to count, whether in lower case, how many are about "much", what it then adds
    (re.compile(r"\d+(?:\.\d+)?"), False, 6, 1.0),
    (re.compile(r"[+\-*/^=<>%]|\\[a-z]+"), False, 8, 0.7),
    (re.compile(r"```"), False, 2, 0.7),
    (_words(*_ASKED), True, 2, 0.8),
    (_words(*_BOUND), True, 4, 1.0),
    (re.compile(r"^[ \t]*(?:[-*]|\d+[.)]) ", re.M), False, 4, 0.5),
)
_LENGTH_MUCH, _LENGTH_ADDS = 2000, 0.8
_TYPICAL = 1.0
"""Hardness of an ordinary prompt (a sentence or two): there the prior holds."""
_PRIOR_CHEAPEST, _PRIOR_DEAREST = 0.5, 0.75
"""P(right) assumed when only the order of prices is known: about what the published routing sets show for a weak and a strong model."""


def hardness(text: str) -> float:
    """0 for nothing, about 1 for an ordinary prompt, at most 5: each sign adds, more of it adds more, ever more slowly."""
    lowered = text.lower()
    signs = sum([adds * tanh(len(of.findall(lowered if lower else text)) / much) for of, lower, much, adds in _SIGNS])
    return signs + _LENGTH_ADDS * tanh(len(text) / _LENGTH_MUCH)


class HeuristicProbe:
    """`backends` from the cheapest to the dearest; `priors` are P(right) where something is known."""

    def __init__(self, backends: Sequence[str], priors: Mapping[str, float] | None = None, source: Source = "heuristic") -> None:
        self.backends = tuple(backends)
        self._priors = _by_rank(self.backends) | dict(priors or {})
        self._source = source

    @cached_property
    def _logits(self) -> Mapping[str, float]:
        return {name: float(logit(self._priors[name])) for name in self.backends}

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        """Immediate, and never fails."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Estimate:
        harder = hardness(text) - _TYPICAL
        features = {name: prior - harder for name, prior in self._logits.items()}
        chances = {name: 1 / (1 + exp(-e)) for name, e in features.items()}
        return Estimate(features, chances, self._source, input_tokens=-(-len(text) // CHARACTERS_PER_TOKEN))


def _by_rank(backends: Sequence[str]) -> dict[str, float]:
    steps = max(len(backends) - 1, 1)
    return {name: _PRIOR_CHEAPEST + (_PRIOR_DEAREST - _PRIOR_CHEAPEST) * rank / steps for rank, name in enumerate(backends)}
