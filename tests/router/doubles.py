"""A pipeline that plays a script, for tests of what stands before it: the HTTP application and the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.types import Choice, Delta
from router.candidates import Candidate
from router.errors import RouterError, UnknownDecision
from router.keys import NOBODY, Key
from router.lessons import Given, Judged, Sent
from router.pipeline_types import Ask, ModelCard, Outcome, Sink


def exploding(first: str = "1") -> str:
    """Two kilobytes of YAML in which aliases repeat a value 9**29 times."""
    return f"l0: &l0 [{first}]\n" + "\n".join(f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 9)}]" for i in range(29))


def candidate(text: str = "10-4=6", **choice: Any) -> Candidate:
    """One answer of the backend `small`."""
    return Candidate(Choice(text, **choice), backend="small", plan="single(small)", score=0.9)


def outcome(ask: Ask, *candidates: Candidate, **changes: Any) -> Outcome:
    """An outcome with figures that tell one field from another."""
    fields: dict[str, Any] = {
        "id": ask.id,
        "candidates": candidates or (candidate(),),
        "model": "small",
        "plan": "single(small)",
        "policy": "balanced",
        "digest": "fp_12345678",
        "input_tokens": 11,
        "output_tokens": 31,
        "cost_usd": 0.000042,
        "baseline_usd": 0.0005,
        "latency_s": 0.25,
        "overhead_s": 0.004,
        "truncated_by": None,
        "cached": False,
        "degraded": (),
        "decision": {"cause": "utility", "calls": [{"target": "small"}]},
    }
    return Outcome(**{**fields, **changes})


async def _nowhere(_: Delta) -> None:
    """Where nobody is streaming."""


@dataclass
class ScriptedPipeline:
    """Answers every ask with the same script: deltas, then an outcome or an error; it notes what it was asked and how it ended."""

    candidates: tuple[Candidate, ...] = ()
    deltas: Sequence[Delta] = ()
    error: BaseException | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    wait: asyncio.Event | None = None
    """Nothing happens after the deltas before this is set."""
    components: Mapping[str, str] = field(default_factory=lambda: {"backend:small": "ok"})
    asks: list[Ask] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    refusals: list[RouterError] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    async def answer(self, ask: Ask, sink: Sink | None = None) -> Outcome:
        self.asks.append(ask)
        self.started.set()
        try:
            for delta in self.deltas:
                await (sink or _nowhere)(delta)
            if self.wait is not None:
                await self.wait.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return outcome(ask, *self.candidates, **self.changes)

    async def route(self, ask: Ask) -> Mapping[str, Any]:
        self.asks.append(ask)
        if self.error is not None:
            raise self.error
        return {"cause": "utility", "plan": "single(small)", "generated": False}

    async def decision(self, id: str, owner: str = "") -> Mapping[str, Any] | None:
        return {"decision_id": id, "cause": "utility"} if id == "dec_known" else None

    async def feedback(self, given: Given) -> Judged:
        if given.id != "dec_known":
            raise UnknownDecision("no such decision", param="decision_id")
        self.given.append(given)
        return Judged(Sent("small", 0.5), "recorded")

    def models(self, key: Key = NOBODY) -> Sequence[ModelCard]:
        return [
            ModelCard("auto", "policy"),
            ModelCard("outlay/balanced", "policy", "the cheapest that does"),
            ModelCard("small", "backend"),
        ]

    def count_tokens(self, ask: Ask) -> int:
        self.asks.append(ask)
        return 7

    def refused(self, error: RouterError) -> None:
        self.refusals.append(error)

    def measured(self) -> bytes:
        return b"outlay_up 1\n"

    async def ready(self) -> Mapping[str, str]:
        return self.components

    async def aclose(self) -> None:
        self.closed = True
