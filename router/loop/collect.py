"""Takes ended jobs of owners who let us from redis, and carries deletions to every machine.

In: the ids that the script of a job's end notes, whichever worker ran it; names that are deleted. Out: exchanges in
this machine's store, and none of what was deleted. An id is taken off the list when its exchange is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from redis.asyncio import Redis

from engines.base import ImagePart
from router.call import from_stored_messages, stored_image_hashes
from router.jobs.job import Job
from router.jobs.store import JobStore
from router.loop.capture import Capture
from router.redis import PREFIX, guard, repeat, repeat_in_one

ENDED: Final = f"{PREFIX}loop:ended"
DELETED: Final = f"{PREFIX}loop:deleted"
_COLLECT_EVERY_S: Final = 1.0
_KEEP_EVERY_S: Final = 60.0
_SWEEP_EVERY_S: Final = 3600.0
_AT_ONCE: Final = 100
# Machines that were off for longer may keep what was deleted meanwhile, until its time is over.
_REMEMBER_S: Final = 30 * 86_400
# Clocks of machines differ, and a round takes a while.
_OVERLAP_S: Final = 600.0


async def collect(capture: Capture, store: JobStore) -> int:
    """Keep the jobs that have ended; returns how many ids were taken off the list."""
    if not await capture.flush(0):  # the disk takes nothing; what is on the list waits there
        return 0
    taken = 0
    for name in await guard(cast("Any", store.redis.lrange(ENDED, 0, _AT_ONCE - 1))):
        job = await store.get(name.decode())
        if job is not None and job.is_terminal:
            capture.add(job, await _pictures_of(store, job))
            if not await capture.flush():
                break
        await guard(cast("Any", store.redis.lrem(ENDED, 1, name)))
        taken += 1
    return taken


async def forget(capture: Capture, redis: Redis, *names: str) -> None:
    """Delete exchanges here and on every machine.

    Args:
        capture: of this process.
        redis: tells the others.
        names: ids of responses, or of owners.

    Raises:
        QueueUnavailableError: if redis does not answer.
        OSError, sqlite3.Error, NewerLoopError: if the store cannot be written.
    """
    await capture.forget({name: await tell_deleted(redis, name) for name in names})


async def tell_deleted(redis: Redis, name: str) -> float:
    """Let every machine delete an exchange, or an owner's, within a minute; returns the time of it (unix seconds).

    Raises:
        QueueUnavailableError: if redis does not answer.
    """
    now = time.time()
    await guard(cast("Any", redis.zadd(DELETED, {name: now})))
    return now


async def keep_forever(capture: Capture, store: JobStore) -> None:
    """Collect, delete and expire until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            repeat_in_one(store.redis, "loop:collecting", lambda: collect(capture, store), interval_s=_COLLECT_EVERY_S)
        )
        tasks.create_task(_tidy_forever(capture, store.redis))


async def _tidy_forever(capture: Capture, redis: Redis) -> None:
    seen = swept = 0.0

    async def tidy() -> None:
        nonlocal seen, swept
        now = time.time()
        names = await deleted_since(redis, seen - _OVERLAP_S)
        if names:
            await capture.forget(names)
        await capture.expire()
        if now - swept >= _SWEEP_EVERY_S:
            await capture.sweep()
            swept = now
        await guard(cast("Any", redis.zremrangebyscore(DELETED, "-inf", now - _REMEMBER_S)))
        seen = now

    await repeat("keeper of data sets", tidy, lambda: asyncio.sleep(_KEEP_EVERY_S))


async def deleted_since(redis: Redis, since: float) -> Mapping[str, float]:
    """Return what was deleted since a time (unix seconds), and when."""
    found = await guard(cast("Any", redis.zrangebyscore(DELETED, since, "+inf", withscores=True)))
    return {name.decode(): float(at) for name, at in found}


async def _pictures_of(store: JobStore, job: Job) -> list[ImagePart]:
    """Return those pictures that are still there."""
    hashes = stored_image_hashes(job.spec.messages)
    blobs = await store.get_images(hashes)
    whole = [
        {**each, "parts": [part for part in each["parts"] if part["type"] == "text" or part["sha256"] in blobs]}
        for each in job.spec.messages
    ]
    return [image for message in from_stored_messages(whole, blobs) for image in message.images]
