"""Where a key of a configuration belongs, for whoever wrote it somewhere else: read from the models' own schemas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Home:
    """One mapping with fixed keys."""

    place: tuple[str, ...]
    """From the top; `NAME` for any name, `[]` for any place of a list."""
    keys: tuple[str, ...]
    needs: tuple[str, ...]
    """Keys that must be there, by which one form of it is told from another."""
    kind: str | None = None

    @property
    def is_plan(self) -> bool:
        """Its kind is written as a key around its options."""
        return self.kind is not None and self.place[-1:] == ("[]",)

    def __str__(self) -> str:
        place = (*self.place, self.kind or "") if self.is_plan else self.place
        return ".".join(place).replace(".[]", "[]")

    def holds(self, place: Sequence[str]) -> bool:
        """Whether it may stand at a place of a file."""
        mine = (*self.place, "NAME") if self.is_plan else self.place
        return len(mine) == len(place) and all(a in (b, "NAME") for a, b in zip(mine, place, strict=True))


def advice(key: str, place: Sequence[str], kind: object, model: type[BaseModel]) -> str:
    """What is likely meant by an unknown key at a place, in a mapping of this kind; empty if nothing is."""
    homes = _homes(model)
    here = [home for home in homes if home.holds(place)]
    own = [home for home in here if home.kind in (None, kind)]
    if beside := [name for home in own if key in home.keys for name in home.needs if name != key]:
        return f"'{key}' goes with {' and '.join(dict.fromkeys(beside))}"
    if kinds := [home.kind for home in here if home not in own and key in home.keys and home.kind]:
        return f"'{key}' is for kind {' or '.join(kinds)}"
    if close := get_close_matches(key, {key for home in own for key in home.keys}, n=1):
        return f"did you mean '{close[0]}'?"
    if (where := _where(key, homes)) is not None:
        return f"'{key}' belongs {where}"
    if close := get_close_matches(key, {key for home in homes for key in home.keys}, n=1):
        return f"did you mean '{close[0]}', which belongs {_where(close[0], homes)}?"
    return ""


def _where(key: str, homes: Sequence[Home]) -> str | None:
    """The places of a key that are nearest to the top."""
    places = [home for home in homes if key in home.keys]
    if not places:
        return None
    nearest = min(len(home.place) for home in places)
    return f"in {' or '.join(dict.fromkeys(str(home) for home in places if len(home.place) == nearest))}" if nearest else "at the top"


@cache
def _homes(model: type[BaseModel]) -> tuple[Home, ...]:
    schema = model.model_json_schema()
    return tuple(_walk(schema, (), schema.get("$defs", {})))


def _walk(node: Any, place: tuple[str, ...], models: dict[str, Any]) -> Iterator[Home]:
    """The models of a configuration do not hold themselves, so it ends."""
    if not isinstance(node, dict):
        return
    node = models[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for form in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _walk(form, place, models)
    if options := node.get("properties"):
        yield Home(place, tuple(options), tuple(node.get("required", ())), options.get("kind", {}).get("const"))
        for name, option in options.items():
            yield from _walk(option, (*place, name), models)
    yield from _walk(node.get("additionalProperties"), (*place, "NAME"), models)
    yield from _walk(node.get("items"), (*place, "[]"), models)
