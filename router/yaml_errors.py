"""Reading YAML, and saying what is wrong with it in the words and at the place of the file, not of the types behind it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.errors import ConfigError, have_instead


class _Loader(yaml.SafeLoader):
    """Safe YAML in which no key stands twice: the later one would win in silence."""

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
        raise ConfigError(f"{where}: must hold a mapping, with backends and policies")
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
        place = path_in_file(detail["loc"], raw)
        yield f"{place}: {_message(detail, model)}" if place else _message(detail, model)


def _within(inner: Sequence[int | str], outer: Sequence[int | str]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def path_in_file(loc: Sequence[int | str], raw: Any) -> str:
    """`policies.fast.plans[2].single.backend`: the error's location, without the names of types, which stand in no file."""
    path, here = "", raw
    for last, step in ((i == len(loc) - 1, step) for i, step in enumerate(loc)):
        if isinstance(here, dict) and step == "then" and "then" not in here and "otherwise" in here:
            step = "otherwise"
        inside = step in here if isinstance(here, dict) else isinstance(here, list) and isinstance(step, int) and step < len(here)
        if not inside and not (last and isinstance(step, str) and isinstance(here, dict)):
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
        here = here[step] if inside else None
    return path.removeprefix(".")


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, found = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        return f"no such key{_did_you_mean(str(detail['loc'][-1]), model)}"
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_invalid":
        expected = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"no kind '{context['tag']}'; {have_instead(context['tag'], expected)}"
    message = detail["msg"].removeprefix("Value error, ")
    unsaid = isinstance(found, dict | list) or kind == "value_error" or "key" in str(detail["loc"][-1:])  # an api_key is not shown
    return message if unsaid else f"{message}; found {found!r}"


def _did_you_mean(key: str, model: type[BaseModel]) -> str:
    """The closest key that stands anywhere in a configuration."""
    schema = model.model_json_schema()
    known = {name for part in (schema, *schema.get("$defs", {}).values()) for name in part.get("properties", {})}
    close = get_close_matches(key, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
