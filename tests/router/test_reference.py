"""The reference of the configuration: every key is in it, with what it says, and it is what the types say now."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from adapters.scripted import ScriptedOptions
from router.cli import cli
from router.config import Config
from router.keys import Key
from router.reference import meaning, page

ROOT = Path(__file__).parents[2]
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.stem.endswith("_test")]
TYPES = {f"{model.__name__}.{name}": one for model in (Config, Key) for name, one in model.model_json_schema()["$defs"].items()}
FIELDS = [(f"{name}.{key}", prop) for name, one in TYPES.items() for key, prop in one["properties"].items() if key != "kind"]
FIELDS += [(f"{model.__name__}.{key}", prop) for model in (Config, Key) for key, prop in model.model_json_schema()["properties"].items()]

SMALL: dict[str, Any] = {
    "backends": {"small": {"model": "openai/gpt-4.1-mini"}},
    "policies": {"one": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]}},
}


def said(*options: str) -> str:
    """What the command prints."""
    asked = CliRunner().invoke(cli, ["reference", *options])
    assert asked.exit_code == 0, asked.output
    return asked.output


def faults(config: dict[str, Any]) -> list[str]:
    """What an editor underlines."""
    return [error.json_path for error in jsonschema.Draft202012Validator(json.loads(said("--schema"))).iter_errors(config)]


def test_the_page_is_what_the_types_say() -> None:
    """Whoever changes a key writes the page anew: `outlay reference > docs/configuration.md`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == said()


@pytest.mark.parametrize(("name", "prop"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_key_says_what_it_is_and_stands_on_the_page(name: str, prop: dict[str, Any]) -> None:
    """By its own description, or by that of the type that it alone leads to."""
    model, *_, key = name.split(".")
    assert meaning(prop, {one.partition(".")[2]: schema for one, schema in TYPES.items() if one.startswith(model)})
    assert f"| `{key}` |" in page()


def test_a_default_a_unit_and_a_bound_are_as_the_reader_of_the_file_has_them() -> None:
    """`timeout_s: 0` is refused, and the page says so; a key that has to be there is told from one with a default."""
    assert "| `timeout_s` | seconds > 0 | `60` |" in page()
    assert "| `max_usd_per_hour` | US dollars > 0 | `1` |" in page()
    assert "| `lookahead` | whole number 0 to 8 | `0` |" in page()
    assert re.search(r"\| `members` \| [^|]+ \| required \|", page())


def test_every_link_of_the_page_leads_to_a_heading() -> None:
    """Each type has one heading, and no two headings are alike, so that a link has one place to lead to."""
    headings = [
        re.sub(r"[^a-z0-9_ -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in page().splitlines() if line.startswith("#")
    ]
    assert set(re.findall(r"\]\(#([^)]+)\)", page())) <= set(headings)
    assert len(headings) == len(set(headings))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_an_editor_finds_nothing_wrong_with_the_examples(path: Path) -> None:
    """Also where they leave out kinds, write one plan for a list of them, or `otherwise`."""
    assert faults(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("answers", ["yes", ["yes", {"text": "no"}], {"2+2": "4", "": ["?"]}])
def test_an_editor_takes_the_short_forms_of_a_script(answers: Any) -> None:
    """As the file's reader does."""
    assert ScriptedOptions.model_validate({"answers": answers}).answers
    assert faults(SMALL | {"backends": {"small": {"kind": "scripted", "answers": answers}}}) == []


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"cash": {"url": "memory://"}}, "$"),
        ({"server": {"prot": 80}}, "$.server"),
        ({"server": {"port": 80_000}}, "$.server.port"),
        ({"backends": {"small": {"model": "openai/gpt-4.1-mini", "timeout_s": 0}}}, "$.backends.small"),
        ({"policies": {"one": {"rules": [{"otherwise": {"singel": {"backend": "small"}}}]}}}, "$.policies.one"),
    ],
)
def test_an_editor_sees_a_mistake_where_it_is(wrong: dict[str, Any], place: str) -> None:
    """An unknown key, a value out of its bounds, a plan of no kind."""
    assert faults(SMALL) == []
    assert faults(SMALL | wrong) == [place]
