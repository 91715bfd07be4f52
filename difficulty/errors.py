"""What can go wrong while a prompt's difficulty is estimated or learned.

DifficultyError
├── EncoderError       no such model, or it cannot be read
├── ArtifactError      the fitted probe on disk is missing, damaged, or belongs to another encoder
├── FitError           these labels cannot be learned from
└── ProbeUnavailable   no estimate now: overloaded, too slow, failing; the policy's fallback takes over

(`curves.CurvesError` is the same as ArtifactError for the file of curves.)
"""

from __future__ import annotations


class DifficultyError(Exception):
    """Base of the errors above."""


class EncoderError(DifficultyError):
    """A model to read prompts with cannot be found or loaded; the message says where it was looked for."""


class ArtifactError(DifficultyError):
    """A fitted probe cannot be used; the message says what was found and what to do."""


class FitError(DifficultyError):
    """Labels that nothing can be learned from; the message says what is missing."""


class ProbeUnavailable(DifficultyError):
    """The probe gives no estimate for this prompt at this moment. `reason` is one word for logs and metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"probe unavailable: {message}")
        self.reason = reason
