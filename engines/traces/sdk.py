"""Spans, made with OpenTelemetry's SDK: the one module that imports it.

In: what is done, and the `Origin` of it. Out: spans for an exporter, and the `Origin` of what is done inside one.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Final, Literal

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engines.base import Delta, EngineError, GenerationRequest
from engines.origin import Origin
from engines.traces import conventions
from engines.traces.conventions import Attributes, GenAi

Kind = Literal["server", "client", "internal"]

_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
# A collector that is away must not keep a process from ending.
_END_S: Final = 3.0
# Longer than this it may be left out (W3C Trace Context, 3.3.1.5).
_MAX_STATE_CHARS: Final = 512
# Later versions may be longer than the first one's 55, and begin as that one does.
_MAX_PARENT_CHARS: Final = 256


class Span:
    """One span, begun.

    Attributes:
        origin: of what is done inside it.
    """

    def __init__(self, span: Any, origin: Origin) -> None:
        self._span = span
        context = span.get_span_context()
        state = context.trace_state.to_header()
        self.origin = replace(
            origin,
            traceparent=f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}",
            tracestate=state if len(state) <= _MAX_STATE_CHARS else "",
        )

    def add(self, attributes: Attributes) -> None:
        """Add attributes; those that are None are left out."""
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def rename(self, name: str) -> None:
        """Give it another name, now that it is known."""
        self._span.update_name(name)

    def event(self, name: str) -> None:
        """Say that something has happened now."""
        self._span.add_event(name)

    def fail(self, code: str) -> None:
        """Say that it has failed, by a code of ours; never with a message, which may repeat what a caller wrote."""
        self._span.set_attribute(conventions.ERROR, code)
        self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End it now."""
        self._span.end()


class Traces:
    """Makes the spans of one process.

    Args:
        process: its name.
        exporters: where spans go, in the background.
        environ: with the variables ``OTEL_*``: the sampler, the resource, the version of the conventions.
    """

    def __init__(self, process: str, exporters: Sequence[SpanExporter], environ: Mapping[str, str]) -> None:
        resource = Resource.create({"service.name": f"glowl-{process}", conventions.PROCESS: process})
        if name := environ.get("OTEL_SERVICE_NAME", "").strip():
            resource = resource.merge(Resource({"service.name": name}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("glowl")
        self._propagator = TraceContextTextMapPropagator()
        self.gen_ai = GenAi(environ)

    @classmethod
    def of_environment(cls, process: str, exporters: Sequence[str], environ: Mapping[str, str]) -> Traces:
        """Make it as the environment says, to be ended with the process."""
        made: list[SpanExporter] = []
        if "otlp" in exporters:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            made.append(OTLPSpanExporter())
        if "console" in exporters:
            made.append(ConsoleSpanExporter())
        traces = cls(process, made, environ)
        atexit.register(traces.end)
        return traces

    def end(self) -> None:
        """Send what is left, for a bounded time."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_END_S)

    def begin(
        self, name: str, kind: Kind, origin: Origin, attributes: Attributes, *, began_at: float | None = None
    ) -> Span:
        """Begin a span inside the one that an origin names; a new trace if it names none, or none that can be read.

        Args:
            name: of the span.
            kind: of the span.
            origin: where it belongs.
            attributes: those that are None are left out.
            began_at: unix seconds; None is now.
        """
        carrier = {"traceparent": origin.traceparent, "tracestate": origin.tracestate}
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(carrier),
            kind=_KINDS[kind],
            attributes={name: value for name, value in attributes.items() if value is not None},
            start_time=None if began_at is None else int(min(began_at, time.time()) * 1e9),
        )
        return Span(span, origin)

    def begin_server(self, name: str, request_id: str, sent: Mapping[str, str], attributes: Attributes) -> Span:
        """Begin the span of a request from outside, in the trace that its headers name, if they can be read.

        Args:
            name: of the span.
            request_id: of the request.
            sent: its ``traceparent`` and ``tracestate``, empty for none.
            attributes: of the span.
        """
        origin = Origin(request_id, "", sent["traceparent"][:_MAX_PARENT_CHARS], sent["tracestate"][:_MAX_STATE_CHARS])
        return self.begin(name, "server", origin, attributes)

    @contextmanager
    def span(self, name: str, kind: Kind, origin: Origin, attributes: Attributes) -> Iterator[Span]:
        """Keep a span open while the body runs; one that raises has failed."""
        span = self.begin(name, kind, origin, attributes)
        try:
            yield span
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()

    async def follow(
        self,
        stream: Callable[[GenerationRequest], AsyncGenerator[Delta, None]],
        request: GenerationRequest,
        model: str,
        kind: Kind,
    ) -> AsyncGenerator[Delta, None]:
        """Pass on what a model answers, in a span of its own, which the request then names.

        Args:
            stream: of the engine, or of the client of one.
            request: what is asked.
            model: the name that the answer will show.
            kind: ``client`` of who asks, ``server`` of who answers.
        """
        attributes = self.gen_ai.of_request(request, model) | {
            conventions.REQUEST_ID: request.origin.request_id or None,
            conventions.RESPONSE_ID: request.request_id or request.origin.response_id or None,
        }
        span = self.begin(conventions.name_of_call(model), kind, request.origin, attributes)
        began, first_s, last = time.perf_counter(), None, None
        try:
            async with aclosing(stream(replace(request, origin=span.origin))) as deltas:
                async for delta in deltas:
                    if first_s is None and delta.text:
                        first_s = time.perf_counter() - began
                        span.event(conventions.FIRST_TEXT)
                    last = delta
                    yield delta
        except EngineError as error:
            span.fail(error.code)
            raise
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            if last is not None:
                span.add(self.gen_ai.of_answer(model, last, first_s))
            if last is None or last.finish_reason is None:
                span.add({conventions.GONE: True})
            span.end()
