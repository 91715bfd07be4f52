"""A loaded reward model: texts in, log-odds out. Blocking; lives in the one thread of `reward_model.py`, the only user.

A process reward model is read at the end of every step and at the end of the answer (Lightman et al. 2023), an outcome reward model
once. With several labels the log-odds are those of the positive one against all others, so that one number is left in every case.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapters.types import Call

if TYPE_CHECKING:
    from adapters.decoding.reading import Reader as KeptReader

Mode = Literal["outcome", "process"]
MARK = "\N{OBJECT REPLACEMENT CHARACTER}answer"
"""Stands in for an answer while a template is taken apart; nothing that a template would trim or look for."""


class Unreadable(Exception):
    """This answer cannot be read by this model; others can."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer to be read; equal ones are read once."""

    prompt: str
    answer: str
    finished: bool
    call: Call = field(compare=False)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One answer as the model takes it. `ends` are the tokens at which it is read."""

    inputs: dict[str, list[int]]
    ends: list[int]

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


class RewardReader:
    """Model and tokenizer, and how an answer is laid before them."""

    def __init__(
        self, folder: Path, mode: Mode, *, separator: str, device: str, max_batch_tokens: int, positive: int, prefix_bytes: int = 0
    ) -> None:
        self._mode, self._separator, self._max_batch_tokens, self._positive = mode, separator, max_batch_tokens, positive
        self._device = _device(device)
        self._tokenizer, self._model = _load(folder, mode, self._device)
        self._tail = self._template_tail()
        self._ending = self._tail if self._tail is not None else self._tokenizer.eos_token or ""
        self._opening = lru_cache(1024)(self._render_opening)
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        self.max_tokens = min(limit, self._tokenizer.model_max_length)
        self._pad = self._model.config.pad_token_id
        self._takes = inspect.signature(self._model.forward).parameters
        self._kept = _reader(self._model, prefix_bytes) if mode == "process" and prefix_bytes else None

    def read(self, readings: Sequence[Reading]) -> list[list[float] | Unreadable]:
        """For each answer the log-odds at its step ends (an outcome model: one). The tokens are charged to each answer's call."""
        encoded = self._encode(readings)
        results: list[list[float] | Unreadable] = [item if isinstance(item, Unreadable) else [] for item in encoded]
        fitting = {i: item for i, item in enumerate(encoded) if isinstance(item, Encoded)}
        begun = self._read_beginnings(readings, fitting)
        for group in self._groups(fitting):
            for i in group:
                readings[i].call.input_tokens += len(fitting[i])
            read = self._forward([fitting[i] for i in group], [readings[i].call.scope for i in group])
            for i, (log_odds, known) in zip(group, read, strict=True):
                readings[i].call.cached_tokens += max(0, known - begun.get(i, 0))
                results[i] = log_odds
        return results

    def _read_beginnings(self, readings: Sequence[Reading], items: dict[int, Encoded]) -> dict[int, int]:
        """Read what all answers of one scope to a prompt begin with, once; the tokens that were read, by the answer that pays for them."""
        if self._kept is None:
            return {}
        together: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i in items:
            together[readings[i].call.scope, readings[i].prompt].append(i)
        shared = {same[0]: commonprefix([items[i].inputs["input_ids"] for i in same]) for same in together.values() if same[1:]}  # noqa: RUF071  # token by token
        fresh = {i: len(beginning) - self._kept.known(beginning, readings[i].call.scope) for i, beginning in shared.items()}
        begun = {i: tokens for i, tokens in fresh.items() if tokens}
        for group in self._groups({i: Encoded({"input_ids": list(shared[i])}, []) for i in begun}):
            self._kept_read([shared[i] for i in group], [readings[i].call.scope for i in group])
        return begun

    # --- text to tokens -------------------------------------------------------------------------------------------------------

    def _encode(self, readings: Sequence[Reading]) -> list[Encoded | Unreadable]:
        if self._mode == "outcome" and self._tail is None:  # a classifier of sentence pairs
            tokens = self._tokenizer([r.prompt for r in readings], [r.answer for r in readings])
        else:
            texts = [self._text(reading) for reading in readings]
            tokens = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        columns = dict(tokens)
        spans = columns.pop("offset_mapping", [[]] * len(readings))
        rows = ({name: column[i] for name, column in columns.items()} for i in range(len(readings)))
        return [self._encoded(*each) for each in zip(readings, rows, spans, strict=True)]

    def _encoded(self, reading: Reading, inputs: dict[str, list[int]], spans: list[tuple[int, int]]) -> Encoded | Unreadable:
        # A control token inside the answer would let the answer end itself and go on as somebody else.
        if control := next((token for token in self._tokenizer.all_special_tokens if token in reading.answer), None):
            return Unreadable(f"the control token {control!r} is in it")
        if not 0 < (size := len(inputs["input_ids"])) <= self.max_tokens:
            return Unreadable(f"{size} tokens; this model reads 1 to {self.max_tokens}")
        return Encoded(inputs, self._ends(reading, inputs["input_ids"], spans) if self._mode == "process" else [])

    def _text(self, reading: Reading) -> str:
        """What is read. The answer stands in it as it is, whatever the template would trim: a step's end may be a blank."""
        return self._opening(reading.prompt) + reading.answer + (self._ending if reading.finished else "")

    def _render_opening(self, prompt: str) -> str:
        """The text before the answer's first character; the mark is what stands there instead."""
        if self._tail is None:
            return f"{prompt}\n"
        return self._rendered(prompt, MARK).removesuffix(MARK)

    def _rendered(self, prompt: str, answer: str, *, whole: bool = False) -> str:
        from jinja2 import TemplateError

        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=not whole))
        except (ValueError, TemplateError) as error:
            raise ValueError(f"its chat template does not take a prompt and an answer: {str(error)[:200]}") from None

    def _template_tail(self) -> str | None:
        """What the chat template puts after a finished answer; None without a template. Raises ValueError for one that cannot be used."""
        if not self._tokenizer.chat_template:
            return None
        whole, head = self._rendered("?", MARK, whole=True), self._rendered("?", MARK)
        if not (head.endswith(MARK) and whole.startswith(head)):
            raise ValueError("its chat template writes an unfinished answer otherwise than the beginning of a finished one")
        return whole[len(head) :]

    def _ends(self, reading: Reading, ids: list[int], spans: list[tuple[int, int]]) -> list[int]:
        """Indices of the tokens that end a step, and of the one that ends the answer."""
        steps, complete = step_ends(reading.answer, self._separator)
        starts, offset = [start for start, _ in spans], len(self._opening(reading.prompt))
        ends = [max(0, bisect_right(starts, offset + end - 1) - 1) for end in steps]
        if reading.finished and complete:
            ends = ends[:-1]  # the answer's end takes the place of the last separator
        if reading.finished or not complete:
            after, eos = bisect_left(starts, offset + len(reading.answer)), self._tokenizer.eos_token_id
            ends.append(next((i for i in range(after, len(ids)) if ids[i] == eos), len(ids) - 1))
        return list(dict.fromkeys(ends))

    # --- tokens to log-odds ---------------------------------------------------------------------------------------------------

    def _groups(self, items: dict[int, Encoded]) -> list[list[int]]:
        """Indices that go through the model together: of similar length, padded to no more than `max_batch_tokens`."""
        groups: list[list[int]] = []
        for i in sorted(items, key=lambda i: len(items[i])):
            rows = len(groups[-1]) + 1 if groups else 0
            if groups and self._pad is not None and rows * len(items[i]) <= self._max_batch_tokens:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def _forward(self, rows: Sequence[Encoded], scopes: Sequence[str]) -> list[tuple[list[float], int]]:
        """For each row its log-odds, and how many of its tokens were known in its scope."""
        import torch

        if self._kept is not None:
            said = self._kept_read([row.inputs["input_ids"] for row in rows], scopes)
            return [(self._log_odds(logits)[row.ends].tolist(), known) for row, (logits, known) in zip(rows, said, strict=True)]
        with torch.inference_mode():
            log_odds = self._log_odds(self._model(**self._padded(rows)).logits).tolist()
        if self._mode == "outcome":
            return [([value], 0) for value in log_odds]
        return [([values[end] for end in row.ends], 0) for values, row in zip(log_odds, rows, strict=True)]

    def _kept_read(self, texts: Sequence[Sequence[int]], scopes: Sequence[str]) -> list[tuple[Any, int]]:
        import torch

        assert self._kept is not None
        with torch.inference_mode():
            return self._kept.read(texts, scopes)

    def _log_odds(self, logits: Any) -> Any:
        """Of the positive label against all others, from logits [..., labels]."""
        logits = logits.float()
        if logits.shape[-1] == 1:
            return logits[..., 0]
        positive = self._positive % logits.shape[-1]
        others = [i for i in range(logits.shape[-1]) if i != positive]
        return logits[..., positive] - logits[..., others].logsumexp(-1)

    def _padded(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        def column(name: str, fill: int) -> Any:
            return pad_sequence([torch.tensor(row.inputs[name]) for row in rows], True, fill).to(self._device)

        return {name: column(name, (self._pad or 0) if name == "input_ids" else 0) for name in rows[0].inputs if name in self._takes}


def step_ends(answer: str, separator: str) -> tuple[list[int], bool]:
    """Where the steps of an answer end (characters, the separator included; blank steps are none), and whether nothing comes after."""
    ends, start = [], 0
    while (at := answer.find(separator, start)) >= 0:
        if answer[start:at].strip():
            ends.append(at + len(separator))
        start = at + len(separator)
    return ends, bool(ends) and not answer[start:].strip()


def _reader(model: Any, prefix_bytes: int) -> KeptReader | None:
    from adapters.decoding.reading import Reader, continues

    return Reader(model, prefix_bytes) if continues(model) else None


def _device(wanted: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _load(folder: Path, mode: Mode, device: str) -> tuple[Any, Any]:
    """Tokenizer and model. Raises ValueError if the weights lack the head: transformers would make one up, at random."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
    from transformers.utils import logging as bars

    bars.disable_progress_bar()
    kind = AutoModelForTokenClassification if mode == "process" else AutoModelForSequenceClassification
    dtype = torch.float32 if device == "cpu" else "auto"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model, told = kind.from_pretrained(folder, local_files_only=True, dtype=dtype, output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"its weights lack {', '.join(missing)}: it was not trained as a {mode} reward model")
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.eval().to(device)
