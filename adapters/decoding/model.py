"""The two calls of a causal language model that batching needs, and what its files say about answering."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as bars

from adapters.decoding.prefixes import Known
from adapters.decoding.sampling import Sampling
from adapters.decoding.window import Layers, Prefill, Window, continued

BATCHED = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""Caches of layers whose state is keys and values in columns, so that rows of different lengths can share a batch."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the model's own files say where a request says nothing. OpenAI's temperature 1 where they say nothing either."""

    sampling: Sampling
    ends: frozenset[int]
    max_tokens: int | None
    max_context: int | None


class CausalModel:
    """A model of transformers, read for answering."""

    def __init__(self, model: Any, ends: frozenset[int] = frozenset()) -> None:
        self._model = model.eval()
        self.device = model.device
        self.config = model.config.get_text_config()
        self.defaults = _defaults(model, self.config, ends)
        accepted = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._shapes: list[tuple[int, int]] = []
        """Heads and size of each layer's keys and values, once a prompt was read."""

    def window(self) -> Window:
        """An empty cache for it."""
        return Window(self.config.num_hidden_layers)

    def read(self, prompts: Sequence[Sequence[int]], known: Sequence[Known]) -> Prefill:
        """All prompts in one pass, without what is `known` of each (`level` made it so that the rest ends alike)."""
        held, fresh = max(map(len, known)), max(len(p) - len(k) for p, k in zip(prompts, known, strict=True))
        width = held + fresh
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        cache = continued(known, held, self._shapes)
        if not fresh:
            return Prefill(_columns(cache), mask, torch.stack([k.logits for k in known if k.logits is not None]))
        rest = [list(p[len(k) :]) for p, k in zip(prompts, known, strict=True)]
        ids = torch.tensor([[0] * (fresh - len(p)) + p for p in rest], device=self.device)
        logits = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp_min(0)[:, held:], cache, **self._last_only)
        layers = _columns(cache)
        self._shapes = [(part.shape[1], part.shape[3]) for layer in layers for part in layer]
        return Prefill(layers, mask, logits)

    def step(self, tokens: torch.Tensor, positions: torch.Tensor, window: Window) -> torch.Tensor:
        """The logits after one more token [rows, 1] of every row."""
        mask = window.open_column()
        logits = self._forward(tokens, mask, positions, window.cache)
        window.close_column()
        return logits

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, **more: Any) -> torch.Tensor:
        if self._positions:
            more["position_ids"] = positions
        output = self._model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def level(prompts: Sequence[Sequence[int]], known: Sequence[Known]) -> list[Known]:
    """What is known of each prompt, less what lies within the longest of the rests: it would be padding there, which costs as much."""
    fresh = max(len(p) - len(k) for p, k in zip(prompts, known, strict=True))
    return [k.first(len(p) - fresh) for p, k in zip(prompts, known, strict=True)]


def _columns(cache: DynamicCache) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def load_model(path: str, *, revision: str | None, device: str, dtype: str, ends: frozenset[int]) -> CausalModel:
    """The model at a folder or hub name. OSError or ValueError where there is none, or none of this kind."""
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    bars.disable_progress_bar()  # a log is no place for it; that of a download goes with it
    model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=dtype)
    kinds = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers}
    if kinds - BATCHED or "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ValueError(f"its kind of cache ({', '.join(sorted(kinds))}) cannot be batched here; serve it with vLLM and use its URL")
    return CausalModel(model.to(where), ends)


def _defaults(model: Any, config: Any, ends: frozenset[int]) -> Defaults:
    said = model.generation_config
    temperature = 0.0 if said.do_sample is False else said.temperature
    sampling = Sampling(1.0 if temperature is None else temperature, said.top_p or 1.0, said.top_k or 0)
    named = said.eos_token_id if isinstance(said.eos_token_id, list) else [said.eos_token_id]
    context = getattr(config, "max_position_embeddings", None)
    return Defaults(sampling, ends | {token for token in named if token is not None}, said.max_new_tokens, context)
