"""A streamed body that owns something: the answer it is read from.

In: the body's generator and what to do if it is never begun. Out: a response after which one of the two has freed it:
a client may be gone before the first byte, and then Starlette drops the generator without running a line of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from router.api.hangups import ClientGoneError, while_connected


class OwnedStream(StreamingResponse):
    """A stream of server-sent events.

    Args:
        body: closed at the end, also if the client disconnects.
        drop: called instead if the body was never read.
        headers: of the response.
    """

    def __init__(
        self, body: AsyncGenerator[bytes, None], drop: Callable[[], Awaitable[None]], headers: Mapping[str, str]
    ) -> None:
        self._owned = body
        self._drop = drop
        self._is_begun = False
        super().__init__(body, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            with contextlib.suppress(ClientGoneError):
                await while_connected(scope, receive, self._send(send))
        finally:
            if self._is_begun:
                await self._owned.aclose()
            else:
                await self._drop()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._is_begun = True
        async for piece in self._owned:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
