"""What a router is made of: backends, verifiers, probe, policies, and what was learned about them. `assembly.py` builds it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from adapters.cache import Cache
from adapters.services import Service
from adapters.tallies import MemoryTallies, Tallies
from adapters.types import Backend, Price, Verifier
from difficulty.digest import digest
from difficulty.heuristic import HeuristicProbe
from difficulty.probe import Estimate
from policies.certify import Accepted
from policies.facts import Market
from policies.plans import Single
from policies.policy import Policy, Rule, Rules, When
from router.options import SessionOptions
from router.similar import Similar


class Estimator(Protocol):
    """Text in, estimate out; raises `difficulty.errors.ProbeUnavailable`. `difficulty.service.ProbeService` is one."""

    async def estimate(self, text: str) -> Estimate: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Parts:
    """Everything that outlives a request."""

    backends: Mapping[str, Backend]
    policies: Mapping[str, Policy]
    default_policy: str
    """Or a split."""
    market: Market = field(default_factory=Market)
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    probe: Estimator | None = None
    """None: every estimate comes from the heuristic."""
    probe_from: object = None
    """What the probe was opened from: while that is so, another configuration has the same one."""
    probe_price: Price = field(default_factory=Price)
    when_unavailable: str | None = None
    """Backend that answers where the probe is down; None: the heuristic's estimate decides."""
    cache: Cache | None = None
    cache_ttl_s: float = 3600.0
    semantic: Similar | None = None
    """By what one question is taken for another; None: never."""
    tallies: Tallies = field(default_factory=MemoryTallies)
    """Where budgets over time are counted."""
    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    """By policy with a certificate: the multipliers that it accepts."""
    sessions: SessionOptions = field(default_factory=SessionOptions)
    baseline: str | None = None
    """Backend that every request is compared with: what its one answer would have cost."""
    splits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By name: shares of policies in its traffic."""
    services: Mapping[str, Service] = field(default_factory=dict)
    """By backend and deployment: whom a call of it goes to, for traces."""
    judges: Mapping[str, Service] = field(default_factory=dict)
    """By verifier that asks a backend: whom."""
    shadow_policies: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By policy: those that decide beside it, and on which share of its requests."""
    answerers: str = ""
    """A digest of whoever answers and scores: what another answered under the same name is not theirs."""
    heuristic: HeuristicProbe = field(init=False)
    plan_keys: Mapping[str, frozenset[str]] = field(init=False)
    """By policy, and by backend that a request may name: all plans that can be in use without a client's own."""
    _digests: dict[int, tuple[Policy, str]] = field(init=False, repr=False, default_factory=dict)
    """By the policy's identity, which it keeps while it stands here."""

    def __post_init__(self) -> None:
        by_price = self.market.by_price(self.backends)
        object.__setattr__(self, "heuristic", HeuristicProbe(by_price))
        keys = {name: frozenset({Single(backend=name).key}) for name in self.backends}
        keys |= {name: frozenset(plan.key for plan in policy.all_plans) for name, policy in self.policies.items()}
        object.__setattr__(self, "plan_keys", keys)
        if self.baseline is None and by_price:
            object.__setattr__(self, "baseline", by_price[-1])

    def digest(self, policy: Policy) -> str:
        """Twelve hex digits that change with the policy, the prices, whoever answers and scores, or anything learned: who logs it can
        decide again."""
        if id(policy) not in self._digests:
            self._digests[id(policy)] = policy, self._digest(policy)
        return self._digests[id(policy)][1]

    def _digest(self, policy: Policy) -> str:
        said = [policy.model_dump(mode="json"), self.market.curves.digest, sorted((k, *v) for k, v in self.market.prices.items())]
        market = self.market
        said += [[(name, usd, name in market.caches) for name, usd in sorted(market.cached_prices.items())]] if market.cached_prices else []
        said += [self.answerers] if self.answerers else []
        return digest(said)

    async def ready(self) -> dict[str, str]:
        """Each part that has something to load or reach, with `ok` or with what is wrong."""
        parts: list[tuple[str, object]] = [(f"backend:{name}", part) for name, part in self.backends.items()]
        parts += [(f"verifier:{name}", part) for name, part in self.verifiers.items()]
        parts += [("probe", self.probe)] if self.probe else []
        parts += [("cache", self.cache)] if self.cache else []
        parts += [("cache:semantic", self.semantic)] if self.semantic else []
        return {name: await _state(part) for name, part in parts}

    async def load(self) -> None:
        """Load what is loaded at start-up rather than at the first request (local models, the probe's encoder)."""
        for part in (*self.backends.values(), *self.verifiers.values(), self.probe, self.semantic):
            if (load := getattr(part, "load", None)) is not None:
                await load()

    def owned(self) -> list[Any]:
        """All that is to be released at the end."""
        parts = (*self.backends.values(), *self.verifiers.values(), self.probe, self.cache, self.semantic, self.tallies)
        return [part for part in parts if part is not None]

    async def aclose(self, keep: Sequence[object] = ()) -> None:
        """Release all of it but what is to be kept, for another router has it too."""
        kept = {id(part) for part in keep}
        for part in self.owned():
            if id(part) not in kept:
                await part.aclose()


async def _state(part: object) -> str:
    load: Awaitable[None] | None = part.load() if hasattr(part, "load") else None
    if load is None:
        return str(part.state()) if hasattr(part, "state") else "ok"
    try:
        await load
    except Exception as error:  # any failure to load is what readiness has to report
        return f"{type(error).__name__}: {error}"
    return "ok"


@cache
def single_answer_policy(backend: str) -> Policy:
    """The policy of a request that names a backend: one answer of it, and nothing else."""
    return Rules(rules=(Rule(when=When(), then=(Single(backend=backend),)),), until=0.0, description=f"one answer of {backend}")
