"""A policy: what may be bought, within which limits, and what it is worth. Parsed from YAML into frozen types.

Two forms. An optimiser names plans and an objective: what a right answer and a second are worth, the cheapest above a quality, or the
best within a budget over time. Rules say which plans to run when.
Both are decided by `decide.py`; neither knows a prompt's text or a backend's address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from policies.plans import Frozen, Plan, Single

MOST = 2.0**30
"""The highest multiplier: at it the cheapest plan is always the best."""


class LimitSpec(Frozen):
    """Hard limits of one request (cost, latency) and the quality below which the policy keeps trying."""

    cost_usd: float | None = Field(None, gt=0, description="of all its calls together; no call is begun that could go past it")
    latency_s: float | None = Field(None, gt=0, description="until the answer is complete; then the best so far goes out")
    first_token_s: float | None = Field(None, gt=0, description="of a stream: until the first word of the answer is out")
    quality_floor: float | None = Field(None, ge=0, le=1, description="chance of being right below which more is bought")


class Aim(Frozen):
    """Base of the objectives."""

    @property
    def floor(self) -> float:
        """The chance of being right that this objective asks for."""
        return 0.0


class Worth(Aim):
    """The best for its price: what a right answer is worth and what a second of waiting costs, in US dollars."""

    value_of_correct_usd: float = Field(gt=0, description="what a right answer is worth: the higher, the more is bought")
    value_of_second_usd: float = Field(0.0, ge=0, description="what a second of waiting costs: the higher, the faster the plans")


class Cheapest(Aim):
    """The cheapest way to an answer that is right with this chance; where none leads there, the best that the limits allow."""

    cheapest_above: float = Field(gt=0, lt=1, description="chance of being right that every answer should have")
    value_of_second_usd: float = Field(0.0, ge=0, description="what a second counts when plans are compared by price")

    @property
    def value_of_correct_usd(self) -> float:
        """Nothing is paid for more than the floor."""
        return 0.0

    @property
    def floor(self) -> float:
        """The chance of being right that this objective asks for."""
        return self.cheapest_above


class WithinBudget(Aim):
    """The best within a budget over time: a multiplier on every price, moved so that the budget lasts to the end of the hour or day."""

    budget_usd: float = Field(gt=0, description="what may be spent in each hour or day, by all requests of this policy together")
    per: Literal["hour", "day"] = Field(description="the hour or day of UTC")
    tenant_budget_usd: float | None = Field(None, gt=0, description="what each tenant may spend of it; the tighter of the two counts")
    value_of_correct_usd: float = Field(1.0, gt=0, description="more than this is never paid for a right answer, however much is left")
    value_of_second_usd: float = Field(0.0, ge=0, description="what a second of waiting costs, where a right answer is worth that")
    when_spent: Literal["cheapest", "refuse"] = Field(
        "cheapest", description="once the budget is gone: only the cheapest plan, marked as degraded; or an error until the next period"
    )
    multipliers: tuple[float, float] = Field((1.0, MOST), description="the multiplier stays between these; with when_spent: refuse only")

    @property
    def period_s(self) -> float:
        """Seconds of one period."""
        return {"hour": 3600.0, "day": 86400.0}[self.per]

    @model_validator(mode="after")
    def _is_one_promise(self) -> WithinBudget:
        low, high = self.multipliers
        if not 1 <= low <= high <= MOST:
            raise ValueError(f"multipliers: must be 1 <= low <= high <= {MOST:g}; found {low:g} and {high:g}")
        if high < MOST and self.when_spent != "refuse":
            raise ValueError(
                "multipliers: no range holds where only the cheapest is bought once the budget is gone; add when_spent: refuse"
            )
        if self.tenant_budget_usd is not None and self.tenant_budget_usd > self.budget_usd:
            raise ValueError(f"tenant_budget_usd: {self.tenant_budget_usd:g} is above budget_usd: {self.budget_usd:g}, which all share")
        return self


HEADS = {"cheapest_above": "cheapest", "budget_usd": "budget", "value_of_correct_usd": "worth"}
"""By the key that only an objective of this kind must have: its tag. The first that is there counts."""


def _one_objective(value: Any) -> Any:
    """Refuses two objectives in one, before pydantic would call the keys of the other one unknown."""
    if isinstance(value, dict):
        both = [key for key in HEADS if key in value]
        if "cheapest_above" in value and len(both) > 1:
            raise ValueError(f"{' and '.join(both)} are two objectives; a policy has one")
        if "per" in value and "budget_usd" not in value:
            raise ValueError("per: stands beside budget_usd, such as {budget_usd: 5, per: day}")
    return value


def _objective_kind(value: Any) -> str:
    has = value.__contains__ if isinstance(value, dict) else type(value).model_fields.__contains__
    return next((tag for key, tag in HEADS.items() if has(key)), "worth")


Objective = Annotated[
    Annotated[Worth, Tag("worth")] | Annotated[Cheapest, Tag("cheapest")] | Annotated[WithinBudget, Tag("budget")],
    Discriminator(_objective_kind),
    BeforeValidator(_one_objective),
]


def _distinct(plans: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted(key for key, times in Counter(plan.key for plan in plans).items() if times > 1)
    if twice:
        raise ValueError(f"the same plan stands twice: {', '.join(twice)}")
    return plans


class Optimiser(Frozen):
    """Buys the plan of the highest expected utility, and decides again after each result."""

    objective: Objective = Field(description="what it aims at; its keys say which of the three it is")
    plans: tuple[Plan, ...] = Field(
        min_length=1, description="what it may buy, each as its kind and its options: `best_of_n: {backend: small, n: 4, verifier: judge}`"
    )
    explore: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of requests whose first plan is drawn from all that the limits allow, for `outlay replay` to learn from",
    )
    limits: LimitSpec = LimitSpec()
    certificate: str | None = Field(None, description="JSON that `outlay certify` wrote; what it does not accept is not started")
    description: str = Field("", description="in your words; `GET /v1/models` shows it")

    _plans_distinct = field_validator("plans")(_distinct)

    @property
    def all_plans(self) -> tuple[Plan, ...]:
        """Every plan this policy can run."""
        return self.plans

    @cached_property
    def unscored(self) -> bool:
        """Whether each of its plans is one answer that nothing scores."""
        return all(isinstance(plan, Single) and plan.verifier is None for plan in self.plans)


class Range(Frozen):
    """Closed at the lower end, open at the upper."""

    min: float | None = Field(None, description="from here; unset: from anywhere")
    max: float | None = Field(None, description="to below here; unset: to anywhere")

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range."""
        return (self.min is None or value >= self.min) and (self.max is None or value < self.max)


