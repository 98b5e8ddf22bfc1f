"""Small differences of clients that do not matter: doubled and trailing slashes, and ``HEAD``.

In: any request. Out: the request as the routes know it.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLASHES: Final = re.compile("//+")
_ESCAPED_SLASH: Final = re.compile(rb"%2f", re.IGNORECASE)


class PathsTidied:
    """Makes ``//v1/models/`` the same as ``/v1/models``: base URLs are often written with a slash at their end.

    An escaped slash is part of a name, such as a model's; ``/v1/models/%2F`` asks for a model that is not there.
    A redirect would do for GET only: clients send its POSTs again as GET, or without their key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            raw = scope.get("raw_path") or b""
            if _ESCAPED_SLASH.search(raw):
                raw = _tidy(raw.decode("latin-1"))
                scope = {**scope, "path": unquote(raw), "raw_path": raw.encode("latin-1")}
            elif (path := _tidy(scope["path"])) != scope["path"]:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


class HeadAnswered:
    """Answers ``HEAD`` as ``GET`` without the body; a stream ends after its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_over = False

        async def send_head(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start":
                await send(message)
            elif message["type"] == "http.response.body" and not is_over:
                is_over = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def receive_until_over() -> Message:
            return {"type": "http.disconnect"} if is_over else await receive()

        await self._app({**scope, "method": "GET"}, receive_until_over, send_head)


def _tidy(path: str) -> str:
    return _SLASHES.sub("/", path).rstrip("/") or "/"
