"""The sweeper: sends what is due, be it new, to be tried again, or lost with its worker.

In: the ``deliveries`` set of the webhook store. Out: Celery messages. Runs in every api process; a short lock lets one
of them work at a time.
"""

from __future__ import annotations

import asyncio
import logging

from router.errors import QueueUnavailableError
from router.jobs.queue import JobQueue
from router.jobs.store import PREFIX, guard
from router.webhooks.store import WebhookStore

log = logging.getLogger(__name__)


async def send_due(store: WebhookStore, queue: JobQueue) -> int:
    """Send every delivery that is due; returns how many."""
    due = await store.take_due()
    for delivery_id in due:
        await queue.send_delivery(delivery_id)
    return len(due)


async def sweep_forever(store: WebhookStore, queue: JobQueue, *, interval_s: float = 1.0) -> None:
    """Send what is due every ``interval_s``; ends only when cancelled."""
    me = asyncio.current_task()
    assert me is not None
    # Cancelled while it connects, redis' client may return as if nothing had happened; nothing else would end this.
    while not me.cancelling():
        try:
            lock = store.redis.set(f"{PREFIX}webhook_sweeper", "1", nx=True, px=max(int(interval_s * 900), 1))
            if await guard(lock):
                await send_due(store, queue)
        except QueueUnavailableError:
            log.debug("redis does not answer the webhook sweeper")
        except Exception:  # one bad record must not keep all others from being sent
            log.exception("the webhook sweeper failed")
        await asyncio.sleep(interval_s)
