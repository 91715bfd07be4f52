"""The configuration file: what it may say, and how it answers when it says something wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import yaml

from policies.plans import BestOfN
from policies.policy import Optimiser, Rules
from router.config import Config, default_path, load
from router.errors import ConfigError
from tests.router.doubles import exploding

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.endswith("_test"))


def minimal(**changes: Any) -> dict[str, Any]:
    """The least that makes a router, as a value."""
    return {
        "backends": {"small": {"kind": "scripted"}, "large": {"kind": "scripted"}},
        "policies": {"balanced": {"objective": {"value_of_correct_usd": 0.01}, "plans": [{"single": {"backend": "small"}}]}},
        **changes,
    }


def policy(*plans: Any) -> dict[str, Any]:
    return {"policies": {"fast": {"objective": {"value_of_correct_usd": 0.01}, "plans": list(plans)}}}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a configuration and returns its path."""

    def put(content: Any) -> Path:
        path = tmp_path / "router.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return put


def problems(path: Path) -> list[str]:
    """The lines of the error, without the path that each must begin with."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    return [line.removeprefix(str(path)).removeprefix(": ") for line in lines]


# --- what it may say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    """Each file in configs/ is valid, has a policy behind `auto` and describes all of its policies."""
    config = load(path)
    assert config.default_policy in config.policies
    assert all(policy.description for policy in config.policies.values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_backend_and_verifier_can_be_built(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the keys that a file names in the environment, its parts are built, and each backend has a price."""
    from adapters.backends import build_backends
    from adapters.verifiers import build_verifier

    monkeypatch.setattr("adapters.litellm.import_litellm", lambda: None)  # 5 s, and nothing is called here
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test")
    config = load(path)
    backends = build_backends(config.backends)
    assert all(backend.price.output_usd_per_mtok > 0 for backend in backends.values())
    assert {build_verifier(name, options, backends).name for name, options in config.verifiers.items()} == set(config.verifiers)


def test_the_fleet_is_there_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is named, ./outlay.yaml is taken, and without one the embedded fleet."""
    monkeypatch.chdir(tmp_path)
    assert default_path() == CONFIGS / "fleet.yaml"
    (tmp_path / "outlay.yaml").touch()
    assert default_path().resolve() == tmp_path / "outlay.yaml"


def test_plans_and_rules_become_types(write: Any) -> None:
    """Behind the border a policy is typed, whichever form it has."""
    rules = {"rules": [{"when": {"p_correct": {"small": {"min": 0.8}}}, "then": {"single": {"backend": "small"}}},
                       {"otherwise": {"best_of_n": {"backend": "small", "n": 4, "select": "majority"}}}]}  # fmt: skip
    config = load(write(minimal(policies={**minimal()["policies"], "bands": rules})))
    balanced, bands = config.policies["balanced"], config.policies["bands"]
    assert isinstance(balanced, Optimiser)
    assert isinstance(bands, Rules)
    assert bands.all_plans[1] == BestOfN(backend="small", n=4, select="majority")


def test_which_policy_is_behind_auto(write: Any) -> None:
    """`default` says; without it `balanced`, and without that the first."""
    one = minimal()["policies"]["balanced"]
    assert load(write(minimal())).default_policy == "balanced"
    assert load(write(minimal(policies={"a": one, "balanced": one}))).default_policy == "balanced"
    assert load(write(minimal(policies={"b": one, "a": one}))).default_policy == "b"
    assert load(write(minimal(policies={"b": one, "a": one}, default="a"))).default_policy == "a"


def test_secrets_stay_names(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading needs no secret and resolves none; building says which key names which missing variable."""
    from router.assembly import assemble

    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    backend = {"model": "openai/gpt-4.1", "api_key": "os.environ/NO_SUCH_KEY"}
    config = load(write(minimal(backends={"small": backend})))
    with pytest.raises(ConfigError, match=r"small.*api_key.*NO_SUCH_KEY is not set"):
        assemble(config)


def test_what_is_parsed_does_not_change(write: Any) -> None:
    """A configuration is frozen: what was validated is what runs."""
    config = load(write(minimal()))
    with pytest.raises(ValueError, match="frozen"):
        config.default = "other"  # type: ignore[misc]


def test_loading_imports_nothing_heavy() -> None:
    """A light router starts light: reading a configuration of remote backends brings in neither torch nor LiteLLM."""
    code = (
        "import sys; from router.config import load; load('configs/openai.yaml'); import router.cli, router.app;"
        "print([m for m in ('torch', 'transformers', 'litellm', 'sklearn', 'scipy') if m in sys.modules])"
    )
    found = run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


REWARD = {"kind": "reward_model", "model": "fleet/reward"}


