"""The answer to what the end of this process breaks off: a refusal that says so, and when to ask again.

In: any request, and whether the process ends. Out: a 503 where a cancelled request would get uvicorn's bare 500.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from router.api.errors import respond
from router.errors import ShuttingDownError
from router.middleware import texts
from router.middleware.begun import BegunSend

_RETRY_AFTER_S: Final = 1  # another process may answer at once


class EndingAnswered:
    """Answers for a request that is cancelled because the process ends.

    An answer that has begun is left without its end: the server then closes the connection, and the client sees that
    it is not whole. An error event would be wrong in a stream of a job, which goes on without this process.

    Args:
        app: what is cancelled.
        draining: set once the process is to end.
    """

    def __init__(self, app: ASGIApp, draining: asyncio.Event) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_send = BegunSend(send)
        try:
            await self._app(scope, receive, begun_send)
        except asyncio.CancelledError:
            if not self._draining.is_set():
                raise
            if not begun_send.has_begun:
                refusal = ShuttingDownError(texts.SHUTTING_DOWN, retry_after_s=_RETRY_AFTER_S)
                await respond(Request(scope), refusal)(scope, receive, send)
