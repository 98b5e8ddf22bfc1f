"""Turns of the event loop for many who would otherwise all run in one and the same.

In: those who wait. Out: a few of them woken in each turn of the loop, first come first served, so that everything else
has its own turn in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

Waiter = asyncio.Future[None]


class Turns:
    """Wakes waiters a few at a time.

    Args:
        at_a_time: how many are woken in one turn of the loop.
    """

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._due: deque[Waiter] = deque()
        self._is_called = False

    def wake(self, waiters: Iterable[Waiter]) -> None:
        """Wake these after all who are due already. Waiters that were cancelled meanwhile are passed over."""
        self._due.extend(waiters)
        self._call()

    async def next(self) -> None:
        """Wait for a turn."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self.wake([waiter])
        await waiter

    def _call(self) -> None:
        if self._due and not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        self._is_called = False
        left = self._at_a_time
        while self._due and left:
            waiter = self._due.popleft()
            if not waiter.done():
                waiter.set_result(None)
                left -= 1
        self._call()
