"""What redis was to do when it fell silent, done once it answers again.

In: pieces of work that may be done twice. Out: their ends, in order; none that are left when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from router.errors import QueueUnavailableError
from router.leftovers import Leftovers

Work = Callable[[], Awaitable[object]]

_RETRY_S: Final = 0.2


class Later:
    """A queue of work for redis.

    Args:
        leftovers: runs it.
        closing: set when the process ends.
    """

    def __init__(self, leftovers: Leftovers, closing: asyncio.Event) -> None:
        self._leftovers = leftovers
        self._closing = closing
        self._works: deque[Work] = deque()

    def do(self, work: Work) -> None:
        """Do it now, or as soon as redis answers."""
        self._works.append(work)
        if len(self._works) == 1:
            self._leftovers.add(self._do_all())

    async def _do_all(self) -> None:
        while self._works and not self._closing.is_set():
            try:
                await self._works[0]()
                self._works.popleft()
            except QueueUnavailableError:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _RETRY_S)
