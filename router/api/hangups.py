"""Work for a client that may disconnect: it ends with the connection, and a quiet stream gets pings.

In: a request and the work for it. Out: its result, or `ClientGoneError`; a stream with a None where a ping is due.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from fastapi import Request
from starlette.types import Receive, Scope

from router.api.intake import services_of
from router.dispatch import Running
from router.leftovers import end_tasks, to_the_end

# Under this name a scope's extensions have what is told whom to call when the client is gone: `BoundedProtocol` puts it
# there. What it returns forgets that.
ON_DISCONNECT: Final = "glowl.on_disconnect"
OnDisconnect = Callable[[Callable[[], None]], Callable[[], None]]
Item = TypeVar("Item")
Result = TypeVar("Result")
# The longest silence of a stream: proxies close what is quiet for a minute.
PING_S: Final = 5.0
# The event loop counts in milliseconds, so a timer may be early by one; then it would be set again, and again.
_TICK_S: Final = 0.002
_CANCEL_AGAIN_S: Final = 0.2
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
    return await while_connected(request.scope, request.receive, work)


async def while_connected(scope: Scope, receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Like `cancel_on_disconnect`, for what has no request.

    The work runs in the task of its caller: a task of its own costs as much as a small answer.

    Raises:
        ClientGoneError: if the client hung up first.
    """
    leaving = _Leaving()
    tell: OnDisconnect | None = scope.get("extensions", {}).get(ON_DISCONNECT, {}).get("call")
    watch = None if tell else asyncio.ensure_future(_disconnected(receive, leaving.leave))
    forget = tell(leaving.leave) if tell else None
    try:
        return await work
    except asyncio.CancelledError:
        # As `asyncio.Timeout` does it: a cancellation by somebody else goes on.
        if leaving.is_other_than_ours():
            raise
        raise ClientGoneError from None
    finally:
        leaving.end()
        if forget is not None:
            forget()
        if watch is not None:
            await end_tasks(watch)


class _Leaving:
    """Cancels the current task when its client leaves, until it has ended: redis' client may swallow one cancel."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._before = task.cancelling()
        self._num_cancels = 0
        self._again: asyncio.TimerHandle | None = None

    def leave(self) -> None:
        """Cancel, now and then again."""
        self._num_cancels += 1
        self._task.cancel()
        self._again = self._task.get_loop().call_later(_CANCEL_AGAIN_S, self.leave)

    def is_other_than_ours(self) -> bool:
        """Whether somebody else has cancelled the task as well."""
        return not self._num_cancels or self._task.cancelling() - self._num_cancels > self._before

    def end(self) -> None:
        """Cancel no more."""
        if self._again is not None:
            self._again.cancel()
        for _ in range(self._num_cancels):
            self._task.uncancel()
        self._num_cancels = 0


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
        await to_the_end(self._end())

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


async def _disconnected(receive: Receive, leave: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()
