"""What a ticket of a queue leads to: a branch, a merge, or webhooks.

In: the name of a queue. Out: the unit whose turn it is has been run; a ticket too many finds none. The functions are
coroutines over a `Context`; `router.worker` wraps them as Celery tasks.
"""

from __future__ import annotations

import logging

from router.errors import QueueUnavailableError
from router.jobs.job import MERGE
from router.jobs.queue import WEBHOOKS
from router.work.branch import run_claimed
from router.work.context import Context
from router.work.join import join
from router.work.lease import patiently

log = logging.getLogger(__name__)


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
    claim = await context.store.take_next(queue)
    if claim is None:
        return
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
