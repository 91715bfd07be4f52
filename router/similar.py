"""Whether two questions ask the same: the reader of texts, the index of those asked before, and how similar is similar enough.

The similarity of two questions is the lower of two cosines: of the whole texts, and of what only one of them says. The first finds
neighbours, the second sees the one word that makes another question of a long text; and whatever they say, `wording.py` has the last word.
Which threshold keeps false hits under a stated rate was measured: `benchmarks/semantic_cache.py` writes `similar.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.vectors import Vectors, build_vectors
from difficulty.encoders import Floats, open_encoder
from difficulty.sentences import SentenceReader
from router.errors import ConfigError
from router.options import CacheOptions, SemanticOptions
from router.wording import Differing

CALIBRATION = Path(__file__).parent / "similar.json"


@dataclass(frozen=True)
class Similar:
    """All that outlives a request."""

    reader: SentenceReader
    index: Vectors
    threshold: float
    ttl_s: float
    timeout_s: float = 0.1
    counts: Counter[str] = field(default_factory=Counter)
    """What came of the looks; see `semantic.py`."""

    async def load(self) -> None:
        """Load the encoder."""
        await self.reader.load()

    async def aclose(self) -> None:
        """Release the thread and the connections."""
        await self.reader.aclose()
        await self.index.aclose()


def open_similar(cache: CacheOptions) -> Similar | None:
    """As the configuration has it. Raises ConfigError, CacheError, or EncoderError where the encoder is not installed."""
    options = cache.semantic
    if options is None:
        return None
    encoder = open_encoder(options.encoder, threads=options.threads)
    digest = encoder.digest
    threshold = options.threshold or calibrated(options, digest, json.loads(CALIBRATION.read_text()))
    reader = SentenceReader(encoder, queue=options.queue)
    index = build_vectors(cache.url, digest[:12], options.max_entries)
    return Similar(reader, index, threshold, options.ttl_s or cache.ttl_s, options.timeout_s)


def calibrated(options: SemanticOptions, digest: str, table: Mapping[str, Any]) -> float:
    """The least similarity by which the stated rate of false hits is kept. Raises ConfigError where none does."""
    if digest != table["digest"]:
        raise ConfigError(
            f"cache.semantic: false hits were measured for {table['encoder']}, not for {options.encoder}; "
            "set a threshold, or measure one with `python -m benchmarks.semantic_cache --encoder NAME`"
        )
    good = [row["threshold"] for row in table["rows"] if row["false_hits_at_most"] <= options.max_false_hits]
    if not good:
        least = min(row["false_hits_at_most"] for row in table["rows"])
        raise ConfigError(
            f"cache.semantic.max_false_hits: no threshold keeps {options.max_false_hits:g}; the least that was shown is {least:.4f}"
        )
    return float(min(good))


def similarity(cosine: float, difference: Differing, rests: Sequence[Floats | None]) -> float:
    """Of two questions: the cosine of their texts, and the vectors of what only the one and only the other says (none where nothing is)."""
    if difference.guard:
        return 0.0
    if not difference.mine:
        return cosine
    mine, theirs = rests
    return 0.0 if mine is None or theirs is None else min(cosine, float(mine @ theirs))
