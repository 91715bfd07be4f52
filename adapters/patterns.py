"""Verifiers that look at the answer's text: a pattern that it must have, a number that it must come to."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from adapters.answers import last_number
from adapters.options import Options
from adapters.scoring import FreeVerifier, PatternOption
from adapters.types import Call, ChatRequest, Choice, Verdict


class RegexOptions(Options):
    """A pattern that a good answer has."""

    kind: Literal["regex"] = "regex"
    pattern: PatternOption = Field(description="regular expression, found anywhere in the answer; (?i) at its beginning ignores case")


class RegexVerifier(FreeVerifier):
    """1 where the pattern is found, else 0."""

    def __init__(self, name: str, options: RegexOptions) -> None:
        super().__init__(name)
        self._pattern = re.compile(options.pattern)

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer."""
        found = [self._pattern.search(choice.text) is not None for choice in choices]
        return [Verdict(1.0) if there else Verdict(0.0, reason="the pattern is not in it") for there in found]


class NumericOptions(Options):
    """An answer that comes to a number."""

    kind: Literal["numeric"] = "numeric"
    min: float = Field(-math.inf, description="the smallest answer that makes sense")
    max: float = Field(math.inf, description="the largest answer that makes sense")
    expected: PatternOption | None = Field(None, description="pattern on the prompt; its first group is the number that has to come out")
    tolerance: float = Field(0, ge=0, description="how far from the expected number is still right, absolute")

    @model_validator(mode="after")
    def _makes_sense(self) -> NumericOptions:
        if self.min > self.max:
            raise ValueError(f"min: {self.min:g} is above max: {self.max:g}")
        if self.tolerance and self.expected is None:
            raise ValueError("tolerance: needs expected")
        if self.expected is not None and re.compile(self.expected).groups < 1:
            raise ValueError("expected: needs a group around the number, as in 'make (\\d+)'")
        return self


class NumericVerifier(FreeVerifier):
    """1 for a final number within the bounds (and as expected, where the prompt says what to expect), else 0 and what is wrong with it."""

    def __init__(self, name: str, options: NumericOptions) -> None:
        super().__init__(name)
        self._options = options

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer; no score where the prompt does not say what to expect and it was asked to."""
        expected = None
        if self._options.expected is not None:
            match = re.search(self._options.expected, request.prompt)
            expected = last_number(match[1] or "") if match else None
            if expected is None:
                return [Verdict(None, reason="the prompt does not say which number to expect") for _ in choices]
        faults = [self._fault(last_number(choice.text), expected) for choice in choices]
        return [Verdict(0.0 if fault else 1.0, reason=fault) for fault in faults]

    def _fault(self, number: float | None, expected: float | None) -> str:
        if number is None:
            return "no number in it"
        if not self._options.min <= number <= self._options.max:
            return f"{number:g} is not between {self._options.min:g} and {self._options.max:g}"
        if expected is not None and abs(number - expected) > self._options.tolerance:
            return f"{number:g} instead of {expected:g}"
        return ""
