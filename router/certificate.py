"""A certificate: which settings of a policy were proven to lose at most epsilon. Written by `outlay certify`, held to at start.

It is bound to all that decides (plans, limits, prices, curves, probe): where any of these changed, the proof is of another engine. What
a right answer is worth may move, and a budget may move its multiplier, but only to what was accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from difficulty.artifact import load_probe, located
from policies.certify import Accepted
from policies.plans import Frozen
from policies.policy import Optimiser, Policy, WithinBudget, Worth
from router.errors import ConfigError
from router.options import ProbeOptions
from router.parts import Parts

FORMAT: Literal[1] = 1
CLOSE = 1e-3
"""Relative difference under which two amounts written by hand are the same."""


class Setting(Frozen):
    """One setting as it was tested."""

    multiplier: float = Field(gt=0, description="on what a dollar counts")
    p_value: float = Field(ge=0, le=1, description="of: it loses epsilon or more")
    p_cost: float | None = Field(None, ge=0, le=1, description="of: it costs the cap or more")
    drop: float = Field(description="of quality against the reference, as observed")
    cost_usd: float = Field(description="of a prompt, on the mean")


class Certificate(Frozen):
    """What was proven, of what, and on what."""

    format: Literal[1] = FORMAT
    policy: str
    engine: str = Field(description="digest of all that decides, but what a right answer is worth")
    objective: Worth | None = Field(description="that was tested, where it is a worth, which may move")
    epsilon: float
    delta: float
    against: str
    mean_cost_usd: float | None = Field(None, description="that no accepted setting exceeds, proven with it")
    prompts: int
    groups: int
    data: str = Field(description="digest of the log's rows that were used")
    settings: tuple[Setting, ...]
    first: int = Field(0, ge=0, description="place of the first setting that holds; those before it may cost too much")
    last: int = Field(ge=0, description="place of the last; all from the first to here hold together, with chance 1 - delta")

    @property
    def accepted(self) -> Accepted:
        """The settings that hold."""
        return Accepted(tuple(setting.multiplier for setting in self.settings[self.first : self.last + 1]))

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n")
        partial.replace(path)


def read_certificate(path: Path) -> Certificate:
    """What `save` wrote. Raises ConfigError."""
    try:
        return Certificate.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `outlay certify` writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; run `outlay certify` again") from None


def engine_digest(policy: Policy, parts: Parts, probe: ProbeOptions) -> str:
    """Twelve hex digits that change with anything that decides, but what a right answer is worth."""
    said = policy.model_dump(mode="json", exclude={"certificate", "description"} | ({"objective"} if worth_of(policy) else set()))
    if isinstance(policy, Optimiser) and isinstance(policy.objective, WithinBudget):
        del said["objective"]["multipliers"]  # which `_held` compares with those accepted
    learned = [parts.market.curves.digest, sorted((k, *v) for k, v in parts.market.prices.items()), _probe_digest(probe)]
    return hashlib.sha256(json.dumps([said, learned], sort_keys=True).encode()).hexdigest()[:12]


def held_to(policies: Mapping[str, Policy], parts: Parts, probe: ProbeOptions) -> dict[str, Accepted]:
    """By policy that names a certificate: what it accepts, relative to the objective as it now stands. Raises ConfigError."""
    return {name: _held(name, policy, parts, probe) for name, policy in policies.items() if policy.certificate is not None}


def _held(name: str, policy: Policy, parts: Parts, probe: ProbeOptions) -> Accepted:
    assert policy.certificate is not None
    proof, where = read_certificate(Path(policy.certificate)), f"policies.{name}.certificate: {policy.certificate}"
    if (found := engine_digest(policy, parts, probe)) != proof.engine:
        changed = "plans, limits, prices, curves or probe changed since"
        raise ConfigError(f"{where} is of engine {proof.engine}, this is {found}: {changed}; run `outlay certify` again, or take them back")
    if isinstance(policy, Optimiser) and isinstance(policy.objective, WithinBudget):
        return _within(proof.accepted, policy.objective, where)
    if proof.objective is None or (now := worth_of(policy)) is None:
        return proof.accepted
    return _moved(proof, proof.objective, now, where)


def worth_of(policy: Policy) -> Worth | None:
    """The objective, where it is what a right answer is worth."""
    return policy.objective if isinstance(policy, Optimiser) and isinstance(policy.objective, Worth) else None


def _within(accepted: Accepted, budget: WithinBudget, where: str) -> Accepted:
    """The accepted multipliers, outside of which the budget must not go."""
    low, high = budget.multipliers
    if low < accepted.low or high > accepted.high:
        right = f"multipliers: [{accepted.low:g}, {accepted.high:g}] and when_spent: refuse"
        raise ConfigError(f"{where} does not accept multipliers from {low:g} to {high:g}; write {right} in the objective")
    return accepted


def _moved(proof: Certificate, tested: Worth, now: Worth, where: str) -> Accepted:
    """The accepted settings as multipliers on the policy's own objective, which must be one of them."""
    multiplier = tested.value_of_correct_usd / now.value_of_correct_usd
    if not any(_close(multiplier, accepted) for accepted in proof.accepted.multipliers):
        allowed = ", ".join(f"{tested.value_of_correct_usd / m:.6g}" for m in proof.accepted.multipliers)
        raise ConfigError(f"{where} does not accept value_of_correct_usd: {now.value_of_correct_usd:.6g}; it accepts {allowed}")
    if not _close(now.value_of_second_usd * multiplier, tested.value_of_second_usd):
        right = tested.value_of_second_usd / multiplier
        raise ConfigError(f"{where} was tested with the value of a second in proportion; write value_of_second_usd: {right:.6g}")
    return Accepted(tuple(accepted / multiplier for accepted in proof.accepted.multipliers))


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= CLOSE * abs(b)


def _probe_digest(options: ProbeOptions) -> str:
    if options.artifact is None:
        return "heuristic"
    card = load_probe(located(options.artifact))[1]
    return f"{card.arrays_digest} {card.encoder_digest}"
