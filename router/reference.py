"""`outlay reference`: every key of a configuration on one page, which is `docs/configuration.md`, made from the types that read the file.

What a key means stands beside its type, as the field's description; here a page is made of the JSON Schema that pydantic writes of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any

from pydantic_core import to_json

from adapters.options import RemoteOptions
from policies.plans import KINDS
from router.config import Config
from router.keys import Key

Schema = Mapping[str, Any]

HEAD = """# Every key of the configuration

[configs/](../configs) has files to start from, and `outlay check` says what is wrong with yours: a key that is not here is refused. What is
secret may be written as `os.environ/NAME`, the name of an environment variable. Where a default is –, the last column says what leaving
the key out means. A name of your own stands before the options of each backend, verifier and policy.

This page is what `outlay reference` prints. For editors that check and complete, `outlay reference --schema > outlay.schema.json` writes
the same as JSON Schema; most find it by the line `# yaml-language-server: $schema=outlay.schema.json` on top of a file."""
REMOTE = "behind a network"
"""Heading of what all backends have that are asked over a network; each kind of them shows only its own keys."""

UNITS = {"_mtok": "US dollars", "_usd": "US dollars", "_per_hour": "US dollars", "_s": "seconds", "_days": "days", "_mb": "MB", "_kb": "kB"}
"""By the end of a key's name."""
PLAIN = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number", "object": "mapping"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
BEYOND = 1e6
"""A bound up here only keeps sums exact; nobody meets it."""
LONG = 60
"""Characters of a default that is shown."""


def page() -> str:
    """The page, in Markdown."""
    return "\n".join(_Page().lines())


def editor_schema() -> str:
    """The JSON Schema of a configuration as it is written in YAML, for editors that check and complete."""
    written = to_json(Config.model_json_schema(), inf_nan_mode="null")
    config = json.loads(written.replace(b'"oneOf"', b'"anyOf"'))  # what a kind fits is not the only one: it may be left out
    types = config["$defs"]
    for kind, plan in KINDS.items():
        options = types[plan.__name__]
        options["properties"].pop("kind")
        types[plan.__name__] = {"type": "object", "properties": {kind: options}, "required": [kind], "additionalProperties": False}
    rule = types["Rule"]["properties"]
    rule["then"] = rule["otherwise"] = {"anyOf": [rule["then"]["items"], rule["then"]]}
    del types["Rule"]["required"]
    del types["ScriptedOptions"]["properties"]["answers"]["anyOf"]  # a text, an answer, a list of both, or these by a piece of the prompt
    return json.dumps(config, indent=1)