# --- what is wrong with it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "place", "hint"),
    [
        (minimal(polices={}), "polices", "no such key; did you mean 'policies'?"),
        (minimal(probe={"encodr": "x", "artifact": "y"}), "probe.encodr", "did you mean 'encoder'?"),
        (minimal(probe={"encoder": "x"}), "probe", "without artifact"),
        (minimal(probe={"strength": {"small": 0.2}}), "probe", "strength is given without artifact"),
        (minimal(server={"port": 99999}), "server.port", "found 99999"),
        (minimal(cache={"url": "file:///tmp"}), "cache.url", "found 'file:///tmp'"),
        (minimal(cache={"ttl_s": 0}), "cache.ttl_s", "greater than 0"),
        (minimal(log={}), "log", "give a path, a redis URL, or both"),
        (minimal(log={"redis": "http://x"}), "log.redis", "found 'http://x'"),
        (minimal(log={"path": "x", "prompt": True}), "log.prompt", "did you mean 'prompts'?"),
        (minimal(feedback={"max_shift": -1}), "feedback.max_shift", "found -1"),
        (minimal(shadow={"backend": "large", "share": 2}), "shadow.share", "found 2"),
        (minimal(drift={"alpha": 0}), "drift.alpha", "found 0"),
        (minimal(policies={}), "policies", "at least 1"),
        ({"policies": minimal()["policies"]}, "backends", "is missing"),
        (minimal(backends={"small": {"kind": "scripted", "dely_s": 1}}), "backends.small.dely_s", "did you mean 'delay_s'?"),
        (minimal(backends={"small": {"kind": "script"}}), "backends.small", "replay or scripted"),
        (minimal(verifiers={"v": {"kind": "regexp"}}), "verifiers.v", "did you mean 'regex'?"),
        (minimal(**policy({"best_of": {"backend": "small"}})), "policies.fast.plans[0]", "did you mean 'best_of_n'?"),
        (minimal(**policy({"best_of_n": {"backend": "small", "n": 0}})), "policies.fast.plans[0].best_of_n.n", "found 0"),
        (minimal(**policy({"best_of_n": {"backend": "small", "n": 2}})), "policies.fast.plans[0].best_of_n", "needs a verifier"),
        (
            minimal(verifiers={"x": REWARD}, **policy({"single": {"backend": "small", "vrifier": "x"}})),
            "policies.fast.plans[0].single.vrifier",
            "'verifier'",
        ),
        (minimal(policies={"r": {"rules": [{"otherwise": {"single": {}}}]}}), "policies.r.rules[0].otherwise.single.backend", "is missing"),
    ],
)
def test_a_mistake_is_shown_at_its_place(write: Any, content: Any, place: str, hint: str) -> None:
    """The path is that of the file, without the names of types; the message says what was found or would be right."""
    (line,) = problems(write(content))
    assert line.startswith(f"{place}: ")
    assert hint in line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            policy({"single": {"backend": "smal"}}),
            "policies.fast.plans[0]: no backend 'smal'; have 'large', 'small'; did you mean 'small'?",
        ),
        (policy({"single": {"backend": "small", "verifier": "x"}}), "policies.fast.plans[0]: no verifier 'x'; there are none"),
        ({"default": "balancd"}, "default: no policy 'balancd'; have 'balanced'; did you mean 'balanced'?"),
        ({"baseline": "huge"}, "baseline: no backend 'huge'; have 'large', 'small'"),
        (
            {"probe": {"encoder": "x", "artifact": "y", "strength": {"huge": 1}}},
            "probe.strength: no backend 'huge'; have 'large', 'small'",
        ),
        ({"probe": {"when_unavailable": "huge"}}, "probe.when_unavailable: no backend 'huge'; have 'large', 'small'"),
        ({"shadow": {"backend": "huge"}}, "shadow.backend: no backend 'huge'; have 'large', 'small'"),
        ({"drift": {"then": "huge"}}, "drift.then: no backend 'huge'; have 'large', 'small'"),
        ({"verifiers": {"j": {"kind": "judge", "backend": "huge"}}}, "verifiers.j.backend: no backend 'huge'; have 'large', 'small'"),
        ({"verifiers": {"small": {"kind": "votes"}}}, "verifiers.small: a backend has this name too; choose another"),
        (
            {"policies": {"r": {"rules": [
                {"when": {"p_correct": {"smal": {"min": 0.5}}}, "then": {"single": {"backend": "small"}}},
                {"otherwise": {"single": {"backend": "small"}}}]}}},
            "policies.r.rules[0].when.p_correct: no backend 'smal'; have 'large', 'small'; did you mean 'small'?",
        ),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere(write: Any, changes: dict[str, Any], line: str) -> None:
    """Each name is looked up, and the message lists what there is."""
    assert problems(write(minimal(**changes))) == [line]


