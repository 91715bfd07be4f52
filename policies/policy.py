"""A policy: what may be bought, within which limits, and what it is worth. Parsed from YAML into frozen types.

Two forms. An optimiser names plans and what a right answer and a second are worth; rules say which plans to run when.
Both are decided by `decide.py`; neither knows a prompt's text or a backend's address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from policies.plans import Frozen, Plan


class LimitSpec(Frozen):
    """Hard limits of one request (cost, latency) and the quality below which the policy keeps trying."""

    cost_usd: float | None = Field(None, gt=0)
    latency_s: float | None = Field(None, gt=0)
    quality_floor: float | None = Field(None, ge=0, le=1)


class Objective(Frozen):
    """What a right answer is worth and what a second of waiting costs, in US dollars. Utility = value * quality - cost - seconds."""

    value_of_correct_usd: float = Field(gt=0)
    value_of_second_usd: float = Field(0.0, ge=0)


def _distinct(plans: tuple[Any, ...]) -> tuple[Any, ...]:
    keys = [plan.key for plan in plans]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"the same plan stands twice: {', '.join(twice)}")
    return plans


class Optimiser(Frozen):
    """Buys the plan of the highest expected utility, and decides again after each result."""

    objective: Objective
    plans: tuple[Plan, ...] = Field(min_length=1)
    explore: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of requests whose first plan is drawn from all that the limits allow, for `outlay replay` to learn from",
    )
    limits: LimitSpec = LimitSpec()
    description: str = ""

    _plans_distinct = field_validator("plans")(_distinct)

    @property
    def all_plans(self) -> tuple[Plan, ...]:
        """Every plan this policy can run."""
        return self.plans


class Range(Frozen):
    """Closed at the lower end, open at the upper."""

    min: float | None = None
    max: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range."""
        return (self.min is None or value >= self.min) and (self.max is None or value < self.max)


class When(Frozen):
    """Conditions of a rule, all of which must hold."""

    tags: Mapping[str, str] = {}
    p_correct: Mapping[str, Range] = {}
    input_tokens: Range = Range()


class Rule(Frozen):
    """`{when: ..., then: plan}` or `{otherwise: plan}`. Of a list of plans the next is run while no answer reaches `until`."""

    when: When = When()
    then: tuple[Plan, ...] = Field(min_length=1)

    _plans_distinct = field_validator("then")(_distinct)

    @model_validator(mode="before")
    @classmethod
    def _otherwise(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if "otherwise" in value:
            if value.keys() - {"otherwise"}:
                raise ValueError("`otherwise` stands alone; it takes no `when` or `then`")
            value = {"then": value["otherwise"]}
        elif "when" not in value:
            raise ValueError("a rule is {when: ..., then: ...} or {otherwise: ...}")
        if isinstance(value.get("then"), dict):
            value["then"] = [value["then"]]
        return value


class Rules(Frozen):
    """Runs the plans of the first rule that matches."""

    rules: tuple[Rule, ...] = Field(min_length=1)
    until: float = Field(0.8, ge=0, le=1, description="an answer with this chance of being right ends a list of plans")
    limits: LimitSpec = LimitSpec()
    description: str = ""

    @model_validator(mode="after")
    def _last_always_matches(self) -> Rules:
        if self.rules[-1].when != When():
            raise ValueError("the last rule must be {otherwise: ...}, so that every prompt has a plan")
        return self

    @property
    def all_plans(self) -> tuple[Plan, ...]:
        """Every plan this policy can run, each once."""
        return tuple(dict.fromkeys(plan for rule in self.rules for plan in rule.then))


def _form(value: Any) -> str:
    return "rules" if isinstance(value, Rules) or (isinstance(value, dict) and "rules" in value) else "optimiser"


Policy = Annotated[Annotated[Optimiser, Tag("optimiser")] | Annotated[Rules, Tag("rules")], Discriminator(_form)]


def needs(plan: Plan) -> Iterator[tuple[str, str]]:
    """What a plan relies on: ("backend", name) and ("verifier", name)."""
    yield "backend", plan.backend
    if plan.verifier is not None:
        yield "verifier", plan.verifier
