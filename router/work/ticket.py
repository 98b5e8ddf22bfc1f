"""What a ticket of a queue leads to: a branch, a merge, or webhooks.

In: the name of a queue. Out: the unit whose turn it is has been run; a ticket too many finds none. The functions are
coroutines over a `Context`; `router.worker` wraps them as Celery tasks.
"""

from __future__ import annotations

import asyncio
import logging

from router.errors import NewerRecordError, QueueUnavailableError
from router.jobs.job import MERGE, Claim
from router.jobs.queue import WEBHOOKS
from router.work.branch import run_claimed
from router.work.context import Context
from router.work.join import join
from router.work.lease import REDIS_RETRY_S, patiently

log = logging.getLogger(__name__)

# Before a unit that only a newer worker can run is offered again, to it or to this one.
_LEFT_ALONE_S = 10.0


async def work(context: Context, queue: str) -> None:
    """Run the unit whose turn it is, or see to the webhooks that are due; a ticket too many finds none."""
    if context.draining.is_set():
        await context.queue.send_tickets({queue: 1})
        return
    if queue == WEBHOOKS:
        context.deliverer.wake()  # returns at once: a slow receiver must not hold a thread
        return
    try:
        await _work(context, queue)
    except QueueUnavailableError as error:
        # The ticket is lost: the reaper sends it again, and the lease of a started run expires.
        log.warning("a worker of %s goes on without redis: %s", queue, error.message)


async def _work(context: Context, queue: str) -> None:
    claim = await _take_next(context, queue)
    if claim is None:
        return
    try:
        await _run(context, claim)
    except NewerRecordError as error:
        # Beside a newer api, or after a rollback. Not a failure: a worker of that release takes it.
        log.error("%s of %s is given back: %s", claim.unit, claim.job_id, error.message)
        await context.store.release(claim.job_id, claim.unit, claim.epoch, "handed back", delay_s=_LEFT_ALONE_S)


async def _run(context: Context, claim: Claim) -> None:
    if claim.unit == MERGE:
        await join(context, claim.job_id, claim.epoch)
        return
    due = await run_claimed(context, claim.job_id, claim.unit, claim.epoch)
    if due is None:
        return
    ended = await patiently(lambda: context.store.get(due.id))
    if ended is None:
        return
    if ended.queue_of(MERGE) != "light":
        await context.queue.send(ended, MERGE)
        return
    # This merge calls no engine: a message through the broker would cost more than the merge itself.
    epoch = await patiently(lambda: context.store.claim(due.id, MERGE))
    if epoch is not None:
        await join(context, due.id, epoch)


async def _take_next(context: Context, queue: str) -> Claim | None:
    """Take the unit whose turn it is, if need be on another connection.

    One may have died without a word, after a fail-over or behind a firewall. A ticket given up for that would be missed
    only at the next count of tickets.
    """
    for is_last in (False, False, True):
        try:
            return await context.store.take_next(queue)
        except QueueUnavailableError:
            if is_last or context.draining.is_set():
                raise
        await asyncio.sleep(REDIS_RETRY_S)
    raise AssertionError("the last try returns or raises")
