"""Places for work that waits for strangers: bounded in number, and never all with one owner.

In: who wants a place. Out: whether there is one, or a wait for it. An owner may take at most a part of what is free at
the time, so that whoever comes next finds something: a thousand slow lookups of one caller leave places for others.
Bound to the event loop it is used on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator
from typing import Final

# One owner may hold a place for so many that are free.
PART: Final = 4


def may_take_more(taken: int, free: int) -> bool:
    """Tell whether somebody who has ``taken`` places may have one more of those that are ``free``."""
    return free > 0 and taken < max(free // PART, 1)


class Shares:
    """A number of places that owners share.

    Args:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def free(self) -> int:
        """How many nobody has."""
        return self._free

    def has_room(self, owner: str) -> bool:
        """Whether the owner may take a place now."""
        return may_take_more(self._taken[owner], self._free)

    def take(self, owner: str) -> None:
        """Take a place, which `has_room` was asked for."""
        self._free -= 1
        self._taken[owner] += 1

    def give_back(self, owner: str) -> None:
        """Give a place back; whoever waits for one gets it, owners in turn."""
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        for waiter in list(self._waiting):
            line = self._waiting[waiter]
            while line and self.has_room(waiter):
                future = line.popleft()
                if not future.done():
                    self.take(waiter)
                    future.set_result(None)
                    # Behind the others, who have their turn before its next one.
                    self._waiting[waiter] = self._waiting.pop(waiter)
                    break
            if not line:
                del self._waiting[waiter]

    @contextlib.asynccontextmanager
    async def hold(self, owner: str) -> AsyncGenerator[None]:
        """Hold a place while the body runs; waits for one, for as long as the caller lets it."""
        if owner not in self._waiting and self.has_room(owner):
            self.take(owner)
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self.give_back(owner)

    async def _wait(self, owner: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(owner)
            elif owner in self._waiting:
                with contextlib.suppress(ValueError):
                    self._waiting[owner].remove(future)
                if not self._waiting[owner]:
                    del self._waiting[owner]
            raise
