"""What was learned from logs about the backends, verifiers and plans: the numbers that a forecast is made of.

One frozen value, read from and written to JSON with a digest. Everything has a default, so that a router without logs
works from prices and prior guesses. How they are fitted is in `learn.py`; what a plan is expected to give in `policies/forecast.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import exp, log
from pathlib import Path
from typing import Any

from difficulty.belief import PLAIN, Channel, Scores, Success
from difficulty.digest import digest
from difficulty.votes import Votes

FORMAT = 1


class CurvesError(Exception):
    """The file of curves cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Output tokens of one answer: log-normal, log mean = intercept + slope * log(input tokens)."""

    intercept: float = 5.0
    slope: float = 0.1
    sigma: float = 0.6

    def mean(self, input_tokens: float) -> float:
        """Expected output tokens."""
        return exp(self._log(input_tokens) + self.sigma**2 / 2)

    def q95(self, input_tokens: float) -> float:
        """Output tokens that 95 % of the answers stay under."""
        return exp(self._log(input_tokens) + 1.645 * self.sigma)

    def _log(self, input_tokens: float) -> float:
        return self.intercept + self.slope * log(max(input_tokens, 1.0))


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one call: first_s + per_token_s * output tokens, log-normal around it."""

    first_s: float = 0.3
    per_token_s: float = 0.01
    sigma: float = 0.4

    def mean(self, output_tokens: float) -> float:
        """Expected seconds."""
        return self.first_s + self.per_token_s * output_tokens

    def q95(self, output_tokens: float) -> float:
        """Seconds that 95 % of the calls stay under."""
        return self.mean(output_tokens) * exp(1.645 * self.sigma)


@dataclass(frozen=True, slots=True)
class PlanFit:
    """What was seen of one plan beside the formula of the forecast: draws through a channel, and factors on cost and latency."""

    channel: Channel = PLAIN
    cost: float = 1.0
    latency: float = 1.0


@dataclass(frozen=True)
class Curves:
    """All fitted numbers. Keys are names of backends and verifiers, and keys of plans (`policies.plans.PlanBase.key`)."""

    success: Mapping[str, Success] = field(default_factory=dict)
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    """By backend, and by verifier (whose output tokens are 0)."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    plans: Mapping[str, PlanFit] = field(default_factory=dict)
    votes: Mapping[str, Votes] = field(default_factory=dict)
    """By backend."""
    tempering: float = 1.0
    source: str = "defaults"

    def tokens_of(self, backend: str) -> Tokens:
        """The token model of a backend."""
        return self.tokens.get(backend, _USUAL_TOKENS)

    def latency_of(self, name: str) -> Latency:
        """The latency model of a backend or verifier."""
        return self.latency.get(name, _USUAL_LATENCY)

    def scores_of(self, verifier: str) -> Scores:
        """The score model of a verifier."""
        return self.scores.get(verifier, _UNFITTED)

    def votes_of(self, backend: str) -> Votes:
        """What votes among the samples of a backend say."""
        return self.votes.get(backend, _USUAL_VOTES)

    def plan(self, key: str) -> PlanFit:
        """What was seen of a plan."""
        return self.plans.get(key, _UNSEEN_PLAN)

    def as_json(self) -> dict[str, Any]:
        """Plain data. A part of a backend's own that is 0, and a flag that is not set, are left out: files from before there were any keep
        their digest."""
        plain = {"format": FORMAT} | asdict(self)
        for part, late in (("success", "own"), ("scores", "shared")):
            plain[part] = {name: {k: v for k, v in row.items() if k != late or v} for name, row in plain[part].items()}
        return plain

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that change with any number in here."""
        return digest(self.as_json())

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Curves:
        """Read what `save` wrote. Raises CurvesError."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            raise CurvesError(f"{path}: no such file; `outlay fit` writes it") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CurvesError(f"{path}: not a file of curves of this version ({error}); run `outlay fit` again") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curves:
        """From plain data. Raises ValueError, TypeError or KeyError on anything else."""
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, expected {FORMAT}")
        return cls(
            success=_each(Success, data["success"]),
            tokens=_each(Tokens, data["tokens"]),
            latency=_each(Latency, data["latency"]),
            scores={name: _scores(row) for name, row in data["scores"].items()},
            plans={key: PlanFit(**row | {"channel": Channel(**row["channel"])}) for key, row in data["plans"].items()},
            votes=_each(Votes, data.get("votes", {})),
            tempering=float(data["tempering"]),
            source=str(data["source"]),
        )


_UNFITTED = Scores.unfitted()
_USUAL_TOKENS, _USUAL_LATENCY, _USUAL_VOTES, _UNSEEN_PLAN = Tokens(), Latency(), Votes(), PlanFit()


def _each(kind: type[Any], rows: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return {name: kind(**row) for name, row in rows.items()}


def _scores(row: Mapping[str, Any]) -> Scores:
    tables = {name: tuple(value) for name, value in row.items() if name not in ("base_rate", "shared")}
    return Scores(**tables, base_rate=float(row["base_rate"]), shared=bool(row.get("shared", False)))
