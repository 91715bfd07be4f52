"""Whom a call goes to, in the words of OpenTelemetry's conventions for generative AI: provider, model, address. Read from options alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from adapters.backends import BackendOptions, PoolOptions
from adapters.judge import JudgeOptions
from adapters.litellm import LiteLLMOptions
from adapters.openai import OpenAIOptions
from adapters.verifiers import VerifierOptions

OWN = "outlay"
"""The provider of what runs in this process."""
NAMES: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""LiteLLM's prefixes that the conventions spell otherwise."""


@dataclass(frozen=True, slots=True)
class Service:
    """One place where a model is asked."""

    provider: str
    model: str
    address: str | None = None
    """None where it is in this process, or where a library knows it and we do not."""
    port: int | None = None


def services(backends: Mapping[str, BackendOptions]) -> dict[str, Service]:
    """By the name of each backend, and of each deployment (`backend/part`); a pool's own is that of its first."""
    found: dict[str, Service] = {}
    for name, options in backends.items():
        if isinstance(options, PoolOptions):
            parts = {f"{name}/{part}": _service(one) for part, one in options.deployments.items()}
            found |= {name: next(iter(parts.values()))} | parts
        else:
            found[name] = _service(options)
    return found


def judges(verifiers: Mapping[str, VerifierOptions], backends: Mapping[str, Service]) -> dict[str, Service]:
    """By the name of each verifier that is a model asked elsewhere: the service of its backend."""
    return {name: backends[options.backend] for name, options in verifiers.items() if isinstance(options, JudgeOptions)}


def _service(options: BackendOptions) -> Service:
    if isinstance(options, OpenAIOptions):
        at = urlsplit(options.base_url)
        return Service("openai", options.model.removeprefix("openai/"), at.hostname, at.port or {"http": 80, "https": 443}[at.scheme])
    model = str(getattr(options, "model", options.kind))
    if isinstance(options, LiteLLMOptions):
        prefix, slash, rest = model.partition("/")
        return Service(NAMES.get(prefix, prefix) if slash else "openai", rest or model)
    return Service(OWN, model)
