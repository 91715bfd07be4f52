"""The W3C trace context in which a call is made, for adapters that speak HTTP: whom they ask can join the trace.

Set by the run around each call, where tracing is on; a task that a call begins has it too. Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

from contextvars import ContextVar

HEADER = "traceparent"
TRACEPARENT: ContextVar[str] = ContextVar(HEADER, default="")
"""The header's value; empty where nothing is traced."""


def trace_headers() -> dict[str, str] | None:
    """What to send beside a call's other headers; None where nothing is traced."""
    value = TRACEPARENT.get()
    return {HEADER: value} if value else None
