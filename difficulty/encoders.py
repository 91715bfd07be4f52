"""Encoders: text in, hidden states out. What a probe sees of a prompt before anything is generated.

An encoder offers views (a layer and a pooling); fitting picks one by validation, serving asks for that one. Any transformers
model works; with a causal one the chat template is applied with the generation prompt, so that the last token stands where the
answer begins. What is learned on top is in `probe.py` and `fit.py`. torch and transformers are imported when an encoder first reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from difficulty import model_files
from difficulty.errors import EncoderError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pooling = Literal["last", "mean"]

MAX_FORWARD_TOKENS = 8192
"""Tokens of one forward, padding included: bounds memory, and is more than a micro-batch of ordinary prompts."""
_LOGITS_AT_ONCE = 1 << 24
ONNX = "onnx:"
"""Before the name of an encoder that runs on ONNX Runtime."""


class View(NamedTuple):
    """Where to look: the output of a layer (1 is the first, 0 the embeddings), at the last token or averaged over all."""

    layer: int
    pooling: Pooling


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """What an encoder saw of N texts."""

    states: Mapping[View, Floats]
    """Each of shape [N, D]."""
    tokens: Ints
    """Length of each prompt, uncut, shape [N]."""
    tokens_read: Ints
    """Tokens that went through the model, shape [N]: what the probe is charged for."""
    nll: Floats
    """Negative log-likelihood of the prompt, nats a token, shape [N]; zeros where the encoder is no causal model."""

    @classmethod
    def joined(cls, parts: Sequence[Encoding]) -> Encoding:
        """Several encodings of the same views as one."""
        states = {view: np.concatenate([p.states[view] for p in parts]) for view in parts[0].states}
        tokens, read = np.concatenate([p.tokens for p in parts]), np.concatenate([p.tokens_read for p in parts])
        return cls(states, tokens, read, np.concatenate([p.nll for p in parts]))

    def rows(self, index: Ints) -> Encoding:
        """The encoding of some of the texts, in that order."""
        return Encoding({v: s[index] for v, s in self.states.items()}, self.tokens[index], self.tokens_read[index], self.nll[index])


class Encoder(Protocol):
    """Reads texts. `encode` blocks, and is called from one thread at a time. Errors are EncoderError."""

    @property
    def name(self) -> str:
        """As the configuration names it."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights: a probe fitted on other weights is worthless."""

    @property
    def views(self) -> tuple[View, ...]:
        """The views that fitting chooses among."""

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        """Read the texts, and return what is asked for."""


def open_encoder(name: str, *, threads: int = 1, max_tokens: int = 512, revision: str | None = None) -> Encoder:
    """The encoder of that path or hub name; `onnx:` before it runs a BERT on ONNX Runtime instead of torch. Nothing is loaded yet.

    Raises EncoderError where a library that it needs is not installed.
    """
    if name.startswith(ONNX):
        from difficulty.onnx_encoder import OnnxEncoder

        return OnnxEncoder(name.removeprefix(ONNX), threads=threads, max_tokens=max_tokens, revision=revision)
    return TransformersEncoder(name, threads=threads, max_tokens=max_tokens, revision=revision)


