"""One deployment as its pool sees it: what is under way, how quick it was, and whether it is left alone for a while. No I/O, no clock.

The circuit is closed until `allowed_fails` failures come in a row; then it is open for `cooldown_s`; then one request is let through
(half-open), whose success closes it and whose failure opens it again. A `Retry-After` is kept to whatever the count.
"""

from __future__ import annotations

from math import inf

from adapters.errors import BackendBusy, BackendError, BackendRefused
from adapters.types import Backend

WEIGHT = 0.2
"""Of the newest latency, or length, in the moving average."""
LONGEST_REST_S = 300.0
"""A server that asks to be left alone for longer is asked again all the same."""
OURS = frozenset({401, 403, 404})
"""Refusals that speak of our configuration, not of the request: another deployment may take it."""


class Deployment:
    """A backend with what its calls have shown."""

    def __init__(self, backend: Backend, *, allowed_fails: int, cooldown_s: float) -> None:
        self.backend, self.running = backend, 0
        self._allowed_fails, self._cooldown_s = allowed_fails, cooldown_s
        self._failures, self._until, self._probing = 0, -inf, False
        self._latency_s: dict[bool, float] = {}
        self._tokens: float | None = None

    def rests_s(self, now: float) -> float:
        """How long it is still to be left alone; while one request tries whether it is back, for as long as that takes."""
        return max(self._until - now, self._cooldown_s if self._probing else 0.0, 0.0)

    @property
    def is_open(self) -> bool:
        """Whether so many failures came in a row that it is left alone."""
        return self._failures >= self._allowed_fails

    def begin(self) -> bool:
        """A request goes out; whether it is the one that tries if the deployment is back."""
        self.running += 1
        probe = self.is_open
        self._probing = self._probing or probe
        return probe

    def end(self, probe: bool) -> None:
        """It is over, however it ended."""
        self.running -= 1
        self._probing = self._probing and not probe

    def answered(self, latency_s: float, streamed: bool) -> None:
        """It answered, or began to."""
        self._failures, self._until = 0, -inf
        self._latency_s[streamed] = _moved(self._latency_s.get(streamed), latency_s)

    def wrote(self, tokens: float) -> None:
        """An answer of so many tokens came whole."""
        self._tokens = _moved(self._tokens, tokens)

    def unread_tokens(self, for_s: float) -> float:
        """Of a plain answer that was worked on for so long, and of which nothing was seen: as many as one has here on the mean, or the
        share of them that the time makes likely; 0 where no answer ever came."""
        usual_s = self._latency_s.get(False, 0.0)
        return (self._tokens or 0.0) * (min(1.0, for_s / usual_s) if usual_s else 1.0)

    def failed(self, error: BackendError, now: float) -> None:
        """It did not. What our own queue turned away says nothing of it; a refusal of the request says that it is up."""
        if isinstance(error, BackendBusy):
            return
        if not blames_us(error) and not error.retryable:
            self._failures = 0
            return
        self._failures += 1
        rest_s = self._cooldown_s if self.is_open else 0.0
        self._until = max(self._until, now + max(rest_s, min(error.retry_after_s or 0.0, LONGEST_REST_S)))

    def busier_than(self, other: Deployment, streamed: bool) -> bool:
        """Whether a request would likely wait longer here; by what is under way alone, where one of the two was never measured."""
        mine, others = self._latency_s.get(streamed), other._latency_s.get(streamed)
        if mine is None or others is None:
            return self.running > other.running
        return (self.running + 1) * mine > (other.running + 1) * others


def cause_of(error: BackendError | None) -> str:
    """Why a request failed, in brief; empty where it did not, or where another one would not."""
    return error.brief if error is not None and (error.retryable or blames_us(error)) else ""


def _moved(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + WEIGHT * (newest - mean)


def blames_us(error: BackendError) -> bool:
    """Whether a refusal speaks of our key or our name for the model."""
    return isinstance(error, BackendRefused) and error.status in OURS
