"""The OpenAPI document is true: schemathesis asks whatever it allows, and much that it does not, and no answer is undocumented."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from adapters.scripted import scripted
from router.app import create_app
from router.parts import Parts, single_answer_policy
from router.pipeline import Router


def an_app() -> Any:
    """An application whose only backend always answers."""
    backends = {"small": scripted("small", "right")}
    return create_app(Router(Parts(backends=backends, policies={"balanced": single_answer_policy("small")}, default_policy="balanced")))


@pytest.fixture(autouse=True, scope="module")
def translations() -> None:
    """Imported before the first request, which may not take as long as that."""
    importlib.import_module("router.translations")


schema = schemathesis.openapi.from_asgi("/openapi.json", an_app())
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_gets_an_answer_that_is_not_documented(case: Any) -> None:
    """No 500, whatever the body; every status, type and shape is in the document."""
    case.call_and_validate(checks=CHECKS)


def test_every_endpoint_is_in_the_document() -> None:
    """With its body where it takes one; and bodies are open, since unknown fields are passed on."""
    paths = an_app().openapi()["paths"]
    assert {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/models", "/v1/feedback", "/v1/route"} <= set(paths)
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert "additionalProperties" not in body
        assert "text/event-stream" in paths[path]["post"]["responses"]["200"]["content"]
