"""Places for work that waits for strangers: bounded in number, and never all with one owner or for one stranger.

In: who wants a place, and for what line of theirs (a host, say). Out: whether there is one, or a wait for it. An owner
may take at most a part of what is free at the time, and a line a part of its owner's, so that whoever comes next finds
something: a thousand slow lookups of one caller leave places for others. Bound to the event loop it is used on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Final, TypeVar

# An owner may take one place for this many free ones.
_PART: Final = 4

Key = TypeVar("Key")


class Shares:
    """A number of places that owners share.

    Args:
        total: how many there are.
        most_per_line: no line has more, however many are free.
    """

    def __init__(self, total: int, *, most_per_line: int | None = None) -> None:
        self._free = total
        self._most_per_line = total if most_per_line is None else most_per_line
        self._owners: Counter[str] = Counter()
        self._lines: Counter[tuple[str, str]] = Counter()
        # By owner, in turn order; one owner's waiters are first come, first served, except for full lines.
        self._waiting: dict[str, list[tuple[str, asyncio.Future[None]]]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no place is free."""
        return self._free <= 0

    @property
    def taken(self) -> dict[tuple[str, str], int]:
        """How many places each line of each owner has; none that has none."""
        return dict(self._lines)

    def has_room(self, owner: str, line: str = "") -> bool:
        """Whether the owner may take a place for the line now."""
        return not self.is_full and not self.is_full_owner(owner) and not self.is_full_line(owner, line)

    def is_full_owner(self, owner: str) -> bool:
        """Whether the owner has its part of all."""
        return self._owners[owner] >= max(self._free // _PART, 1)

    def is_full_line(self, owner: str, line: str) -> bool:
        """Whether the line has its part of its owner's."""
        taken = self._owners[owner]
        left = (taken + self._free) // (_PART + 1) - taken  # until the owner has its share
        return self._lines[owner, line] >= min(max(left // _PART, 1), self._most_per_line)

    def take(self, owner: str, line: str = "") -> None:
        """Take a place, for which there is room."""
        self._free -= 1
        self._owners[owner] += 1
        self._lines[owner, line] += 1

    def give_back(self, owner: str, line: str = "") -> None:
        """Give a place back; the next that waits gets it, owners in turn."""
        self._free += 1
        _count_down(self._owners, owner)
        _count_down(self._lines, (owner, line))
        for waiter in list(self._waiting):
            self._serve(waiter)

    @contextlib.asynccontextmanager
    async def hold(self, owner: str, line: str = "") -> AsyncGenerator[None]:
        """Hold a place while the body runs; waits for one, for as long as the caller lets it."""
        await self.wait(owner, line)
        try:
            yield
        finally:
            self.give_back(owner, line)

    async def wait(self, owner: str, line: str = "") -> None:
        """Take a place as soon as there is room."""
        if self.has_room(owner, line):
            self.take(owner, line)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, []).append((line, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(owner, line)
            else:
                self._forget(owner, (line, future))
            raise

    def _serve(self, owner: str) -> None:
        """Give the owner one place, if it waits for any that it may have."""
        for entry in self._waiting[owner]:
            line, future = entry
            if not future.done() and self.has_room(owner, line):
                self.take(owner, line)
                future.set_result(None)
                self._forget(owner, entry)
                if owner in self._waiting:
                    self._waiting[owner] = self._waiting.pop(owner)  # moved behind the other owners
                return

    def _forget(self, owner: str, entry: tuple[str, asyncio.Future[None]]) -> None:
        self._waiting[owner].remove(entry)
        if not self._waiting[owner]:
            del self._waiting[owner]


def _count_down(counter: Counter[Key], key: Key) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
