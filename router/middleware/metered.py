"""Gives a request that asks something its `Admission`, and the answer the headers that tell of limits.

In: any request, its caller and address known (`router.middleware.callers`). Out: the request with what it is charged
with in ``state.admission``, unless nothing limits it; an answer with ``x-ratelimit-*``.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.auth.caller import Caller
from router.limits.limiter import Limiter


class Metered:
    """Begins and ends what a request is charged.

    Args:
        app: what comes after; routes that ask something charge.
        limiter: knows the limits.
    """

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        caller: Caller | None = state.get("caller")
        admission = None
        if caller is not None:
            admission = self._limiter.admission(
                caller.owner, caller.limits, key=caller.limited_as, address=state.get("address", "")
            )
        if admission is None:
            await self._app(scope, receive, send)
            return
        state["admission"] = admission

        async def send_and_settle(message: Message) -> None:
            if message["type"] == "http.response.start" and admission.headers:
                message = {**message, "headers": [*message.get("headers", ()), *admission.headers]}
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                # Before the client sees the end: its next request must not find this one's place taken.
                await admission.close()
            await send(message)

        try:
            await self._app(scope, receive, send_and_settle)
        finally:
            await admission.close()
