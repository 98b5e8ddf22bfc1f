"""The id of a request, and the answer to a bug.

In: any request. Out: an answer with ``x-request-id``, also where the application failed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Ids that are safe in a header; others are replaced by a new one.
_ID: Final = re.compile(rb"[\x20-\x7e\x80-\xff]{1,128}")


class RequestIds:
    """Gives every answer an ``x-request-id``, the caller's own if it sent one, and says whether it is a replay."""

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

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if all(name != b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", request_id.encode("latin-1")))
                if state.get("is_replayed"):
                    headers.append((b"idempotent-replayed", b"true"))
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_id)


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
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if has_started:
                raise
            response = await self._to_response(Request(scope), error)
            await response(scope, receive, send)
