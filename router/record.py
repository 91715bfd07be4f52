"""What is kept and shown of a request: its outcome, the decision block in it, and the log of decisions.

The block holds every decision with the facts and the belief that it was made from, so that `policies.decide` makes the same
decision again from it (`facts_from_json`, `Belief.from_json`). It holds no text of prompt or answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from math import inf, isfinite
from operator import attrgetter
from typing import Any

from pydantic import TypeAdapter

from adapters.fast_json import dumps, loads
from adapters.types import Attempt
from difficulty.belief import Belief
from policies.facts import Considered, Decision, Facts
from policies.plans import Plan, TreeSearch
from router.job import Action, Job
from router.pipeline_types import Outcome
from router.run import CallRecord

BLOCK_VERSION = 1


def _reader(of: type[Any], *without: str) -> Callable[[Any], dict[str, Any]]:
    """What gives the fields of such a value by name: in C, for there are some eighty of them in a request's block."""
    names = [field.name for field in fields(of) if field.name not in without]
    values = attrgetter(*names)
    return lambda value: dict(zip(names, values(value), strict=True))


_facts, _call_fields, _attempt = _reader(Facts), _reader(CallRecord), _reader(Attempt, "cause")
_numbers = _reader(Considered, "plan", "refused", "then_usd", "then_s")
_plan: TypeAdapter[Plan] = TypeAdapter(Plan)


def render(job: Job, decision: Mapping[str, Any]) -> Outcome:
    """The outcome of a request that was answered; `decision` is its block."""
    best = job.best
    assert best is not None, "a request without an answer ends in a RouterError"
    run, ends = job.run, job.run.elapsed_s
    return Outcome(
        id=job.ask.id,
        candidates=job.choices,
        model=best.backend,
        plan=best.plan,
        policy=job.policy_name,
        digest=job.digest,
        input_tokens=sum(call.input_tokens for call in run.calls),
        output_tokens=sum(call.output_tokens for call in run.calls),
        cached_tokens=sum(call.cached_tokens for call in run.calls),
        cost_usd=run.spent_usd,
        baseline_usd=decision["baseline_usd"],
        latency_s=ends,
        overhead_s=max(0.0, ends - waited_s(run.calls)),
        truncated_by=run.truncated_by,
        cached=False,
        degraded=tuple(sorted(run.degraded)),
        decision=decision,
    )


def _baseline_usd(job: Job) -> float | None:
    """What one answer of the baseline backend would have cost, by its prices: as long as its own here, or those of the backend whose answer
    it is, were; where none was drawn here, of its usual length."""
    market, name = job.parts.market, job.parts.baseline
    if name is None or name not in market.prices:
        return None
    answers = [call for call in job.run.calls if (call.kind, call.outcome) == ("generate", "ok")]
    whose = (name, job.best.backend if job.best else name)
    calls = next((found for backend in whose if (found := [call for call in answers if call.target == backend])), None)
    if calls is None or any(isinstance(action.plan, TreeSearch) for action in job.actions):  # whose calls are steps of answers
        longest = float(job.request.max_tokens or 1e9)
        return market.cost_usd(name, job.input_tokens, min(market.curves.tokens_of(name).mean(job.input_tokens), longest))
    return market.cost_usd(name, job.input_tokens, sum(call.output_tokens for call in calls) / sum(call.n for call in calls))


def waited_s(calls: Sequence[CallRecord]) -> float:
    """Seconds in which at least one call was under way: the union of their intervals."""
    if len(calls) == 1:
        return calls[0].latency_s
    spans = sorted((call.started_s, call.started_s + call.latency_s) for call in calls)
    reach = list(accumulate((end for _, end in spans), max, initial=0.0))
    return sum(max(0.0, end - max(start, before)) for (start, end), before in zip(spans, reach, strict=False))


# --- the decision block -----------------------------------------------------------------------------------------------


def block(job: Job) -> dict[str, Any]:
    """Everything that a person or a program may want to know of a request, ready for JSON."""
    first = job.decisions[0][2] if job.decisions else None  # its cause; `plan` is the one whose answer it is, or is about to be
    return {
        "version": BLOCK_VERSION,
        "id": job.ask.id,
        "policy": job.policy_name,
        "split": arm(job),
        "digest": job.digest,
        "cause": first.cause if first else None,
        "plan": job.best.plan if job.best else first.plan.key if first and first.plan else None,
        "estimate": _estimate(job),
        "corrections": {name: round(shift, 4) for name, shift in job.corrections.items()},
        "decisions": [_decision(*row) for row in job.decisions],
        "actions": [_action(action) for action in job.actions],
        "continued_from": job.recalled_from or None,
        "calls": [_call(call) for call in job.run.calls],
        "budget": _budget(job),
        "chance": round(job.belief.best, 4),
        "first_token_s": None if job.first_token_s is None else round(job.first_token_s, 6),
        "cost_usd": job.run.spent_usd,
        "baseline_usd": _baseline_usd(job),
        "truncated_by": job.run.truncated_by,
        "degraded": sorted(job.run.degraded),
    }


