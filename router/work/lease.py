"""The right to run a unit: renewed while it runs, given back when it may run again.

In: a claimed unit. Out: `LeaseLostError` in place of what runs under the lease, as soon as another run has the unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from engines.base import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
)
from router.errors import QueueUnavailableError
from router.jobs.job import Why
from router.jobs.store import JobStore
from router.leftovers import end_tasks
from router.work.context import Context

log = logging.getLogger(__name__)

# While redis is away, a worker keeps an engine's answer this long; after that its lease has expired anyway.
_PATIENCE_S = 60.0
_MAX_BEAT_S = 1.0
_CANCEL_AGAIN_S = 0.5
# Shorter than the reaper's interval: a worker that has the answer writes it before the unit counts as lost.
REDIS_RETRY_S = 0.2
# Delay before a retry; doubled each time, up to the maximum.
_RETRY_DELAY_S = 1.0
_FULL_DELAY_S = 2.0
_MAX_DELAY_S = 30.0
# Longest delay that an engine can ask for by `Retry-After`.
_MAX_RETRY_AFTER_S = 60.0
Result = TypeVar("Result")


class LeaseLostError(Exception):
    """The unit belongs to another run now, or the job was cancelled: stop and write nothing more."""


class HandedBackError(Exception):
    """The process is to end before the unit is done."""


@contextlib.asynccontextmanager
async def lease(context: Context, job_id: str, unit: str, epoch: int) -> AsyncGenerator[None, None]:
    """Renew the lease while the body runs; cancel the body once it is lost, or has to be handed back.

    Raises:
        LeaseLostError: in place of the body, when the unit is no longer ours.
        HandedBackError: likewise, when the process is to end.
    """
    body = asyncio.current_task()
    assert body is not None
    store = context.store
    is_lost = is_over = False

    async def renew(ended: asyncio.Event) -> None:
        nonlocal is_lost
        wait_s = min(store.lease_s / 3, _MAX_BEAT_S)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), wait_s)
            ended.clear()
            if context.draining.is_set():
                break
            try:
                if await store.renew(job_id, unit, epoch):
                    wait_s = min(store.lease_s / 3, _MAX_BEAT_S)
                    continue
            except QueueUnavailableError:
                # Redis may be restarting. Write before the reaper looks at the record.
                wait_s = min(store.lease_s / 3, REDIS_RETRY_S)
                continue
            is_lost = True
            break
        while not is_over:
            # redis-py can swallow a `CancelledError` in mid-command, so cancel repeatedly.
            body.cancel()
            await asyncio.sleep(_CANCEL_AGAIN_S)

    with context.cancels.watch(job_id) if context.cancels else contextlib.nullcontext(asyncio.Event()) as ended:
        beat = asyncio.create_task(renew(ended), name=f"lease-{job_id}-{unit}")
        context.wakers.add(ended)
        try:
            yield
            # A pending cancellation would otherwise surface at the next await, far from here.
            if body.cancelling() and (is_lost or context.draining.is_set()):
                raise asyncio.CancelledError
        except (asyncio.CancelledError, Exception):  # clients turn a cancellation into their own errors
            if not body.cancelling() or not (is_lost or context.draining.is_set()):
                raise
            while body.uncancel():
                pass
            raise (LeaseLostError if is_lost else HandedBackError) from None
        finally:
            is_over = True
            context.wakers.discard(ended)
            context.leftovers.add(end_tasks(beat))  # not awaited: it may be cancelling this task


async def hand_back(context: Context, job_id: str, unit: str, epoch: int) -> None:
    """Put a unit back into its queue, to be run again elsewhere; that is no failure of it."""
    log.info("handing back %s of %s", unit, job_id)
    with contextlib.suppress(QueueUnavailableError):  # then the lease expires, which takes a little longer
        await context.store.release(job_id, unit, epoch, "handed back")
        await send_on(context, job_id, unit)


async def send_on(context: Context, job_id: str, unit: str) -> None:
    """Send a unit, or the merge that is due now, to the workers."""
    job = await context.store.get(job_id)
    if job is not None:
        await context.queue.send(job, unit)


async def release(store: JobStore, job_id: str, unit: str, epoch: int, error: EngineError) -> bool:
    """Give a unit back after a refusal that may pass; False if it has to end with it.

    An engine that is full, loading or away is not a failure of this run: the job keeps its place and its number of
    runs. One that was lost in the middle of an answer is: the request itself may be what ends it.
    """
    why: Why = "failure"
    delay_s, longest_s = _RETRY_DELAY_S, _MAX_DELAY_S
    if isinstance(error, EngineOverloadedError):
        why, delay_s = "full", _FULL_DELAY_S
        if error.retry_after_s is not None:
            delay_s = longest_s = min(max(_FULL_DELAY_S, error.retry_after_s), _MAX_RETRY_AFTER_S)
    elif isinstance(error, EngineUnavailableError) and not error.is_broken_off:
        why = "away"
    is_left = await store.release(job_id, unit, epoch, why, delay_s=delay_s, max_delay_s=longest_s)
    log.info("%s of %s %s: %s", unit, job_id, "will run again" if is_left else "is given up", error.for_operators)
    return is_left


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Make a call to redis again and again while redis is away.

    Raises:
        QueueUnavailableError: if it stays away for longer than `_PATIENCE_S`.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await call()
        except QueueUnavailableError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(REDIS_RETRY_S)
