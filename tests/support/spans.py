"""A collector of OpenTelemetry spans on loopback: it takes what real processes send, and keeps it."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Sent:
    """One span as it came."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool
    seconds: float


class Collector:
    """Where spans go, and those that came."""

    def __init__(self, url: str, spans: list[Sent]) -> None:
        self.url = url
        self.spans = spans

    def of(self, run_id: object, *names: str) -> list[Sent]:
        """Those of one run, with these names."""
        wanted = [one for one in self.spans if one.attributes.get("reprieve.run_id") == str(run_id)]
        return [one for one in wanted if not names or one.name in names]


@contextmanager
def collector() -> Iterator[Collector]:
    """Listens for as long as the block lasts."""
    spans: list[Sent] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            spans.extend(_spans_of(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Collector(f"http://127.0.0.1:{server.server_port}", spans)
        finally:
            server.shutdown()
            thread.join()


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Sent]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {
                    one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes
                }
                yield Sent(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    attributes=attributes,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )
