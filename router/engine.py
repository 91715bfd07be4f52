"""The engine under a policy, as far as a proof depends on it: all that decides, and whoever answers and scores.

Each part has a digest of its own, so that a message can say what changed. What is named is covered, not what the name stands for: the
weights behind a model's name and the code behind an entry are their owner's. No secret is in it, so that a key may change.
"""

from __future__ import annotations

from typing import Any

from adapters.backends import PoolOptions
from adapters.options import Options
from difficulty.artifact import load_probe, located
from difficulty.digest import digest
from policies.policy import Optimiser, Policy, WithinBudget, Worth, needs
from router.config import Config
from router.masks import masked
from router.parts import Parts

NOT_ANSWERS = frozenset({"api_key", "price", "max_concurrency", "max_waiting", "threads", "allowed_fails", "cooldown_s"})
"""Options under which a backend or verifier says the same: its key, how much it bears; prices have a part of their own."""


def engine(policy: Policy, config: Config, parts: Parts) -> dict[str, str]:
    """By the part's name (`plans`, `prices`, `backends.small`, ...): twelve hex digits that change with it.

    What a right answer is worth is left out, and so is how far a budget may move: the certificate accepts some of that.
    """
    said: dict[str, Any] = policy.model_dump(mode="json", exclude={"certificate", "description"})
    if isinstance(policy, Optimiser) and isinstance(policy.objective, Worth):
        del said["objective"]
    elif isinstance(policy, Optimiser) and isinstance(policy.objective, WithinBudget):
        del said["objective"]["multipliers"]
    said["curves"], said["probe"] = parts.market.curves.digest, _probe(config, parts)
    said["prices"] = [parts.market.prices, parts.market.cached_prices]
    said |= {f"verifiers.{name}": _options(config.verifiers[name]) for name in _verifiers(policy)}
    said |= {f"backends.{name}": _options(config.backends[name]) for name in _backends(policy, config)}
    return {name: digest(masked(value)) for name, value in said.items()}


def answerers(config: Config) -> str:
    """Twelve hex digits that change with any backend or verifier, but not with its key or with how much it bears."""
    return digest(masked([{name: _options(options) for name, options in part.items()} for part in (config.backends, config.verifiers)]))


def _verifiers(policy: Policy) -> list[str]:
    return sorted({plan.verifier for plan in policy.all_plans if plan.verifier is not None})


def _backends(policy: Policy, config: Config) -> list[str]:
    """Those of the plans, those that judge for them, and those that answer in place of any of them."""
    asked = {name for plan in policy.all_plans for kind, name in needs(plan) if kind == "backend"}
    asked |= {judge for name in _verifiers(policy) if (judge := getattr(config.verifiers[name], "backend", None)) is not None}
    return sorted(asked | {other for name in asked for other in getattr(config.backends[name], "fallbacks", ())})


def _options(options: Options) -> dict[str, Any]:
    """What was written of them: a default that a later version adds changes nothing."""
    said = {"kind": getattr(options, "kind", None), **options.model_dump(exclude=set(NOT_ANSWERS), exclude_defaults=True)}
    if isinstance(options, PoolOptions):
        said["deployments"] = {name: _options(one) for name, one in options.deployments.items()}
    return said


def _probe(config: Config, parts: Parts) -> Any:
    """The heuristic, too, where an encoder that is not required cannot be had."""
    options = config.probe
    if parts.probe is None or options.artifact is None:
        return "heuristic"
    card = load_probe(located(options.artifact))[1]
    return [card.arrays_digest, card.encoder_digest, options.strength, options.price]
