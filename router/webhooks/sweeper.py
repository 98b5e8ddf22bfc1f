"""The sweeper: sees to it that a worker looks whenever deliveries are due: new ones, retries, those of a lost worker.

In: the webhook store. Out: a ticket in the queue of webhooks, unless one waits there already. Runs in every api
process; a short lock lets one of them work at a time.
"""

from __future__ import annotations

import asyncio
import logging

from router.errors import QueueUnavailableError
from router.jobs.queue import WEBHOOKS, JobQueue
from router.jobs.store import PREFIX, guard
from router.webhooks.store import WebhookStore

log = logging.getLogger(__name__)


async def sweep_once(store: WebhookStore, queue: JobQueue) -> bool:
    """Send a ticket if anything is due and none waits; returns whether one was sent."""
    # One is enough for all that is due. While no worker takes any, more of them would only pile up.
    if not await store.is_due() or await queue.num_waiting(WEBHOOKS) > 0:
        return False
    await queue.send_tickets({WEBHOOKS: 1})
    return True


async def sweep_forever(store: WebhookStore, queue: JobQueue, *, interval_s: float = 1.0) -> None:
    """Look every ``interval_s``; ends only when cancelled."""
    me = asyncio.current_task()
    assert me is not None
    # Cancelled while it connects, redis' client may return as if nothing had happened; nothing else would end this.
    while not me.cancelling():
        try:
            lock = store.redis.set(f"{PREFIX}webhook_sweeper", "1", nx=True, px=max(int(interval_s * 900), 1))
            if await guard(lock):
                await sweep_once(store, queue)
        except QueueUnavailableError:
            log.debug("redis does not answer the webhook sweeper")
        except Exception:  # whatever is wrong now must not keep what is due later from being sent
            log.exception("the webhook sweeper failed")
        await asyncio.sleep(interval_s)
