"""The configuration file: strict YAML in, frozen types out, or every mistake in it at once, each with its place and what would be right.

Here is what concerns the file as a whole; what a backend, verifier, plan or policy takes stands beside each of those. Secrets stay the
names of environment variables (`os.environ/NAME`) until the adapter that needs one is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from adapters.backends import BackendOptions
from adapters.options import BY_FILE
from adapters.verifiers import VerifierOptions
from policies.plans import Frozen, Plan, TreeSearch
from policies.policy import Optimiser, Policy, needs
from router.errors import ConfigError, have_instead
from router.options import (
    BudgetOptions,
    CacheOptions,
    DriftOptions,
    FeedbackOptions,
    KeysOptions,
    LogOptions,
    MetricsOptions,
    ProbeOptions,
    ServerOptions,
    SessionOptions,
    ShadowOptions,
    Share,
    TracingOptions,
)
from router.yaml_errors import corrected, explain, read_yaml

PREFIX = "outlay/"
DEFAULT_NAME = "balanced"
SCORE_PREFIXES = frozenset({"reward_model"})
"""Kinds of verifiers that can score an unfinished answer."""


class Config(Frozen):
    """One router."""

    backends: Mapping[str, BackendOptions] = Field(
        min_length=1,
        description="who can be asked, by names of your own; `kind` may be left out where model, base_url or deployments tell it",
    )
    policies: Mapping[str, Policy] = Field(min_length=1, description="what may be bought, and what it is worth, by names of your own")
    verifiers: Mapping[str, VerifierOptions] = Field(
        {}, description="what says how good an answer is, by names of your own; `kind` says which of these it is"
    )
    probe: ProbeOptions = ProbeOptions()
    default: str | None = Field(None, description="the policy, or split, behind `auto`; unset: 'balanced', or the first policy")
    splits: Mapping[str, Mapping[str, Share]] = Field(
        {}, description="names that share their traffic out among policies, such as {main: {balanced: 0.9, thorough: 0.1}}"
    )
    shadow_policies: Mapping[str, Mapping[str, Share]] = Field(
        {}, description="by policy: others that decide beside it, for nothing but comparison, and on which share of its requests"
    )
    baseline: str | None = Field(None, description="backend whose one answer every cost is compared with; unset: the dearest")
    curves: Annotated[str | None, BY_FILE] = Field(
        None, description="JSON that `outlay fit` wrote: what plans, verifiers and tokens were found to give"
    )
    cache: CacheOptions | None = Field(None, description="where answers are kept for equal requests; unset: none is kept")
    budgets: BudgetOptions = BudgetOptions()
    keys: KeysOptions | None = Field(
        None, description="who may come in, and what they may spend; unset: whoever reaches the server may use it"
    )
    sessions: SessionOptions = SessionOptions()
    server: ServerOptions = ServerOptions()
    log: LogOptions | None = Field(None, description="where decisions are written; unset: the last ones are kept in memory only")
    metrics: MetricsOptions = MetricsOptions()
    feedback: FeedbackOptions = FeedbackOptions()
    drift: DriftOptions | None = Field(None, description="tests whether traffic, chances or quality changed; unset: nothing is tested")
    tracing: TracingOptions | None = Field(None, description="traces for OpenTelemetry; unset: none")
    shadow: ShadowOptions | None = Field(None, description="second opinions on some requests; unset: none")

    @property
    def default_policy(self) -> str:
        """The policy, or split, behind `auto`."""
        return self.default or (DEFAULT_NAME if DEFAULT_NAME in self.policies else next(iter(self.policies)))

    @property
    def names(self) -> list[str]:
        """All that may follow `outlay/` in `model`."""
        return [*self.policies, *self.splits]


def default_path() -> Path:
    """The configuration where none is named: `outlay.yaml` of the working directory, else that of the embedded fleet."""
    own = Path("outlay.yaml")
    return own if own.exists() else Path(__file__).parents[1] / "configs" / "fleet.yaml"


def load(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError with a line for each mistake."""
    return parse(read_yaml(Path(path)), str(path))


def parse(raw: dict[str, Any], where: str) -> Config:
    """The configuration of a mapping; `where` it stands, for messages. Raises ConfigError."""
    try:
        config = Config.model_validate(raw)
        wrong = list(check_references(config))
    except ValidationError as error:
        wrong = [*explain(error, raw, Config), *_beyond(error, raw)]
    if wrong:
        raise ConfigError("\n".join(f"{where}: {line}" for line in dict.fromkeys(wrong)))
    return config


