"""Turns: a queue that is fair over callers, and an amount of something that requests hold parts of.

In: entries that name their caller. Out: whose turn it is. Nothing here knows of models.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class _HasCaller(Protocol):
    @property
    def caller(self) -> str: ...


Waiting = TypeVar("Waiting", bound=_HasCaller)


class FairQueue(Generic[Waiting]):
    """Entries that wait: in order of arrival within a caller, one after another over callers."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[Waiting]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    def __iter__(self) -> Iterator[Waiting]:
        for entries in self._callers.values():
            yield from entries

    def push(self, entry: Waiting) -> None:
        """Put an entry behind its caller's others."""
        self._callers.setdefault(entry.caller, deque()).append(entry)

    def peek(self) -> Waiting | None:
        """Return the first entry; None if there is none."""
        return next(iter(self._callers.values()))[0] if self._callers else None

    def pop(self) -> None:
        """Take the first entry out; its caller's others move behind all other callers'."""
        caller, entries = next(iter(self._callers.items()))
        entries.popleft()
        self._callers.move_to_end(caller)
        if not entries:
            del self._callers[caller]

    def remove(self, entry: Waiting) -> None:
        """Take an entry out, wherever it is."""
        entries = self._callers[entry.caller]
        entries.remove(entry)
        if not entries:
            del self._callers[entry.caller]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    amount: int
    caller: str
    turn: asyncio.Future[None]


class FairBudget:
    """An amount of something, such as memory, that requests hold parts of; belongs to one event loop.

    Args:
        total: of it; a request for more than that holds it alone.
    """

    def __init__(self, total: int) -> None:
        self.num_held = 0
        self._total = total
        self._queue: FairQueue[_Waiter] = FairQueue()

    @asynccontextmanager
    async def hold(self, amount: int, caller: str = "") -> AsyncIterator[None]:
        """Wait for a part and hold it; callers take turns, and no request overtakes another."""
        waiter = _Waiter(amount, caller, asyncio.get_running_loop().create_future())
        self._queue.push(waiter)
        self._give_out()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if not waiter.turn.cancelled():  # its turn came in the same moment
                self.num_held -= amount
            self._give_out()
            raise
        try:
            yield
        finally:
            self.num_held -= amount
            self._give_out()

    def _give_out(self) -> None:
        while (waiter := self._queue.peek()) is not None:
            if not waiter.turn.cancelled():
                if self.num_held and self.num_held + waiter.amount > self._total:
                    return
                self.num_held += waiter.amount
                waiter.turn.set_result(None)
            self._queue.pop()
