"""What a decision is made from, beside the belief: the market (prices and curves, fixed with the configuration) and the facts of a request.

All of it is plain data handed in, so that a logged decision can be made again: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from difficulty.curves import Curves
from difficulty.frozen import frozen
from difficulty.once import once
from policies.plans import Plan

ForcedBy = Literal["request", "session", "fallback"]
"""Who names the plan: the request, a conversation that must stay with its backend, or the configuration where there is no estimate."""


@dataclass(frozen=True, eq=False)
class Market:
    """Prices and what was learned about those who sell. One is equal to itself alone, so that what was worked out for it can be kept."""

    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By backend and verifier: US dollars for a million tokens, (input, output)."""
    shared_prompt: frozenset[str] = frozenset()
    """Backends that read (and bill) the prompt once for several samples."""
    curves: Curves = field(default_factory=Curves)
    cached_prices: Mapping[str, float] = field(default_factory=dict)
    """By backend and verifier: US dollars for a million input tokens that are read from a cache, where they are cheaper than others."""
    caches: frozenset[str] = frozenset()
    """Backends and verifiers that keep what they read: the same prompt, or one that goes on from it, is read from the cache."""

    def cost_usd(self, name: str, input_tokens: float, output_tokens: float = 0.0, cached_tokens: float = 0.0) -> float:
        """What so many tokens cost with a backend or verifier, `cached_tokens` of the input from a cache; one without a price is free."""
        price_in, price_out = self.prices.get(name, (0.0, 0.0))
        read = (input_tokens - cached_tokens) * price_in + cached_tokens * self.cached_prices.get(name, price_in)
        return (read + output_tokens * price_out) / 1e6

    def by_price(self, names: Iterable[str]) -> list[str]:
        """From the cheapest to the dearest."""
        return sorted(names, key=lambda name: self.cost_usd(name, 1, 1))


class Size(NamedTuple):
    """What of a request decides how much a call for it costs and takes."""

    input_tokens: int
    max_tokens: int | None
    read: frozenset[str]


@frozen(slots=False)
class Facts:
    """One request, as it stands when something is to be decided."""

    input_tokens: int
    max_tokens: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    single_only: bool = False
    """Tool calls, images and whatever else is not safe to sample often: only plans of one answer may run."""
    greedy: bool = False
    """The request says temperature 0: samples would be alike, so a policy buys no plan that draws several."""
    spent_usd: float = 0.0
    elapsed_s: float = 0.0
    ceiling_usd: float = float("inf")
    deadline_s: float = float("inf")
    """Seconds from the start of the request."""
    first_token_s: float = float("inf")
    """The same, until a stream has to have its first word."""
    quality_floor: float = 0.0
    cost_multiplier: float = 1.0
    """What a dollar costs at the moment, in dollars: above 1 where a budget over time is scarce."""
    done: frozenset[str] = frozenset()
    """Keys of the plans that were run, or that those leave nothing to."""
    begun: Mapping[str, int] = field(default_factory=dict)
    """By the key of a plan that was left for another: the answers that it had made. It may be taken up again, and goes on from there."""
    down: frozenset[str] = frozenset()
    """Backends and verifiers that failed during this request or are known to be down."""
    read: frozenset[str] = frozenset()
    """Backends and verifiers that have read the prompt: who keeps what it reads has it in its cache."""
    barred: frozenset[str] = frozenset()
    """Backends that whoever asks may not spend on."""
    forced: Plan | None = None
    """The plan that is run whatever it is worth: the caller named it, or the estimate is missing and the configuration says what then."""
    forced_by: ForcedBy = "request"
    draw: float | None = None
    """Uniform in [0, 1), where the policy explores: chance comes in as data."""

    @once
    def size(self) -> Size:
        """All that prices and times depend on."""
        return Size(self.input_tokens, self.max_tokens, self.read)

    @property
    def tried(self) -> frozenset[str]:
        """Keys of the plans that were run, to their end or not."""
        return self.done | self.begun.keys()

    @property
    def left_usd(self) -> float:
        """US dollars that may still be spent."""
        return self.ceiling_usd - self.spent_usd

    @property
    def left_s(self) -> float:
        """Seconds that may still pass."""
        return self.deadline_s - self.elapsed_s


Cause = Literal["utility", "floor", "rule", "forced", "session", "fallback", "explore", "stop"]
"""Why an action was chosen: its utility, the quality floor, a rule, the caller, a probe that is down, chance; or nothing more pays."""


@frozen
class Considered:
    """One plan as it looked when it was considered."""

    plan: Plan
    quality: float = 0.0
    """Chance that the answer is right, if this plan is run and what it then leaves open is bought too."""
    cost_usd: float = 0.0
    cost_q95_usd: float = 0.0
    latency_s: float = 0.0
    latency_q95_s: float = 0.0
    """0 where its speed was never measured."""
    utility_usd: float = 0.0
    refused: str = ""
    """Why it may not be run; empty if it may."""
    then_usd: float = 0.0
    """Of `cost_usd`, which is expected: what may be bought after it. The 95th percentiles are of the plan alone."""
    then_s: float = 0.0
    """The same of `latency_s`."""


@frozen
class Decision:
    """The next action: run `plan`, or stop with the best answer so far (None)."""

    plan: Plan | None
    cause: Cause
    reason: str
    """One sentence for a person."""
    considered: tuple[Considered, ...] = ()
    propensity: float = 1.0
    """Chance with which this action was taken; below 1 where the policy explores."""


class NothingToRun(Exception):
    """No plan may run and there is no answer yet: everything is down, or the limits are below the cheapest plan."""

    def __init__(self, message: str, considered: tuple[Considered, ...] = ()) -> None:
        super().__init__(message)
        self.considered = considered
