"""The key-value cache of a batch whose rows come and go: one buffer a layer, written in place.

All rows end in the same column and begin where their length says, as in a left-padded batch; what is left of a row is masked. So the
next token of every row goes into one column, a newcomer is copied in to end there, and a row that leaves is overwritten by the
last one. Against `DynamicCache`, which copies everything at each step, a step of 64 rows of the small model takes half the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from adapters.decoding.prefixes import Known

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Each layer's keys and values [rows, heads, columns, size]."""

KEPT = 1024
"""Columns that an empty window may hold on to: making them anew costs more than keeping them."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompts that have been read: each layer's keys and values [prompts, heads, width, size], left-padded, and the next token's logits."""

    layers: Layers
    mask: torch.Tensor
    logits: torch.Tensor

    @property
    def width(self) -> int:
        """Columns, which is the longest prompt's tokens."""
        return int(self.mask.shape[1])

    def state(self, index: int, tokens: int) -> torch.Tensor:
        """Of the last tokens of one prompt [tokens, size]."""
        return flat(self.layers, slice(index, index + 1), slice(self.width - tokens, self.width))[0]

    def only(self, index: int) -> Prefill:
        """One prompt of these, without its padding, in memory of its own."""
        begin = self.width - int(self.mask[index].sum())
        layers = [(k[index : index + 1, :, begin:].clone(), v[index : index + 1, :, begin:].clone()) for k, v in self.layers]
        return Prefill(layers, self.mask[index : index + 1, begin:].clone(), self.logits[index : index + 1].clone())


def flat(layers: Layers, rows: slice | torch.Tensor, columns: slice) -> torch.Tensor:
    """Keys and values of all layers side by side [rows, columns, size]: what a model knows of a token, in one row."""
    return torch.cat([part[rows, :, columns].transpose(1, 2).flatten(2) for layer in layers for part in layer], -1)


def layered(state: torch.Tensor, like: Sequence[tuple[int, int]]) -> Layers:
    """What `flat` laid side by side, as layers again; `like` are (heads, size) of each layer's keys and values, one after the other."""
    parts = state.split([heads * size for heads, size in like], -1)
    columns = [part.unflatten(-1, shape).transpose(1, 2) for part, shape in zip(parts, like, strict=True)]
    return list(zip(columns[::2], columns[1::2], strict=True))


def continued(known: Sequence[Known], width: int, like: Sequence[tuple[int, int]]) -> DynamicCache:
    """A cache of what is known of some texts, all of which end in its last column. Zeros before, because a masked NaN is still a NaN."""
    cache, states = DynamicCache(), [k.state for k in known if k.state is not None]
    if states:
        whole = states[0].new_zeros((len(known), width, sum(heads * size for heads, size in like)))
        for row, k in zip(whole, known, strict=True):
            if k.state is not None:
                row[width - len(k) :] = k.state[:, : row.shape[-1]]
        for index, (keys, values) in enumerate(layered(whole, like)):
            cache.update(keys, values, index)
    return cache


class _Lane(DynamicLayer):  # type: ignore[misc]  # transformers has no types to subclass
    """Keys and values of one layer, for all rows of the window."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window, self.is_initialized = window, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new column; give all columns in use."""
        rows, start, end = len(self.window.lengths), self.window.start, self.window.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.window.end - self.window.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns in use after the next ones, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def resize(self, like: torch.Tensor, values_like: torch.Tensor, rows: int, columns: int, used: slice, place: slice) -> None:
        """New buffers with the columns in use at their new place. Zeros, because a masked NaN is still a NaN."""
        keys = like.new_zeros((rows, like.shape[1], columns, like.shape[3]))
        values = values_like.new_zeros((rows, values_like.shape[1], columns, values_like.shape[3]))
        if held := len(self.window.lengths):
            keys[:held, :, place], values[:held, :, place] = self.keys[:held, :, used], self.values[:held, :, used]
        self.keys, self.values = keys, values


