"""Recorded answers of real models, read from JSON Lines (gzipped or not).

Two forms, told apart by their rows:
- samples, many draws of one model on one prompt: `{"id", "prompt", "model", "samples": [{"answer", "correct", "tokens"?, "chars"?}]}`
- outcomes, one draw of each of many models: `{"id", "prompt", "outcomes": {model: {"correct", "answer"?, "input_tokens"?,
  "output_tokens"?, "output_chars"?, "cost_usd"?, "latency_ms"?}}}`

Rows without a prompt cannot be asked for and are left out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import MissingExtra
from adapters.pricing import BYTES_PER_TOKEN, estimate_tokens


@dataclass(frozen=True, slots=True)
class Draw:
    """One recorded answer. None where nothing was recorded."""

    text: str
    correct: float
    """In [0, 1]: right or wrong, or a mean over several draws. Never part of an answer."""
    output_tokens: int
    counted: bool
    """The output tokens were recorded, and not estimated from the length."""
    input_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None


def normalised(prompt: str) -> str:
    """A prompt in the form in which prompts are compared: white space does not count."""
    return " ".join(prompt.split())


def read_recording(path: Path, model_key: str | None) -> dict[str, list[Draw]]:
    """The draws of each prompt; MissingExtra, saying what was found, if there are none."""
    found: dict[str, list[Draw]] = {}
    models: set[str] = set()
    for number, row in _rows(path):
        try:
            models.update(row.get("outcomes", {}), [row["model"]] if "model" in row else [])
            if row.get("prompt"):
                found.setdefault(normalised(row["prompt"]), []).extend(_draws(row, model_key))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MissingExtra(f"{path}:{number}: neither samples nor outcomes ({error!r})") from None
    if not any(found.values()):
        have = ", ".join(sorted(f"'{model}'" for model in models)) if found else "no row with a prompt"
        raise MissingExtra(f"{path}: nothing recorded for model_key: {model_key!r}; have {have}")
    return {prompt: draws for prompt, draws in found.items() if draws}


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield number, json.loads(line)
    except OSError as error:
        raise MissingExtra(f"{path}: cannot be read ({error.strerror or error}); give the path of a .jsonl or .jsonl.gz file") from None
    except ValueError as error:
        raise MissingExtra(f"{path}:{number}: not a line of JSON ({error})") from None


def _draws(row: Mapping[str, Any], model_key: str | None) -> Iterator[Draw]:
    if "outcomes" in row:
        if model_key in row["outcomes"]:
            yield _draw(row["outcomes"][model_key], f"[answer of {model_key} to {row.get('id')}, not recorded]")
    elif model_key in (None, row.get("model")):
        yield from (_draw(sample, "") for sample in row["samples"])


def _draw(recorded: Mapping[str, Any], unrecorded: str) -> Draw:
    """`unrecorded` stands in for an answer that was judged but not kept, so that it can still be told from others."""
    text = str(recorded["answer"] or "") if "answer" in recorded else unrecorded
    tokens, chars = recorded.get("output_tokens", recorded.get("tokens")), recorded.get("output_chars", recorded.get("chars"))
    estimate = -(-chars // BYTES_PER_TOKEN) if chars is not None else estimate_tokens(text)
    latency_ms = recorded.get("latency_ms")
    return Draw(
        text,
        float(recorded["correct"]),
        tokens if tokens is not None else estimate,
        tokens is not None,
        recorded.get("input_tokens"),
        recorded.get("cost_usd"),
        latency_ms / 1000 if latency_ms is not None else None,
    )
