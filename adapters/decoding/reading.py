"""Reading with a model that says something at every token, such as a process reward model: each text from where it is not known yet.

What was said of a token depends on those before it alone, so it is kept with the model's state there and said again.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from adapters.decoding.model import BATCHED
from adapters.decoding.prefixes import Known, Prefixes
from adapters.decoding.window import continued, flat


def continues(model: Any) -> bool:
    """Whether a model can go on from what it computed before: a causal one, whose cache is columns of keys and values."""
    accepted = inspect.signature(model.forward).parameters
    if not {"past_key_values", "position_ids"} <= accepted.keys() or not getattr(model.config.get_text_config(), "is_causal", True):
        return False
    return {type(layer).__name__ for layer in DynamicCache(config=model.config).layers} <= BATCHED


class Reader:
    """A model and what it has read, of `limit` bytes at most. Used by one thread."""

    def __init__(self, model: Any, limit: int) -> None:
        self._model, self._prefixes = model, Prefixes(limit)
        self._shapes: list[tuple[int, int]] = []
        """Heads and size of each layer's keys and values, once something was read."""

    def known(self, text: Sequence[int], scope: str) -> int:
        """Tokens at its beginning that need not be read."""
        return len(self._prefixes.find(text, scope))

    def read(self, texts: Sequence[Sequence[int]], scopes: Sequence[str]) -> list[tuple[torch.Tensor, int]]:
        """For each text, of a scope each, the logits at all of its tokens [tokens, labels], and how many of these were known."""
        try:
            return self._read(texts, scopes)
        except Exception:
            if not len(self._prefixes):
                raise
            self._prefixes.clear()  # should what was known be to blame, or take the room: once more, from the beginning
            return self._read(texts, scopes)

    def _read(self, texts: Sequence[Sequence[int]], scopes: Sequence[str]) -> list[tuple[torch.Tensor, int]]:
        known = [self._prefixes.find(text, scope) for text, scope in zip(texts, scopes, strict=True)]
        rest = [i for i, text in enumerate(texts) if len(known[i]) < len(text)]
        fresh = dict(zip(rest, self._forward([texts[i] for i in rest], [known[i] for i in rest]), strict=True)) if rest else {}
        for i, state in fresh.items():
            self._prefixes.keep(texts[i], state, scope=scopes[i])
        labels = self._model.config.num_labels
        parts = [[state for state in (k.state, fresh.get(i)) if state is not None] for i, k in enumerate(known)]
        return [(torch.cat([state[:, -labels:] for state in some]), len(k)) for some, k in zip(parts, known, strict=True)]

    def _forward(self, texts: Sequence[Sequence[int]], known: Sequence[Known]) -> list[torch.Tensor]:
        """State and logits, side by side, of what is not known: what is known ends in one column, the rests begin in the next."""
        device, held = self._model.device, max(map(len, known))
        rests = [torch.tensor(text[len(k) :]) for text, k in zip(texts, known, strict=True)]
        ids = pad_sequence(rests, True, 0).to(device)
        columns = torch.arange(held + ids.shape[1])
        begins = torch.tensor([held - len(k) for k in known])[:, None]
        ends = begins + torch.tensor([len(text) for text in texts])[:, None]
        mask = ((columns >= begins) & (columns < ends)).long().to(device)
        positions = (columns[held:] - begins).to(device)
        cache = continued(known, held, self._shapes)
        logits = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True).logits
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._shapes = [(part.shape[1], part.shape[3]) for layer in layers for part in layer]
        states = torch.cat([flat(layers, slice(None), slice(held, None)), logits], -1)
        return [state[: len(rest)] for state, rest in zip(states, rests, strict=True)]