class When(Frozen):
    """Conditions of a rule, all of which must hold."""

    tags: Mapping[str, str] = Field({}, description="tags that the request has (`outlay.tags`, or the header x-outlay-tags)")
    p_correct: Mapping[str, Range] = Field({}, description="by backend: how likely one answer of it is to be right")
    input_tokens: Range = Field(Range(), description="how long the prompt is, in tokens")


class Rule(Frozen):
    """`{when: ..., then: plan}` or `{otherwise: plan}`. Of a list of plans the next is run while no answer reaches `until`."""

    when: When = When()
    then: tuple[Plan, ...] = Field(min_length=1, description="what is run, one plan or a list of them")

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

    rules: tuple[Rule, ...] = Field(min_length=1, description="the last one is {otherwise: ...}")
    until: float = Field(0.8, ge=0, le=1, description="an answer with this chance of being right ends a list of plans")
    limits: LimitSpec = LimitSpec()
    certificate: str | None = Field(None, description="JSON that `outlay certify` wrote; what it does not accept is not started")
    description: str = Field("", description="in your words; `GET /v1/models` shows it")

    @model_validator(mode="after")
    def _last_always_matches(self) -> Rules:
        if self.rules[-1].when != When():
            raise ValueError("the last rule must be {otherwise: ...}, so that every prompt has a plan")
        return self

    @cached_property
    def all_plans(self) -> tuple[Plan, ...]:
        """Every plan this policy can run, each once."""
        return tuple(dict.fromkeys(plan for rule in self.rules for plan in rule.then))


def _form(value: Any) -> str:
    return "rules" if isinstance(value, Rules) or (isinstance(value, dict) and "rules" in value) else "optimiser"


Policy = Annotated[Annotated[Optimiser, Tag("optimiser")] | Annotated[Rules, Tag("rules")], Discriminator(_form)]


def needs(plan: Plan) -> Iterator[tuple[str, str]]:
    """What a plan relies on: ("backend", name) and ("verifier", name)."""
    for name in plan.backends:
        yield "backend", name
    if plan.verifier is not None:
        yield "verifier", plan.verifier
