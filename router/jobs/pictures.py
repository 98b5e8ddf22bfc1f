"""The bytes of pictures in redis: put under their hash, and held by the jobs that need them.

In: pictures, and scripts that record a job. Out: their bytes again, while a job holds them. `router.jobs.store` has the
keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from redis.asyncio import Redis

from engines.base import ImagePart
from router.lua import Argument, JobScript, Scripts
from router.redis import PREFIX, Clock, guard
from router.room import Room

# Lifetime of a picture that no job holds yet: the job follows within seconds, or never.
BLOB_GRACE_S: Final = 600
# A picture may expire with its last job between put and hold; retry the put at most this often.
_MOST_PUTS = 6


class PictureStore:
    """What a `router.jobs.store.JobStore` does with pictures.

    Args:
        redis: an asyncio client that returns bytes.
        reads: another, for what only reads; None for the same.
        clock: unix seconds; None uses the Redis server's own clock.
        room: says whether anything new may be stored; None lets in what redis takes.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
    """

    def __init__(self, redis: Redis, *, reads: Redis | None, clock: Clock | None, room: Room | None) -> None:
        self.redis = redis
        self._reads = reads or redis
        self._room = room
        self._scripts, self._reading = Scripts(redis, clock), Scripts(self._reads, clock)

    async def put_images(self, images: Iterable[ImagePart]) -> None:
        """Keep pictures under their hash until a job holds them, for `BLOB_GRACE_S` at most."""
        by_hash = {image.sha256: image.data for image in images}
        if not by_hash:
            return
        missing: list[bytes] = await self._run(JobScript.TOUCH, *by_hash, keep_s=BLOB_GRACE_S)
        pipeline = self.redis.pipeline(transaction=False)
        for sha256 in map(bytes.decode, missing):
            # Not over a copy that somebody put, and a job held, meanwhile: this would shorten its life.
            pipeline.set(f"{PREFIX}blob:{sha256}", by_hash[sha256], ex=BLOB_GRACE_S, nx=True)
        if missing:
            await guard(pipeline.execute())

    async def get_images(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the pictures that are still there, by hash."""
        wanted = list(dict.fromkeys(hashes))
        if not wanted:
            return {}
        found = await guard(self._reads.mget([f"{PREFIX}blob:{sha256}" for sha256 in wanted]))
        return {sha256: data for sha256, data in zip(wanted, found, strict=True) if data is not None}

    async def _check_room(self, images: Iterable[ImagePart]) -> None:
        if self._room is not None:
            await guard(self._room.check(sum(len(image.data) for image in images)))

    async def _hold(self, images: tuple[ImagePart, ...], put: Callable[[bool], Awaitable[list[Any]]]) -> list[Any]:
        """Run a script that records a job and holds its pictures, and put those that are not there.

        They are put after the script has missed them: what it refuses for another reason leaves nothing. They may go
        meanwhile, with another job, so it is done more than once.
        """
        by_hash = {image.sha256.encode(): image for image in images}
        for _ in range(_MOST_PUTS - 1):
            outcome, *rest = await put(bool(images))
            if outcome != b"missing":
                return [outcome, *rest]
            await self.put_images(by_hash[sha256] for sha256 in rest if sha256 in by_hash)
        return await put(False)

    async def _run(self, script: JobScript, *more: Argument, **arguments: Argument) -> Any:
        return await self._scripts.run(script, *more, **arguments)
