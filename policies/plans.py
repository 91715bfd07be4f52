"""The plans: what a policy may buy for one prompt, as typed, frozen values parsed from YAML.

A plan is written as one key and its options, `best_of_n: {backend: small, n: 16, verifier: reward}`; each kind has its own
options and no others. What a plan is expected to give is in `forecast.py`; how it runs is in `router/strategies/`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_serializer, model_validator


class Frozen(BaseModel):
    """Base of everything parsed from a configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanBase(Frozen):
    """Reads `{kind: {option: value}}`, the form of the YAML, and writes it back."""

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, value: Any) -> Any:
        kind = cls.model_fields["kind"].default
        return {**value[kind], "kind": kind} if isinstance(value, dict) and isinstance(value.get(kind), dict) else value

    @model_serializer(mode="wrap")
    def _wrap(self, handler: Any) -> dict[str, Any]:
        options = handler(self)
        return {options.pop("kind"): {k: v for k, v in options.items() if v != type(self).model_fields[k].default}}

    @cached_property
    def key(self) -> str:
        """A short name that says all, such as `best_of_n(small, n=16, verifier=reward)`: in logs, headers and artifacts."""
        (kind, options), *_ = self.model_dump().items()
        rest = [f"{name}={value}" for name, value in options.items() if name not in ("backend", "members")]
        return f"{kind}({', '.join([*self._head, *rest])})"

    @cached_property
    def backends(self) -> tuple[str, ...]:
        """All that it draws from, each once."""
        return (self.backend,)  # type: ignore[attr-defined]

    @property
    def covers(self) -> tuple[str, ...]:
        """Names of the plans that add nothing once it was run: its own."""
        return (self.key,)

    @property
    def _head(self) -> tuple[str, ...]:
        """What its name begins with."""
        return self.backends


class Single(PlanBase):
    """One answer. With a verifier it is scored, so that the policy can go on from what it sees."""

    kind: Literal["single"] = "single"
    backend: str = Field(description="who answers")
    verifier: str | None = Field(None, description="scores the answer; unset: it is taken as it is")


class Revise(PlanBase):
    """A chain of attempts, each with the earlier ones and the verifier's verdict in its context; the best of the chain is kept.

    Source: Snell et al. 2024, "Scaling LLM test-time compute optimally", section 6.
    """

    kind: Literal["revise"] = "revise"
    backend: str = Field(description="who answers and revises")
    verifier: str = Field(description="scores each attempt; what it says goes into the next one's context")
    rounds: int = Field(4, ge=1, le=32, description="attempts in the chain, the first one included")


class BestOfN(PlanBase):
    """Up to `n` independent samples, drawn in batches; one is chosen by the verifier, by majority, or by a weighted vote.

    Votes are counted on the answers, or on those that the verifier says behave alike. How large a batch is, is decided batch by batch,
    unless the plan says it.
    """

    kind: Literal["best_of_n"] = "best_of_n"
    backend: str = Field(description="whose samples are drawn")
    n: int = Field(ge=1, le=1024, description="samples at most")
    select: Literal["best", "majority", "weighted"] = Field(
        "best", description="best: the highest score; majority: the answer most often given; weighted: votes that count by their score"
    )
    verifier: str | None = Field(None, description="scores the samples; only select: majority does without one")
    batch: int | None = Field(
        None,
        ge=1,
        description="samples drawn before it is looked whether more are worth it; unset: as many as pay, "
        "by what the prompt, a sample and a second cost; rules draw four, and a plan that the caller names all",
    )
    temperature: float | None = Field(None, gt=0, le=2, description="of the samples; unset: the request's, else the backend's own")
    answer: str | None = Field(None, description="regular expression whose last match (group 1) is the answer that votes are counted on")

    @model_validator(mode="after")
    def _needs_verifier(self) -> BestOfN:
        if self.select != "majority" and self.verifier is None:
            raise ValueError(f"select: {self.select} needs a verifier; name one, or use select: majority")
        return self


