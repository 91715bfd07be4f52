"""Reading YAML, and saying what is wrong with it in the words and at the place of the file, not of the types behind it."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.errors import ConfigError, have_instead
from router.key_homes import advice

MEANT = re.compile(r"no such key; did you mean '(\w+)'\?")
"""What is said of a key that is likely another one, at the same place."""

MOST_NODES = 100_000
"""Keys and values that a file may have, each counted as often as aliases repeat it: what reads a file reads every repetition. A
configuration of a thousand backends has some ten thousand."""


class _Loader(yaml.SafeLoader):
    """Safe YAML of a bounded size, in which no key stands twice: the later one would win in silence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._sizes: dict[yaml.Node | None, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node, counted with all that is in it. Raises where it is too much, or without end."""
        mark, before = self.peek_event().start_mark, self._nodes  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and node not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands within what it repeats", mark)
        self._nodes += self._sizes[node] if alias else 1
        if self._nodes > MOST_NODES:
            raise yaml.composer.ComposerError(None, None, f"holds more than {MOST_NODES:,} keys and values, aliases written out", mark)
        self._sizes[node] = self._nodes - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping, its keys distinct."""
        seen: set[object] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a text; `where` it stands, for messages. Raises ConfigError."""
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}{_line(error)}: is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: is nested too deeply") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: must hold a mapping of names to values")
    return raw


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def explain(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> Iterator[str]:
    """One line for each mistake: where it is, what was found, what would be right."""
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and any(_within(other["loc"], detail["loc"]) for other in details):
            continue  # A list is short of what was wrong in it; that has been said.
        steps = _steps(detail["loc"], raw)
        message = _unknown(detail["loc"], steps, model) if detail["type"] == "extra_forbidden" else _message(detail)
        yield f"{_path(steps)}: {message}" if steps else message


def corrected(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The same with the keys that the error calls unknown as they were likely meant, or without them."""
    known = deepcopy(raw)
    for detail in error.errors(include_url=False):
        if detail["type"] != "extra_forbidden":
            continue
        *above, key = steps = _steps(detail["loc"], raw)
        here: Any = known
        for step in above:
            here = here[int(step)] if isinstance(here, list) else here.get(step, {})
        if key in here:  # an alias may be without it by now
            found, meant = here.pop(key), MEANT.fullmatch(_unknown(detail["loc"], steps, model))
            if meant:
                here.setdefault(meant[1], found)
    return known


def _within(inner: Sequence[int | str], outer: Sequence[int | str]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _path(steps: Sequence[int | str]) -> str:
    """`policies.fast.plans[2].single.backend`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _steps(loc: Sequence[int | str], raw: Any) -> list[int | str]:
    """The error's location, without the names of types, which stand in no file."""
    steps: list[int | str] = []
    here = raw
    for i, step in enumerate(loc):
        last, after = i == len(loc) - 1, loc[i + 1 : i + 2]
        if isinstance(here, dict) and isinstance(here.get(step), list) and after and isinstance(after[0], str):
            continue  # the type `rules`, beside a key of the same name: in a list a number would follow
        if isinstance(here, dict) and step == "then" and "then" not in here and "otherwise" in here:
            step = "otherwise"
        inside = step in here if isinstance(here, dict) else isinstance(here, list) and isinstance(step, int) and step < len(here)
        if not inside and not (last and isinstance(step, str) and isinstance(here, dict)):
            continue
        steps.append(step)
        here = here[step] if inside else None
    return steps


def _unknown(loc: Sequence[int | str], steps: Sequence[int | str], model: type[BaseModel]) -> str:
    """Before the key its location may have the kind of what it stands in."""
    place: list[str] = []
    for step, after in pairwise(steps):
        place += ["[]"] if isinstance(step, int) else [step]
        if step in ("then", "otherwise") and not isinstance(after, int):
            place[-1:] = ["then", "[]"]  # one plan may stand there for a list of one
    said = advice(str(loc[-1]), place, loc[-2] if len(loc) > 1 else None, model)
    return f"no such key; {said}" if said else "no such key"


def _message(detail: ErrorDetails) -> str:
    kind, context, found = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_invalid":
        expected = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"no kind '{context['tag']}'; {have_instead(context['tag'], expected)}"
    message = detail["msg"].removeprefix("Value error, ")
    unsaid = isinstance(found, dict | list) or kind == "value_error" or "key" in str(detail["loc"][-1:])  # an api_key is not shown
    return message if unsaid else f"{message}; found {found!r}"
