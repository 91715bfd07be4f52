"""Traces of requests. Ids are drawn while a request goes on; its spans are made afterwards, from what the run has noted anyway.

So that a server that is asked can join the trace, the id of a call's span has to be there before the call: it is drawn when the call
begins, sent as `traceparent`, and kept beside the call's record. Nothing else happens on a request's way. What the spans say is in
`spans.py`, which is imported only where traces are configured, for it needs OpenTelemetry; how they get away is in `adapters/otlp.py`.

A client's `traceparent` is gone on with, and whether it is sampled is the client's word; of all others `sample` is the share.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapters.otlp import TraceWriter, open_exporter
from adapters.traceparent import TRACEPARENT
from adapters.types import ChatRequest, Choice
from router.options import TracingOptions
from router.pipeline_types import Ask, Outcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from router.job import Job

FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What is told of a call beyond its record."""

    span: int
    """The id."""
    finish_reasons: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(slots=True)
class Trace:
    """One request as a trace."""

    ask: Ask
    id: int
    sampled: bool
    parent: int | None = None
    """The client's span; None where the trace begins here."""
    span: int = field(default_factory=lambda: new_id())
    began_ns: int = field(default_factory=time.time_ns)
    """Since 1970, as the clock on the wall had it."""
    ended_ns: int = 0
    calls: dict[int, Asked] = field(default_factory=dict)
    """By index in `run.calls`."""
    job: Job | None = None
    """None where the request did not get so far."""
    run_ns: int = 0
    """When the run began, whose seconds the times of all below it are."""
    outcome: Outcome | None = None
    ending: str = "ok"
    """`cancelled` where the client left, else the name of the error."""
    failed: bool = False
    """Whether that is our fault, or a backend's, and not the client's."""

    def take(self, job: Job) -> None:
        """The request is worked on from here."""
        self.job, job.run.trace = job, self
        self.run_ns = time.time_ns() - int(job.run.elapsed_s * 1e9)

    def enter(self) -> tuple[int, Token[str]]:
        """A call begins: whom it asks is told of its span."""
        span = new_id()
        return span, TRACEPARENT.set(f"00-{self.id:032x}-{span:016x}-{SAMPLED if self.sampled else 0:02x}")

    def leave(self, entered: tuple[int, Token[str]], index: int, request: ChatRequest | None, choices: Sequence[Choice]) -> None:
        """It has ended, and is about to be noted there. Of a verifier's call it is not known what it asked for."""
        span, token = entered
        TRACEPARENT.reset(token)
        limits = (request.max_tokens, request.temperature) if request else ()
        self.calls[index] = Asked(span, tuple(choice.finish_reason for choice in choices), *limits)


class Tracing:
    """All traces of one process."""

    def __init__(self, options: TracingOptions, exporter: SpanExporter | None = None) -> None:
        """Raises MissingExtra."""
        exporter = exporter or open_exporter(options.otlp)
        from router.spans import Spans

        self.options, self.writer, self._spans = options, TraceWriter(exporter, size=options.queue), Spans(options)

    @contextmanager
    def request(self, ask: Ask) -> Iterator[Trace]:
        """The trace of a request, handed on at its end, however it ends."""
        trace = _begun(ask, self.options.sample)
        try:
            yield trace
        except asyncio.CancelledError:
            trace.ending = "cancelled"
            raise
        except Exception as error:
            trace.ending, trace.failed = type(error).__name__, getattr(error, "status", 500) >= 500
            raise
        finally:
            trace.ended_ns = time.time_ns()
            if trace.sampled:
                self.writer.add(lambda: self._spans.of(trace))

    def close(self) -> None:
        """Send what waits; blocks for some seconds at most."""
        self.writer.close()


def _begun(ask: Ask, share: float) -> Trace:
    """Going on with the client's trace; a new one where it names none, or one that is none."""
    found = FORM.fullmatch(ask.traceparent)
    if found is not None and found[1] != "ff" and (found[1] != "00" or found[5] is None):
        id, parent = int(found[2], 16), int(found[3], 16)
        if id and parent:
            return Trace(ask, id, bool(int(found[4], 16) & SAMPLED), parent)
    return Trace(ask, new_id(128), random.random() < share)


def new_id(bits: int = 64) -> int:
    """Of a span, by default: any number but 0, which stands for none."""
    return random.getrandbits(bits) or 1
