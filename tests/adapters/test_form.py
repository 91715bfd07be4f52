"""The form that a request asks for: what is seen of it, what is not, and what a caller's schema cannot do to us."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.form import form_of
from adapters.types import ChatRequest, Choice

USER = ({"role": "user", "content": "hi"},)
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


def fault(answer: str | Choice, schema: Any = POINT, **extra: Any) -> str:
    wanted = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}} if schema is not None else {}
    check = form_of(ChatRequest(USER, extra={**wanted, **extra}))
    assert check is not None
    return check(Choice(answer) if isinstance(answer, str) else answer)


def calling(arguments: str, name: str = "move") -> Choice:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    return Choice("", "tool_calls", message={"role": "assistant", "content": None, "tool_calls": [call]})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"x": 1}', ""),
        ('{"x": "1"}', "$.x: '1' is not of type 'integer'"),
        ("{}", "'x' is a required property"),
        ('{"x": 1, "y": 2}', "'y' was unexpected"),
        ("x = 1", "not JSON"),
        ('```json\n{"x": 1}\n```', "not JSON"),
        ('{"x": NaN}', "not JSON"),
        ("[" * 100_000, ""),  # too deep to say
    ],
)
def test_an_answer_is_held_to_the_schema(answer: str, said: str) -> None:
    """Valid or not, and the first thing that is wrong."""
    assert said in fault(answer)
    assert bool(said) == bool(fault(answer))


def test_any_object_will_do_for_json_object() -> None:
    """`json_object` asks for an object and no more."""
    wanted = {"response_format": {"type": "json_object"}}
    assert not fault('{"a": 1}', None, **wanted)
    assert fault("[1]", None, **wanted)


def test_arguments_of_strict_tools_are_held_to_their_parameters() -> None:
    """Only of tools that are strict, and only of calls that were made."""
    tool = {"type": "function", "function": {"name": "move", "parameters": POINT, "strict": True}}
    assert fault(calling('{"x": "1"}'), None, tools=[tool]).startswith("move: $.x")
    assert not fault(calling('{"x": 1}'), None, tools=[tool])
    assert not fault(calling("{}", "other"), None, tools=[tool])
    assert not fault("no call at all", None, tools=[tool])
    loose = {**tool, "function": {**tool["function"], "strict": False}}  # type: ignore[dict-item]
    assert form_of(ChatRequest(USER, extra={"tools": [loose]})) is None


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": "json"},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}},
        {"tools": [{"function": 3}, 4], "response_format": {"type": "json_schema"}},
    ],
)
def test_what_asks_for_nothing_we_know_asks_for_nothing(extra: dict[str, Any]) -> None:
    """No schema, or none that is one: the backend has the last word."""
    assert form_of(ChatRequest(USER, extra=extra)) is None


def test_a_callers_regular_expression_is_not_run() -> None:
    """One that would take longer than the universe has, on an answer that its author can order, costs nothing; the rest still counts."""
    endless = {"type": "object", "properties": {"x": {"pattern": "^(a+)+$"}}, "patternProperties": {"^(a+)+$": {}}, "required": ["x"]}
    schema = {**endless, "additionalProperties": False, "unevaluatedProperties": False}
    answer = {"x": "a" * 40 + "!", "a" * 40 + "!": 1}
    assert fault(json.dumps(answer), schema) == ""
    assert "required" in fault("{}", schema)


def test_a_reference_out_of_the_schema_is_not_followed() -> None:
    """A caller does not say where this server connects to; one inside of it counts."""
    assert fault('{"x": 1}', {"$ref": "http://127.0.0.1:9/schema.json"}) == ""
    assert "integer" in fault('"a"', {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}})
