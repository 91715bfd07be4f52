"""What a certificate is bound to: each part of the engine, and nothing that says the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from difficulty.curves import Curves, Tokens
from router.assembly import parts
from router.config import parse
from router.engine import engine
from router.parts import Estimator

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
DEPLOYMENT = {"model": "openai/m", "base_url": "http://user:before@127.0.0.1:9/v1", "api_key": "sk-before", "price": PRICE}
RAW: dict[str, Any] = {
    "backends": {
        "small": {"kind": "scripted", "price": PRICE},
        "pool": {"deployments": {"a": DEPLOYMENT}, "fallbacks": ["spare"]},
        "spare": {**DEPLOYMENT, "max_tokens": 100, "headers": {"authorization": "Bearer before"}},
        "grader": {"kind": "scripted", "price": PRICE},
        "other": {"kind": "scripted", "price": PRICE},
    },
    "verifiers": {
        "checked": {"kind": "regex", "pattern": "right"},
        "run": {"kind": "python", "entry": "timeit:timeit"},
        "judge": {"kind": "judge", "backend": "grader"},
        "unused": {"kind": "votes"},
    },
    "policies": {
        "balanced": {
            "objective": {"value_of_correct_usd": 1e-3},
            "plans": [
                {"single": {"backend": "small", "verifier": "checked"}},
                {"single": {"backend": "pool", "verifier": "judge"}},
                {"best_of_n": {"backend": "small", "n": 4, "verifier": "run"}},
            ],
        },
        "rules": {"rules": [{"otherwise": {"single": {"backend": "small"}}}]},
        "cheapest": {"objective": {"cheapest_above": 0.9}, "plans": [{"single": {"backend": "small"}}]},
        "paced": {"objective": {"budget_usd": 5, "per": "day", "when_spent": "refuse"}, "plans": [{"single": {"backend": "small"}}]},
    },
    "probe": {"encoder": "fleet/small", "artifact": "fleet/probe"},
}
GONE = object()


def parts_of(raw: dict[str, Any], policy: str = "balanced", probe: object = "a probe") -> dict[str, str]:
    """The engine of a policy; the probe's artifact is read and its encoder left alone."""
    config = parse(raw, "test")
    built = parts(parse({**raw, "probe": {}}, "test"))
    return engine(config.policies[policy], config, replace(built, probe=cast("Estimator | None", probe)))


def changed(where: str, value: object, policy: str = "balanced") -> set[str]:
    """Names of the parts that are others, with one value of the configuration changed."""
    raw = copy.deepcopy(RAW)
    *path, last = where.split("/")
    here: Any = raw
    for step in path:
        here = here[int(step)] if isinstance(here, list) else here.setdefault(step, {})
    if value is GONE:
        del here[last]
    else:
        here[last] = value
    before, after = parts_of(RAW, policy), parts_of(raw, policy)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


DECIDES: list[tuple[str, str, object, set[str]]] = [
    ("balanced", "policies/balanced/plans/2/best_of_n/n", 8, {"plans"}),
    ("balanced", "policies/balanced/limits", {"cost_usd": 0.1}, {"limits"}),
    ("balanced", "policies/balanced/explore", 0.1, {"explore"}),
    ("rules", "policies/rules/rules/0/otherwise/single/verifier", "checked", {"rules", "verifiers.checked"}),
    ("rules", "policies/rules/until", 0.9, {"until"}),
    ("cheapest", "policies/cheapest/objective/cheapest_above", 0.8, {"objective"}),
    ("paced", "policies/paced/objective/budget_usd", 6, {"objective"}),
    ("balanced", "backends/small/price/output_usd_per_mtok", 2.0, {"prices"}),
    ("balanced", "backends/small/price/cached_input_usd_per_mtok", 0.5, {"prices"}),
    ("balanced", "probe/artifact", "difficulty/general", {"probe"}),
    ("balanced", "probe/strength", {"small": 0.3}, {"probe"}),
    ("balanced", "probe/price", PRICE, {"probe"}),
    ("balanced", "backends/small/answers", ["always wrong"], {"backends.small"}),
    ("balanced", "backends/small", DEPLOYMENT, {"backends.small"}),
    ("balanced", "backends/pool/deployments/a/model", "openai/another", {"backends.pool"}),
    ("balanced", "backends/pool/deployments/a/base_url", "http://127.0.0.1:10/v1", {"backends.pool"}),
    ("balanced", "backends/pool/deployments/b", DEPLOYMENT, {"backends.pool"}),
    ("balanced", "backends/pool/fallbacks", GONE, {"backends.pool", "backends.spare"}),
    ("balanced", "backends/spare/max_tokens", 10, {"backends.spare"}),
    ("balanced", "backends/grader/answers", ["10"], {"backends.grader"}),
    ("balanced", "verifiers/checked/pattern", ".*", {"verifiers.checked"}),
    ("balanced", "verifiers/run/entry", "math:floor", {"verifiers.run"}),
    ("balanced", "verifiers/judge/rubric", "Is {answer} right?", {"verifiers.judge"}),
    ("balanced", "verifiers/judge/temperature", 1.0, {"verifiers.judge"}),
]


