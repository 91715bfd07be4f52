"""Labels to learn from: how many of so many answers of a backend to a prompt were right; and which of them may be learned from.

Near-duplicates share a group and never lie on two sides of a split, else a probe is praised for what it remembers. The side is a
hash of the group and the seed, so labels that are added later move no earlier ones.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difficulty.conversation import conversation_text
from difficulty.errors import FitError

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

TRAIN, VALIDATION, TEST = 0, 1, 2
_SHARES = (0.6, 0.8)
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Labelled:
    """`successes` of `draws` answers of a backend to a prompt were right. Prompts of one `group` are near-duplicates."""

    prompt: str
    backend: str
    successes: int
    draws: int
    group: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Labels by prompt: P prompts, in the order in which they first came."""

    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    successes: Mapping[str, Counts]
    """By backend, shape [P]."""
    draws: Mapping[str, Counts]
    """By backend, shape [P]; 0 where this backend was not asked."""

    @property
    def backends(self) -> tuple[str, ...]:
        """Those that have labels, in the order in which they came."""
        return tuple(self.draws)

    @property
    def digest(self) -> str:
        """SHA-256 of all labels."""
        columns = {name: [self.successes[name].tolist(), self.draws[name].tolist()] for name in self.backends}
        return hashlib.sha256(json.dumps([self.prompts, self.groups, columns], sort_keys=True).encode()).hexdigest()


def table(rows: Iterable[Labelled]) -> Table:
    """Rows gathered by prompt; several rows of one prompt and backend add up. Raises FitError."""
    place: dict[str, int] = {}
    groups: list[str] = []
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for number, row in enumerate(rows):
        _check(number, row)
        prompt = conversation_text([{"role": "user", "content": row.prompt}])
        if prompt not in place:
            place[prompt] = len(place)
            groups.append(row.group or default_group(prompt))
        column = counts.setdefault(row.backend, {})
        k, n = column.get(place[prompt], (0, 0))
        column[place[prompt]] = (k + row.successes, n + row.draws)
    if not place:
        raise FitError("no labels at all; `outlay collect` makes them")
    successes = {name: _column(column, len(place), 0) for name, column in counts.items()}
    draws = {name: _column(column, len(place), 1) for name, column in counts.items()}
    return Table(tuple(place), tuple(groups), successes, draws)


def default_group(prompt: str) -> str:
    """Prompts that differ in case, spaces or punctuation only are one."""
    plain = re.sub(r"\W+", " ", prompt.casefold()).strip()
    return hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:16]


def sides(groups: Sequence[str], seed: int) -> Counts:
    """TRAIN, VALIDATION or TEST of each prompt (60/20/20 by group). Raises FitError if one of them is empty."""
    side = np.digitize(_uniform(groups, f"{seed}"), _SHARES)
    if len(set(side.tolist())) < 3:
        raise FitError(f"{len(set(groups))} groups of prompts are too few to train, validate and test on; label some hundred")
    return side


def folds(groups: Sequence[str], seed: int) -> Counts:
    """Number of the fold, 0 to FOLDS - 1, of each prompt; a group is in one."""
    return np.floor(_uniform(groups, f"fold {seed}") * FOLDS).astype(np.int64)


def _uniform(groups: Sequence[str], salt: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each group, always the same."""
    draws = (hashlib.sha256(f"{salt}:{group}".encode(errors="surrogatepass")).digest()[:6] for group in groups)
    return np.array([int.from_bytes(draw) / 2**48 for draw in draws])


def _check(number: int, row: Labelled) -> None:
    if not row.prompt.strip():
        raise FitError(f"label {number}: the prompt is empty")
    if not 0 <= row.successes <= row.draws or row.draws < 1:
        found = f"{row.successes} right of {row.draws} draws"
        raise FitError(f"label {number} ('{row.prompt[:40]}'): {found}; need 0 <= right <= draws, draws >= 1")


def _column(column: Mapping[int, tuple[int, int]], length: int, which: int) -> Counts:
    values = np.zeros(length, dtype=np.int64)
    for index, pair in column.items():
        values[index] = pair[which]
    return values
