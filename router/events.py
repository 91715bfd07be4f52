"""The decision log as versioned events: what each holds, and how they are read back for `replay`, `fit` and whoever audits.

One event is one line of JSON. A decision's event holds its decision block (`record.py`), from which the decision can be made again;
what is learned later of the answer (feedback, a shadow call) is an event of its own under the same id. How lines are kept and lost
is in `adapters/event_log.py`. Text of prompts is in them only if the configuration asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, ClassVar, Literal

from adapters.event_log import read_lines
from difficulty.belief import Belief
from policies.facts import Facts
from router.errors import EventError
from router.record import facts_from_json
from router.render import dumps

VERSION = 1

Ending = Literal["answered", "cached", "failed", "left", "preview"]
"""How a decided request ended: `left` where its client did not wait for the answer (or the server did not, at its end), `preview` where
nothing was to be generated. A reader takes one that it does not know for another way to have no answer, so a new one needs no version."""

ANSWERED: tuple[Ending, ...] = ("answered", "cached")
"""Endings with an answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of a request: what it was made from, what was done, and with which chance."""

    facts: Facts
    belief: Belief
    plan: str | None
    """Key of the plan that was run; None to stop."""
    propensity: float


@dataclass(frozen=True, slots=True)
class DecisionEvent:
    """One request that was decided."""

    kind: ClassVar = "decision"
    id: str
    at_s: float
    """Unix time."""
    ending: Ending
    block: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    """Id of the tenant's key; empty where there are no keys."""
    prompt: str | None = None
    """The conversation as the probe reads it, redacted; only if asked for."""

    @property
    def policy(self) -> str:
        """Name of the policy, or of the backend that the request named."""
        return str(self.block["policy"])

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every decision of the request, in order."""
        return tuple(_step(row) for row in self.block["decisions"])

    @property
    def propensity(self) -> float:
        """Chance of all the actions taken, given what was seen."""
        return prod(float(row.get("propensity", 1.0)) for row in self.block["decisions"])


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """What somebody who knows said of an answer. Said twice of the same candidate, the later holds."""

    kind: ClassVar = "feedback"
    id: str
    """Of the decision."""
    at_s: float
    label: float
    """1 for right, 0 for wrong, or between."""
    candidate: int = 0
    """Index of the choice that was judged."""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ShadowEvent:
    """What another backend said to the same request, after the answer had gone out."""

    kind: ClassVar = "shadow"
    id: str
    """Of the decision."""
    at_s: float
    backend: str
    cost_usd: float
    latency_s: float
    verifier: str | None = None
    score: float | None = None
    """The verifier's raw score; None where there is no verifier or it failed."""
    answered_score: float | None = None
    """The same verifier's raw score of the answer that went out."""
    error: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ShadowPolicyEvent:
    """What a policy in shadow would have decided, beside each decision of the live one."""

    kind: ClassVar = "shadow_policy"
    id: str
    """Of the decision."""
    at_s: float
    policy: str
    shadow: str
    points: Sequence[Mapping[str, Any]]
    """In order, each as `policies.shadow.Point` says it."""
    key: str = ""


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """A drift test that gave alarm."""

    kind: ClassVar = "alarm"
    id: str
    """Name of the test."""
    at_s: float
    message: str


Event = DecisionEvent | FeedbackEvent | ShadowEvent | ShadowPolicyEvent | AlarmEvent
KINDS: Mapping[str, type[Any]] = {cls.kind: cls for cls in (DecisionEvent, FeedbackEvent, ShadowEvent, ShadowPolicyEvent, AlarmEvent)}


def line(event: Event) -> bytes:
    """The event as one line of JSON, without its end."""
    return dumps(_values(event))


def decision_line(event: DecisionEvent, block: bytes) -> bytes:
    """The same of a decision whose block is JSON already: a line that waits to be written is no larger than it will be then."""
    said = _values(event)
    del said["block"]
    return dumps(said)[:-1] + b',"block":' + block + b"}"


def _values(event: Event) -> dict[str, Any]:
    return {"version": VERSION, "event": event.kind} | {f.name: getattr(event, f.name) for f in fields(event)}


def read_events(source: str) -> Iterator[Event]:
    """Events of a file (with those that were rotated away from it), of a folder, or of a Redis stream (`redis://host:6379/0?stream=name`).

    Each once, in the order written. Lines that a crash cut off, and kinds that this version does not know, are left out. Raises EventError.
    """
    try:
        yield from parse_events(read_lines(source), source)
    except OSError as error:
        raise EventError(f"{source}: {error.strerror or error}; name the file or stream of `log` in the configuration") from error


def parse_events(lines: Iterable[bytes], source: str) -> Iterator[Event]:
    """The same of lines at hand. A line that stands twice (a retried write) counts once, while it stands within 10,000 lines."""
    recent: dict[int, None] = {}
    for number, raw in enumerate(lines, 1):
        if (key := hash(raw)) in recent:
            continue
        recent[key] = None
        if len(recent) > 10_000:
            del recent[next(iter(recent))]
        if (event := _event(raw, f"{source}: event {number}")) is not None:
            yield event


def _event(raw: bytes, where: str) -> Event | None:
    try:
        data = json.loads(raw)
        version, kind = data.pop("version"), KINDS.get(data.pop("event"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if version != VERSION:
        raise EventError(f"{where} is of version {version}; this Outlay reads version {VERSION}")
    try:
        return kind(**data) if kind else None
    except TypeError as error:
        raise EventError(f"{where}: {error}; it was not written by this version of Outlay") from None


def _step(row: Mapping[str, Any]) -> Step:
    return Step(facts_from_json(row["facts"]), Belief.from_json(row["belief"]), row["plan"], float(row.get("propensity", 1.0)))
