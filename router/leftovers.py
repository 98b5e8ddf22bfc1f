"""Short work that has to end although its request has ended.

In: coroutines. Out: tasks that no cancelled request takes with it, waited for when the process ends; and the end of
work that would go on for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)

_LAST_S = 5.0
_CANCEL_AGAIN_S = 0.2


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended, whatever with; their outcome is taken note of.

    Once may not do: cancelled in the middle of a command, redis' client may return as if nothing had been, and a task
    that goes on for ever then does so.
    """
    pending = {task for task in tasks if not task.done()}
    is_cancelled = False
    while pending:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
        except asyncio.CancelledError:  # `end_tasks` cancels this task repeatedly too
            is_cancelled = True
        pending = {task for task in pending if not task.done()}
    await asyncio.gather(*tasks, return_exceptions=True)
    if is_cancelled:
        raise asyncio.CancelledError


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await work that ends even if this task is cancelled, once or repeatedly; a cancellation is raised after it.

    For what has to be done at the end of a task: `end_tasks` cancels that repeatedly too.
    """
    working = asyncio.get_running_loop().create_task(work)
    is_cancelled = False
    while not working.done():
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            is_cancelled = True
        except Exception:  # raised below
            break
    result = working.result()
    if is_cancelled:
        raise asyncio.CancelledError
    return result


class Leftovers:
    """A set of tasks, kept from being collected before they end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin; what goes wrong is logged. Await it under `asyncio.shield`, or not at all."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def aclose(self) -> None:
        """Wait for the tasks, for a few seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_S)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("left over work failed: %s", error)
