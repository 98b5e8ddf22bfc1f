"""A span for each request, only where traces are kept.

In: any request, with the W3C trace context of its caller if it sent one. Out: the same; what is done for it belongs to
its span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engines.origin import ORIGIN
from engines.traces import conventions
from engines.traces.sdk import Span, Traces
from router.errors import CLIENT_CLOSED

if TYPE_CHECKING:
    from router.dispatch import Running

# Probes, metrics and pages ask no model: they get no span.
_UNTRACED: Final = ("/healthz", "/readyz", "/metrics", "/ui", "/docs")


class Traced:
    """Opens a span for each request, inside that of its caller.

    Args:
        app: what comes after.
        traces: of this process.
    """

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
            return
        status, is_whole = 0, False

        async def send_and_note(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                is_whole = True
            await send(message)

        span = self._begin(scope)
        ORIGIN.set(span.origin)
        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            status = status or 500
            raise
        finally:
            _end(span, scope, status or CLIENT_CLOSED, is_whole=is_whole)

    def _begin(self, scope: Scope) -> Span:
        headers = Headers(scope=scope)
        sent = {"traceparent": headers.get("traceparent", ""), "tracestate": ",".join(headers.getlist("tracestate"))}
        request_id = ORIGIN.get().request_id
        attributes = {conventions.METHOD: scope["method"], conventions.REQUEST_ID: request_id}
        return self._traces.begin_server(scope["method"], request_id, sent, attributes)


def _end(span: Span, scope: Scope, status: int, *, is_whole: bool) -> None:
    state: dict[str, Any] = scope.get("state", {})
    route = getattr(scope.get("route"), "path", None)
    if route is not None:  # as the code writes it: a path as it was sent is a text of the client
        span.rename(f"{scope['method']} {route}")
    attributes: dict[str, Any] = {conventions.ROUTE: route, conventions.STATUS: status}
    running: Running | None = state.get("running")
    if running is not None:
        spec = running.job.spec
        attributes |= {name: spec.decision.get(word) for word, name in conventions.DECIDED.items()}
        attributes |= {conventions.RESPONSE_ID: spec.id, conventions.CACHE: spec.cache or None}
    if not is_whole:
        attributes[conventions.GONE] = True
    span.add(attributes)
    if status >= 500:
        span.fail(state.get("error_code") or str(status))
    elif state.get("error_code"):
        span.add({conventions.ERROR: state["error_code"]})
    span.end()
