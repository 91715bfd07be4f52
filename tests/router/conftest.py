"""A whole gateway before a server of OpenAI's protocol, for tests by real clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from pydantic import TypeAdapter

from adapters.openai import OpenAIBackend, OpenAIOptions
from policies.policy import Policy
from router.parts import Parts
from router.pipeline import Router
from tests.adapters.stub_server import StubServer
from tests.router.serving import served

MODELS = ("words", "echo", "tools", "odd-fields", "error-event", "status-400", "status-503")
PLANS = {
    "balanced": [{"single": {"backend": "words"}}],
    "tools": [{"best_of_n": {"backend": "tools", "n": 4, "select": "majority"}}],
    "both": [{"single": {"backend": "words"}}, {"single": {"backend": "tools"}}],
}


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as server:
        yield server


@pytest.fixture
async def gateway(stub: StubServer) -> AsyncIterator[str]:
    """The address of the real application and pipeline, with the stub's models as backends."""
    backends = {name: OpenAIBackend(name, OpenAIOptions(model=name, base_url=stub.url)) for name in MODELS}
    raw = {name: {"objective": {"value_of_correct_usd": 0.01}, "plans": plans} for name, plans in PLANS.items()}
    policies = {name: TypeAdapter(Policy).validate_python(policy) for name, policy in raw.items()}
    router = Router(Parts(backends=backends, policies=policies, default_policy="balanced"))
    async with served(router) as url:
        yield url


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client of it."""
    async with openai.AsyncOpenAI(base_url=gateway, api_key="none", max_retries=0) as http:
        yield http
