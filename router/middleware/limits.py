"""How many requests are open, how long a body may take, and who is cut when there is no room.

In: any request, its caller known (`router.middleware.callers`). Out: the request with its `router.in_flight.Share` in
``state``, its body timed; or a 429 or 503.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.errors import respond
from router.auth.caller import Caller
from router.errors import BodyTimeoutError, OverloadedError, TooManyInFlightError
from router.in_flight import InFlight, Share
from router.settings import Settings

# Health must be readable while the service is full.
_ALWAYS: Final = frozenset({"/healthz", "/readyz"})
# Callers without a right key share one place: they get as far as a 401.
_NOBODY: Final = ""
_LINGER_S: Final = 30.0
# After each piece of 64 KB or more: what is only dropped must not take the loop from those who are served.
_LINGER_PAUSE_S: Final = 0.02
_TIMEOUT_STATUS: Final = 408


class Bounded:
    """Counts requests by owner, and times their bodies.

    Args:
        app: what comes after.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._in_flight = InFlight(
            max_requests=settings.max_requests_in_flight,
            max_bytes=settings.max_bytes_in_flight,
            max_body_bytes=settings.max_body_bytes,
            body_timeout_s=settings.body_timeout_s,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        try:
            with self._in_flight.request(_owner(scope)) as share:
                scope.setdefault("state", {})["share"] = share
                body = _Body(receive, share)
                await self._app(scope, body.receive, _lingering(send, body) if _ends_after(scope) else send)
        except (TooManyInFlightError, OverloadedError) as error:
            # Raised here, before the request was passed on; later ones are answered further in.
            await respond(Request(scope), error)(scope, receive, send)


class _Body:
    """The ASGI ``receive`` of a body that has to arrive in time."""

    def __init__(self, receive: Receive, share: Share) -> None:
        self._receive = receive
        self._share = share
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next piece.

        Raises:
            BodyTimeoutError: if it does not arrive in time.
        """
        if self._is_whole:  # what comes now is the end of the connection, and may take as long as the answer
            return await self._receive()
        with self._share.awaiting_body() as timeout:
            async with timeout:
                message = await self._receive()
        self._share.received(len(message.get("body", b"")))
        self._is_whole = not message.get("more_body", False)
        return message

    async def drop_rest(self) -> None:
        """Read what still comes of a body that was refused halfway, as long as it comes in time."""
        self._share.release_bytes()
        with contextlib.suppress(BodyTimeoutError, TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self._is_whole:
                    await self.receive()
                    await asyncio.sleep(_LINGER_PAUSE_S)


def _owner(scope: Scope) -> str:
    caller: Caller | None = scope.get("state", {}).get("caller")
    return _NOBODY if caller is None else caller.owner


def _ends_after(scope: Scope) -> bool:
    """Whether the server closes the connection after the answer."""
    return scope.get("http_version") == "1.0" or "close" in Headers(scope=scope).get("connection", "").lower()


def _lingering(send: Send, body: _Body) -> Send:
    """Read the rest of the body before the answer ends: a connection that closes on unread bytes loses the answer."""
    is_timeout = False

    async def send_and_linger(message: Message) -> None:
        nonlocal is_timeout
        if message["type"] == "http.response.start":
            is_timeout = message["status"] == _TIMEOUT_STATUS
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not is_timeout:
            await send({**message, "more_body": True})
            await body.drop_rest()
            message = {**message, "body": b""}
        await send(message)

    return send_and_linger
