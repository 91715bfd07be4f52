"""`outlay replay`: what another policy would have done on logged traffic, and what that would have been worth.

Every logged decision is made again, from its own facts and belief; so first it is shown that the logged policy, as it is now, still decides
as the log says. Then the new one: which first plans change, what the belief says of them, and a doubly robust estimate from requests
whose first plan was drawn (`explore` in the policy). The limits are those that held in the log; a request that named its plan, and one
answered from the cache, is left out, for no policy had a say in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from policies.decide import decide
from policies.facts import Decision, Market, NothingToRun
from policies.policy import Policy
from policies.replay import ENOUGH, Value, doubly_robust, effective
from router.assembly import parts
from router.config import load
from router.errors import ConfigError, have_instead
from router.events import DecisionEvent, Event, FeedbackEvent, Step, read_events

FIRST = 3
"""Changes of plan that are shown."""


@dataclass(frozen=True, slots=True)
class Request:
    """One logged request."""

    policy: str
    steps: tuple[Step, ...]
    chance: float
    """That its answer is right, as the belief ended."""
    label: float | None
    """What feedback said of it."""
    cost_usd: float

    @property
    def right(self) -> float:
        """What is known of its quality: feedback, else the belief."""
        return self.chance if self.label is None else self.label


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the new policy makes of a log."""

    requests: int
    labelled: int
    decisions: int
    changed: int
    """Of the decisions, those that would be others."""
    not_again: int
    """Decisions that the logged policy itself, as it is now, no longer takes."""
    moves: tuple[tuple[str, int], ...]
    """The commonest changes of a first plan."""
    logged_right: float
    logged_usd: float
    said_right: Value
    """Of the new policy, by the belief alone."""
    said_usd: Value
    right: Value
    """Doubly robust."""
    usd: Value
    effective: float
    unsupported: float
    """Share of requests whose new plan had no chance of being run."""


def run_replay(events: str, config: Path, policy: str) -> None:
    """Read, replay, show. Raises ConfigError or EventError."""
    loaded = load(config)
    if policy not in loaded.policies:
        raise ConfigError(f"--policy: no policy '{policy}'; {have_instead(policy, loaded.policies)}")
    requests = requests_of(read_events(events))
    if not requests:
        raise ConfigError(f"{events}: no request in it that a policy decided; `log` in the configuration writes them")
    market = parts(loaded).market
    Console().print(shown(policy, replayed(requests, loaded.policies[policy], market, loaded.policies)))


def requests_of(events: Iterable[Event]) -> list[Request]:
    """The answered requests that a policy decided, with what feedback said of them."""
    kept: dict[str, DecisionEvent] = {}
    labels: dict[str, float] = {}
    for event in events:
        if isinstance(event, DecisionEvent) and event.ending == "answered":
            kept[event.id] = event
        elif isinstance(event, FeedbackEvent) and event.candidate == 0:
            labels[event.id] = event.label
    found = [
        Request(event.policy, event.steps, float(event.block["chance"]), labels.get(event.id), float(event.block["cost_usd"]))
        for event in kept.values()
    ]
    return [request for request in found if request.steps and _decided(request.steps[0])]


def _decided(first: Step) -> bool:
    """Whether a policy had a say: no plan was named, and no backend (of which nothing is estimated)."""
    return first.facts.forced is None and first.belief.source != "none"


