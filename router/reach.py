"""What of a configuration reaches outside: code, models, files, and whom requests and secrets go to. Only its file may name new ones.

An option that does is marked beside its kind (`BY_FILE`). The marked options of one part are one thing, such as a backend's address, key
and headers, so that no secret goes to another address than the file sends it to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, SecretStr

from adapters.options import BY_FILE
from difficulty.digest import plain
from router.config import Config
from router.options import BudgetOptions, CacheOptions, FeedbackOptions, SemanticOptions

OURS = (CacheOptions(), BudgetOptions(), FeedbackOptions(), SemanticOptions())
"""What no file has to name: memory, and the encoder that the semantic cache was measured with."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the marked options of one part say. Two are the same wherever they stand."""

    kind: str
    said: str = field(repr=False)
    """Secrets and all: compared, and never shown."""
    place: str = field(compare=False)
    options: tuple[str, ...] = field(compare=False)

    def __str__(self) -> str:
        return f"{self.place or 'the configuration'}: {' with '.join(self.options)}"


def beyond(config: Config, *known: Config) -> list[Reach]:
    """Where a configuration reaches further than those that are known."""
    named = {reach for one in (*known, *OURS) for reach in reaches(one)}
    return [reach for reach in reaches(config) if reach not in named]


def reaches(part: Any, place: str = "") -> Iterator[Reach]:
    """Of a configuration or a part of it."""
    if isinstance(part, BaseModel):
        options = type(part).model_fields
        if said := {name: value for name, option in options.items() if BY_FILE in option.metadata and (value := getattr(part, name))}:
            yield Reach(type(part).__name__, json.dumps(said, sort_keys=True, default=_shown), place, tuple(said))
        part = {name: getattr(part, name) for name in options}
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if isinstance(part, Mapping):
        for name, inner in part.items():
            yield from reaches(inner, f"{place}.{name}".lstrip("."))


def _shown(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else plain(value)
