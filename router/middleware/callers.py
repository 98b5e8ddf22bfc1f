"""Finds the caller of a request, once.

In: any request. Out: the request with its `Caller` in ``state.caller``, or what is wrong with its key in
``state.caller_error``: paths that need no caller answer all the same, the others raise it
(`router.api.intake.caller_of`).
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from router.auth.authenticator import Authenticator
from router.errors import RouterError


class Identified:
    """Asks who sent a request before anything of it is read.

    Args:
        app: what comes after.
        authenticator: knows the keys.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            try:
                state["caller"] = await self._authenticator.identify(Headers(scope=scope))
            except RouterError as error:
                state["caller_error"] = error
        await self._app(scope, receive, send)