def quarters(top: int) -> list[int]:
    """Layers a quarter, half, three quarters of the way up, and the top one."""
    return sorted({max(1, -(-top * quarter // 4)) for quarter in (1, 2, 3, 4)})


class TransformersEncoder:
    """Hidden states, and the prompt's likelihood, of any transformers model."""

    def __init__(self, name: str, *, threads: int = 1, max_tokens: int = 512, revision: str | None = None) -> None:
        self.name = name
        self._threads, self._max_tokens, self._revision = threads, max_tokens, revision

    @cached_property
    def folder(self) -> Path:
        """Where the model lies."""
        return model_files.located(self.name, self._revision)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the weight files, by name and content."""
        return model_files.digest(self.name, self.folder)

    @property
    def views(self) -> tuple[View, ...]:
        """A quarter, half, three quarters of the way up, and the top; the last token and the mean."""
        poolings: tuple[Pooling, ...] = ("last", "mean")
        return tuple(View(layer, pooling) for layer in quarters(self._loaded.layers) for pooling in poolings)

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        """One forward for texts that fit into it together; longer lists are cut, similar lengths together."""
        ids = self._loaded.ids(texts, self.name)
        order: list[int] = []
        parts: list[Encoding] = []
        for chunk in _chunks([min(len(row), self._limit) for row in ids]):
            order += chunk
            parts.append(self._forward([ids[i] for i in chunk], views))
        return Encoding.joined(parts).rows(np.argsort(order))

    @cached_property
    def _loaded(self) -> _Loaded:
        return _load(self.name, self.folder, self._threads)

    @cached_property
    def _limit(self) -> int:
        return min(self._max_tokens, self._loaded.context)

    def _forward(self, ids: Sequence[Sequence[int]], views: Sequence[View]) -> Encoding:
        """Padded on the right, which a causal model does not see; a prompt over the limit loses its beginning."""
        import torch

        loaded, cut = self._loaded, [list(row[-self._limit :]) for row in ids]
        lengths = torch.tensor([len(row) for row in cut])
        width = int(lengths.max())
        mask = torch.arange(width)[None, :] < lengths[:, None]
        batch = torch.tensor([row + [0] * (width - len(row)) for row in cut])
        batch, mask, lengths = (t.to(loaded.body.device) for t in (batch, mask, lengths))
        with torch.inference_mode():
            out = loaded.body(input_ids=batch, attention_mask=mask.long(), output_hidden_states=True, return_dict=True)
            states = {view: _pooled(out.hidden_states[view.layer], mask, lengths, view.pooling) for view in views}
            nll = _nll(out.last_hidden_state, loaded.head, batch, mask)
        return Encoding(states, np.array([len(row) for row in ids]), lengths.cpu().numpy(), nll)


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """A model in memory. `head` turns top states into logits; None for a model that is no causal one."""

    tokenizer: Any
    body: Any
    head: Any
    layers: int
    context: int

    def ids(self, texts: Sequence[str], name: str) -> list[list[int]]:
        """Token ids of each text as the model would be asked it; never empty."""
        template = getattr(self.tokenizer, "chat_template", None) is not None
        rendered = [self._asked(text) for text in texts] if template else list(texts)
        try:
            rows: list[list[int]] = self.tokenizer(rendered, add_special_tokens=not template)["input_ids"]
        except Exception as error:  # tokenizers raise bare Exceptions; what they could not read is no failure of ours
            raise EncoderError(f"encoder '{name}': its tokenizer cannot read this prompt ({error})") from error
        return [row or [0] for row in rows]

    def _asked(self, text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def _load(name: str, folder: Path, threads: int) -> _Loaded:
    """Load model and tokenizer. The number of torch's threads is one for the whole process."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as bars

    torch.set_num_threads(threads)
    bars.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        causal = any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in config.architectures or ())
        kind = AutoModelForCausalLM if causal else AutoModel
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EncoderError(f"encoder '{name}': {folder} cannot be loaded ({error})") from error
    model.config.use_cache = False
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or 1 << 30
    return _Loaded(tokenizer, model.base_model, model.get_output_embeddings() if causal else None, text.num_hidden_layers, context)


def _chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of texts that go through the model together, similar lengths side by side."""
    chunk: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if chunk and lengths[index] * (len(chunk) + 1) > MAX_FORWARD_TOKENS:
            yield chunk
            chunk = []
        chunk.append(index)
    yield chunk


def _pooled(states: Any, mask: Any, lengths: Any, pooling: Pooling) -> Floats:
    """[N, T, D] to [N, D]."""
    if pooling == "last":
        picked = states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2]))[:, 0].float()
    else:
        picked = (states * mask[:, :, None]).float().sum(dim=1) / lengths[:, None]
    pooled: Floats = picked.cpu().numpy()
    return pooled


def _nll(top: Any, head: Any, batch: Any, mask: Any) -> Floats:
    """Mean negative log-likelihood of each prompt's tokens after its first.

    Logits are made a slice at a time: with a large vocabulary those of a whole batch outgrow the model.
    """
    import torch

    scored = mask[:, 1:]
    if head is None or not scored.any():
        return np.zeros(len(batch), dtype=np.float32)
    rows, places = scored.nonzero(as_tuple=True)
    step = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])
    total = torch.zeros(len(batch), device=batch.device)
    for start in range(0, len(rows), step):
        r, t = rows[start : start + step], places[start : start + step]
        losses = torch.nn.functional.cross_entropy(head(top[r, t]).float(), batch[r, t + 1], reduction="none")
        total.index_add_(0, r, losses)
    mean: Floats = (total / scored.sum(dim=1).clamp(min=1)).cpu().numpy()
    return mean
