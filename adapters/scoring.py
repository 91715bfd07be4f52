"""What verifiers share: how failures of single answers are told, and what a verifier without a model needs not say.

A rule for all of them: an answer that cannot be scored has no score and says why; only when no answer of a set could be scored is it
an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from adapters.errors import VerifierError
from adapters.types import Price, Verdict


def unless_all_failed(results: Sequence[Verdict | VerifierError]) -> list[Verdict]:
    """Failures as verdicts without a score, so that one bad answer does not cost the others theirs; raises if there is nothing else."""
    failures = [result for result in results if isinstance(result, VerifierError)]
    if failures and len(failures) == len(results):
        raise failures[0]
    return [Verdict(None, reason=str(result)) if isinstance(result, VerifierError) else result for result in results]


class FreeVerifier:
    """Costs nothing, holds nothing, and needs whole answers."""

    price = Price()
    scores_prefixes = False

    def __init__(self, name: str) -> None:
        self.name = name

    async def aclose(self) -> None:
        """Nothing to release."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


PatternOption = Annotated[str, AfterValidator(_compiles)]
