"""Marks of recorded answers, put right where a right answer was marked wrong for its notation alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

_NUMBER = re.compile(r"-?\$?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")


def regraded(rows: Rows) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows, an answer that is the gold number in another notation (720.00 for 720) marked right; and how many that were, by model."""
    found, changed = [], dict[str, int]()
    for row in rows:
        gold, outcomes = number(row.get("gold")), {}
        for model, outcome in row["outcomes"].items():
            same = not outcome["correct"] and gold is not None and number(outcome.get("answer")) == gold
            outcomes[model] = {**outcome, "correct": 1} if same else outcome
            changed[model] = changed.get(model, 0) + same
        found.append({**row, "outcomes": outcomes})
    return found, changed


def number(text: Any) -> float | None:
    """What a text says that is one number and no more: decimals, commas between thousands and a dollar sign are notation, a unit is not."""
    plain = str(text).strip()
    return float(plain.replace(",", "").replace("$", "")) if _NUMBER.fullmatch(plain) else None
