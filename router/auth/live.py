"""Owners and keys as this process knows them: read at start, again when somebody says that they changed, and by age.

In: redis. Out: the last `Directory` that could be read, and how fresh it is. While redis is away the last one stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from redis.asyncio import Redis

from router.auth.records import Directory
from router.auth.store import CHANNEL, OwnerStore
from router.errors import QueueUnavailableError
from router.leftovers import end_tasks
from router.redis import guard, repeat

log = logging.getLogger(__name__)

# A message may be lost, with the connection or a failover.
_POLL_S: Final = 10.0
_RECONNECT_S: Final = 0.5
_BLOCK_S: Final = 5.0
# What boot waits for; redis may be away for longer, and then the first request looks again.
_FIRST_S: Final = 1.0
# Between two attempts while redis does not answer.
_RETRY_S: Final = 1.0


class LiveDirectory:
    """Keeps a `Directory` up to date. Bound to the event loop it is used on.

    Args:
        store: reads it.
        listener: a redis client of its own, since listening blocks its connection.
        on_change: called with each new one.
        take_used: returns, once, which keys were used and not yet written down.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: OwnerStore,
        listener: Redis,
        *,
        on_change: Callable[[Directory], None],
        take_used: Callable[[], Mapping[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._listener = listener
        self._on_change = on_change
        self._take_used = take_used
        self._clock = clock
        self._version: str | None = None
        self._checked_at = float("-inf")
        self._failed_at = float("-inf")
        self._looking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read once, for a second at most, and go on reading."""
        first = asyncio.create_task(self._look_first(), name="owners-first")
        await asyncio.wait({first}, timeout=_FIRST_S)
        self._tasks = [
            first,
            asyncio.create_task(repeat("owners' poll", self._poll, lambda: asyncio.sleep(_POLL_S)), name="owners-poll"),
            asyncio.create_task(self._listen(), name="owners-news"),
        ]

    async def aclose(self) -> None:
        """Write down what was used, and stop."""
        await end_tasks(*self._tasks)
        try:
            async with asyncio.timeout(_FIRST_S):
                await self._store.note_used(self._take_used())
        except (QueueUnavailableError, TimeoutError):
            log.debug("when keys were last used could not be written down")

    async def refresh(self, max_age_s: float) -> bool:
        """Read the directory again if it is older than this; False if redis does not answer."""
        async with self._looking:
            now = self._clock()
            if now - self._checked_at <= max_age_s:
                return True
            if now - self._failed_at < _RETRY_S:
                return False
            try:
                await self._look()
            except QueueUnavailableError as error:
                log.debug("redis does not say which keys there are: %s", error.__cause__)
                self._failed_at = self._clock()
                return False
            self._checked_at = now
            return True

    async def _look(self) -> None:
        if self._version is not None and await self._store.version() == self._version:
            return
        directory = await self._store.load()
        self._version = directory.version
        self._on_change(directory)

    async def _look_first(self) -> None:
        await self.refresh(0.0)

    async def _poll(self) -> None:
        await self.refresh(_POLL_S / 2)
        await self._store.note_used(self._take_used())

    async def _listen(self) -> None:
        while True:
            try:
                async with self._listener.pubsub(ignore_subscribe_messages=True) as channel:
                    await guard(channel.subscribe(CHANNEL))
                    # What was published while nobody listened is not told again.
                    await self.refresh(0.0)
                    while True:
                        if await guard(channel.get_message(timeout=_BLOCK_S)) is not None:
                            await self.refresh(0.0)
            except QueueUnavailableError as error:
                log.debug("redis does not answer the listener for owners: %s", error.__cause__)
                await asyncio.sleep(_RECONNECT_S)
