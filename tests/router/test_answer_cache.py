"""The key of an answer changes with everything that changes the answer, and with nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from adapters.cache import MemoryCache
from adapters.types import ChatRequest
from policies.plans import Single
from router.pipeline import Router
from router.pipeline_types import Ask, CacheControl
from tests.router.test_pipeline import a_policy, a_router, an_ask

SAMPLING: dict[str, Any] = {
    "messages": ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "a question of some words"}),
    "n": 2, "temperature": 0.5, "top_p": 0.5, "max_tokens": 7, "stop": ("\n",), "seed": 1, "logprobs": True, "continue_final": True,
    "extra": {"reasoning_effort": "high"},
}  # fmt: skip
EFFORT: list[dict[str, Any]] = [
    {"max_cost_usd": 0.5}, {"deadline_s": 9.0}, {"min_quality": 0.3}, {"plan": Single(backend="large")}, {"tags": {"a": "b"}},
    {"cache": CacheControl(namespace="mine")}, {"model": "large"},
]  # fmt: skip


def key(ask: Ask, router: Router | None = None) -> str:
    router = router or a_router(cache=MemoryCache())
    return router.cache.key(router._open(ask))


@pytest.mark.parametrize("name", [field.name for field in fields(ChatRequest)])
def test_every_field_of_the_request_is_in_the_key(name: str) -> None:
    """Also one that is added tomorrow: without a row above, this fails."""
    ask = an_ask()
    assert key(replace(ask, request=ask.request.but(**{name: SAMPLING[name]}))) != key(ask)


def test_two_unknown_fields_and_two_values_of_one_are_told_apart() -> None:
    """Tools, `reasoning_effort`, `response_format` and whatever comes later travel in `extra`, all of which counts."""
    extras: list[dict[str, Any]] = [{}, {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {"tools": [1]}, {"tools": [2]}]
    assert len({key(an_ask(extra=extra)) for extra in extras}) == len(extras)


@pytest.mark.parametrize("change", EFFORT)
def test_effort_model_tags_and_namespace_are_in_the_key(change: dict[str, Any]) -> None:
    """Each of them may change what is bought."""
    assert key(an_ask(**change)) != key(an_ask())


def test_what_a_policy_says_is_in_the_key() -> None:
    """A policy of the same name and another value of a right answer does not answer from what the first one bought."""
    assert key(an_ask(), a_router(policy=a_policy(2e-3), cache=MemoryCache())) != key(an_ask())


def test_what_changes_nothing_is_not_in_the_key() -> None:
    """Who streams, how the answer may be kept, and the decision's id leave the key as it is."""
    same = [an_ask(first_token_s=1.0), an_ask(verbose=True), an_ask(cache=CacheControl(no_store=True, ttl_s=1)), an_ask()]
    assert {key(ask) for ask in same} == {key(an_ask())}