def arm(job: Job) -> dict[str, str] | None:
    """The split that the request named, and what it was assigned to; None where it named none."""
    return None if job.arm is None else {"name": job.arm.split, "arm": job.arm.policy}


def _budget(job: Job) -> dict[str, Any] | None:
    """Where the policy's budget over time stood before the request; None where it has none."""
    if job.pace is None:
        return None
    usd = {"budget_usd": job.pace.budget_usd, "left_usd": round(job.pace.left_usd, 9)}
    return {"multiplier": job.pace.multiplier, **usd, "resets_in_s": round(job.pace.resets_in_s, 3)}


def _estimate(job: Job) -> dict[str, Any]:
    first = job.decisions[0][1] if job.decisions else job.belief
    before = first if not first.evidence else first.before
    return {
        "source": before.source,
        "p_correct": {name: round(before.p_correct(name), 4) for name in before.lines},
        "input_tokens": job.input_tokens,
    }


def _decision(facts: Facts, belief: Belief, decision: Decision) -> dict[str, Any]:
    return {
        "plan": decision.plan.key if decision.plan else None,
        "cause": decision.cause,
        "reason": decision.reason,
        "propensity": decision.propensity,
        "facts": facts_as_json(facts),
        "belief": belief.as_json(),
        "considered": [_considered(row) for row in decision.considered],
    }


def _considered(row: Considered) -> dict[str, Any]:
    """Dollars and seconds are the plan's alone, as their 95th percentiles are; `quality` and `utility_usd` hold what may follow it, too,
    whose expected part is in `then`."""
    if row.refused and not row.cost_usd:
        return {"plan": row.plan.key, "refused": row.refused}
    numbers: dict[str, Any] = {name: _rounded(number) for name, number in _numbers(row).items()}
    if not row.latency_q95_s:
        numbers["latency_q95_s"] = None
    if row.then_usd or row.then_s:
        numbers |= {"cost_usd": _rounded(row.cost_usd - row.then_usd), "latency_s": _rounded(row.latency_s - row.then_s)}
        numbers["then"] = {"cost_usd": _rounded(row.then_usd), "latency_s": _rounded(row.then_s)}
    return {"plan": row.plan.key} | numbers | ({"refused": row.refused} if row.refused else {})


def _rounded(number: float) -> float:
    """To nine digits: `round(number, 9)`, which writes the number out to read it again, at a third of its time."""
    return round(number * 1e9) / 1e9 if isfinite(number) else number


def _call(call: CallRecord) -> dict[str, Any]:
    """As JSON reads it back: lists, not tuples."""
    return {**_call_fields(call), "attempts": [_attempt(attempt) for attempt in call.attempts]}


def _action(action: Action) -> dict[str, Any]:
    """`score` is the verifier's raw word on the answer that the plan chose."""
    score = action.chosen.raw_score if action.chosen else None
    return {
        "plan": action.plan.key,
        "answers": action.answers,
        "chance": round(action.chance, 4),
        "cost_usd": action.cost_usd,
        "latency_s": round(action.latency_s, 6),
        **({"score": score} if score is not None else {}),
        **({"error": action.error} if action.error else {}),
    }


def facts_as_json(facts: Facts) -> dict[str, Any]:
    """Plain data; infinite limits are left out, and who forces a plan where none is forced."""
    values = _facts(facts)
    values |= {"done": sorted(facts.done), "down": sorted(facts.down), "barred": sorted(facts.barred), "read": sorted(facts.read)}
    if facts.forced:
        values["forced"] = facts.forced.model_dump(mode="json")
    else:
        del values["forced"], values["forced_by"]
    return {name: value for name, value in values.items() if value != inf}


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """The facts that `facts_as_json` wrote; what is left out has its default."""
    forced = _plan.validate_python(data["forced"]) if data.get("forced") else None
    sets = {name: frozenset(data.get(name, ())) for name in ("done", "down", "barred", "read")}
    by = data.get("forced_by", "request")
    return Facts(**{**data, **sets, "forced": forced, "forced_by": "request" if by == "forced" else by})  # as it was once written


class DecisionLog:
    """The last decisions by id, in memory: so many, and so many bytes of them. Each is shown to its owner only."""

    def __init__(self, size: int = 10_000, max_bytes: int = 64 << 20) -> None:
        self.size, self.max_bytes, self.bytes = size, max_bytes, 0
        self._blocks: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        """As JSON: ten thousand blocks as dictionaries would be what the garbage collector mostly looks at."""

    def add(self, id: str, block: Mapping[str, Any], owner: str = "") -> bytes:
        """Remember one, and give it as it is kept; the oldest are forgotten where there are too many."""
        kept = dumps(block)
        if len(kept) > self.max_bytes:
            return kept
        self.bytes += len(kept) - len(self._blocks.pop((owner, id), b""))
        self._blocks[owner, id] = kept
        while len(self._blocks) > self.size or self.bytes > self.max_bytes:
            self.bytes -= len(self._blocks.popitem(last=False)[1])
        return kept

    def get(self, id: str, owner: str = "") -> Mapping[str, Any] | None:
        """The owner's block of that id, or None."""
        kept = self._blocks.get((owner, id))
        return None if kept is None else loads(kept)
