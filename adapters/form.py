"""The form that a request asks its answers to have: a JSON Schema (`response_format`), or the parameters of its strict tools.

A verifier that costs nothing, so it looks at every answer without being configured: one that has the form is never beaten by one that
has not. It says nothing of what has the form. A schema that cannot be applied asks for nothing here; the backend will say what is wrong.

The schema comes from a caller, and so may a regular expression in it that would never end on some answer: `pattern` and
`patternProperties` are not looked at, nor is what depends on them. References outside of the schema are not followed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from adapters.json_schema import no_constant, requested_schema, schema_fault
from adapters.types import ChatRequest, Choice

Check = Callable[[Choice], str]
"""Why an answer has not the form; empty if it has."""


def form_of(request: ChatRequest) -> Check | None:
    """The check that the request asks for; None where it asks for none."""
    schema = requested_schema(request)
    text = None if schema is None else _checked_against(schema)
    tools = {name: check for name, parameters in _strict_tools(request) if (check := _checked_against(parameters))}
    if text is None and not tools:
        return None
    return lambda choice: _fault(choice, text, tools)


def _fault(choice: Choice, text: Callable[[str], str] | None, tools: Mapping[str, Callable[[str], str]]) -> str:
    calls = (choice.message or {}).get("tool_calls") or ()
    said = [(call["function"]["name"], call["function"]["arguments"]) for call in calls if call.get("type", "function") == "function"]
    faults = (f"{name}: {fault}" for name, arguments in said if name in tools and (fault := tools[name](arguments)))
    return next(faults, "" if calls or text is None else text(choice.text))


def _strict_tools(request: ChatRequest) -> Iterator[tuple[str, Any]]:
    tools = request.extra.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and function.get("strict") is True and isinstance(function.get("name"), str):
            yield function["name"], function.get("parameters", {})


def _checked_against(schema: Any) -> Callable[[str], str] | None:
    """What is wrong with a text, by the schema; None for one that is no schema."""
    if schema_fault(schema):
        return None
    validator = _validator(schema)

    def check(text: str) -> str:
        from referencing.exceptions import Unresolvable

        try:
            error = next(validator.iter_errors(json.loads(text, parse_constant=no_constant)), None)
        except (Unresolvable, RecursionError):
            return ""
        except ValueError as fault:
            return f"not JSON: {fault}"
        return "" if error is None else f"{error.json_path}: {error.message[:200]}"

    return check


def _validator(schema: Any) -> Any:
    """The schema's own draft (2020-12 where it names none), without regular expressions."""
    from jsonschema.validators import Draft202012Validator, extend, validator_for
    from referencing import Registry

    draft = validator_for(schema, Draft202012Validator)
    additional = draft.VALIDATORS["additionalProperties"]

    def unless_by_pattern(validator: Any, value: Any, instance: Any, inside: Any) -> Any:
        return () if "patternProperties" in inside else additional(validator, value, instance, inside)

    silent = dict.fromkeys(("pattern", "patternProperties", "unevaluatedProperties"), lambda *_: ())
    lenient: Any = extend(draft, {**silent, "additionalProperties": unless_by_pattern})  # type: ignore[no-untyped-call]
    return lenient(schema, registry=Registry())
