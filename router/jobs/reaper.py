"""The reaper: puts back what lost its worker and sends again what nobody started.

In: the ``leases`` and ``queued`` sets of the job store. Out: Celery messages. Runs in every api process; a short lock
lets one of them work at a time.
"""

from __future__ import annotations

import asyncio
import logging

from router.errors import QueueUnavailableError
from router.jobs.job import MERGE, WEBHOOK
from router.jobs.queue import JobQueue
from router.jobs.store import PREFIX, JobStore, guard

log = logging.getLogger(__name__)


async def reap_once(store: JobStore, queue: JobQueue) -> int:
    """Do one round; returns how many units were sent."""
    due = await store.reap()
    for job_id, unit in due:
        engine = None
        if unit not in (MERGE, WEBHOOK):
            job = await store.get(job_id)
            if job is None:
                continue
            engine = next((branch.engine for branch in job.spec.branches if branch.name == unit), None)
        log.info("sending %s of %s again", unit, job_id)
        await queue.send(job_id, unit, engine)
    return len(due)


async def reap_forever(store: JobStore, queue: JobQueue, *, interval_s: float = 1.0) -> None:
    """Reap every ``interval_s``; returns only when cancelled."""
    while True:
        try:
            has_lock = await guard(store.redis.set(f"{PREFIX}reaper", "1", nx=True, px=max(int(interval_s * 900), 1)))
            if has_lock:
                await reap_once(store, queue)
        except QueueUnavailableError:
            log.debug("redis does not answer the reaper")
        except Exception:  # one bad record must not stop the healing of all others
            log.exception("the reaper failed")
        await asyncio.sleep(interval_s)
