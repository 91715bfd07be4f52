"""A certificate: which settings of a policy were proven to lose at most epsilon. Written by `outlay certify`, held to at start.

It is bound to the engine (`engine.py`): where any part of that changed, the proof is of another one. What a right answer is worth may
move, and a budget may move its multiplier, but only to what was accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from policies.certify import Accepted
from policies.plans import Frozen
from policies.policy import Optimiser, Policy, WithinBudget, Worth
from router.config import Config
from router.engine import engine
from router.errors import ConfigError
from router.parts import Parts

FORMAT: Literal[2] = 2
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

    format: Literal[2] = FORMAT
    policy: str
    engine: Mapping[str, str] = Field(description="by name: digest of each part of the engine that was tested")
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
        found = path.read_bytes()
        _check_format(path, found)
        return Certificate.model_validate_json(found)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `outlay certify` writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; run `outlay certify` again") from None


def _check_format(path: Path, found: bytes) -> None:
    """Raises ConfigError for a certificate of a version that was bound to less."""
    try:
        written = json.loads(found)["format"]
    except (ValueError, TypeError, KeyError):  # not a certificate at all, which validation says better
        return
    if written == 1:
        why = "is of format 1, which was not bound to the backends and verifiers that it was proven with"
        raise ConfigError(f"{path}: {why}; run `outlay certify` again")


def held_to(config: Config, parts: Parts) -> dict[str, Accepted]:
    """By policy that names a certificate: what it accepts, relative to the objective as it now stands. Raises ConfigError."""
    return {name: _held(name, policy, config, parts) for name, policy in config.policies.items() if policy.certificate is not None}


def _held(name: str, policy: Policy, config: Config, parts: Parts) -> Accepted:
    assert policy.certificate is not None
    proof, where = read_certificate(Path(policy.certificate)), f"policies.{name}.certificate: {policy.certificate}"
    now = engine(policy, config, parts)
    if changed := [part for part in sorted(now.keys() | proof.engine.keys()) if now.get(part) != proof.engine.get(part)]:
        raise ConfigError(f"{where} was proven with other {', '.join(changed)}; run `outlay certify` again, or take the change back")
    if isinstance(policy, Optimiser) and isinstance(policy.objective, WithinBudget):
        return _within(proof.accepted, policy.objective, where)
    if proof.objective is None or (worth := worth_of(policy)) is None:
        return proof.accepted
    return _moved(proof, proof.objective, worth, where)


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
