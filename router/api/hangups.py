"""Work for a client that may disconnect: it ends with the connection, and a quiet stream gets pings.

In: a request and the work for it. Out: its result, or `ClientGoneError`; a stream with a None where a ping is due.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, Generic, TypeVar

from fastapi import Request

from router.api.intake import services_of
from router.dispatch import Running
from router.leftovers import end_tasks

Item = TypeVar("Item")
Result = TypeVar("Result")
# The longest silence of a stream: proxies close what is quiet for a minute.
PING_S: Final = 5.0
# The event loop counts in milliseconds, so a timer may be early by one; then it would be set again, and again.
_TICK_S: Final = 0.002
# An answer that is there so soon is not worth a second task that watches the connection.
_QUICK_S: Final = 0.02
# Items read before they are asked for: as many as come at once, and a client that reads slowly holds no more.
_MAX_AHEAD: Final = 32


class ClientGoneError(Exception):
    """The caller closed the connection while its answer was being made."""


async def hold(request: Request, running: Running, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for an answer like `cancel_on_disconnect`; a job that only its caller waited for ends with the connection.

    Raises:
        ClientGoneError: if the caller hung up first.
    """
    try:
        return await cancel_on_disconnect(request, work)
    except (ClientGoneError, asyncio.CancelledError):
        await running.events.aclose()  # the work may have been cancelled before its first line
        if running.is_queued and not running.is_replayed:
            services_of(request).dispatcher.abandon(running.job.spec)
        raise


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` for a caller who may hang up; then it is cancelled, and with it the generation behind it.

    Raises:
        ClientGoneError: if the caller hung up first.
    """
    task = asyncio.ensure_future(work)
    watch: asyncio.Task[None] | None = None
    try:
        await asyncio.wait({task}, timeout=_QUICK_S)
        if not task.done():
            watch = asyncio.ensure_future(_disconnected(request))
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError
        return task.result()
    finally:
        await (end_tasks(task) if watch is None else end_tasks(task, watch))


async def with_pings(
    items: AsyncGenerator[Item, None], interval_s: float, until: float | None = None
) -> AsyncGenerator[Item | None, None]:
    """Pass items on, and None whenever there was none for ``interval_s``: time for a keep-alive.

    Closing this closes ``items``.

    Args:
        items: to pass on; some are read ahead.
        interval_s: longest silence.
        until: a time of `time.monotonic` at which there is a None too, if nothing comes first.
    """
    ahead = _ReadAhead(items)
    try:
        while True:
            while ahead.ready:
                yield ahead.take()
            if ahead.is_over:
                return
            # It may pass while an item is dealt with; then too there is a None for it.
            timeout_s = interval_s if until is None else min(interval_s, max(until - time.monotonic(), 0.0) + _TICK_S)
            if not await ahead.wait(timeout_s):
                if until is not None and time.monotonic() >= until:
                    until = None
                yield None
    finally:
        await ahead.aclose()


class _ReadAhead(Generic[Item]):
    """Reads a generator in one task of its own, some items ahead: a task for each item costs more than most items.

    Args:
        items: closed by `aclose`.
    """

    def __init__(self, items: AsyncGenerator[Item, None]) -> None:
        self.ready: deque[Item] = deque()
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Future[bool] | None = None
        self._room: asyncio.Future[None] | None = None
        self._task = self._loop.create_task(self._read())
        self._task.add_done_callback(lambda _task: self._tell(True))

    @property
    def is_over(self) -> bool:
        """Whether everything was read and taken.

        Raises:
            Exception: what the generator raised.
        """
        if not self._task.done():
            return False
        self._task.result()
        return not self.ready

    def take(self) -> Item:
        """Return the next item; there must be one."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return self.ready.popleft()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for an item or the end; False if neither came in time."""
        if self.ready or self._task.done():
            return True
        self._news = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._tell, False)
        try:
            return await self._news
        finally:
            timer.cancel()
            self._news = None

    async def aclose(self) -> None:
        """Stop reading, and close the generator; a cancellation meanwhile is raised when both are done.

        Whoever reads it may be cancelled again and again, as by anyio, and close the generator next: it must not be
        running any more.
        """
        ending = self._loop.create_task(self._end())
        is_cancelled = False
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                is_cancelled = True
        ending.result()
        if is_cancelled:
            raise asyncio.CancelledError

    async def _end(self) -> None:
        await end_tasks(self._task)
        await self._items.aclose()

    async def _read(self) -> None:
        async for item in self._items:
            self.ready.append(item)
            self._tell(True)
            if len(self.ready) >= _MAX_AHEAD:
                self._room = self._loop.create_future()
                await self._room
                self._room = None

    def _tell(self, is_news: bool) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(is_news)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
