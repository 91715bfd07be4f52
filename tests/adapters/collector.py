"""A collector of traces on a port of this machine, that can be slow, broken or gone."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Takes OTLP over HTTP. `status` is what it answers; while `stuck`, it does not."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.paths, self.spans, self.resources = status, list[str](), list[Any](), list[Any]()
        self.go_on = threading.Event()
        self.go_on.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.go_on.wait(20)
                collector.paths.append(self.path)
                if collector.status == 200:
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, request: Any) -> None:
        """Note every span."""
        for part in request.resource_spans:
            self.resources.append({pair.key: pair.value.string_value for pair in part.resource.attributes})
            self.spans += [span for scope in part.scope_spans for span in scope.spans]

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def die(self) -> None:
        """Gone: nobody listens there any more."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.die()
