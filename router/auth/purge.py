"""Everything that is stored of an owner: counted, or deleted.

In: an owner's id. Out: how many of each kind. Records name their owner in a field, lists and sums in their key; both
are looked for among all keys, so that nothing is missed that stands in no list. Idempotency keys hold no content and
name nobody; they expire within a day.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from redis.asyncio import Redis

from router.lua import CacheScript, FileScript, JobScript, Scripts, WebhookScript
from router.redis import PREFIX, guard

# Kinds of records with a field ``owner``, as people call them.
_RECORDS: Final = {
    "job": "jobs",
    "file": "files",
    "batch": "batches",
    "webhook_endpoint": "webhook endpoints",
    "delivery": "webhook deliveries",
}
_AT_ONCE: Final = 500
# What is written while things are deleted is found in the next round.
_MOST_ROUNDS: Final = 5


class Belongings:
    """What one owner has in redis.

    Args:
        redis: an asyncio client that returns bytes.
        owner_id: whose.

    Raises:
        QueueUnavailableError: by every method, when redis does not answer.
    """

    def __init__(self, redis: Redis, owner_id: str) -> None:
        self._redis = redis
        self._owner = owner_id
        self._scripts = Scripts(redis)

    async def count(self) -> dict[str, int]:
        """Return how many records there are, by kind; kinds without any are left out."""
        found: Counter[str] = Counter()
        async for kind, _name in self._records():
            found[_RECORDS[kind]] += 1
        return dict(found)

    async def delete(self) -> dict[str, int]:
        """Delete everything; returns how many records that were, by kind.

        What workers still do for the owner's jobs is refused when they want to write it.
        """
        deleted: Counter[str] = Counter()
        for _ in range(_MOST_ROUNDS):
            # Batches first, as they make jobs and files; deliveries last, as what ends may plan some.
            found = [each async for each in self._records()]
            for kind in sorted(_RECORDS, key=("batch", "job", "file", "webhook_endpoint", "delivery").index):
                names = [name for of, name in found if of == kind]
                for name in names:
                    await self._delete(kind, name)
                deleted[_RECORDS[kind]] += len(names)
            await self._delete_named()
            if not found:
                break
        return {kind: number for kind, number in deleted.items() if number}

    async def _delete(self, kind: str, name: str) -> None:
        if kind == "job":
            await self._scripts.run(JobScript.DELETE, id=name)
        elif kind == "file":
            await self._scripts.run(FileScript.DELETE_FILE, id=name, owner=self._owner)
        elif kind == "webhook_endpoint":
            await self._scripts.run(WebhookScript.DELETE_ENDPOINT, id=name, owner=self._owner)
        elif kind == "delivery":
            await self._delete_delivery(name)
        else:
            await self._delete_batch(name)

    async def _delete_delivery(self, name: str) -> None:
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(f"{PREFIX}delivery:{name}", f"{PREFIX}delivery_attempts:{name}")
        pipeline.zrem(f"{PREFIX}deliveries", name)
        await guard(pipeline.execute())

    async def _delete_batch(self, name: str) -> None:
        """Delete a batch's record, and what it has written of files that were not there yet."""
        ids = await guard(self._redis.hmget(f"{PREFIX}batch:{name}", ["output_id", "error_id"]))
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(*(f"{PREFIX}{kind}:{name}" for kind in ("batch", "batch_lines", "batch_custom_ids")))
        pipeline.zrem(f"{PREFIX}batches_due", name)
        await guard(pipeline.execute())
        for file_id in filter(None, ids):
            if not await guard(self._redis.exists(f"{PREFIX}file:{file_id.decode()}")):
                await self._unlink([key async for key in self._keys(f"file_data:{file_id.decode()}:*")])

    async def _delete_named(self) -> None:
        """Delete kept answers, lists and sums under keys that name the owner, and its places in turns."""
        answers = await guard(self._redis.hkeys(f"{PREFIX}cache:sizes:{self._owner}"))
        for name in answers:
            await self._scripts.run(CacheScript.FORGET, owner=self._owner, name=name.decode())
        uploads = await guard(self._redis.hkeys(f"{PREFIX}uploads:{self._owner}"))
        for upload in uploads:
            await self._scripts.run(FileScript.ABORT_UPLOAD, id=upload.decode(), owner=self._owner)
        mine = re.compile(rf"{PREFIX}.*[:|]{re.escape(self._owner)}([:|].*)?")
        await self._unlink([key async for key in self._keys("*") if mine.fullmatch(key)])
        await guard(self._redis.zrem(f"{PREFIX}delivery_turns", self._owner))

    async def _records(self) -> AsyncIterator[tuple[str, str]]:
        """Yield kind and id of every record of the owner's."""
        waiting: list[tuple[str, str]] = []
        async for key in self._keys("*"):
            kind, _, name = key.removeprefix(PREFIX).partition(":")
            if kind in _RECORDS:
                waiting.append((kind, name))
            if len(waiting) >= _AT_ONCE:
                for each in await self._of_owner(waiting):
                    yield each
                waiting = []
        for each in await self._of_owner(waiting):
            yield each

    async def _of_owner(self, records: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        pipeline = self._redis.pipeline(transaction=False)
        for kind, name in records:
            pipeline.hget(f"{PREFIX}{kind}:{name}", "owner")
        owners = await guard(pipeline.execute()) if records else []
        return [each for each, owner in zip(records, owners, strict=True) if owner == self._owner.encode()]

    async def _keys(self, pattern: str) -> AsyncIterator[str]:
        cursor: int | None = None
        seen: set[bytes] = set()
        while cursor != 0:
            cursor, keys = await guard(self._redis.scan(cursor or 0, match=f"{PREFIX}{pattern}", count=_AT_ONCE))
            for key in keys:
                if key not in seen:  # redis may name a key twice
                    seen.add(key)
                    yield key.decode(errors="surrogateescape")

    async def _unlink(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), _AT_ONCE):
            await guard(self._redis.unlink(*keys[at : at + _AT_ONCE]))