def _beyond(error: ValidationError, raw: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the file beside what could not be read of it: what shows once its keys are right, and names that lead nowhere."""
    known = corrected(error, raw, Config)
    try:
        yield from check_references(Config.model_validate(known))
    except ValidationError as rest:
        yield from explain(rest, known, Config)
        there = {"backend": known.get("backends"), "verifier": known.get("verifiers", {})}
        have = {kind: found for kind, found in there.items() if isinstance(found, dict)}
        for section in ("policies", "verifiers"):
            yield from _named(section, known.get(section), have)


def _named(place: str, here: Any, have: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    """Backends and verifiers that are named in a part of a file, however it is to be read, and are not there."""
    if isinstance(here, list):
        for i, each in enumerate(here):
            yield from _named(f"{place}[{i}]", each, have)
    elif isinstance(here, dict):
        for key, value in here.items():
            if key in have and isinstance(value, str):
                yield from _missing(f"{place}.{key}", key, value, have[key])
            elif key != "tags":
                yield from _named(f"{place}.{key}", value, have)


# --- names that must lead somewhere -------------------------------------------------------------------------------------


def check_references(config: Config) -> Iterator[str]:
    """Each name that leads nowhere, and each that could be taken for another."""
    yield from _check_names(config)
    yield from _missing("default", "policy", config.default, dict.fromkeys(config.names))
    yield from _missing("baseline", "backend", config.baseline, config.backends)
    yield from _missing("probe.when_unavailable", "backend", config.probe.when_unavailable, config.backends)
    yield from _missing("drift.then", "backend", config.drift.then if config.drift else None, config.backends)
    yield from _missing("shadow.backend", "backend", config.shadow.backend if config.shadow else None, config.backends)
    for name in config.probe.strength:
        yield from _missing("probe.strength", "backend", name, config.backends)
    yield from _check_fallbacks(config)
    yield from _check_splits(config)
    yield from _check_shadows(config)
    for name, options in config.verifiers.items():
        yield from _missing(f"verifiers.{name}.backend", "backend", getattr(options, "backend", None), config.backends)
    for name, policy in config.policies.items():
        for place, plan in _plans(policy):
            yield from _check_plan(f"policies.{name}.{place}", plan, config)
        yield from _check_conditions(name, policy, config)


def _check_names(config: Config) -> Iterator[str]:
    """`auto` and `outlay/...` are taken; a backend and a verifier of one name could not be told apart in a trace."""
    for name in config.backends:
        if name == "auto" or name.startswith(PREFIX):
            yield f"backends.{name}: this name stands for a policy in requests; choose another"
        if name in config.verifiers:
            yield f"verifiers.{name}: a backend has this name too; choose another"


def _check_fallbacks(config: Config) -> Iterator[str]:
    """Those that answer in a backend's place are there, and are others."""
    for name, options in config.backends.items():
        for i, other in enumerate(getattr(options, "fallbacks", ())):
            yield from _missing(f"backends.{name}.fallbacks[{i}]", "backend", other, config.backends)
            if other == name:
                yield f"backends.{name}.fallbacks[{i}]: a backend cannot answer in its own place; name another"


def _check_splits(config: Config) -> Iterator[str]:
    """A split is told from a policy by its name, and gives out all of its traffic."""
    for name, shares in config.splits.items():
        if name in config.policies:
            yield f"splits.{name}: a policy has this name too; choose another"
        for policy in shares:
            yield from _missing(f"splits.{name}", "policy", policy, config.policies)
        if abs(sum(shares.values()) - 1) > 1e-6:
            yield f"splits.{name}: the shares must add up to 1; found {sum(shares.values()):g}"


def _check_shadows(config: Config) -> Iterator[str]:
    """Those that decide beside a policy are there, and are others."""
    for name, shares in config.shadow_policies.items():
        yield from _missing("shadow_policies", "policy", name, config.policies)
        for policy in shares:
            yield from _missing(f"shadow_policies.{name}", "policy", policy, config.policies)
            if policy == name:
                yield f"shadow_policies.{name}: a policy beside itself shows nothing; name another"


def _plans(policy: Policy) -> Iterator[tuple[str, Plan]]:
    """Every plan of a policy and where it stands."""
    if isinstance(policy, Optimiser):
        yield from ((f"plans[{i}]", plan) for i, plan in enumerate(policy.plans))
        return
    for i, rule in enumerate(policy.rules):
        yield from ((f"rules[{i}].then[{j}]", plan) for j, plan in enumerate(rule.then))


def _check_plan(place: str, plan: Plan, config: Config) -> Iterator[str]:
    have: dict[str, Mapping[str, object]] = {"backend": config.backends, "verifier": config.verifiers}
    for kind, name in needs(plan):
        yield from _missing(place, kind, name, have[kind])
    verifier = config.verifiers.get(plan.verifier or "")
    if isinstance(plan, TreeSearch) and verifier is not None and verifier.kind not in SCORE_PREFIXES:
        able = [name for name, options in config.verifiers.items() if options.kind in SCORE_PREFIXES]
        yield f"{place}: a tree search needs a verifier of kind reward_model; '{plan.verifier}' is of kind {verifier.kind}" + (
            f", have {', '.join(map(repr, able))}" if able else ""
        )


def _check_conditions(name: str, policy: Policy, config: Config) -> Iterator[str]:
    """A condition on a backend that is not there would never hold, in silence."""
    if isinstance(policy, Optimiser):
        return
    for i, rule in enumerate(policy.rules):
        for backend in rule.when.p_correct:
            yield from _missing(f"policies.{name}.rules[{i}].when.p_correct", "backend", backend, config.backends)


def _missing(place: str, kind: str, name: str | None, have: Mapping[str, object]) -> Iterator[str]:
    if name is not None and name not in have:
        yield f"{place}: no {kind} '{name}'; {have_instead(name, have)}"
