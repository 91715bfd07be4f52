"""Secrets of a configuration: hidden where it is shown or digested, and put back where what was shown is sent again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from adapters.litellm import SECRET
from router.errors import ConfigError

MASK = str(SecretStr("x"))
"""What stands for a secret that is not shown; sent back, it means the secret that is there."""
PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]+(?=@)")


def masked(value: Any) -> Any:
    """Without passwords in addresses and what LiteLLM is told in secret; other secrets are masked by their type."""
    if isinstance(value, str):
        return PASSWORD.sub(rf"\1:{MASK}", value)
    if isinstance(value, Mapping):
        return {key: _params(item) if key == "litellm_params" else masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list | tuple) else value


def _params(value: Any) -> Any:
    """Headers are among them, and may be anything."""
    if not isinstance(value, Mapping):
        return masked(value)
    return {key: _hidden(item) if any(word in key.lower() for word in (*SECRET, "header")) else masked(item) for key, item in value.items()}


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(item) for key, item in value.items()}
    return MASK if isinstance(value, str) else value


def unmasked(value: Any, was: Any, place: str = "") -> Any:
    """With the secrets that a mask stands for. Raises ConfigError where there is none."""
    if isinstance(value, Mapping):
        before = was if isinstance(was, Mapping) else {}
        return {key: unmasked(item, before.get(key), f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [unmasked(item, was[i] if isinstance(was, list) and i < len(was) else None, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, str) and MASK in value:
        if not isinstance(was, str):
            raise ConfigError(f"body: {place}: holds a mask where no secret was; write the secret, or os.environ/NAME")
        return was
    return value
