"""The id of a request, its line in the log, and the answer to a bug.

In: any request. Out: an answer with ``x-request-id``, also where the application failed.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engines.origin import ORIGIN, Origin
from router.api.anthropic.errors import is_anthropic
from router.errors import CLIENT_CLOSED
from router.middleware.begun import BegunSend

if TYPE_CHECKING:
    from router.dispatch import Running

log = logging.getLogger("router.access")

# Asked every few seconds by who watches the service: good answers to them would bury all others.
_WATCHED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_MAX_PATH_BYTES: Final = 500
# Ids that are safe in a header; others are replaced by a new one.
_ID: Final = re.compile(rb"[\x20-\x7e\x80-\xff]{1,128}")


class RequestIds:
    """Gives every answer an ``x-request-id``, the caller's own if it sent one, and writes it down at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _ID.match(next((value for key, value in scope["headers"] if key == b"x-request-id"), b""))
        request_id = given[0].decode("latin-1") if given else f"req_{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        ORIGIN.set(Origin(request_id))
        began, status, is_whole = time.perf_counter(), 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                if all(name != b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", request_id.encode("latin-1")))
                if is_anthropic(scope["path"]):  # its clients read this one
                    headers.append((b"request-id", request_id.encode("latin-1")))
                if state.get("is_replayed"):
                    headers.append((b"idempotent-replayed", b"true"))
                message["headers"] = headers
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                is_whole = True
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            status = status or 500  # what answers it stands outside
            raise
        finally:
            if status != 200 or scope["path"] not in _WATCHED:
                _write_down(scope, status or CLIENT_CLOSED, is_whole, time.perf_counter() - began)


def _write_down(scope: Scope, status: int, is_whole: bool, took_s: float) -> None:
    """Log a request that has ended; without the query of its address, where some clients send a key."""
    level = logging.WARNING if status >= 500 else logging.INFO
    if not log.isEnabledFor(level):
        return
    path = scope.get("raw_path", b"")[:_MAX_PATH_BYTES].decode("latin-1") or scope["path"]
    state = scope.get("state", {})
    fields: dict[str, Any] = {
        "method": scope["method"],
        "path": path,
        "status": status,
        "duration_ms": round(took_s * 1000, 1),
        "client": state.get("address") or (scope.get("client") or ("",))[0],
    }
    if not is_whole:
        fields["broken_off"] = True
    if (code := state.get("error_code")) is not None:
        fields["code"] = code
    running: Running | None = state.get("running")
    if running is not None:
        fields["response_id"] = running.job.id
        fields["route"] = running.job.spec.decision.get("route", "")
    log.log(level, "%s %s %d", scope["method"], path, status, extra={"fields": fields})


class BugsAnswered:
    """Answers for an unforeseen error inside all other middleware, so that ids and CORS headers are on a 500 too.

    Starlette's own handler of such errors sits outside all middleware, and raises the error on: the server then closes
    the connection. Here the answer is like any other and the connection stays open. If a part of the answer was sent
    already, only closing can say that it is not whole, so the error is raised on.

    Args:
        app: what may fail.
        to_response: makes the answer, and logs the error.
    """

    def __init__(self, app: ASGIApp, to_response: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self._app = app
        self._to_response = to_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_send = BegunSend(send)
        try:
            await self._app(scope, receive, begun_send)
        except Exception as error:
            if begun_send.has_begun:
                raise
            response = await self._to_response(Request(scope), error)
            await response(scope, receive, send)
