"""Work for a client that may disconnect: it ends with the connection, and a quiet stream gets pings.

In: a request and the work for it. Out: its result, or `ClientGoneError`; a stream with a None where a ping is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

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
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        await end_tasks(task, watch)


async def with_pings(
    items: AsyncGenerator[Item, None], interval_s: float, until: float | None = None
) -> AsyncGenerator[Item | None, None]:
    """Pass items on, and None whenever there was none for ``interval_s``: time for a keep-alive.

    Closing this closes ``items``.

    Args:
        items: to pass on.
        interval_s: longest silence.
        until: a time of `time.monotonic` at which there is a None too, if nothing comes first.
    """
    pending: asyncio.Task[Item] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(items))
            # It may pass while an item is dealt with; then too there is a None for it.
            timeout_s = interval_s if until is None else min(interval_s, max(until - time.monotonic(), 0.0) + _TICK_S)
            done, _ = await asyncio.wait({pending}, timeout=timeout_s)
            if not done:
                if until is not None and time.monotonic() >= until:
                    until = None
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            finally:
                pending = None
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await items.aclose()


async def _next(items: AsyncGenerator[Item, None]) -> Item:
    return await anext(items)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
