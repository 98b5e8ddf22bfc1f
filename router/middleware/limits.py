"""How many requests are open, how long a body may take, and who is cut when there is no room.

In: any request. Out: the request with its `router.in_flight.Share` in ``state``, its body timed; or a 429 or 503.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.errors import respond
from router.auth import owner_of
from router.errors import AuthenticationError, OverloadedError, TooManyInFlightError
from router.in_flight import InFlight, Share
from router.settings import Settings

# Who runs the service must see how it does when it is full.
_ALWAYS: Final = frozenset({"/healthz", "/readyz"})
# Callers without a right key share one place: they get as far as a 401.
_NOBODY: Final = ""


class Bounded:
    """Counts requests by owner, and times their bodies.

    Args:
        app: what comes after.
        settings: the limits and the keys.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = settings.api_keys
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
            with self._in_flight.request(self._owner(scope)) as share:
                scope.setdefault("state", {})["share"] = share
                await self._app(scope, _timed(receive, share), send)
        except (TooManyInFlightError, OverloadedError) as error:
            # Raised before anything was begun; what is raised further in is answered there.
            await respond(Request(scope), error)(scope, receive, send)

    def _owner(self, scope: Scope) -> str:
        try:
            return owner_of(Headers(scope=scope), self._keys)
        except AuthenticationError:
            return _NOBODY


def _timed(receive: Receive, share: Share) -> Receive:
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal is_whole
        if is_whole:  # what comes now is the end of the connection, and may take as long as the answer
            return await receive()
        with share.awaiting_body() as timeout:
            async with timeout:
                message = await receive()
        share.received(len(message.get("body", b"")))
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time