def replayed(requests: Sequence[Request], policy: Policy, market: Market, logged: Mapping[str, Policy]) -> Replayed:
    """Every decision once more, and the values of the new policy's first plans."""
    now = [[_again(policy, market, step) for step in request.steps] for request in requests]
    then = [_logged(request, market, logged) for request in requests]
    was = [[step.plan for step in request.steps] for request in requests]
    pairs = [(step, _key(new)) for steps, found in zip(was, now, strict=True) for step, new in zip(steps, found, strict=True)]
    moves = Counter(f"{old[0]} -> {_key(new[0])}" for old, new in zip(was, now, strict=True) if old[0] != _key(new[0]))
    same = np.array([old[0] == _key(new[0]) for old, new in zip(was, now, strict=True)])
    weights = same / np.array([request.steps[0].propensity for request in requests])
    reached = [s or _could(request, old[0], _key(new[0])) for s, request, old, new in zip(same, requests, then, now, strict=True)]
    said_right, said_usd = np.array([_said(new[0]) for new in now]).T
    seen_right, seen_usd = (np.array([getattr(request, of) for request in requests]) for of in ("right", "cost_usd"))
    nothing = np.zeros(len(requests))
    return Replayed(
        requests=len(requests),
        labelled=sum(request.label is not None for request in requests),
        decisions=len(pairs),
        changed=sum(old != new for old, new in pairs),
        not_again=sum(
            _key(again) != step for steps, found in zip(was, then, strict=True) for step, again in zip(steps, found, strict=False)
        ),
        moves=tuple(moves.most_common(FIRST)),
        logged_right=float(seen_right.mean()),
        logged_usd=float(seen_usd.mean()),
        said_right=doubly_robust(said_right, seen_right, nothing),
        said_usd=doubly_robust(said_usd, seen_usd, nothing),
        right=doubly_robust(said_right, seen_right, weights),
        usd=doubly_robust(said_usd, seen_usd, weights),
        effective=effective(weights),
        unsupported=1 - float(np.mean(reached)),
    )


def _logged(request: Request, market: Market, logged: Mapping[str, Policy]) -> list[Decision | None]:
    """The decisions of the policy that was logged, as it is now, with the same draws; [None] where it is gone."""
    policy = logged.get(request.policy)
    return [_again(policy, market, step, drawn=True) for step in request.steps] if policy else [None]


def _could(request: Request, old: Decision | None, plan: str | None) -> bool:
    """Whether the first plan was drawn from some among which was this one."""
    allowed = [row.plan.key for row in old.considered if not row.refused] if old else []
    return request.steps[0].propensity < 1 and plan in allowed


def _again(policy: Policy, market: Market, step: Step, drawn: bool = False) -> Decision | None:
    """The decision from the same facts and belief; without the draw of an exploration, unless that is to be repeated."""
    try:
        return decide(policy, market, step.facts if drawn else replace(step.facts, draw=None), step.belief)
    except NothingToRun:
        return None


def _key(decision: Decision | None) -> str | None:
    return decision.plan.key if decision and decision.plan else None


def _said(decision: Decision | None) -> tuple[float, float]:
    """(chance of being right, US dollars) that the belief gives the plan that was decided; nothing of either, where none may run."""
    rows = decision.considered if decision else ()
    return next(((row.quality, row.cost_usd) for row in rows if decision and row.plan == decision.plan), (0.0, 0.0))


def shown(name: str, found: Replayed) -> RenderableType:
    """For a terminal."""
    head = Text(
        f"{found.requests} requests, {found.labelled} of them with feedback; what is not labelled counts as the belief left it\n"
        f"{found.changed} of {found.decisions} decisions would change ({found.changed / found.decisions:.1%})"
    )
    if found.not_again:
        head.append(
            f"\nnote: {found.not_again} decisions are not those of the logged policies as they are now: something was changed since"
        )
    for move, n in found.moves:
        head.append(f"\n  {n} x {move}")
    table = Table("", "right", "$/1,000", box=None, pad_edge=False)
    table.add_row("as logged", f"{found.logged_right:.4f}", f"{1000 * found.logged_usd:.4f}")
    table.add_row(f"{name}, as the belief says", _range(found.said_right, 1), _range(found.said_usd, 1000))
    table.add_row(f"{name}, doubly robust", _range(found.right, 1), _range(found.usd, 1000))
    scope = "\nthe value is that of its first plans, each followed by what the logged policy would do then"
    said = f"{scope}\neffective requests: {found.effective:.0f}; no chance in the log: {found.unsupported:.1%} of its first plans"
    return Group(head, table, Text(said), *(Text(line, style="yellow") for line in warnings(found)))


def warnings(found: Replayed) -> list[str]:
    """Why the doubly robust figures may be worth little."""
    few = f"warning: {found.effective:.0f} effective requests are too few, {ENOUGH:.0f} are the least; log more, or explore more"
    blind = "warning: where a plan had no chance only the belief speaks; set `explore` in the logged policy, such as explore: 0.02"
    return [few] * (found.effective < ENOUGH) + [blind] * (found.unsupported > 0.05)


def _range(value: Value, times: float) -> str:
    return f"{times * value.mean:.4f} ({times * value.low:.4f} to {times * value.high:.4f})"