class TreeSearch(PlanBase):
    """A step-wise beam search: `samples` next steps at each depth, the `beam_width` best prefixes by the process reward model are kept.

    `lookahead` rolls every prefix on by so many steps and ranks it by the score found there. Source: Snell et al. 2024, section 5.
    """

    kind: Literal["tree_search"] = "tree_search"
    backend: str = Field(description="who writes the steps; one that goes on from a begun answer")
    verifier: str = Field(description="of kind reward_model: scores the beginnings")
    beam_width: int = Field(4, ge=1, le=64, description="beginnings kept at every depth")
    samples: int = Field(16, ge=1, le=1024, description="next steps drawn at every depth, over all beams")
    lookahead: int = Field(0, ge=0, le=8, description="steps that each beginning is rolled on by before it is ranked")
    aggregate: Literal["last", "min", "prod"] = Field("last", description="how the scores of its steps make that of a beginning")
    max_steps: int = Field(12, ge=1, le=64, description="depth at which the search ends")
    separator: str = Field("\n", min_length=1, description="what ends a step")
    temperature: float | None = Field(None, gt=0, le=2, description="of the steps; unset: the request's, else the backend's own")

    @model_validator(mode="after")
    def _samples_fill_the_beam(self) -> TreeSearch:
        if self.samples < self.beam_width:
            raise ValueError(f"samples: {self.samples} is below beam_width: {self.beam_width}; each beam needs at least one next step")
        return self


@dataclass(frozen=True, slots=True)
class Member:
    """One backend's part in an ensemble."""

    key: str
    """The ensemble's."""
    backend: str
    n: int
    verifier: str | None


class Ensemble(PlanBase):
    """Samples of several backends, drawn at the same time; of all together one is chosen by the verifier or by a vote.

    In a weighted vote each counts by how likely its backend (and its score, if there is one) is to be right; so a verifier is not needed.
    """

    kind: Literal["ensemble"] = "ensemble"
    members: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(
        min_length=2, max_length=6, description="by backend: its samples, such as {small: 4, large: 1}"
    )
    select: Literal["best", "majority", "weighted"] = Field(
        "weighted", description="best: the highest score; majority: the answer most often given; weighted: votes that count by their chance"
    )
    verifier: str | None = Field(None, description="scores the samples; select: best needs one")
    temperature: float | None = Field(None, gt=0, le=2, description="of the samples; unset: the request's, else each backend's own")
    answer: str | None = Field(None, description="regular expression whose last match (group 1) is the answer that votes are counted on")

    @model_validator(mode="after")
    def _best_needs_verifier(self) -> Ensemble:
        if self.select == "best" and self.verifier is None:
            raise ValueError("select: best needs a verifier; name one, or use select: weighted")
        return self

    def __hash__(self) -> int:
        return hash(frozenset(self.members.items()))

    @cached_property
    def backends(self) -> tuple[str, ...]:
        """All that it draws from, each once."""
        return tuple(self.members)

    @cached_property
    def covers(self) -> tuple[str, ...]:
        """Names of the plans that add nothing once it was run: its own, and one unscored answer of a backend that was heard already."""
        return self.key, *(Single(backend=name).key for name in self.members)

    @property
    def _head(self) -> tuple[str, ...]:
        return tuple(f"{name}={n}" for name, n in self.members.items())

    def parts(self, down: Container[str] = ()) -> tuple[Member, ...]:
        """Who draws what; a backend that is down is left out."""
        return tuple(Member(self.key, name, n, self.verifier) for name, n in self.members.items() if name not in down)


KINDS: dict[str, type[PlanBase]] = {
    "single": Single,
    "revise": Revise,
    "best_of_n": BestOfN,
    "tree_search": TreeSearch,
    "ensemble": Ensemble,
}

Source = Single | Revise | BestOfN | TreeSearch | Member
"""What draws from one backend, and has its answers scored by one verifier if any."""


def _one_kind(value: Any) -> Any:
    """Refuses what is not one kind with its options, before pydantic would in words of its own."""
    if isinstance(value, PlanBase) or (isinstance(value, dict) and ("kind" in value or (len(value) == 1 and next(iter(value)) in KINDS))):
        return value
    found = " and ".join(map(repr, value)) or "nothing" if isinstance(value, dict) else repr(value)
    close = get_close_matches(str(next(iter(value), "")) if isinstance(value, dict) else str(value), KINDS, n=1)
    hint = f"; did you mean '{close[0]}'?" if close and close[0] not in found else ""
    raise ValueError(f"found {found}; a plan is one of {', '.join(KINDS)} with its options, such as {{single: {{backend: small}}}}{hint}")


def _kind(value: Any) -> str:
    """The tag of a plan: its `kind`, or its one key in the YAML form."""
    if isinstance(value, PlanBase):
        return str(value.kind)  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return str(value["kind"] if "kind" in value else next(iter(value), ""))
    return ""


Plan = Annotated[
    Annotated[Single, Tag("single")]
    | Annotated[Revise, Tag("revise")]
    | Annotated[BestOfN, Tag("best_of_n")]
    | Annotated[TreeSearch, Tag("tree_search")]
    | Annotated[Ensemble, Tag("ensemble")],
    Discriminator(_kind),
    BeforeValidator(_one_kind),
]
