"""The spans of a trace: one for the request, below it its estimate and each plan that was run, below those each call.

Names are those of OpenTelemetry's conventions for generative AI where they have one, else `outlay.*`. No text of prompt or answer is in
them, nor what a provider said of a failure, for it may repeat the prompt; `tracing.prompts` adds the messages, redacted. Only public
parts of the SDK are used, and so that ids are ours, a generator that gives out what was drawn before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace as api
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from adapters.services import OWN, Service
from adapters.types import text_of
from router.job import Action, Job
from router.options import TracingOptions
from router.parts import Parts
from router.pipeline_types import Outcome
from router.redact import redacted_start
from router.run import CallRecord
from router.tracing import Asked, Trace, new_id

SCOPE = "outlay"
CHARACTERS = 100_000
"""Of all messages together, so many are shown at most."""
CALM = ("ok", "cancelled")
"""Endings that are no error; a call is cancelled where another one was quicker, or the client left."""
NOTHING = (None, "", ())
Attributes = Mapping[str, Any]


class Spans:
    """Makes spans; for one thread."""

    def __init__(self, options: TracingOptions) -> None:
        self._options, self._ids, self._ended = options, _Ids(), _Ended()
        resource = Resource.create({"service.name": options.service_name})
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer(SCOPE)

    def of(self, trace: Trace) -> Sequence[ReadableSpan]:
        """All spans of an ended request, the request's own last."""
        self._ids.trace = trace.id
        top = _context(trace, trace.span)
        if trace.job is not None:
            self._below(trace, trace.job, top)
        parent = None if trace.parent is None else _context(trace, trace.parent)
        name, said = _request(trace, self._options.prompts)
        span = self._begin(name, trace.span, parent, SpanKind.SERVER, trace.began_ns, said, trace.ending, failed=trace.failed)
        for seconds, decided in _decisions(trace.job):
            span.add_event("outlay.decision", decided, _ns(trace, seconds))
        span.end(trace.ended_ns)
        return self._ended.taken()

    def _below(self, trace: Trace, job: Job, top: SpanContext) -> None:
        """Plans in their order, and calls, each below the plan that it was made for."""
        plans: list[tuple[Action, SpanContext]] = []
        for action in job.actions:
            id = new_id()
            plans.append((action, _context(trace, id)))
            self._span(trace, f"plan {action.plan.kind}", id, top, SpanKind.INTERNAL, action, _plan(action), _error(action))
        for i, call in enumerate(job.run.calls):
            above = next((context for action, context in reversed(plans) if action.started_s <= call.started_s), top)
            asked = trace.calls.get(i) or Asked(new_id())  # an estimate is not asked of anybody
            name, kind, said = _call(call, asked, job.parts)
            self._span(trace, name, asked.span, above, kind, call, said, call.outcome)

    def _span(
        self, trace: Trace, name: str, id: int, parent: SpanContext, kind: SpanKind, of: Action | CallRecord, said: Attributes, ending: str
    ) -> None:
        self._begin(name, id, parent, kind, _ns(trace, of.started_s), said, ending).end(_ns(trace, of.started_s + of.latency_s))

    def _begin(
        self, name: str, id: int, parent: SpanContext | None, kind: SpanKind, began_ns: int, said: Attributes, ending: str,
        failed: bool = True,
    ) -> api.Span:  # fmt: skip
        self._ids.span = id
        error = None if ending in CALM else ending
        within = api.set_span_in_context(api.INVALID_SPAN if parent is None else api.NonRecordingSpan(parent))
        said = {key: value for key, value in {**said, "outlay.outcome": ending, "error.type": error}.items() if value not in NOTHING}
        span = self._tracer.start_span(name, within, kind, said, start_time=began_ns)
        if error and failed:
            span.set_status(StatusCode.ERROR, error)
        return span


class _Ids(IdGenerator):
    """Gives out the ids that were drawn while the request went on."""

    def __init__(self) -> None:
        self.trace, self.span = 0, 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


