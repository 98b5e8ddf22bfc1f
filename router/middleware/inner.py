"""Requests that are made here for whoever opened a connection, and what the application answers to them.

In: the scope of a WebSocket. Out: the scope of an HTTP request with the same headers, and whole answers.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.types import Message, Scope, Send

Json = dict[str, Any]

# Of the handshake, not of the requests; and what would make every turn the same request.
_NOT_PASSED_ON: Final = frozenset(
    {b"connection", b"upgrade", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding"}
    | {b"idempotency-key", b"x-request-id", b"accept-encoding", b"expect"}
)


def to_request(scope: Scope, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    """Return the scope of a request of whoever opened a WebSocket.

    Args:
        scope: of the WebSocket.
        method: of the request.
        path: likewise.
        headers: beside those of the handshake.
    """
    passed = [
        (name, value)
        for name, value in scope["headers"]
        if name not in _NOT_PASSED_ON and not name.startswith(b"sec-websocket-")
    ]
    return {
        "type": "http",
        "asgi": scope["asgi"],
        "http_version": "1.1",
        "method": method,
        "scheme": {"wss": "https"}.get(scope["scheme"], "http"),
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": scope.get("root_path", ""),
        "headers": [*passed, *headers],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "extensions": {},
        "app": scope.get("app"),
        "state": {},
    }


def is_stream(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether an answer is a stream of events."""
    return any(name == b"content-type" and b"event-stream" in value for name, value in headers)


class Heard:
    """A whole answer of the application."""

    def __init__(self, status: int = 500, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers or []
        self.body = body

    async def take(self, message: Message) -> None:
        """Take in a part of it."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    async def refuse(self, send: Send) -> None:
        """Answer a handshake with it."""
        status = self.status if self.status >= 400 else 500
        await send({"type": "websocket.http.response.start", "status": status, "headers": self.headers})
        await send({"type": "websocket.http.response.body", "body": self.body})

    def to_event(self) -> Json:
        """Return the refusal of a turn."""
        try:
            error = orjson.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            error = {"type": "server_error", "code": "server_error", "message": "The request failed.", "param": None}
        return {"type": "error", "status": self.status, "error": error}
