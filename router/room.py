"""Whether redis has room for something new: what is refused before memory or disk are full.

In: how many bytes are to be stored. Out: nothing, or the refusal. A part is kept free, so that what was accepted can
still run and end: a redis at its limit refuses every write, and one on a full disk ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from router import texts
from router.errors import StorageFullError
from router.redis import storage_full

# Of redis' own limit; the rest is for the events and answers of what was accepted before.
_SHARE_FOR_NEW: Final = 0.85
# Redis writes its file anew beside the old one now and then, and ends when the disk is full.
MIN_FREE_DISK_BYTES: Final = 512 * 1024**2
_LOOK_EVERY_S: Final = 1.0


class Room:
    """Asks redis about its memory, and the disk under its file, once a second at most.

    Args:
        redis: an asyncio client.
        disk: a folder on the disk that redis writes to; None if that is elsewhere.
        clock: seconds.
    """

    def __init__(self, redis: Redis, *, disk: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._disk = disk
        self._clock = clock
        self._looked_at = float("-inf")
        self._left_bytes = float("inf")  # less what was let in since the last look
        self._is_disk_full = False

    async def check(self, num_bytes: int = 0) -> None:
        """Return if so many bytes may be stored, and count them.

        Raises:
            StorageFullError: if there is no room.
            RedisError: if redis does not answer.
        """
        now = self._clock()
        if now >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = now  # first, as others ask while this one waits
            await self._look()
        if self._is_disk_full:
            free_mb = MIN_FREE_DISK_BYTES // 1024**2
            raise StorageFullError(texts.DISK_FULL.fill(free_mb=free_mb), retry_after_s=30)
        if self._left_bytes < num_bytes:
            raise storage_full()
        self._left_bytes -= num_bytes

    async def _look(self) -> None:
        info: dict[str, Any] = await self._redis.info("memory")
        limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
        self._left_bytes = limit * _SHARE_FOR_NEW - used if limit else float("inf")
        try:
            free = shutil.disk_usage(self._disk).free if self._disk is not None else None
        except OSError:  # the folder is not there, so redis does not write to it
            free = None
        self._is_disk_full = free is not None and free < MIN_FREE_DISK_BYTES
