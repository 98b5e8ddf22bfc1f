"""News for workers of jobs that ended from outside: cancelled, or given up.

In: the ``ended`` channel, on which the scripts publish the id of a job that ended while one of its units ran. Out: an
event per watched job. A worker would learn it anyway from its next write or renewal; an engine that thinks without
saying a word would go on until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator

from redis.asyncio import Redis

from engines.origin import of_nobody
from router.errors import QueueUnavailableError
from router.leftovers import end_tasks
from router.redis import PREFIX, guard

log = logging.getLogger(__name__)

_RECONNECT_S = 0.5
_BLOCK_S = 5.0


class CancelWatch:
    """One listener per process.

    Args:
        redis: a client of its own, since the listener blocks its connection.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._watched: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._reader: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when there may be news of a job: look at its record then."""
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="ended-jobs", context=of_nobody())
        news = asyncio.Event()
        self._watched[job_id].add(news)
        try:
            yield news
        finally:
            self._watched[job_id].discard(news)
            if not self._watched[job_id]:
                del self._watched[job_id]

    async def aclose(self) -> None:
        """Stop listening; the lease of each unit still tells."""
        if self._reader is not None:
            await end_tasks(self._reader)

    async def _read(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await guard(channel.subscribe(f"{PREFIX}ended"))
                    # Redis does not repeat what it published while this client was not subscribed.
                    for events in self._watched.values():
                        _set_all(events)
                    while True:
                        message = await guard(channel.get_message(timeout=_BLOCK_S))
                        if message is not None:
                            _set_all(self._watched.get(message["data"].decode(), set()))
            except QueueUnavailableError as error:
                log.debug("redis does not answer the listener for ended jobs: %s", error.__cause__)
                await asyncio.sleep(_RECONNECT_S)


def _set_all(events: set[asyncio.Event]) -> None:
    for event in events:
        event.set()
