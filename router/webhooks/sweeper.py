"""The sweeper: sees to it that a worker looks whenever deliveries are due: new ones, retries, those of a lost worker.

In: the webhook store. Out: a ticket in the queue of webhooks, unless one waits there already. Runs in every api
process; a short lock lets one of them work at a time.
"""

from __future__ import annotations

from typing import Final

from router.jobs.queue import WEBHOOKS, JobQueue
from router.redis import repeat_in_one
from router.webhooks.store import WebhookStore

_LOOK_EVERY_S: Final = 1.0


async def sweep_once(store: WebhookStore, queue: JobQueue) -> bool:
    """Send a ticket if anything is due and none waits; returns whether one was sent."""
    # One ticket serves all due deliveries. More would only pile up while no worker takes any.
    if not await store.is_due() or await queue.num_waiting(WEBHOOKS) > 0:
        return False
    await queue.send_tickets({WEBHOOKS: 1})
    return True


async def sweep_forever(store: WebhookStore, queue: JobQueue) -> None:
    """Look every second; ends only when cancelled."""
    await repeat_in_one(store.redis, "webhook_sweeper", lambda: sweep_once(store, queue), interval_s=_LOOK_EVERY_S)
