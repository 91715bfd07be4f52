"""The rows under way: they take one token together, and leave the moment they are finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adapters.decoding.jobs import Row
from adapters.decoding.model import CausalModel
from adapters.decoding.prefixes import Prefixes
from adapters.decoding.sampling import Sampler
from adapters.decoding.window import Prefill


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next token of some rows. `broken` are rows whose logits are no numbers; their tokens mean nothing."""

    tokens: list[int]
    logprobs: list[float] | None
    broken: frozenset[int]


class Batch:
    """All rows of a model that are being decoded, in the order of its window's rows."""

    def __init__(self, model: CausalModel, prefixes: Prefixes) -> None:
        self.rows: list[Row] = []
        self._model, self._window, self._prefixes = model, model.window(), prefixes
        self._sampler: Sampler | None = None

    def begin(self, rows: Sequence[Row], prefill: Prefill, source: Sequence[int]) -> Drawn:
        """The first token of new rows, from the logits of their prompts; they are no rows of the batch before `join`."""
        sampler = Sampler([row.job.sampling for row in rows], self._model.device)
        return draw(sampler, rows, prefill.logits[torch.tensor(source, device=self._model.device)])

    def join(self, rows: Sequence[Row], prefill: Prefill, source: Sequence[int]) -> None:
        """New rows from the next step on, each a copy of its prompt in `prefill`."""
        if rows:
            self._window.join(prefill, source)
            self.rows.extend(rows)
            self._sampler = None

    def step(self) -> Drawn:
        """One more token for every row."""
        tokens = torch.tensor([row.tokens[-1:] for row in self.rows], device=self._model.device)
        positions = torch.tensor(self._window.lengths, device=self._model.device)[:, None]
        logits = self._model.step(tokens, positions, self._window)
        if self._sampler is None:
            self._sampler = Sampler([row.job.sampling for row in self.rows], self._model.device)
        return draw(self._sampler, self.rows, logits)

    def drop(self, leaves: Callable[[Row], bool]) -> None:
        """Remove rows; those from the end move into their places, so that little is copied."""
        gone = [index for index, row in enumerate(self.rows) if leaves(row)]
        if not gone:
            return
        self._keep([index for index in gone if self.rows[index].done])
        left, leaving = len(self.rows) - len(gone), set(gone)
        moves = list(zip((i for i in gone if i < left), (i for i in range(left, len(self.rows)) if i not in leaving), strict=True))
        self._window.leave(moves, left)
        for hole, row in moves:
            self.rows[hole] = self.rows[row]
        del self.rows[left:]
        self._sampler = None

    def _keep(self, ended: Sequence[int]) -> None:
        """Remember what was computed for answers that have ended, whose conversations may go on; not that of answers that failed."""
        fresh = [self._window.lengths[index] - len(self.rows[index].job.prompt) for index in ended]
        if not self._prefixes.limit or not any(fresh):
            return
        for index, state in zip(ended, self._window.states(ended, fresh), strict=True):
            row = self.rows[index]
            self._prefixes.keep((row.job.prompt + row.tokens)[: self._window.lengths[index]], state, scope=row.job.call.scope)

    def clear(self) -> list[Row]:
        """Give up all rows, because a step failed and the window may be half written."""
        rows, self.rows, self._window, self._sampler = self.rows, [], self._model.window(), None
        return rows


def draw(sampler: Sampler, rows: Sequence[Row], logits: torch.Tensor) -> Drawn:
    """The next token of each row, with its log-probability under the untempered distribution where any row wants it."""
    finite = logits.amax(-1).isfinite()
    broken = frozenset() if bool(finite.all()) else frozenset((~finite).nonzero()[:, 0].tolist())
    if broken:
        logits = torch.where(finite[:, None], logits, 0.0)
    tokens = sampler.draw(logits, () if sampler.all_greedy else [next(row.numbers) for row in rows])
    logprobs = None
    if any(row.job.logprobs for row in rows):
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
    return Drawn(tokens.tolist(), logprobs, broken)
