"""Whose turn it is to read: polls, lists and streams of one owner are begun a few at a time.

In: requests inside `router.middleware.limits`. Out: the same requests, the GETs among them one after the other until
each begins its answer.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.shares import Shares

# Two for an owner, when no other has any. To begin one costs some milliseconds of the event loop in some dozens of
# turns: 256 side by side make every turn of it, and with it everybody's question, longer by two orders of magnitude.
_PLACES: Final = 12
# Longer than all readers that one owner may have need to begin. It is a courtesy, not a limit: a read may hang.
_PATIENCE_S: Final = 1.0
_READS: Final = frozenset({"GET", "HEAD"})


class ReadsInTurn:
    """Lets the reads of one owner begin a few at a time, so that a burst of them leaves the loop to others.

    What is asked for with a POST is not held up: it waits for engines, and their queues have limits of their own.

    Args:
        app: what comes after.
        patience_s: a read begins without a turn after this long.
    """

    def __init__(self, app: ASGIApp, *, patience_s: float | None = None) -> None:
        self._app = app
        self._patience_s = _PATIENCE_S if patience_s is None else patience_s
        self._places = Shares(_PLACES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, in its turn."""
        share = scope.get("state", {}).get("share")
        if scope["type"] != "http" or scope["method"] not in _READS or share is None:
            await self._app(scope, receive, send)
            return
        owner, line = share.owner, str(id(scope))  # all its reads are alike: each is a line of its own
        try:
            async with asyncio.timeout(self._patience_s):
                await self._places.wait(owner, line)
        except TimeoutError:
            await self._app(scope, receive, send)
            return
        has_place = True

        def leave() -> None:
            nonlocal has_place
            if has_place:
                has_place = False
                self._places.give_back(owner, line)

        async def send_and_leave(message: Message) -> None:
            leave()
            await send(message)

        try:
            await self._app(scope, receive, send_and_leave)
        finally:
            leave()
