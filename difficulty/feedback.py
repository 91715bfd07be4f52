"""What feedback teaches: how far a backend's chances are off in a domain, and whether a verifier still tells right from wrong.

What is kept is counts, so that replicas add theirs up, a label that is taken back is subtracted, and old ones fade. By Bayes' rule a prior
that is off by a factor in the odds leaves every posterior off by the same factor, whatever evidence came between; so the shift on the
logit that feedback on answers shows is the shift that the backend's line in the belief needs (`Belief.shifted`). Pure: days come in as
numbers.

    shift of a domain ~ N(m, sd^2 / 2),    m ~ N(0, sd^2 / 2) for each backend

so that a domain with few labels leans on the others, one domain alone moves the rest half as far as itself, and no label moves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor

import numpy as np

from difficulty.belief import Array, logit, sigmoid

Counts = tuple[float, float, float]
"""Labels, how much of them said right, sum of the logits that were believed."""

UNNAMED = ""
"""The domain of requests that name none."""
AGES = 20
"""Epochs that are kept; at the oldest a label counts 1/32."""
WIDTH = 1.0
WIDEST = 6
"""Logits are counted in bins of this width, the outermost open."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a label is counted."""

    epoch: int
    subject: str
    """`backend:<name>`, where the bin is of the believed logit, or `verifier:<name>`, where it is of the score's."""
    bin: int
    domain: str = UNNAMED

    def __str__(self) -> str:
        return f"{self.epoch}|{self.subject}|{self.bin}|{self.domain}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """What `str` wrote; ValueError on anything else."""
        epoch, subject, bin, domain = text.split("|", 3)
        return cls(int(epoch), subject, int(bin), domain)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was given, with what was believed of it."""

    backend: str
    logit: float | None
    """Of its chance of being right, without any correction; None where nothing was believed."""
    verifier: str | None = None
    score: float | None = None
    """The verifier's, calibrated."""


@dataclass(frozen=True, slots=True)
class Fading:
    """How corrections are estimated."""

    half_life_days: float = 30.0
    """After so long a label counts half."""
    prior_sd: float = 0.5
    """How far off, in logits, one expects a backend to be in a domain before any label."""
    max_shift: float = 2.0
    """No correction is larger, whatever the labels say."""

    def epoch(self, day: float) -> int:
        """Labels of one epoch fade together; four make a half-life."""
        return floor(4 * day / self.half_life_days)


@dataclass(frozen=True, slots=True)
class Health:
    """How well a verifier's scores agree with feedback on the answers that went out."""

    labels: float
    auc: float
    """Chance that a right answer scored above a wrong one; .5 says nothing. NaN until both were seen."""
    false_positive_rate: float
    """Share of the wrong answers that it scored .5 or more."""
    agreement: float
    """Share of the answers on whose side of .5 it was right."""


def counted(answer: Answer, domain: str, label: float, epoch: int) -> dict[Cell, Counts]:
    """What one label adds."""
    cells: dict[Cell, Counts] = {}
    if answer.logit is not None:
        cells[Cell(epoch, f"backend:{answer.backend}", _bin(answer.logit), domain)] = (1.0, label, answer.logit)
    if answer.verifier is not None and answer.score is not None:
        score = float(logit(answer.score))
        cells[Cell(epoch, f"verifier:{answer.verifier}", _bin(score))] = (1.0, label, score)
    return cells


def added(counts: Mapping[Cell, Counts], more: Mapping[Cell, Counts], times: float = 1.0) -> dict[Cell, Counts]:
    """Sums; with times=-1, what was added is taken back."""
    summed = dict(counts)
    for cell, (n, right, total) in more.items():
        old = summed.get(cell, (0.0, 0.0, 0.0))
        summed[cell] = (old[0] + times * n, old[1] + times * right, old[2] + times * total)
    return summed


@dataclass(frozen=True, slots=True)
class Corrections:
    """What to add to each backend's logit."""

    domains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    """In domains without labels."""

    def of(self, domain: str) -> Mapping[str, float]:
        """By backend."""
        return self.domains.get(domain, self.elsewhere)


