"""Counts and times every request.

In: any request. Out: the same; its route, status, error code and time are reported to the meters.
"""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.telemetry.meters import Meters


class Timed:
    """Reports how requests are answered.

    Args:
        app: what comes after.
        meters: told of each request.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        self._meters.request_began()
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            # A path as it was sent is a text of the client; that of its route is ours.
            path = getattr(scope.get("route"), "path", "")
            code = scope.get("state", {}).get("error_code") or ""
            self._meters.request_ended(path, status, code, time.perf_counter() - began)
