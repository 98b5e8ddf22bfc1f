"""A collector of traces on loopback: OTLP over HTTP, as the OpenTelemetry collector has it on port 4318."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span as it was sent."""

    process: str
    name: str
    trace_id: str
    id: str
    parent: str
    began: int
    ended: int
    is_error: bool
    attributes: dict[str, Any] = field(hash=False)
    events: tuple[str, ...]


class Collector:
    """Takes whatever it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def spans(self, **wanted: str) -> list[Seen]:
        """Return the spans that have come, in the order in which they began.

        Args:
            wanted: fields of `Seen` that they have.
        """
        found = [
            _to_seen(span, resource.resource)
            for body in tuple(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        found = [span for span in found if all(getattr(span, name) == value for name, value in wanted.items())]
        return sorted(found, key=lambda span: span.began)

    def stop(self) -> None:
        """Be gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _to_seen(span: Any, resource: Any) -> Seen:
    return Seen(
        process=_to_values(resource.attributes)["glowl.process"],
        name=span.name,
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        is_error=span.status.code == 2,
        attributes=_to_values(span.attributes),
        events=tuple(event.name for event in span.events),
    )


def _to_values(attributes: Any) -> dict[str, Any]:
    return {each.key: _to_value(each.value) for each in attributes}


def _to_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_to_value(each) for each in value.array_value.values]
    return getattr(value, kind)