def corrections(counts: Mapping[Cell, Counts], now: int, fading: Fading) -> Corrections:
    """The shifts that the labels show."""
    seen: dict[str, dict[str, _Seen]] = defaultdict(dict)
    for (backend, domain), bins in _faded(counts, now, "backend:").items():
        seen[backend][domain] = _seen(_rows(bins), fading)
    elsewhere = {backend: _bounded(_mean(domains.values(), fading)[0], fading) for backend, domains in seen.items()}
    found: dict[str, dict[str, float]] = defaultdict(lambda: dict(elsewhere))
    for backend, domains in seen.items():
        for domain, here in domains.items():
            mean, variance = _mean((other for name, other in domains.items() if name != domain), fading)
            pull = 1 / (variance + fading.prior_sd**2 / 2)
            found[domain][backend] = _bounded((here.push + pull * mean) / (here.precision + pull), fading)
    return Corrections(dict(found), elsewhere)


def health(counts: Mapping[Cell, Counts], now: int) -> dict[str, Health]:
    """Of every verifier whose answers were judged."""
    bins = _faded(counts, now, "verifier:")
    judged = {name: sorted((total / n, right, n - right) for n, right, total in _rows(cells)) for (name, _), cells in bins.items()}
    return {name: _health(np.array(rows)) for name, rows in judged.items() if rows}


def _faded(counts: Mapping[Cell, Counts], now: int, kind: str) -> dict[tuple[str, str], dict[int, Array]]:
    """What is left of the counts, by name and domain, by bin."""
    found: dict[tuple[str, str], dict[int, Array]] = defaultdict(dict)
    for cell, row in counts.items():
        if cell.subject.startswith(kind) and 0 <= now - cell.epoch < AGES:
            bins = found[cell.subject.removeprefix(kind), cell.domain]
            bins[cell.bin] = bins.get(cell.bin, 0.0) + 0.5 ** ((now - cell.epoch) / 4) * np.array(row)
    return found


def _rows(bins: Mapping[int, Array]) -> list[Counts]:
    """The bins that hold something."""
    return [(float(n), float(right), float(total)) for n, right, total in bins.values() if n > 1e-6]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What labels alone say of a shift: about N(push / precision, 1 / precision)."""

    push: float
    precision: float


def _seen(rows: Sequence[Counts], fading: Fading) -> _Seen:
    """Of sum right * log p + (n - right) * log(1 - p), p = sigmoid(logit + shift), around where it is largest under the prior (Newton)."""
    n, right, total = np.array(rows).reshape(-1, 3).T
    prior, shift = fading.prior_sd**-2, 0.0
    for _ in range(20):
        p = sigmoid(total / n + shift)
        slope, precision = float((right - n * p).sum()), float((n * p * (1 - p)).sum())
        step = (slope - prior * shift) / (precision + prior)
        shift += min(1.0, max(-1.0, step))
        if abs(step) < 1e-6:
            break
    return _Seen(prior * shift + precision * shift, precision)


def _mean(domains: Iterable[_Seen], fading: Fading) -> tuple[float, float]:
    """Mean and variance of m, which the shifts of all domains scatter around."""
    half = fading.prior_sd**2 / 2
    push, precision = 0.0, 1 / half
    for seen in domains:
        push += seen.push / (1 + half * seen.precision)
        precision += seen.precision / (1 + half * seen.precision)
    return push / precision, 1 / precision


def _bounded(shift: float, fading: Fading) -> float:
    return min(fading.max_shift, max(-fading.max_shift, shift))


def _health(rows: Array) -> Health:
    """`rows` are (logit of the score, right, wrong) by rising score."""
    scores, right, wrong = rows.T
    rights, wrongs, high = float(right.sum()), float(wrong.sum()), scores >= 0
    below = np.concatenate([[0.0], np.cumsum(wrong)[:-1]])
    pairs = rights * wrongs
    return Health(
        labels=rights + wrongs,
        auc=float((right * (below + wrong / 2)).sum()) / pairs if pairs > 1e-9 else float("nan"),
        false_positive_rate=float(wrong[high].sum()) / wrongs if wrongs > 1e-9 else float("nan"),
        agreement=(float(right[high].sum()) + float(wrong[~high].sum())) / (rights + wrongs),
    )


def _bin(value: float) -> int:
    return max(-WIDEST, min(WIDEST - 1, floor(value / WIDTH)))
