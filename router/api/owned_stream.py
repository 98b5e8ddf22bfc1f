"""A streamed body that owns something: the answer it is read from.

In: the body's generator and what to do if it is never begun. Out: a response after which one of the two has freed it:
a client may be gone before the first byte, and then Starlette drops the generator without running a line of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class OwnedStream(StreamingResponse):
    """A stream of server-sent events.

    Args:
        body: closed at the end, whoever hangs up.
        drop: called instead if nobody has read from the body.
        headers: of the response.
    """

    def __init__(
        self, body: AsyncGenerator[bytes, None], drop: Callable[[], Awaitable[None]], headers: Mapping[str, str]
    ) -> None:
        self._owned = body
        self._drop = drop
        self._is_begun = False
        super().__init__(self._read(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._is_begun:
                await self._owned.aclose()
            else:
                await self._drop()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        self._is_begun = True
        async for piece in self._owned:
            yield piece