@pytest.mark.parametrize(("policy", "where", "value", "names"), DECIDES, ids=[where for _, where, *_ in DECIDES])
def test_what_decides_or_answers_changes_its_part_and_no_other(policy: str, where: str, value: object, names: set[str]) -> None:
    """Of plans, limits, prices, probe, and of every backend and verifier that the plans reach, by way of a judge or a fallback too."""
    assert changed(where, value, policy) == names


def test_curves_are_a_part(tmp_path: Path) -> None:
    """What was learned of lengths decides what a plan is expected to cost."""
    Curves(tokens={"small": Tokens(3.0, 0.0, 0.1)}).save(tmp_path / "curves.json")
    assert changed("curves", str(tmp_path / "curves.json")) == {"curves"}


def test_an_encoder_that_cannot_be_had_is_another_probe() -> None:
    """Where it is not required the heuristic decides, and that was not tested."""
    with_probe, without = parts_of(RAW), parts_of(RAW, probe=None)
    assert {name for name in with_probe if with_probe[name] != without[name]} == {"probe"}


def test_every_part_has_a_case_above() -> None:
    """A part that no change moves would be none."""
    named = set().union(*(names for *_, names in DECIDES)) | {"curves"}
    assert set().union(*(parts_of(RAW, policy) for policy in RAW["policies"])) <= named | {"backends.spare"}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("backends/pool/deployments/a/api_key", "sk-after"),
        ("backends/spare/api_key", GONE),
        ("backends/spare/base_url", "http://user:after@127.0.0.1:9/v1"),
        ("backends/spare/headers/authorization", "Bearer after"),
        ("backends/spare/max_concurrency", 7),
        ("backends/spare/cooldown_s", 7),
        ("backends/other/answers", ["anything"]),
        ("verifiers/unused/pattern", "(.*)"),
        ("verifiers/run/max_concurrency", 7),
        ("policies/balanced/objective/value_of_correct_usd", 1.0),
        ("policies/balanced/description", "another"),
        ("policies/rules/until", 0.9),
    ],
)
def test_what_answers_alike_changes_nothing(where: str, value: object) -> None:
    """A key or password, how much something bears, what no plan reaches, what a right answer is worth."""
    assert changed(where, value) == set()


def test_what_litellm_is_told_in_secret_is_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys may change; anything else that it is told may not."""
    monkeypatch.setattr("adapters.litellm.import_litellm", lambda: None)  # 5 s, and nothing is called here

    def told(**params: str) -> dict[str, str]:
        raw = copy.deepcopy(RAW)
        raw["backends"]["spare"] = {"kind": "litellm", "model": "openai/m", "api_base": "http://127.0.0.1:9/v1", "litellm_params": params}
        return parts_of(raw)

    assert told(aws_secret_access_key="a", region="x") == told(aws_secret_access_key="b", region="x")
    assert told(region="x")["backends.spare"] != told(region="y")["backends.spare"]


def test_what_another_model_answered_under_a_name_is_not_taken_from_the_cache() -> None:
    """The digest that keys of the cache hold changes with a backend's model and a verifier's options, and not with a key or a capacity."""

    def digest(**changes: Any) -> str:
        deployment = {**DEPLOYMENT, **changes.get("spare", {})}
        verifiers = {**RAW["verifiers"], **changes.get("verifiers", {})}
        built = parts(parse({**RAW, "probe": {}, "backends": {**RAW["backends"], "spare": deployment}, "verifiers": verifiers}, "test"))
        return built.digest(built.policies["rules"])

    assert digest() == digest(spare={"api_key": "sk-after"}) == digest(spare={"max_concurrency": 7})
    others = [{"spare": {"model": "openai/other"}}, {"verifiers": {"checked": {"kind": "regex", "pattern": "left"}}}]
    assert len({digest(), *(digest(**other) for other in others)}) == 3
