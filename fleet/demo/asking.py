"""One question over the OpenAI API, and the record of what came back. A failure is a record too: it counts, and nothing stops."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from fleet.puzzles import check
from fleet.questions import Question

POLICY = "balanced"


@dataclass(frozen=True)
class Offer:
    """A way to answer: one plan, whatever the prompt, or (None) the policy's own decision."""

    name: str
    plan: Mapping[str, Any] | None = None
    policy: str = POLICY


def _best_of(n: int) -> dict[str, Any]:
    """One batch: the prompt is read once, which is the cheapest way to draw all n."""
    return {"best_of_n": {"backend": "small", "n": n, "batch": n, "verifier": "reward"}}


BASELINE = Offer("large once", {"single": {"backend": "large"}})
CHOSEN = Offer(POLICY)
THOROUGH = Offer("thorough", policy="thorough")
OFFERS = (
    Offer("small once", {"single": {"backend": "small"}}),
    Offer("best of 4", _best_of(4)),
    Offer("best of 16", _best_of(16)),
    Offer("revise, 4 rounds", {"revise": {"backend": "small", "rounds": 4, "verifier": "reward"}}),
    Offer("tree search", {"tree_search": {"backend": "small", "beam_width": 4, "samples": 16, "verifier": "reward"}}),
    BASELINE,
    THOROUGH,
    CHOSEN,
)
POLICIES = frozenset(offer.name for offer in OFFERS if offer.plan is None)


@dataclass(frozen=True)
class Answer:
    """What one offer made of one question."""

    offer: str
    question: Question
    right: bool = False
    text: str = ""
    cost_usd: float = 0.0
    latency_s: float = 0.0
    calls: int = 0
    """To backends; a call may draw several answers."""
    drawn: int = 0
    """Answers, finished or not, over all those calls."""
    actions: tuple[str, ...] = ()
    """Keys of the plans that were run, in order."""
    reasons: tuple[str, ...] = ()
    """Why each was chosen, and in the end why to stop."""
    p_small: float | None = None
    """The estimate: the chance that one answer of the small backend is right."""
    truncated_by: str | None = None
    decision_id: str = ""
    error: str = ""
    error_kind: str = ""
    block: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def client_of(url: str) -> AsyncOpenAI:
    """The client that any product would use. No retries: a failure is to be seen."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


async def ask(client: AsyncOpenAI, offer: Offer, question: Question) -> Answer:
    """Ask once, and check the answer exactly. Each offer has a namespace: models find in their caches no text that another left."""
    extras = {"outlay": {"plan": offer.plan}} if offer.plan else {}
    began = time.perf_counter()
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=f"outlay/{offer.policy}",
            messages=[{"role": "user", "content": question.prompt}],
            extra_body={**extras, "cache": {"no-cache": True, "namespace": offer.name}},
        )
        completion = raw.parse()
    except OpenAIError as error:
        return Answer(offer.name, question, latency_s=time.perf_counter() - began, error=str(error), error_kind=type(error).__name__)
    latency_s = time.perf_counter() - began
    block: Mapping[str, Any] = (completion.model_extra or {})["outlay"]
    text = completion.choices[0].message.content or ""
    return read(offer, question, text, latency_s, block, raw.headers.get("x-outlay-decision-id", ""))


def read(offer: Offer, question: Question, text: str, latency_s: float, block: Mapping[str, Any], decision_id: str) -> Answer:
    """The record of an answer and its decision block."""
    generations = [call for call in block["calls"] if call["kind"] == "generate"]
    return Answer(
        offer=offer.name,
        question=question,
        right=check(question.prompt, text) == 1.0,
        text=text,
        cost_usd=charged_usd(offer, block),
        latency_s=latency_s,
        calls=len(generations),
        drawn=sum(call["n"] for call in generations),
        actions=tuple(action["plan"] for action in block["actions"]),
        reasons=tuple(decision["reason"] for decision in block["decisions"]),
        p_small=block["estimate"]["p_correct"].get("small"),
        truncated_by=block["truncated_by"],
        decision_id=decision_id,
        block=block,
    )


def charged_usd(offer: Offer, block: Mapping[str, Any]) -> float:
    """What the request cost. A fixed plan needs no estimate: what the gateway spent on one is not held against it."""
    estimates = sum(call["cost_usd"] for call in block["calls"] if call["kind"] == "estimate")
    return float(block["cost_usd"]) - (estimates if offer.plan else 0.0)
