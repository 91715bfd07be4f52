"""The kinds of backends, how each is built from its options, and which kind a configuration means that does not say.

What is behind a network is guarded, stands in a pool (of one, where no `deployments` are given), and has its fallbacks around it.

A new kind is a file of its own and a line in each of the two tables here. What a backend is, is in `types.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from adapters.fallbacks import Fallbacks
from adapters.guarded import Guarded
from adapters.litellm import LiteLLMBackend, LiteLLMOptions
from adapters.local import LocalBackend, LocalOptions
from adapters.model_folder import PACKAGE_ROOT
from adapters.openai import OpenAIBackend, OpenAIOptions
from adapters.options import RemoteOptions, Resilience
from adapters.pool import Pool
from adapters.replay import ReplayBackend, ReplayOptions
from adapters.scripted import ScriptedBackend, ScriptedOptions
from adapters.types import Backend

HUB_PREFIX = "hf/"
"""Before a name of the Hugging Face hub, to tell it from LiteLLM's names; with `kind: local` it may be left out."""
LOCAL_PREFIXES = ("fleet/", HUB_PREFIX, "./", "../", "/")


def backend_kind(config: Mapping[str, Any]) -> str:
    """The kind that a configuration means: the one it says, else the one that its model's name or address points to.

    `deployments`: pool; `fleet/...`, `hf/...` or a folder that exists: local; `openai/...` or a base_url: openai; any other: litellm.
    """
    if "kind" in config:
        return str(config["kind"])
    if "deployments" in config:
        return "pool"
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


RemoteKind = Annotated[
    Annotated[OpenAIOptions, Tag("openai")] | Annotated[LiteLLMOptions, Tag("litellm")],
    Discriminator(
        _tag, custom_error_type="deployment_kind", custom_error_message="a deployment has a model; its kind is openai or litellm"
    ),
]


class PoolOptions(Resilience):
    """One model at several places."""

    kind: Literal["pool"] = "pool"
    deployments: Mapping[str, RemoteKind] = Field(min_length=1, description="by a name of your own, each as a backend behind a network")

    @model_validator(mode="after")
    def _resilience_of_the_whole(self) -> PoolOptions:
        for name, deployment in self.deployments.items():
            if wrong := sorted(Resilience.model_fields.keys() & deployment.model_fields_set):
                raise ValueError(f"{wrong[0]} of deployment '{name}' holds for the backend as a whole; write it beside deployments")
        return self


BackendOptions = Annotated[
    Annotated[LocalOptions, BeforeValidator(_hub_name), Tag("local")]
    | Annotated[OpenAIOptions, Tag("openai")]
    | Annotated[LiteLLMOptions, Tag("litellm")]
    | Annotated[PoolOptions, Tag("pool")]
    | Annotated[ReplayOptions, Tag("replay")]
    | Annotated[ScriptedOptions, Tag("scripted")],
    Discriminator(
        _tag,
        custom_error_type="backend_kind",
        custom_error_message="a backend is a mapping with a model, or deployments; its kind is local, openai, litellm, replay or scripted",
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


def build_backends(options: Mapping[str, BackendOptions], kept: Mapping[str, Backend] | None = None) -> dict[str, Backend]:
    """All backends of a configuration, each with those that answer in its place; what is kept of another one is taken as it is."""
    kept = kept or {}
    alone = {name: _alone(kept[name]) if name in kept else build_backend(name, one) for name, one in options.items()}
    return {name: kept[name] if name in kept else _with_fallbacks(alone, name, one) for name, one in options.items()}


def build_backend(name: str, options: BackendOptions) -> Backend:
    """The backend that the options describe, without its fallbacks. Models and connections are opened when first used.

    Raises MissingExtra if a key, a file or a package that it needs is not there.
    """
    if isinstance(options, PoolOptions):
        return Pool(name, [_guarded(f"{name}/{part}", one) for part, one in options.deployments.items()], options)
    if isinstance(options, RemoteOptions):
        return Pool(name, [_guarded(name, options)], options)
    return KINDS[type(options)](name, options)


def _alone(backend: Backend) -> Backend:
    return backend.backend if isinstance(backend, Fallbacks) else backend


def _guarded(name: str, options: RemoteOptions) -> Backend:
    backend = KINDS[type(options)](name, options)
    return Guarded(backend, timeout_s=options.timeout_s, max_concurrency=options.max_concurrency, max_waiting=options.max_waiting)


def _with_fallbacks(alone: Mapping[str, Backend], name: str, options: BackendOptions) -> Backend:
    if not isinstance(options, Resilience) or not options.fallbacks:
        return alone[name]
    return Fallbacks(alone[name], [alone[other] for other in options.fallbacks], options.fallback_on)
