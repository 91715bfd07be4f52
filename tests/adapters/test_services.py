"""Whom a call goes to, as traces say it: read from a configuration's backends."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from adapters.backends import BackendOptions
from adapters.services import Service, services


def test_provider_model_and_address_come_from_the_options() -> None:
    """OpenAI's protocol by its address, LiteLLM's prefixes in the conventions' words, a pool by its parts, our own without an address."""
    raw: dict[str, Any] = {
        "gpt": {"model": "openai/gpt-4.1", "api_key": "k"},
        "vllm": {"model": "qwen", "base_url": "http://gpu:8000/v1"},
        "claude": {"model": "anthropic/claude-sonnet-4-5"},
        "nova": {"model": "bedrock/amazon.nova"},
        "pool": {"deployments": {"a": {"model": "m", "base_url": "http://a:1/v1"}, "b": {"model": "m", "base_url": "https://b/v1"}}},
        "played": {"kind": "scripted"},
    }
    found = services({name: TypeAdapter(BackendOptions).validate_python(one) for name, one in raw.items()})
    assert found == {
        "gpt": Service("openai", "gpt-4.1", "api.openai.com", 443),
        "vllm": Service("openai", "qwen", "gpu", 8000),
        "claude": Service("anthropic", "claude-sonnet-4-5"),
        "nova": Service("aws.bedrock", "amazon.nova"),
        "pool": Service("openai", "m", "a", 1),
        "pool/a": Service("openai", "m", "a", 1),
        "pool/b": Service("openai", "m", "b", 443),
        "played": Service("outlay", "scripted"),
    }