class _Page:
    """Sections of the types, in the order in which the keys of the file lead to them."""

    def __init__(self) -> None:
        config, key, self.remote = (model.model_json_schema() for model in (Config, Key, RemoteOptions))
        self.types: dict[str, Schema] = {**config["$defs"], **key["$defs"], "Config": config, "Key": key}
        self.titles = {"Config": ""}
        """By type: the heading that it stands under."""
        self.sections: list[tuple[int, str, Schema]] = []
        self.shared: dict[str, Schema] = {}
        """By key: what types of several sections have. It stands after them."""
        self._below(config, 2)
        for name, prop in self.shared.items():
            self._key(name, prop, 2)
        self._type("Key", "a key, in the file that `keys.path` names", 2)

    def lines(self) -> Iterator[str]:
        """The page."""
        yield HEAD
        yield from self._table(self.types["Config"])
        for level, title, schema in self.sections:
            yield f"\n{'#' * level} {title}\n\n{_sentence(schema.get('description', ''))}"
            yield from self._table(schema)

    # --- which sections there are, and in which order -------------------------------------------------------------------

    def _below(self, schema: Schema, level: int) -> None:
        for name, prop in _keys(schema):
            self._key(name, prop, level)

    def _key(self, name: str, prop: Schema, level: int) -> None:
        """What a key leads to: its one type, or a heading for its several ones."""
        new = [one for one in _types(prop) if one not in self.titles]
        if level > 2 and new and self._owners(new[0]) > 1:
            self.shared.setdefault(name, prop)
        elif len(new) == 1:
            self._type(new[0], name if level == 2 else _label(new[0], self.types), level)
        elif new:
            self.sections.append((level, name, {"description": prop.get("description", "")}))
            if name == "backends":
                self.sections.append((level + 1, REMOTE, self.remote))
            for one in new:
                self._type(one, _label(one, self.types), level + 1)

    def _type(self, name: str, title: str, level: int) -> None:
        self.titles[name] = title
        self.sections.append((level, title, self.types[name]))
        self._below(self.types[name], level + 1)

    def _owners(self, name: str) -> int:
        return sum(any(name in _types(prop) for _, prop in _keys(one)) for one in self.types.values())

    # --- what they say --------------------------------------------------------------------------------------------------

    def _table(self, schema: Schema) -> Iterator[str]:
        remote = self.remote["properties"] if schema is not self.remote and "fallbacks" in schema.get("properties", {}) else {}
        rows = [(name, prop) for name, prop in _keys(schema) if remote.get(name) != prop]
        if rows:
            yield "\n| key | type | default | what it says |\n| --- | --- | --- | --- |"
        for name, prop in rows:
            default = "required" if name in schema.get("required", ()) else _default(prop.get("default"))
            yield f"| `{name}` | {self._kind(prop, name)} | {default} | {_text(meaning(prop, self.types))} |"
        if beside := [f"`{name}`" for name in remote if remote[name] == schema["properties"].get(name)]:
            yield f"\nAnd of what all have {_link(REMOTE)}: {', '.join(beside)}."

    def _kind(self, prop: Schema, name: str = "") -> str:
        """What a value looks like, in words."""
        if "$ref" in prop:
            return _link(self.titles[_types(prop)[0]])
        if either := prop.get("oneOf") or prop.get("anyOf"):
            return " or ".join(dict.fromkeys(self._kind(one, name) for one in either if one.get("type") != "null"))
        if "enum" in prop:
            return " or ".join(_yaml(one) for one in prop["enum"])
        if prop.get("type") == "array":
            return f"list of {self._kind((prop.get('prefixItems') or [prop['items']])[0])}"
        if isinstance(prop.get("additionalProperties"), Mapping):
            return f"by name: {self._kind(prop['additionalProperties'])}"
        if "const" in prop:
            return _yaml(prop["const"])
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "") if prop["type"] in ("number", "integer") else ""
        return f"{unit or PLAIN[prop['type']]} {_bounds(prop)}".strip()


def meaning(prop: Schema, types: Mapping[str, Schema]) -> str:
    """What is said of a key: its own description, else that of its one type."""
    return str(prop.get("description") or next((types[name].get("description", "") for name in _types(prop)), ""))


def _keys(schema: Schema) -> Iterable[tuple[str, Schema]]:
    """All keys but the one that only tells kinds apart."""
    return [(name, prop) for name, prop in schema.get("properties", {}).items() if name != "kind"]


def _types(prop: Schema) -> list[str]:
    """All types that a schema refers to, each once."""
    return list(dict.fromkeys(re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(prop))))


def _label(name: str, types: Mapping[str, Schema]) -> str:
    """What a type is called: its kind, else the words of its name."""
    kind = types[name]["properties"].get("kind", {}).get("const")
    return str(kind or re.sub("(?<=[a-z])(?=[A-Z])", " ", re.sub("(Options|Spec)$", "", name)).lower())


def _link(title: str) -> str:
    return f"[{title}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')})"


def _bounds(prop: Schema) -> str:
    low_high = [prop.get("minimum"), prop.get("maximum")]
    if all(bound is not None and abs(bound) < BEYOND for bound in low_high):
        return " to ".join(f"{bound:g}" for bound in low_high)
    return ", ".join(f"{sign} {prop[key]:g}" for key, sign in BOUNDS.items() if abs(prop.get(key, BEYOND)) < BEYOND)


def _default(value: Any) -> str:
    """A default; – where none is worth showing: nothing, an empty list, a section's own defaults, no bound, a long text."""
    unsaid = value in (None, "", [], {}, inf, -inf) or isinstance(value, dict) or len(str(value)) > LONG
    return "–" if unsaid else _yaml(int(value) if isinstance(value, float) and value.is_integer() else value)


def _yaml(value: Any) -> str:
    """A value as it is written in YAML."""
    return f"`{value if isinstance(value, str) and value == value.strip() else json.dumps(value)}`"


def _sentence(words: str) -> str:
    text = _text(words)
    return f"{text[:1].upper()}{text[1:]}".removesuffix(".") + "."


def _text(words: str) -> str:
    """Words on one line of a table, in which Markdown finds no tags."""
    return re.sub(r"<(?=\w)", r"\\<", " ".join(words.split())).replace("|", "\\|")
