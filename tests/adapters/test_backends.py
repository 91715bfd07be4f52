"""The table of backends: which kind a configuration means, what is refused, and what is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from adapters.backends import BackendOptions, backend_kind, build_backend, build_backends
from adapters.errors import BackendUnavailable
from adapters.fallbacks import Fallbacks
from adapters.guarded import Guarded
from adapters.local import LocalBackend, LocalOptions
from adapters.openai import OpenAIBackend, OpenAIOptions
from adapters.pool import Pool
from adapters.scripted import ScriptedBackend, ScriptedOptions
from adapters.types import Call, ChatRequest, Price


class Backends(BaseModel):
    """As a configuration holds them."""

    model_config = ConfigDict(extra="forbid")
    backends: dict[str, BackendOptions]


def parsed(**config: Any) -> Any:
    return Backends.model_validate({"backends": {"b": config}}).backends["b"]


KINDS: list[tuple[dict[str, Any], str]] = [
    ({"model": "fleet/small"}, "local"),
    ({"model": "hf/Qwen/Qwen2.5-0.5B"}, "local"),
    ({"model": "adapters"}, "local"),
    ({"model": "openai/gpt-4o-mini"}, "openai"),
    ({"model": "Qwen/Qwen2.5-0.5B", "base_url": "http://localhost:8000/v1"}, "openai"),
    ({"model": "anthropic/claude-haiku-4-5"}, "litellm"),
    ({"model": "gpt-4o"}, "litellm"),
    ({"kind": "litellm", "model": "openai/gpt-4o-mini"}, "litellm"),
    ({"kind": "scripted"}, "scripted"),
    ({"deployments": {"eu": {"model": "openai/gpt-4o-mini"}}}, "pool"),
    ({"kind": "replay", "path": "x.jsonl"}, "replay"),
]


@pytest.mark.parametrize(("config", "kind"), KINDS)
def test_the_kind_is_said_or_seen(config: dict[str, Any], kind: str) -> None:
    """A `kind` holds; without one the model's name, an existing folder or an address decides."""
    assert backend_kind(config) == kind
    assert parsed(**config).kind == kind


def test_a_folder_of_the_working_directory_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name is LiteLLM's until a folder of that name is there."""
    monkeypatch.chdir(tmp_path)
    assert backend_kind({"model": "my-model"}) == "litellm"
    (tmp_path / "my-model").mkdir()
    assert backend_kind({"model": "my-model"}) == "local"


def test_the_hubs_prefix_is_not_part_of_the_name() -> None:
    """`hf/` tells a hub name from LiteLLM's names, and is not sent to the hub."""
    assert parsed(model="hf/Qwen/Qwen2.5-0.5B").model == "Qwen/Qwen2.5-0.5B"


def test_parsed_options_are_taken_as_they_are() -> None:
    """Options made in Python pass through the same field."""
    options = ScriptedOptions()
    assert Backends(backends={"b": options}).backends["b"] is options


