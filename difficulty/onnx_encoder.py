"""A sentence encoder of BERT's shape on ONNX Runtime in int8, without torch: half the time of fp32 and half the memory.

The graph is written from the weights when it is first needed, up to the highest layer that is looked at (see `onnx_graph.py`). Texts go
through one by one: on a CPU a batch gains nothing, and without padding a text's state never depends on its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from difficulty import model_files
from difficulty.encoders import Encoding, Ints, View, quarters
from difficulty.errors import EncoderError
from difficulty.onnx_graph import RECIPE, Shape, graph

NEEDS = ("onnx", "onnxruntime", "tokenizers")


class OnnxEncoder:
    """Mean states of any layer of a BERT."""

    def __init__(self, model: str, *, threads: int = 1, max_tokens: int = 512, revision: str | None = None) -> None:
        if lacking := [package for package in NEEDS if find_spec(package) is None]:
            raise EncoderError(f"encoder 'onnx:{model}' needs {', '.join(lacking)}: pip install '.[general]' in Outlay's folder")
        self.name = f"onnx:{model}"
        self._model, self._threads, self._max_tokens, self._revision = model, threads, max_tokens, revision
        self._sessions: dict[tuple[int, ...], Any] = {}

    @cached_property
    def folder(self) -> Path:
        """Where the weights lie."""
        return model_files.located(self._model, self._revision)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of the way in which they are rounded."""
        return hashlib.sha256(f"{RECIPE} {model_files.digest(self.name, self.folder)}".encode()).hexdigest()

    @property
    def views(self) -> tuple[View, ...]:
        """The mean over a quarter, half, three quarters of the way up, and the top."""
        return tuple(View(layer, "mean") for layer in quarters(self._config["num_hidden_layers"]))

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        """Raises EncoderError for a view that is not the mean of a layer."""
        layers = tuple(sorted({self._layer(view) for view in views}))
        session = self._session(layers)
        ids = [self._tokenizer.encode(text).ids or [0] for text in texts]
        cut = [row[-self._limit :] for row in ids]
        rows = [session.run(None, {"ids": np.array([row]), "places": np.arange(len(row))}) for row in cut]
        states = {view: np.concatenate([row[layers.index(view.layer)] for row in rows]) for view in views}
        return Encoding(states, _lengths(ids), _lengths(cut), np.zeros(len(texts), dtype=np.float32))

    def _layer(self, view: View) -> int:
        if view.pooling != "mean" or not 1 <= view.layer <= self._config["num_hidden_layers"]:
            raise EncoderError(f"encoder '{self.name}': it has the mean of layers 1 to {self._config['num_hidden_layers']}, not {view}")
        return view.layer

    def _session(self, layers: tuple[int, ...]) -> Any:
        if layers not in self._sessions:
            self._sessions[layers] = self._built(layers)
        return self._sessions[layers]

    def _built(self, layers: tuple[int, ...]) -> Any:
        import onnxruntime
        from safetensors import SafetensorError, safe_open

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self._threads, 3
        shape = Shape(self._config["num_attention_heads"], self._config["layer_norm_eps"])
        try:
            with safe_open(self.folder / "model.safetensors", "numpy") as weights:
                data = graph(weights.get_tensor, shape, layers)
        except (OSError, SafetensorError) as error:
            raise EncoderError(f"encoder '{self.name}': {self.folder} does not hold the weights of a BERT ({error})") from error
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    @cached_property
    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        if (kind := config.get("model_type")) != "bert":
            raise EncoderError(f"encoder '{self.name}': a model of type {kind}; `onnx:` reads BERTs, leave it out for others")
        return config

    @cached_property
    def _limit(self) -> int:
        """What it was trained to read, which may be less than the places it has."""
        trained = self.folder / "sentence_bert_config.json"
        most = json.loads(trained.read_text())["max_seq_length"] if trained.is_file() else self._config["max_position_embeddings"]
        return min(self._max_tokens, int(most))

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def _lengths(rows: Sequence[Sequence[int]]) -> Ints:
    return np.array([len(row) for row in rows], dtype=np.int64)
