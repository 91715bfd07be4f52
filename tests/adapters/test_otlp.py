"""Traces on their way out: sent together, counted when they are lost, and never waited for."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from adapters.errors import MissingExtra
from adapters.otlp import TraceWriter, open_exporter
from tests.adapters.collector import Collector
from tests.adapters.test_event_log import until


class Exporter(SpanExporter):
    """Keeps what it is given; `result` is what comes of it, or is raised; while not `go_on`, nothing does."""

    def __init__(self, result: SpanExportResult | Exception = SpanExportResult.SUCCESS) -> None:
        self.result, self.batches, self.shut = result, list[int](), False
        self.go_on = threading.Event()
        self.go_on.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.go_on.wait(10)
        if isinstance(self.result, Exception):
            raise self.result
        self.batches.append(len(spans))
        return self.result

    def shutdown(self) -> None:
        self.shut = True
        self.go_on.set()


def spans(n: int = 3) -> Any:
    return lambda: [ReadableSpan(f"span {i}") for i in range(n)]


def test_what_waits_is_sent_together_and_at_the_end_all_of_it() -> None:
    """One batch for the traces that came while it was gathered."""
    writer = TraceWriter(exporter := Exporter(), gather_s=5.0)
    for _ in range(5):
        writer.add(spans())
    writer.close()
    assert exporter.batches == [15]
    assert (writer.counts, writer.state, exporter.shut) == ({"exported": 5}, "ok", True)
    writer.add(spans())
    assert writer.counts["dropped"] == 1


def test_a_full_queue_drops_and_counts_and_nobody_waits() -> None:
    """While the collector does not answer; `size` is how much may wait."""
    exporter = Exporter()
    exporter.go_on.clear()
    writer = TraceWriter(exporter, size=2, gather_s=0.0)
    writer.add(spans())
    until(lambda: writer._queue.empty())
    for _ in range(5):
        writer.add(spans())
    assert writer.counts == {"dropped": 3}
    exporter.go_on.set()
    writer.close()
    assert writer.counts == {"dropped": 3, "exported": 3}


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, RuntimeError("odd")])
def test_what_fails_is_counted_said_once_and_forgotten(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Readiness names the trouble while it lasts; a trace that cannot be made is one that failed."""
    writer = TraceWriter(exporter := Exporter(result), gather_s=0.0)
    with caplog.at_level(logging.WARNING, "outlay"):
        for n in (1, 2):
            writer.add(spans())
            until(lambda n=n: writer.counts["failed"] == n)
    assert [record.message[:16] for record in caplog.records] == ["traces are lost:"]
    assert "2 traces lost so far" in writer.state
    exporter.result = SpanExportResult.SUCCESS
    writer.add(spans())
    until(lambda: writer.counts["exported"] == 1)
    assert writer.state == "ok"
    writer.add(lambda: [1 / 0])
    until(lambda: writer.counts["failed"] == 3)
    writer.close()


def test_a_collector_that_hangs_does_not_hold_the_end() -> None:
    """After `patience_s` the exporter is told to give up."""
    exporter = Exporter()
    exporter.go_on.clear()
    writer = TraceWriter(exporter, gather_s=0.0, patience_s=0.05)
    writer.add(spans())
    writer.close()
    assert exporter.shut
    assert not writer._thread.is_alive()


def test_the_address_is_the_collectors_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without a slash or the path; traces arrive there."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        for url in (collector.url, f"{collector.url}/", f"{collector.url}/v1/traces", None):
            exporter = open_exporter(url)
            exporter.export([])
            exporter.shutdown()
        assert collector.paths == ["/v1/traces"] * 4


def test_why_nothing_gets_through_is_said_once_in_the_exporters_words(caplog: pytest.LogCaptureFixture) -> None:
    """And not with every try."""
    with Collector(status=400) as collector, caplog.at_level(logging.WARNING):
        writer = TraceWriter(open_exporter(collector.url), gather_s=0.0)
        for n in (1, 2):
            writer.add(list)
            until(lambda n=n: writer.counts["failed"] == n)
        writer.close()
    assert ["400" in record.getMessage() for record in caplog.records if record.name == "outlay"] == [True]
    assert not logging.getLogger("opentelemetry.exporter.otlp").propagate
    assert "400" in writer.state


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[otel\]'"):
        open_exporter(None)
