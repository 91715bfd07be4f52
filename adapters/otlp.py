"""Traces on their way to a collector: a bounded queue, emptied by one thread. No request waits for it, and none fails with it.

The SDK's own batch processor does the same but for two things that are needed here: what it drops is not counted where we could show it,
and at the end it holds the process for up to half a minute if the collector is gone. Spans are made in the thread as well.
Tries, time limits, headers and certificates are the exporter's (`OTEL_EXPORTER_OTLP_*`); what it gives up is lost, and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from adapters.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("outlay")

BATCH = 64
"""Traces that are sent at once."""
PATH = "/v1/traces"
Spans = Callable[[], "Sequence[ReadableSpan]"]
"""Makes the spans of one trace."""


class TraceWriter:
    """`add` never blocks and never raises."""

    def __init__(self, exporter: SpanExporter, *, size: int = 2048, gather_s: float = 1.0, patience_s: float = 3.0) -> None:
        self._exporter, self._gather_s, self._patience_s = exporter, gather_s, patience_s
        self.counts: Counter[str] = Counter()
        """Traces `exported`, `dropped` because the queue was full, and `failed` on their way."""
        self.trouble = ""
        """Why nothing gets through now; empty if it does."""
        self._queue: queue.Queue[Spans | None] = queue.Queue(size)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def add(self, spans: Spans) -> None:
        """Hand over a trace. Dropped and counted where the queue is full."""
        try:
            if self._closing.is_set():
                raise queue.Full
            self._queue.put_nowait(spans)
        except queue.Full:
            self.counts["dropped"] += 1

    @property
    def state(self) -> str:
        """For readiness: `ok`, or what is wrong now."""
        return f"{self.trouble}; {self.counts['dropped'] + self.counts['failed']} traces lost so far" if self.trouble else "ok"

    def close(self) -> None:
        """Send what waits, as long as that takes no longer than our patience; the rest is lost. Blocks so long at most, and a moment."""
        self._closing.set()
        with suppress(queue.Full):  # a full queue keeps no thread asleep
            self._queue.put_nowait(None)
        self._thread.join(self._patience_s)
        self._exporter.shutdown()  # ends its pauses between tries
        self._thread.join(1)

    def _work(self) -> None:
        while batch := list(self._batch()):
            self._export([spans for spans in batch if spans is not None])

    def _batch(self) -> Iterator[Spans | None]:
        """What has come since the first of them, some of them together; nothing once all is done."""
        if self._closing.is_set() and self._queue.empty():
            return
        yield self._queue.get()
        self._closing.wait(self._gather_s)
        with suppress(queue.Empty):
            for _ in range(BATCH - 1):
                yield self._queue.get_nowait()

    def _export(self, traces: Sequence[Spans]) -> None:
        if not traces:
            return
        HEARD.first = ""
        try:
            sent = self._exporter.export([span for make in traces for span in make()]).name == "SUCCESS"
            trouble = "" if sent else HEARD.first or "the collector takes no traces"
        except Exception as error:  # whatever it is, the thread goes on
            trouble = f"{type(error).__name__}: {error}"
        self.counts["failed" if trouble else "exported"] += len(traces)
        if trouble and not self.trouble:
            log.warning("traces are lost: %s", trouble)
        self.trouble = trouble


class _Heard(logging.Handler):
    """Hears what the exporter has to say of each try, so that we say it once."""

    first = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first of it: the cause, of which the later ones are consequences."""
        self.first = self.first or record.getMessage()[:300]


HEARD = _Heard(logging.WARNING)


def open_exporter(url: str | None) -> SpanExporter:
    """OTLP over HTTP, to `url` (without /v1/traces), else where OTEL_EXPORTER_OTLP_ENDPOINT says. Raises MissingExtra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtra("tracing needs OpenTelemetry: pip install '.[otel]' in Outlay's folder") from error
    said = logging.getLogger("opentelemetry.exporter.otlp")
    said.propagate = False
    said.addHandler(HEARD)
    return OTLPSpanExporter(None if url is None else url.rstrip("/").removesuffix(PATH) + PATH)
