"""A generator that ends properly even if it is never read.

In: an asynchronous generator that owns something, such as an answer under way. Out: the same, begun. Python closes a
generator that was never begun without running a line of it, so that its ``finally`` would free nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Begun(AsyncGenerator[Item, None], Generic[Item]):
    """A generator whose first item has been fetched; made by `as_begun`.

    Args:
        items: the rest.
        first: what is read first.
    """

    def __init__(self, items: AsyncGenerator[Item, None], first: Item) -> None:
        self._items = items
        self._first = [first]

    async def asend(self, value: None) -> Item:
        """Return the next item."""
        return self._first.pop() if self._first else await self._items.asend(value)

    async def athrow(self, *error: Any) -> Item:
        """Raise an error where the generator waits."""
        return await self._items.athrow(*error)

    async def aclose(self) -> None:
        """Run the generator's ending."""
        self._first.clear()
        await self._items.aclose()


async def as_begun(items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """Begin a generator; returns once it has its first item, which is to come at once."""
    try:
        return Begun(items, await anext(items))
    except StopAsyncIteration:
        return items
