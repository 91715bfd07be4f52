"""A verifier for structured output: valid JSON that fits a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from adapters.answers import strip_fence
from adapters.errors import VerifierError
from adapters.options import Options
from adapters.scoring import FreeVerifier
from adapters.types import Call, ChatRequest, Choice, Verdict


class JsonSchemaOptions(Options):
    """Valid JSON of a given form."""

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | None = Field(None, alias="schema", description="unset: the one in the request's response_format")
    strip_fences: bool = Field(False, description="also accept JSON inside a Markdown code block")

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and (fault := schema_fault(value)):
            raise ValueError(f"not a JSON Schema: {fault}")
        return value


class JsonSchemaVerifier(FreeVerifier):
    """1 for valid JSON that fits the schema, else 0 and the first thing that is wrong."""

    def __init__(self, name: str, options: JsonSchemaOptions) -> None:
        super().__init__(name)
        self._schema, self._strip = options.json_schema, options.strip_fences

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer; without any schema there is no score. Raises VerifierError if the request's schema is none."""
        schema = self._schema if self._schema is not None else requested_schema(request)
        if schema is None:
            return [Verdict(None, reason="neither the request nor the verifier has a schema") for _ in choices]
        if self._schema is None and (fault := schema_fault(schema)):
            raise VerifierError(self.name, f"the schema in response_format is not valid: {fault}")
        return [self._one(schema, choice.text) for choice in choices]

    def _one(self, schema: Any, text: str) -> Verdict:
        try:
            value = json.loads(strip_fence(text) if self._strip else text, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            return Verdict(0.0, reason=f"not JSON: {error}")
        fault = _first_error(self.name, schema, value)
        return Verdict(0.0 if fault else 1.0, reason=fault)


def requested_schema(request: ChatRequest) -> Any:
    """The schema of an OpenAI request; "json_object" asks for any object."""
    wanted = request.extra.get("response_format")
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    inner = wanted.get("json_schema")
    return inner.get("schema") if isinstance(inner, Mapping) else None


def schema_fault(schema: Any) -> str:
    """Why it is no JSON Schema; empty if it is one."""
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message}"
    except (RecursionError, AttributeError, TypeError):
        return "it is an object, or true or false, nested within reason"
    return ""


def _first_error(name: str, schema: Any, value: Any) -> str:
    """What is wrong, or nothing. References are resolved inside the schema only: a request must not make this process fetch a URL."""
    from jsonschema.exceptions import best_match
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = validator_for(schema, Draft202012Validator)(schema, registry=Registry())
    try:
        error = best_match(validator.iter_errors(value))
    except (Unresolvable, RecursionError, re.error) as useless:  # a reference out of it or to itself, a pattern that is none
        raise VerifierError(name, f"the schema cannot be applied: {useless}") from None
    return "" if error is None else f"{error.json_path}: {error.message}"


def no_constant(constant: str) -> None:
    """For `json.loads`: NaN and infinities, which Python reads, are no JSON."""
    raise ValueError(f"{constant} is not JSON")
