"""Finds the caller of a request, once.

In: any request. Out: the request with its `Caller` in ``state.caller``, or what is wrong with its key in
``state.caller_error``: paths that need no caller answer all the same, the others raise it
(`router.api.intake.caller_of`). Either way ``state.address`` says where it comes from; empty if that is not known.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from router import texts
from router.auth.authenticator import Authenticator
from router.auth.caller import Caller
from router.errors import AuthenticationError, RouterError
from router.limits.addresses import Proxies
from router.limits.failures import Failures

# What a key that was made up gets; one that has expired, or was sent twice, was not.
_GUESSES: Final = frozenset({"invalid_api_key", "invalid_token"})


class Identified:
    """Asks who sent a request before anything of it is read.

    Args:
        app: what comes after.
        authenticator: knows the keys.
        proxies: whose word on addresses is taken.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, proxies: Proxies) -> None:
        self._app = app
        self._authenticator = authenticator
        self._proxies = proxies
        self._failures = Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            client = scope.get("client")
            peer = client[0] if client else ""
            address = state["address"] = self._proxies.address_of(peer, scope["headers"])
            try:
                state["caller"] = await self._identify(Headers(scope=scope), address)
            except RouterError as error:
                state["caller_error"] = error
        await self._app(scope, receive, send)

    async def _identify(self, headers: Headers, address: str) -> Caller:
        try:
            caller = await self._authenticator.identify(headers)
        except AuthenticationError as error:
            if error.text == texts.NO_KEY or error.code not in _GUESSES:
                raise
            refusal = self._failures.refusal(address, None)
            self._failures.note_wrong(address)
            raise (refusal or error) from None
        if (refusal := self._failures.refusal(address, caller.owner)) is not None:
            raise refusal
        self._failures.note_good(caller.owner)
        return caller
