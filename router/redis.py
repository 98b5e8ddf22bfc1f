"""What every part that keeps something in redis shares: the prefix of the keys, and what redis' errors mean.

In: calls of redis' asyncio client. Out: their results, or an error of `router.errors`; and work that one process of all
does at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from router import texts
from router.errors import NotReplicatedError, QueueUnavailableError, StorageFullError
from router.redis_watch import RedisSilentError, RedisWatch

log = logging.getLogger(__name__)

PREFIX = "glowl:"

Clock = Callable[[], float]
RedisState = Literal["up", "full", "loading", "read only", "too few replicas", "away"]


async def guard(awaitable: Awaitable[Any]) -> Any:
    """Await a Redis call.

    Raises:
        QueueUnavailableError: if Redis cannot be reached or refuses to work.
        StorageFullError: if it has no room left.
    """
    try:
        return await awaitable
    except (RedisError, OSError) as error:
        raise (storage_full() if is_full(error) else queue_unavailable(error)) from error
    except RuntimeError as error:
        # uvloop raises this when the peer hung up before a write; asyncio's own loop does not.
        if "handler is closed" not in str(error):
            raise
        raise queue_unavailable() from error


@contextlib.asynccontextmanager
async def while_heard(watch: RedisWatch | None) -> AsyncGenerator[None]:
    """Give up a write once redis is found silent, not seconds later: it is one that is taken back, or harmless twice.

    Args:
        watch: finds that; None for never.

    Raises:
        QueueUnavailableError: if it was given up. It may be done all the same.
    """
    if watch is None:
        yield
        return
    try:
        async with watch.until_silent():
            yield
    except RedisTimeoutError as error:
        raise queue_unavailable() from error


def may_be_done(error: QueueUnavailableError) -> bool:
    """Whether redis may have done, or may still do, what was sent to it before it fell silent."""
    if isinstance(error, StorageFullError) or isinstance(error.__cause__, RedisSilentError):
        return False
    return "connecting to" not in str(error.__cause__)  # redis-py's message when it had no connection to send on


def queue_unavailable(error: BaseException | None = None) -> QueueUnavailableError:
    """Make the refusal of a request that needs redis; ``error`` is what redis said, if it said anything."""
    lacks = error is not None and lacks_replicas(error)
    return QueueUnavailableError(texts.REDIS_LACKS_REPLICAS if lacks else texts.REDIS_AWAY, retry_after_s=2)


def not_replicated(number: int, wanted: int) -> NotReplicatedError:
    """Make the refusal of what too few replicas have."""
    return NotReplicatedError(texts.REDIS_ALONE.fill(number=number, wanted=wanted), retry_after_s=2)


def storage_full() -> StorageFullError:
    """Make the refusal of what would be stored."""
    return StorageFullError(texts.REDIS_FULL, retry_after_s=30)


def is_full(error: Exception) -> bool:
    """Whether an error of redis says that it has no memory or disk left; anything else may be over in a moment."""
    if isinstance(error, OutOfMemoryError):
        return True
    return isinstance(error, ResponseError) and str(error).lstrip("-").startswith(("OOM", "MISCONF"))


def lacks_replicas(error: BaseException) -> bool:
    """Whether redis refuses writes because it has fewer replicas than its `min-replicas-to-write`."""
    # Not at the beginning only: redis-py puts the command of a pipeline before what redis says.
    return isinstance(error, ResponseError) and "NOREPLICAS" in str(error)


def state_of(error: BaseException) -> RedisState:
    """Say what an error of a Redis call means for a write."""
    if isinstance(error, BusyLoadingError):
        return "loading"
    if isinstance(error, ReadOnlyError):
        return "read only"
    if lacks_replicas(error):
        return "too few replicas"
    return "full" if isinstance(error, Exception) and is_full(error) else "away"


async def repeat(what: str, work: Callable[[], Awaitable[Any]], pause: Callable[[], Awaitable[Any]]) -> None:
    """Do something again and again, whatever goes wrong; ends only when cancelled.

    Args:
        what: its name in the log.
        work: one round.
        pause: waits until the next round.
    """
    me = asyncio.current_task()
    assert me is not None
    while True:
        try:
            await work()
        except QueueUnavailableError:
            log.debug("redis does not answer the %s", what)
        except Exception:  # one bad record must not block the others
            log.exception("the %s failed", what)
        # Cancelled in the middle of a command, redis' client may return as if nothing had happened. The pause that
        # follows may be an hour.
        if me.cancelling():
            raise asyncio.CancelledError
        await pause()


async def repeat_in_one(
    redis: Redis,
    what: str,
    work: Callable[[], Awaitable[Any]],
    *,
    interval_s: float,
    look_s: float | None = None,
) -> None:
    """Do something every ``interval_s``, in one process of all; ends only when cancelled.

    Args:
        redis: keeps the lock.
        what: name of the lock, and in the log.
        work: one round.
        interval_s: time between two rounds.
        look_s: how often each process looks whether it is the one; None for ``interval_s``.
    """

    async def take_turn() -> None:
        # A little less than the interval, so that the process that had the last turn may have the next one.
        if await guard(redis.set(f"{PREFIX}{what}", "1", nx=True, px=max(int(interval_s * 900), 1))):
            await work()

    await repeat(what, take_turn, lambda: asyncio.sleep(interval_s if look_s is None else look_s))