class _Ended(SpanProcessor):
    """Keeps what has ended until it is taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def taken(self) -> Sequence[ReadableSpan]:
        """All of it, once."""
        taken, self._spans = self._spans, []
        return taken


def _context(trace: Trace, span: int) -> SpanContext:
    return SpanContext(trace.id, span, is_remote=span == trace.parent, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _ns(trace: Trace, seconds: float) -> int:
    """Seconds since the run began, on the clock of the wall."""
    return trace.run_ns + int(seconds * 1e9)


# --- what they say ------------------------------------------------------------------------------------------------------


def _request(trace: Trace, prompts: bool) -> tuple[str, dict[str, Any]]:
    ask, job, outcome = trace.ask, trace.job, trace.outcome
    request = ask.request
    said: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": OWN,
        "gen_ai.request.choice.count": request.n if request.n > 1 else None,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.seed": request.seed,
        "outlay.decision_id": ask.id,
    }
    if prompts:
        said["gen_ai.input.messages"] = _messages(request.messages)
    if job is None:  # what it asked for may be any text, so it is not repeated
        return "chat", said
    model = job.policy_name if job.bypass else f"outlay/{job.arm.split if job.arm else job.policy_name}"
    return f"chat {model}", said | {"gen_ai.request.model": model} | _worked(job) | (_answered(outcome) if outcome else {})


def _worked(job: Job) -> dict[str, Any]:
    run = job.run
    return {
        "gen_ai.usage.input_tokens": sum(call.input_tokens for call in run.calls),
        "gen_ai.usage.output_tokens": sum(call.output_tokens for call in run.calls),
        "gen_ai.request.stream": job.sink is not None or None,
        "gen_ai.response.time_to_first_chunk": job.first_token_s,
        "outlay.policy": job.policy_name,
        "outlay.digest": job.digest,
        "outlay.split": job.arm.split if job.arm else None,
        "outlay.plan": job.best.plan if job.best else None,
        "outlay.chance": round(job.belief.best, 4),
        "outlay.cost_usd": run.spent_usd,
        "outlay.truncated_by": run.truncated_by,
        "outlay.degraded": tuple(sorted(run.degraded)),
    }


def _answered(outcome: Outcome) -> dict[str, Any]:
    return {
        "gen_ai.response.model": outcome.model,
        "gen_ai.response.finish_reasons": tuple(candidate.choice.finish_reason for candidate in outcome.candidates),
        "outlay.plan": outcome.plan,
        "outlay.chance": outcome.decision.get("chance"),
        "outlay.cached": outcome.cached,
    }


def _decisions(job: Job | None) -> Sequence[tuple[float, dict[str, Any]]]:
    """When each decision was made, and what it was."""
    return [
        (
            facts.elapsed_s,
            {
                "outlay.plan": decision.plan.key if decision.plan else "stop",
                "outlay.cause": decision.cause,
                "outlay.reason": decision.reason,
                "outlay.chance": round(belief.best, 4),
                "outlay.propensity": decision.propensity,
            },
        )
        for facts, belief, decision in (job.decisions if job else ())
    ]


def _error(action: Action) -> str:
    """How a plan ended; that a limit cut it short is no error."""
    return "ok" if not action.error or action.error.endswith("limit") else action.error


def _plan(action: Action) -> dict[str, Any]:
    return {
        "outlay.plan": action.plan.key,
        "outlay.answers": action.answers,
        "outlay.chance": round(action.chance, 4),
        "outlay.cost_usd": action.cost_usd,
        "outlay.truncated_by": action.error.removesuffix(" limit") if action.error.endswith("limit") else None,
    }


def _call(call: CallRecord, told: Asked, parts: Parts) -> tuple[str, SpanKind, dict[str, Any]]:
    """Name, kind and attributes. Of several attempts, those of the last one's deployment. A judge is a model that is asked, too."""
    said: dict[str, Any] = {
        "gen_ai.usage.input_tokens": call.input_tokens,
        "gen_ai.usage.output_tokens": call.output_tokens,
        "outlay.cost_usd": call.cost_usd,
    }
    scores, judge = call.kind == "score", parts.judges.get(call.target)
    if scores:
        said |= {"outlay.verifier": call.target, "outlay.answers": call.n}
    if call.kind == "estimate" or (scores and judge is None):
        return f"{call.kind} {call.target}", SpanKind.INTERNAL, said
    asked = call.attempts[-1].deployment if call.attempts else call.target
    usual = judge if scores else parts.services.get(call.target)
    service = (parts.services.get(asked) if call.attempts else usual) or usual or Service(OWN, call.target)
    return (
        f"chat {service.model}",
        SpanKind.CLIENT,
        said
        | {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": service.provider,
            "gen_ai.request.model": service.model,
            "gen_ai.response.model": call.model,
            "gen_ai.usage.cache_read.input_tokens": call.cached_tokens or None,
            "gen_ai.request.choice.count": call.n if call.n > 1 and not scores else None,
            "gen_ai.request.max_tokens": told.max_tokens,
            "gen_ai.request.temperature": told.temperature,
            "gen_ai.response.finish_reasons": told.finish_reasons,
            "server.address": service.address,
            "server.port": service.port,
            "outlay.backend": None if scores else call.target,
            "outlay.deployment": asked if asked != call.target else None,
            "outlay.attempts": len(call.attempts) if len(call.attempts) > 1 and not scores else None,
        },
    )


def _messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """In the conventions' own shape, without what should not lie about."""
    left, shown = CHARACTERS, []
    for message in messages:
        text = redacted_start(text_of(message), max(0, left))
        left -= len(text)
        shown.append({"role": message.get("role"), "parts": [{"type": "text", "content": text}]})
    return json.dumps(shown, ensure_ascii=False)