RULES = [{"otherwise": {"single": {"backend": "small"}}}]
SEARCH = {"tree_search": {"backend": "small", "verifier": "v", "n": 4}}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (minimal(server={"fallbacks": ["small"]}), "server.fallbacks: no such key; 'fallbacks' belongs in backends.NAME"),
        (minimal(fallbacks=["small"]), "fallbacks: no such key; 'fallbacks' belongs in backends.NAME"),
        (minimal(server={"policies": {}}), "server.policies: no such key; 'policies' belongs at the top"),
        (minimal(probe={"prompts": True}), "probe.prompts: no such key; 'prompts' belongs in log or tracing"),
        (minimal(cost_usd=1), "cost_usd: no such key; 'cost_usd' belongs in policies.NAME.limits"),
        (
            minimal(verifiers={"v": REWARD}, **policy(SEARCH)),
            "policies.fast.plans[0].tree_search.n: no such key; 'n' is for kind best_of_n",
        ),
        (
            minimal(policies={"r": {"rules": [{"otherwise": {"single": {"backend": "small", "n": 3}}}]}}),
            "policies.r.rules[0].otherwise.single.n: no such key; 'n' is for kind best_of_n",
        ),
        (
            minimal(backends={"small": {"kind": "openai", "model": "m", "api_base": "x"}}),
            "backends.small.api_base: no such key; 'api_base' is for kind litellm",
        ),
        (
            minimal(policies={"r": {"rules": RULES, "explore": 0.1}}),
            "policies.r.explore: no such key; 'explore' goes with objective and plans",
        ),
        (
            minimal(policies={"r": {"rules": RULES, "cost_usd": 1}}),
            "policies.r.cost_usd: no such key; 'cost_usd' belongs in policies.NAME.limits",
        ),
        (minimal(server={"fallback": []}), "server.fallback: no such key; did you mean 'fallbacks', which belongs in backends.NAME?"),
        (
            minimal(backends={"small": {"kind": "scripted"}, "m-4.1": {"kind": "openai", "model": "m", "api_base": "x"}}),
            "backends.m-4.1.api_base: no such key; 'api_base' is for kind litellm",
        ),
        (minimal(server={"xyzzy": 1}), "server.xyzzy: no such key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_at_the_wrong_place_is_told_where_it_belongs(write: Any, content: dict[str, Any], line: str) -> None:
    """And is never suggested to itself."""
    assert problems(write(content)) == [line]


def test_all_mistakes_are_reported_together(write: Any) -> None:
    """One look at the output, not one for each mistake."""
    plans = policy({"single": {"backend": "a"}}, {"single": {"backend": "b", "verifier": "c"}})
    assert len(problems(write(minimal(default="d", **plans)))) == 4
    assert len(problems(write(minimal(a=1, b=2, server={"port": "x"})))) == 3


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (
            minimal(**policy({"best_of_n": {"backend": "small", "n": 4, "verifer": "v"}}), verifiers={"v": REWARD}),
            ["policies.fast.plans[0].best_of_n.verifer"],
        ),
        (minimal(sever={}, **policy({"single": {"backend": "smal"}})), ["sever", "policies.fast.plans[0]"]),
        (
            minimal(
                policies={"r": {"untill": 0.9, "rules": [{"when": {"input_tokens": {"max": 9}}, "then": {"single": {"backend": "small"}}}]}}
            ),
            ["policies.r.untill", "policies.r.rules"],
        ),
        (
            minimal(server={"port": "x"}, **policy({"single": {"backend": "small", "verifer": "v"}}, {"single": {"backend": "larg"}})),
            ["server.port", *(f"policies.fast.plans[{key}" for key in ("0].single.verifer", "0].single.verifier", "1].single.backend"))],
        ),
        (
            minimal(server={"port": "x"}, **policy({"single": {"backend": "small", "verifier": "v"}})),
            ["server.port", "policies.fast.plans[0].single.verifier"],
        ),
    ],
)
def test_a_typo_hides_no_other_mistake(write: Any, content: Any, places: list[str]) -> None:
    """The rest is checked as if the key were right, or not there, and names are looked up also where something cannot be read."""
    assert sorted(line.split(": ")[0] for line in problems(write(content))) == sorted(places)


def test_aliases_are_taken_as_they_are(write: Any) -> None:
    """A mapping that stands in several places may be wrong in each."""
    shared = "objective: &o {value_of_correct_usd: 1, x: 1}, plans: &p [{single: {backend: z}}]"
    found = problems(write(f"backends: {{s: {{kind: scripted}}}}\npolicies: {{a: {{{shared}}}, b: {{objective: *o, plans: *p}}}}"))
    places = ("objective.x", "plans[0]")
    assert {line.split(": ")[0] for line in found} == {f"policies.{policy}.{place}" for policy in "ab" for place in places}


