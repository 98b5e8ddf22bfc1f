"""The pointers in redis, where they outlive every process and every api finds them.

In: a pointer per engine. Out: the same. Key: ``promotions``, a hash of pointers by the engine's name.
"""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis

from router.promotion.records import Pointer
from router.redis import PREFIX, guard

KEY: Final = f"{PREFIX}promotions"


class PromotionStore:
    """Reads and writes pointers.

    Args:
        redis: an asyncio client that returns bytes.

    Raises:
        QueueUnavailableError: by every method, when redis does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def load(self) -> dict[str, Pointer]:
        """Return all that there are."""
        found = await guard(self._redis.hgetall(KEY))
        return {name.decode(): Pointer.from_json(raw) for name, raw in found.items()}

    async def put(self, engine: str, pointer: Pointer) -> None:
        """Let it count from now on. Of two operators who change it at once, the later one's counts."""
        await guard(self._redis.hset(KEY, engine, pointer.to_json()))
