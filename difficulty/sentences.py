"""Sentences as vectors of length 1, off the event loop: `await reader.vectors(["..."])`. How near two are is their product.

One thread reads. What waits is bounded; past it the caller is told at once and goes on without. Recent texts are remembered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from difficulty.encoders import Encoder, Floats
from difficulty.errors import DifficultyError

MEMO = 2048
"""Recent texts whose vectors are kept: 3 MB."""


class SentencesUnavailable(DifficultyError):
    """No vector now. `reason` is one word for metrics: `busy` where too many wait, `failed` where the encoder did."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"no vectors of sentences: {message}")
        self.reason = reason


class SentenceReader:
    """The top layer of an encoder, averaged over the tokens. Use from one event loop; `aclose` when done."""

    def __init__(self, encoder: Encoder, *, queue: int = 64) -> None:
        self._encoder, self._queue = encoder, queue
        self._worker = ThreadPoolExecutor(1, "sentences")
        self._memo: OrderedDict[str, Floats | None] = OrderedDict()
        self.waiting = 0
        """Calls that are not read yet."""

    @property
    def digest(self) -> str:
        """Of the encoder: vectors of two are not compared."""
        return self._encoder.digest

    async def vectors(self, texts: Sequence[str]) -> list[Floats | None]:
        """One for each text, shape [D]; None for a text of which the encoder reads only a part. Raises SentencesUnavailable."""
        found = {text: self._memo[text] for text in texts if text in self._memo}
        if fresh := [text for text in dict.fromkeys(texts) if text not in found]:
            read = await self._read(fresh)
            found |= read
            self._memo |= read
        for text in found.keys() & self._memo.keys():
            self._memo.move_to_end(text)
        while len(self._memo) > MEMO:
            self._memo.popitem(last=False)
        return [found[text] for text in texts]

    async def load(self) -> int:
        """Read a word, so that no request waits for a model to load. The width of the vectors."""
        vector = (await self.vectors(["one"]))[0]
        assert vector is not None
        return len(vector)

    async def aclose(self) -> None:
        """Take nothing more; what waits is still read, so that nobody's request is cancelled with it. Harmless to repeat."""
        self._worker.shutdown(wait=False)

    async def _read(self, texts: Sequence[str]) -> dict[str, Floats | None]:
        if self.waiting >= self._queue:
            raise SentencesUnavailable("busy", f"{self.waiting} texts are waiting")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, read, self._encoder, texts)
        except Exception as error:  # whatever model code throws: the caller does without
            raise SentencesUnavailable("failed", f"{type(error).__name__}: {error}") from error
        finally:
            self.waiting -= 1


def read(encoder: Encoder, texts: Sequence[str]) -> dict[str, Floats | None]:
    """The vectors of texts; None for one that is longer than the encoder reads. Blocks."""
    view = encoder.views[-1]
    encoding = encoder.encode(texts, [view])
    states = encoding.states[view]
    units = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    whole = encoding.tokens <= encoding.tokens_read
    return {text: unit if all_read else None for text, unit, all_read in zip(texts, units, whole, strict=True)}
