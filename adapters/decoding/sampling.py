"""Drawing the next token of every row at once, so that what a row draws does not depend on who shares its batch.

Each row has its own stream of uniform numbers, from its request's seed and its index; a token is where that number falls in
the cumulated distribution. No generator is shared, and one number a token is all the randomness there is.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

GREEDY_BELOW = 1e-4
"""Temperatures below this are greedy: dividing by them overflows."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an answer are drawn. `top_k` 0 and `top_p` 1 keep the whole vocabulary; temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @property
    def greedy(self) -> bool:
        """Nothing is drawn."""
        return self.temperature < GREEDY_BELOW

    def but(self, temperature: float | None, top_p: float | None) -> Sampling:
        """The same, with what a request says put in."""
        temperature = self.temperature if temperature is None else temperature
        return replace(self, temperature=temperature, top_p=self.top_p if top_p is None else top_p)


def uniforms(seed: int | None, index: int) -> Iterator[float]:
    """The endless stream of numbers in [0, 1) of answer `index` of a request."""
    generator = np.random.default_rng([(secrets.randbits(63) if seed is None else seed) % 2**64, index])
    while True:
        yield from generator.random(64).tolist()


class Sampler:
    """The settings of some rows, as columns; made anew when the rows change."""

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        column = [s.temperature if not s.greedy else 1.0 for s in settings]
        self._temperature = torch.tensor(column, device=device)[:, None]
        self._greedy = torch.tensor([s.greedy for s in settings], device=device)
        self._top_p = torch.tensor([s.top_p if s.top_p < 1 else 2.0 for s in settings], device=device)[:, None]
        self._top_k = torch.tensor([s.top_k or 2**31 for s in settings], device=device)[:, None]
        self._any_greedy, self.all_greedy = any(s.greedy for s in settings), all(s.greedy for s in settings)
        self._tempered = any(value != 1.0 for value in column)
        self._truncated = any(s.top_p < 1 or s.top_k for s in settings)

    def draw(self, logits: torch.Tensor, numbers: Sequence[float]) -> torch.Tensor:
        """Token ids [rows], from float logits [rows, vocabulary] and one uniform number for each row."""
        if self.all_greedy:
            return logits.argmax(-1)
        weights = torch.softmax(logits / self._temperature if self._tempered else logits, -1)
        if self._truncated:
            weights = self._truncate(weights)
        cumulated = weights.cumsum(-1)
        # A hair below 1, so that rounding cannot put the number past the last token that has any weight.
        height = torch.tensor(numbers, device=logits.device, dtype=logits.dtype)[:, None] * (1 - 1e-6) * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, height, right=True).squeeze(-1)
        return torch.where(self._greedy, logits.argmax(-1), drawn) if self._any_greedy else drawn

    def _truncate(self, weights: torch.Tensor) -> torch.Tensor:
        """The weights, zero beyond top-k and beyond the nucleus (Holtzman et al. 2020).

        Back in the vocabulary's order, or a row would draw something else when a row beside it truncates.
        """
        falling, order = weights.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(weights.shape[-1], device=weights.device)
        within = (rank < self._top_k) & (falling.cumsum(-1) - falling < self._top_p)
        within[:, 0] = True
        return torch.zeros_like(weights).scatter(-1, order, falling * within)
