"""Rows for `outlay fit` from the decision log: labelled answers of real requests, as far as they are draws of a backend.

Only what was sent is judged, and what is sent was chosen. The best of several answers, and an answer that was sent because it scored well
where another plan stood by, are right oftener than their backend is, and which ones were not sent nobody labelled. So an answer counts
where it was the only one that was drawn and would have been sent whatever it was: that of a `single` plan which no verifier scored, or
beside which the policy had no other plan. Votes and chains are not learned from here, for the log holds no texts; a verifier is, from the
scored ones among these answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from difficulty.labels import default_group
from policies.plans import Single
from router.events import DecisionEvent, Event, FeedbackEvent
from router.fit import SAMPLE

SINGLE = f"{Single.model_fields['kind'].default}("
NO_PROMPT = "without their prompt (`log: {prompts: true}` keeps it)"
BETWEEN = "neither right nor wrong, but between"
NOT_MADE = "not made for their request, or not to its end"
CHOSEN = "one of several that were drawn"
SCORED = "sent for their score, where another plan stood by"


@dataclass(frozen=True)
class LoggedRows:
    """What a decision log gives a fit."""

    rows: list[dict[str, Any]]
    """In the form of `outlay collect`: a prompt, and by backend the labelled draws."""
    used: int
    """Labelled answers that are in the rows."""
    left_out: Mapping[str, int]
    """Of the others: how many, by why."""


def logged_rows(events: Iterable[Event]) -> LoggedRows:
    """Of a candidate the last label holds; equal prompts are one row."""
    decisions: dict[str, DecisionEvent] = {}
    labels: dict[tuple[str, int], float] = {}
    for event in events:
        if isinstance(event, DecisionEvent):
            decisions[event.id] = event
        elif isinstance(event, FeedbackEvent):
            labels[event.id, event.candidate] = event.label
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    left_out = Counter[str]()
    for (id, _), label in labels.items():
        decided = decisions.get(id)
        if why := _unfit(decided, label):
            left_out[why] += 1
        elif decided is not None:
            _add(rows.setdefault(decided.prompt or "", {}), decided, label)
    found = [{"prompt": text, "group": default_group(text), "traces": list(traces.values())} for text, traces in rows.items()]
    return LoggedRows(found, len(labels) - left_out.total(), left_out)


def _unfit(event: DecisionEvent | None, label: float) -> str:
    """Why a labelled answer is no draw of a backend at this prompt; empty if it is."""
    if event is None:
        return NOT_MADE
    block = event.block
    answers = _answered(block)
    marks = [block["truncated_by"], block["continued_from"], *(mark for mark in block["degraded"] if mark.startswith("fallback:"))]
    if event.ending != "answered" or any(marks):
        return NOT_MADE
    if not event.prompt:
        return NO_PROMPT
    if label not in (0.0, 1.0):
        return BETWEEN
    if len(answers) != 1 or answers[0]["n"] != 1 or not str(block["plan"]).startswith(SINGLE):
        return CHOSEN
    scored = any(call["kind"] == "score" for call in block["calls"])
    return SCORED if scored and len(block["decisions"][0]["considered"]) > 1 else ""


def _add(traces: dict[str, dict[str, Any]], event: DecisionEvent, label: float) -> None:
    """One draw more of its backend."""
    (call,), action = _answered(event.block), event.block["actions"][-1]
    scores = {by["target"]: action["score"] for by in event.block["calls"] if by["kind"] == "score" and "score" in action}
    plan = f"{SAMPLE}{call['target']})"
    trace = traces.setdefault(plan, {"plan": plan, "answers": [], "calls": [], "cost_usd": 0.0, "latency_s": 0.0})
    trace["answers"].append({"id": event.id, "correct": label, "scores": scores})
    trace["calls"].append([call[of] for of in ("kind", "target", "n", "input_tokens", "output_tokens", "latency_s", "cached_tokens")])


def _answered(block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls that brought answers; where the first backend was down, the other's is one all the same."""
    return [call for call in block["calls"] if call["kind"] == "generate" and call["outcome"] == "ok"]
