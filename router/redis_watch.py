"""Whether redis answers at all, so that a request that needs it is refused soon when it does not.

In: redis, asked for a sign of life twice a second on a connection of its own. Out: `RedisWatch.is_silent`;
`WatchedPool`, which hands out no connection while it is; the end of waits that began before. A redis that refuses
connections is not silent: each command learns that at once by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from router.leftovers import end_tasks

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.5
LOOK_TIMEOUT_S: Final = 1.0
# A single missed probe may be a pause of this process.
_MISSES: Final = 2


class RedisSilentError(RedisConnectionError):
    """Redis is known not to answer; the command was not sent."""


class RedisWatch:
    """Looks at redis for a whole process.

    Args:
        redis: a client of its own, whose commands end within `LOOK_TIMEOUT_S`.

    Attributes:
        is_silent: the last two looks had no answer.
        heard_at: when redis last answered a look, of `time.monotonic`; at first, when this was made.
    """

    def __init__(self, redis: Redis) -> None:
        self.is_silent = False
        self.heard_at = time.monotonic()
        self._redis = redis
        self._misses = 0
        self._looking: asyncio.Task[None] | None = None
        self._limits: set[asyncio.Timeout] = set()

    async def start(self) -> None:
        """Begin to look."""
        self._looking = asyncio.create_task(self._look_forever(), name="redis-watch")

    async def aclose(self) -> None:
        """Look no more."""
        if self._looking is not None:
            await end_tasks(self._looking)

    async def look(self) -> None:
        """Ask once."""
        try:
            await self._redis.ping()
        except (RedisError, OSError, RuntimeError) as error:
            # Refusing, loading and hanging up count as answers.
            self._misses = self._misses + 1 if _is_timeout(error) else 0
            if not isinstance(error, RedisConnectionError | RedisTimeoutError | OSError | RuntimeError):
                self.heard_at = time.monotonic()
        else:
            self._misses = 0
            self.heard_at = time.monotonic()
        was_silent, self.is_silent = self.is_silent, self._misses >= _MISSES
        if self.is_silent and not was_silent:
            log.warning("redis does not answer; what needs it is refused at once until it does")
            for limit in self._limits:
                if not limit.expired():  # of the silence before, and not gone yet
                    limit.reschedule(asyncio.get_running_loop().time())
        elif was_silent and not self.is_silent:
            log.info("redis answers again")

    @contextlib.asynccontextmanager
    async def until_silent(self) -> AsyncGenerator[None]:
        """Give up what is awaited inside once redis is silent: for writes that are taken back, or harmless twice.

        Raises:
            RedisTimeoutError: if it was given up; redis may have done it all the same.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RedisTimeoutError("redis fell silent") from error
        finally:
            self._limits.discard(limit)

    async def _look_forever(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)


def _is_timeout(error: BaseException | None) -> bool:
    """Whether nothing was said; redis-py makes another error of it while it connects, and keeps the first behind."""
    while error is not None:
        if isinstance(error, RedisTimeoutError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


class WatchedPool(BlockingConnectionPool):
    """Connections that are handed out while redis is not known to be silent.

    Args:
        watch: knows; None hands them out always.
        num_replicas: that must have what is announced before it counts as written (`router.lua`).
        options: of redis-py's pool.
    """

    def __init__(self, *, watch: RedisWatch | None = None, num_replicas: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.num_replicas = num_replicas
        self.watch = watch

    def can_get_connection(self) -> bool:
        """Say whether there is one; asked when one is needed, and again when another is given back.

        Raises:
            RedisSilentError: while redis is silent.
        """
        if self.watch is not None and self.watch.is_silent:
            raise RedisSilentError("redis has not answered for two seconds")
        return bool(super().can_get_connection())

    def hang_up(self) -> None:
        """Break off all connections, also those that wait for an answer: redis is elsewhere now. Waits for nothing."""
        for connection in (*self._available_connections, *self._in_use_connections):
            _break_off(connection)

    def hang_up_idle(self) -> None:
        """Break off the connections that are not in use; the next commands make new ones."""
        for connection in self._available_connections:
            _break_off(connection)


def _break_off(connection: Any) -> None:
    """End a connection from outside. Closing it in good manners, as redis-py does, would wait for a silent peer."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()


def watch_of(redis: Redis) -> RedisWatch | None:
    """Return what looks at redis for a client; None if nothing does."""
    pool = redis.connection_pool
    return pool.watch if isinstance(pool, WatchedPool) else None
