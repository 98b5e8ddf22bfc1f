"""The reaper: heals what was lost, ends what is over its time, deletes what has expired.

In: the leases, lines and times of the job store. Out: changes of records, and tickets. Runs in every api process; a
short lock lets one of them work at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from router.answers import merge
from router.errors import NewerRecordError, QueueUnavailableError
from router.jobs.queue import JobQueue
from router.jobs.rows import Cause
from router.jobs.schedule import queue_of
from router.jobs.store import JobStore
from router.redis import repeat_in_one
from router.work.overdue import settle

log = logging.getLogger(__name__)

_MAX_TICKETS = 200


Down = Callable[[], frozenset[str]]


def _none_down() -> frozenset[str]:
    return frozenset()


async def reap_once(store: JobStore, queue: JobQueue, down: Down = _none_down) -> None:
    """Do one round.

    Args:
        store: the job records.
        queue: sends tickets.
        down: returns the engines that are known to be down, or do not say how they are.
    """
    found = await store.reap(frozenset(queue_of(engine) for engine in down()))
    for job_id, cause in found.overdue:
        try:
            await end_overdue(store, job_id, cause)
        except QueueUnavailableError:
            raise
        except NewerRecordError as error:
            log.debug("%s is left to a newer process: %s", job_id, error.message)
        except Exception:  # one bad record must not keep the reaper from the others
            log.exception("could not end %s, which is over its time", job_id)
    if found.lined_up:
        log.info("queued again: %s", found.lined_up)
        await queue.send_tickets(found.lined_up)


async def end_overdue(store: JobStore, job_id: str, cause: Cause) -> None:
    """End a job with what there is; one that moves on meanwhile is offered again."""
    job = await store.get(job_id)
    if job is None or job.is_terminal:
        return
    try:
        outcome = settle(job, cause)
    except Exception:  # it would fail in every round, and the job would never end
        log.exception("could not merge what there is of %s", job_id)
        outcome = merge.without_merging(job)
    final, error = (None, outcome.error) if isinstance(outcome, merge.NoAnswer) else (outcome, None)
    if await store.end(job, final=final, error=error):
        log.info("ended %s: %s", job_id, cause)


async def replace_lost_tickets(store: JobStore, queue: JobQueue) -> dict[str, int]:
    """Send what tickets are missing, and return how many by queue.

    A unit waits for a ticket, any ticket of its queue; where more units wait than tickets, some were lost. One that was
    taken from the queue just now counts as lost too: then there is one too many, which finds nothing.
    """
    missing: dict[str, int] = {}
    for name, depth in (await store.depths()).items():
        number = min(depth - await queue.num_waiting(name), _MAX_TICKETS)
        if number > 0:
            missing[name] = number
    await queue.send_tickets(missing)
    return missing


async def wake(store: JobStore, queue: JobQueue, engine: str) -> None:
    """Let what waited for an engine begin, now that it is back; what this misses begins when its delay is over."""
    number = await store.wake(queue_of(engine))
    if number:
        log.info("%s is back: %d units begin again", engine, number)
        await queue.send_tickets({queue_of(engine): number})


async def reap_forever(
    store: JobStore,
    queue: JobQueue,
    *,
    down: Down = _none_down,
    interval_s: float = 0.5,
    ticket_check_s: float = 15.0,
) -> None:
    """Reap every ``interval_s``, and look for lost tickets every ``ticket_check_s``; ends only when cancelled."""
    # Concurrently: the broker's client is slow to notice that redis is away, and deadlines must not wait for it.
    async with asyncio.TaskGroup() as loops:
        loops.create_task(
            repeat_in_one(store.redis, "reaper", lambda: reap_once(store, queue, down), interval_s=interval_s)
        )
        loops.create_task(
            repeat_in_one(
                store.redis,
                "ticket_check",
                lambda: replace_lost_tickets(store, queue),
                interval_s=ticket_check_s,
                look_s=interval_s,
            )
        )
