"""The kinds of backends, how each is built from its options, and which kind a configuration means that does not say.

A new kind is a file of its own and a line in each of the two tables here. What a backend is, is in `types.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag

from adapters.guarded import Guarded
from adapters.litellm import LiteLLMBackend, LiteLLMOptions
from adapters.local import LocalBackend, LocalOptions
from adapters.model_folder import PACKAGE_ROOT
from adapters.openai import OpenAIBackend, OpenAIOptions
from adapters.options import RemoteOptions
from adapters.replay import ReplayBackend, ReplayOptions
from adapters.scripted import ScriptedBackend, ScriptedOptions
from adapters.types import Backend

HUB_PREFIX = "hf/"
"""Before a name of the Hugging Face hub, to tell it from LiteLLM's names; with `kind: local` it may be left out."""
LOCAL_PREFIXES = ("fleet/", HUB_PREFIX, "./", "../", "/")


def backend_kind(config: Mapping[str, Any]) -> str:
    """The kind that a configuration means: the one it says, else the one that its model's name or address points to.

    `fleet/...`, `hf/...` or a folder that exists: local; `openai/...` or anything with a base_url: openai; any other: litellm.
    """
    if "kind" in config:
        return str(config["kind"])
    model = str(config.get("model", ""))
    if "base_url" in config:
        return "openai"
    if model.startswith(LOCAL_PREFIXES) or (model and any((base / model).is_dir() for base in (Path.cwd(), PACKAGE_ROOT))):
        return "local"
    return "openai" if model.startswith("openai/") else "litellm"


def _tag(value: Any) -> str | None:
    """The kind of a configuration, or of options that are parsed already; None for what can be neither."""
    if isinstance(value, Mapping):
        return backend_kind(value)
    return getattr(value, "kind", None)


def _hub_name(value: Any) -> Any:
    """Local options with the hub's own name for the model."""
    if isinstance(value, Mapping) and isinstance(model := value.get("model"), str):
        return {**value, "model": model.removeprefix(HUB_PREFIX)}
    return value


BackendOptions = Annotated[
    Annotated[LocalOptions, BeforeValidator(_hub_name), Tag("local")]
    | Annotated[OpenAIOptions, Tag("openai")]
    | Annotated[LiteLLMOptions, Tag("litellm")]
    | Annotated[ReplayOptions, Tag("replay")]
    | Annotated[ScriptedOptions, Tag("scripted")],
    Discriminator(
        _tag,
        custom_error_type="backend_kind",
        custom_error_message="a backend is a mapping with a model; its kind is local, openai, litellm, replay or scripted",
    ),
]
"""A backend in a configuration, as a field's type: `backends: dict[str, BackendOptions]`."""

KINDS: dict[type, Callable[[str, Any], Backend]] = {
    LocalOptions: LocalBackend,
    OpenAIOptions: OpenAIBackend,
    LiteLLMOptions: LiteLLMBackend,
    ReplayOptions: ReplayBackend,
    ScriptedOptions: ScriptedBackend,
}


def build_backend(name: str, options: BackendOptions) -> Backend:
    """The backend that the options describe, guarded if it is behind a network. Models and connections are opened when first used.

    Raises MissingExtra if a key, a file or a package that it needs is not there.
    """
    backend = KINDS[type(options)](name, options)
    if not isinstance(options, RemoteOptions):
        return backend
    return Guarded(backend, timeout_s=options.timeout_s, max_concurrency=options.max_concurrency, max_waiting=options.max_waiting)