def test_what_aliases_repeat_without_measure_is_refused(write: Any) -> None:
    """A short file that would be 9**29 plans written out is refused at the line where it grows too large, and at once."""
    text = exploding("{single: {backend: small}}") + "\nbackends: {small: {kind: scripted}}\npolicies: {a: {plans: *l29}}"
    assert problems(write(text)) == [":6: is not valid YAML: holds more than 100,000 keys and values, aliases written out"]


def test_a_large_configuration_is_read(write: Any) -> None:
    """Thousands of plans are a configuration still, also where an alias gives each its options."""
    first = "single: &o {backend: small}"
    rest = ", ".join(f"{{best_of_n: {{<<: *o, select: majority, n: {n}}}}}" for n in range(1, 1001))
    one, other = (f"objective: {{value_of_correct_usd: {worth}}}, plans:" for worth in (1, 2))
    policies = f"{{one: {{{one} &p [{{{first}}}, {rest}]}}, other: {{{other} *p}}}}"
    found = load(write(f"backends: {{small: {{kind: scripted}}}}\npolicies: {policies}"))
    assert [len(policy.all_plans) for policy in found.policies.values()] == [1001, 1001]


def test_a_tree_search_needs_a_verifier_of_prefixes(write: Any) -> None:
    """A search is steered by scores of unfinished answers, which only a process reward model gives."""
    verifiers = {"votes": {"kind": "votes"}, "reward": {"kind": "reward_model", "model": "fleet/reward"}}

    def searching(verifier: str) -> Path:
        return write(minimal(verifiers=verifiers, **policy({"tree_search": {"backend": "small", "verifier": verifier}})))  # type: ignore[no-any-return]

    (line,) = problems(searching("votes"))
    assert line == ("policies.fast.plans[0]: a tree search needs a verifier of kind reward_model; 'votes' is of kind votes, have 'reward'")
    assert load(searching("reward")).policies["fast"].all_plans


@pytest.mark.parametrize("name", ["auto", "outlay/fast"])
def test_a_backend_may_not_be_called_as_a_policy_is(write: Any, name: str) -> None:
    """`model` must mean one thing."""
    content = minimal()
    content["backends"][name] = {"kind": "scripted"}
    assert problems(write(content)) == [f"backends.{name}: this name stands for a policy in requests; choose another"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("backends: {a: 1", "not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", ":3: is not valid YAML: the key 'a' stands twice"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: 1\nb: &b {c: [*b]}", ":2: is not valid YAML: an alias stands within what it repeats"),
        ("- 1", "must hold a mapping"),
        ("", "must hold a mapping"),
    ],
)
def test_a_file_that_is_no_configuration(write: Any, text: str, hint: str) -> None:
    """Broken YAML names its line; a key given twice is refused; nothing in a file is ever executed."""
    (line,) = problems(write(text))
    assert hint in line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message names the path and the reason."""
    assert problems(tmp_path / "none.yaml") == ["cannot be read: No such file or directory"]


def test_a_key_of_the_wrong_type_is_not_shown(write: Any) -> None:
    """A message may be pasted into a ticket; what stands under `api_key` is not in it."""
    (line,) = problems(write(minimal(backends={"small": {"model": "openai/x", "api_key": 12345678}})))
    assert "api_key" in line
    assert "12345678" not in line


def test_config_is_one_type() -> None:
    """The whole file is described by one JSON schema, for editors."""
    sections = {"backends", "policies", "verifiers", "probe", "cache", "server", "budgets", "log", "feedback", "drift", "shadow"}
    assert sections <= set(Config.model_json_schema()["properties"])


def test_a_fallback_that_is_not_there_or_is_the_backend_itself_is_refused(write: Any) -> None:
    """Both would only be noticed on the day that they are needed."""
    backends = {**minimal()["backends"], "b": {"model": "openai/m", "fallbacks": ["b", "larg"]}}
    assert problems(write(minimal(backends=backends))) == [
        "backends.b.fallbacks[0]: a backend cannot answer in its own place; name another",
        "backends.b.fallbacks[1]: no backend 'larg'; have 'b', 'large', 'small'; did you mean 'large'?",
    ]


def test_the_resilient_configuration_does_what_its_comments_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deployments in a pool, with another backend after it."""
    from adapters.backends import build_backends
    from adapters.fallbacks import Fallbacks
    from adapters.pool import Pool

    monkeypatch.setattr("adapters.litellm.import_litellm", lambda: None)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test")
    main = build_backends(load(CONFIGS / "resilient.yaml").backends)["main"]
    assert isinstance(main, Fallbacks)
    assert isinstance(main.backend, Pool)
    assert [deployment.backend.name for deployment in main.backend.deployments] == ["main/first", "main/second"]