class Window:
    """The cache of all rows. `lengths` are the tokens held of each; rows are in the order in which they were given."""

    def __init__(self, layers: int) -> None:
        self._lanes = [_Lane(self) for _ in range(layers)]
        self._mask = torch.zeros((0, 0), dtype=torch.long)
        self.cache = Cache(layers=self._lanes)
        self.lengths: list[int] = []
        self.start = self.end = 0

    def join(self, prefill: Prefill, source: Sequence[int]) -> None:
        """Add a row for each entry of `source`, a copy of that prompt of `prefill`."""
        first, rows, width = len(self.lengths), len(self.lengths) + len(source), prefill.width
        if not first:
            self.start = self.end = width if width < self._mask.shape[1] <= 4 * width + KEPT else 0
        if rows > self._mask.shape[0] or width > self.end:
            self._resize(rows, width, prefill)
        index, place = torch.tensor(source, device=prefill.mask.device), slice(self.end - width, self.end)
        for lane, (keys, values) in zip(self._lanes, prefill.layers, strict=True):
            lane.keys[first:rows, :, place], lane.values[first:rows, :, place] = keys[index], values[index]
        self._mask[first:rows] = 0
        self._mask[first:rows, place] = prefill.mask[index]
        self.lengths.extend(prefill.mask.sum(1)[index].tolist())
        self.start = self.end - max(self.lengths)

    def states(self, rows: Sequence[int], tokens: Sequence[int]) -> list[torch.Tensor]:
        """Of the last tokens of some rows, so many of each [tokens, size]."""
        longest = max(tokens)
        layers, index = [(lane.keys, lane.values) for lane in self._lanes], torch.tensor(rows, device=self._mask.device)
        whole = flat(layers, index, slice(self.end - longest, self.end))
        return [state[longest - n :] for state, n in zip(whole, tokens, strict=True)]

    def leave(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Keep the first `rows` rows, after each (hole, row) of `moves` has put that row into that hole."""
        if moves:
            holes, movers = (torch.tensor(column, device=self._mask.device) for column in zip(*moves, strict=True))
            for lane in self._lanes:
                lane.keys[holes], lane.values[holes] = lane.keys[movers], lane.values[movers]
            self._mask[holes] = self._mask[movers]
        for hole, row in moves:
            self.lengths[hole] = self.lengths[row]
        del self.lengths[rows:]
        self.start = self.end - max(self.lengths, default=0)

    def open_column(self) -> torch.Tensor:
        """Make room for one more token of every row; the attention mask [rows, columns] with it."""
        if self.end == self._mask.shape[1]:
            self._resize(len(self.lengths), 0, None)
        self._mask[: len(self.lengths), self.end] = 1
        return self._mask[: len(self.lengths), self.start : self.end + 1]

    def close_column(self) -> None:
        """The column is written."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def clear(self) -> None:
        """Forget all rows."""
        self.leave((), 0)

    def _resize(self, rows: int, width: int, newcomers: Prefill | None) -> None:
        """Buffers for so many rows, which end in a column that leaves `width` on its left and as many again on its right.

        Sized by what is in use now: each resize pays for many steps, and a long prompt's memory does not stay for ever.
        """
        used, end = slice(self.start, self.end), max(self.end - self.start, width)
        place, columns, rows = slice(end - (self.end - self.start), end), 2 * end + 64, 1 << (rows - 1).bit_length()
        for index, lane in enumerate(self._lanes):
            lane.resize(*(newcomers.layers[index] if newcomers else (lane.keys, lane.values)), rows, columns, used, place)
        mask = torch.zeros((rows, columns), dtype=torch.long, device=newcomers.mask.device if newcomers else self._mask.device)
        if held := len(self.lengths):
            mask[:held, place] = self._mask[:held, used]
        self._mask, self.start, self.end = mask, place.start, end