@pytest.mark.parametrize(
    ("config", "place", "said"),
    [
        ({"kind": "openia", "model": "m"}, ("backends", "b"), "local, openai, litellm, replay or scripted"),
        ("gpt-4o", ("backends", "b"), "a backend is a mapping"),
        ({"model": "openai/m", "time_out": 3}, ("backends", "b", "openai", "time_out"), "Extra inputs"),
        ({"model": "openai/m", "price": {"input": 3}}, ("backends", "b", "openai", "price", "input"), ""),
        ({}, ("backends", "b", "litellm", "model"), "Field required"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(config: Any, place: tuple[str, ...], said: str) -> None:
    """An unknown kind, an unknown key, a missing model: the error has the place, and what would be right."""
    with pytest.raises(ValidationError) as raised:
        Backends.model_validate({"backends": {"b": config}})
    (error,) = raised.value.errors()
    assert error["loc"] == place
    assert said in error["msg"]


async def test_backends_behind_a_network_are_guarded_and_stand_in_a_pool() -> None:
    """Time limit and queue stand around remote backends; local and scripted ones look after themselves or need none."""
    remote = build_backend("b", OpenAIOptions(model="gpt-4o-mini", timeout_s=5, max_concurrency=2, max_waiting=1))
    assert isinstance(remote, Pool)
    guarded = remote.deployments[0].backend
    assert isinstance(guarded, Guarded)
    assert isinstance(guarded.backend, OpenAIBackend)
    assert (remote.name, remote.price, remote.features) == ("b", guarded.price, guarded.features)
    assert isinstance(build_backend("b", LocalOptions(model="fleet/small")), LocalBackend)
    scripted = build_backend("b", parsed(kind="scripted", answers=["yes"], price={"output_usd_per_mtok": 2e6}))
    assert isinstance(scripted, ScriptedBackend)
    await scripted.complete(ChatRequest(messages=({"role": "user", "content": "?"},)), call := Call(scripted.price))
    assert (call.choices[0].text, call.cost_usd) == ("yes", 2)
    assert scripted.price == Price(0, 2e6)


@pytest.mark.parametrize("kind", ["openai", "litellm"])
async def test_a_configured_length_is_known_to_whoever_reckons_the_worst_case(kind: str) -> None:
    """`max_tokens` of the configuration stands in the features, so that a ceiling reckons with it and not with a guess."""
    backend = build_backend("m", parsed(kind=kind, model="m", api_key="k", max_tokens=77))
    assert backend.features.max_tokens == 77
    await backend.aclose()


async def test_deployments_share_a_name_and_the_options_of_the_whole() -> None:
    """Each is built as a backend behind a network, under `backend/deployment`; what holds for all of them is not said for one."""
    place = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "price": {"input_usd_per_mtok": 1}}
    pool = build_backend("b", parsed(deployments={"eu": place, "us": {**place, "price": {"output_usd_per_mtok": 2}}}, attempts=3))
    assert isinstance(pool, Pool)
    assert [deployment.backend.name for deployment in pool.deployments] == ["b/eu", "b/us"]
    assert pool.price == Price(1, 2)  # the dearest of both, so that no ceiling is overrun
    for wrong, said in (({"attempts": 3}, "write it beside deployments"), ({"kind": "local"}, "openai or litellm")):
        with pytest.raises(ValidationError, match=said):
            parsed(deployments={"eu": {**place, **wrong}})


async def test_fallbacks_are_built_around_backends() -> None:
    """Those named answer in a backend's place; theirs are not followed, so that no chain has an end in itself."""
    place = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    built = build_backends({"a": parsed(**place, fallbacks=["b"]), "b": parsed(**place, fallbacks=["a"])})
    assert all(isinstance(backend, Fallbacks) for backend in built.values())
    assert [type(backend.backend) for backend in built.values() if isinstance(backend, Fallbacks)] == [Pool, Pool]
    with pytest.raises(BackendUnavailable, match="'a'"):
        await built["a"].complete(ChatRequest(messages=({"role": "user", "content": "?"},)), call := Call(Price()))
    assert [(one.deployment, one.kind) for one in call.attempts] == [("a", "first"), ("a", "retry"), ("b", "fallback"), ("b", "fallback")]
    for backend in built.values():
        await backend.aclose()


async def test_what_is_kept_answers_in_others_places_too() -> None:
    """A backend that a new configuration leaves as it was is not built a second time behind another's fallbacks, where nobody would close
    it, and where neither its queue nor its circuit would be the one in use."""
    place = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    before = build_backends({"a": parsed(**place, fallbacks=["b"]), "b": parsed(**place, fallbacks=["c"]), "c": parsed(**place)})
    changed = parsed(**place, fallbacks=["b", "c"], timeout_s=9)
    after = build_backends({"a": changed, "b": parsed(**place, fallbacks=["c"]), "c": parsed(**place)}, {k: before[k] for k in "bc"})
    assert after["b"] is before["b"]
    b, c = before["b"], before["c"]
    assert isinstance(b, Fallbacks)
    assert isinstance(after["a"], Fallbacks)
    assert after["a"]._others == [b.backend, c]
    assert after["a"].backend is not before["a"]
