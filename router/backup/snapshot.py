"""All keys of Glowl at one moment, while it goes on working.

In: a redis in use. Out: lines of keys, such that the last line of each key is what it held at one moment for all.

Reading everything takes long, and a job may end meanwhile: its record would be of before, a list that names it of
after. So redis tells which keys change while they are read (client-side caching, in its broadcasting mode), those are
read again, and for the last few of them, read within milliseconds, writes are held (CLIENT PAUSE).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from router.backup import texts
from router.backup.archive import ArchiveError
from router.backup.values import Json, gone, read_keys
from router.leftovers import end_tasks
from router.redis import PREFIX, guard, queue_unavailable

_CHANNEL: Final = b"__redis__:invalidate"
# Pictures and parts of files, megabytes each: read one at a time, the others by the hundred.
_LARGE: Final = tuple(f"{PREFIX}{kind}:".encode() for kind in ("blob", "file_data"))
# Kept answers are given again to who asks the same; a probe is one that redis can write.
_NOT_KEPT: Final = tuple(f"{PREFIX}{kind}".encode() for kind in ("cache:", "probe"))
_AT_ONCE: Final = 100
# So few changed keys are read while writes are held.
_FEW: Final = 300
_MOST_ROUNDS: Final = 20
# Redis lets writes go on by itself after this long, whatever becomes of this process.
_HOLD_MS: Final = 5000
# Of a redis that says nothing at all.
_PATIENCE_S: Final = 60.0


def is_kept(key: bytes) -> bool:
    """Say whether a key is part of a backup."""
    return key.startswith(PREFIX.encode()) and not key.startswith(_NOT_KEPT)


async def snapshot(redis: Redis) -> AsyncGenerator[Json]:
    """Yield lines; a later line of the same key counts in place of the earlier.

    Args:
        redis: an asyncio client that returns bytes.

    Raises:
        ArchiveError: if changes come faster than they can be read, or redis' user may not hold writes.
        QueueUnavailableError: when redis does not answer.
    """
    async with _watched(redis) as changes:
        async for keys in _all_keys(redis):
            for line in await _read(redis, keys):
                yield line
        for _ in range(_MOST_ROUNDS):
            await changes.arrive()
            if len(changes.keys) <= _FEW:
                break
            for line in await _read(redis, changes.take()):
                yield line
        else:
            raise ArchiveError(texts.BUSY)
        async with _held(redis):
            await changes.arrive()
            last = await asyncio.wait_for(_read(redis, changes.take()), _HOLD_MS / 2000)
        for line in last:
            yield line


async def _read(redis: Redis, keys: Sequence[bytes]) -> list[Json]:
    """Read keys; one that is gone has a line as well, as an earlier one may have said what it held."""
    return [gone(key) if line is None else line for key, line in zip(keys, await read_keys(redis, keys), strict=True)]


async def _all_keys(redis: Redis) -> AsyncIterator[list[bytes]]:
    cursor: int | None = None
    small: list[bytes] = []
    while cursor != 0:
        cursor, found = await guard(redis.scan(cursor or 0, match=f"{PREFIX}*", count=_AT_ONCE))
        for key in filter(is_kept, found):
            if key.startswith(_LARGE):
                yield [key]
            else:
                small.append(key)
        if len(small) >= _AT_ONCE or cursor == 0:
            yield small
            small = []


class _Changes:
    """Which keys have changed, as redis tells it on a connection of its own."""

    def __init__(self, connection: Any) -> None:
        self.keys: set[bytes] = set()
        self._connection = connection
        self._pong = asyncio.Event()
        self._is_emptied = False
        self._listening = asyncio.create_task(self._listen(), name="backup-changes")

    def take(self) -> list[bytes]:
        """Return the changed keys, and forget them."""
        taken, self.keys = sorted(self.keys), set()
        return taken

    async def arrive(self) -> None:
        """Wait until everything is known that changed before this call.

        Redis tells of changes at the end of each turn of its loop, so only the second answer is sure to come after.

        Raises:
            ArchiveError: if redis was emptied meanwhile.
            QueueUnavailableError: if it hung up.
        """
        for _ in range(2):
            self._pong.clear()
            with _as_unavailable():
                await self._connection.send_command("PING")
            pong = asyncio.ensure_future(self._pong.wait())
            waits = {pong, self._listening}
            await asyncio.wait(waits, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if not pong.done():
                pong.cancel()
                with _as_unavailable():
                    if self._listening.done():
                        self._listening.result()
                    raise TimeoutError("redis says nothing")
        if self._is_emptied:
            raise ArchiveError(texts.EMPTIED)

    async def aclose(self) -> None:
        """Stop listening."""
        await end_tasks(self._listening)

    async def _listen(self) -> None:
        while True:
            told = await self._connection.read_response(timeout=None)
            if told[0] == b"pong":
                self._pong.set()
            elif told[0] == b"message" and told[2] is None:
                self._is_emptied = True
            elif told[0] == b"message":
                self.keys.update(filter(is_kept, told[2]))


@contextlib.asynccontextmanager
async def _watched(redis: Any) -> AsyncGenerator[_Changes]:
    """Have redis tell which keys change, from here on."""
    pool = redis.connection_pool
    # Without a timeout: nothing is said where nothing changes.
    options = {**pool.connection_kwargs, "protocol": 2, "socket_timeout": None, "health_check_interval": 0}
    listener, tracker = (pool.connection_class(**options) for _ in range(2))
    changes: _Changes | None = None
    try:
        with _as_unavailable():
            await listener.connect()
            number = await _ask(listener, "CLIENT", "ID")
            await _ask(listener, "SUBSCRIBE", _CHANNEL)
            await tracker.connect()
            await _ask(tracker, "CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", PREFIX)
        changes = _Changes(listener)
        yield changes
    finally:
        if changes is not None:
            await changes.aclose()
        for connection in (listener, tracker):
            await connection.disconnect(nowait=True)


@contextlib.asynccontextmanager
async def _held(redis: Any) -> AsyncGenerator[None]:
    """Hold all writes, also those of time: nothing expires meanwhile."""
    with _as_unavailable():
        await redis.execute_command("CLIENT", "PAUSE", _HOLD_MS, "WRITE")
    try:
        yield
    except TimeoutError as error:
        raise ArchiveError(texts.BUSY) from error
    finally:
        with contextlib.suppress(RedisError, OSError):  # they go on by themselves
            await redis.execute_command("CLIENT", "UNPAUSE")


async def _ask(connection: Any, *words: Any) -> Any:
    await connection.send_command(*words)
    return await connection.read_response()


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    """Turn redis' errors into ours.

    Raises:
        ArchiveError: if its user may not do that.
        QueueUnavailableError: if it does not answer.
    """
    try:
        yield
    except NoPermissionError as error:
        raise ArchiveError(texts.NO_RIGHT.fill(reason=str(error))) from error
    except (RedisError, OSError) as error:
        raise queue_unavailable() from error
