"""`router.room`: what is refused before redis' memory or disk are full, against a real redis."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from engines.base import ImagePart
from router.batches.files import FileStore
from router.errors import QueueUnavailableError, StorageFullError
from router.jobs.job import JobSpec
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from router.lua.constants import CHUNK_BYTES
from router.redis import PREFIX
from router.room import MIN_FREE_DISK_BYTES, Room
from tests.support.jobs import make_spec

MB = 1024**2


@pytest.fixture
async def limited(redis: Redis) -> AsyncIterator[Redis]:
    """A redis that may take 20 MB more than it has now."""
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used + 20 * MB)
    await redis.config_set("maxmemory-policy", "noeviction")
    yield redis
    await redis.config_set("maxmemory", 0)


def picture(num_bytes: int, fill: bytes = b"p") -> ImagePart:
    data = fill * num_bytes
    return ImagePart(data, "image/png", hashlib.sha256(data).hexdigest())


def about(image: ImagePart, **changes: Any) -> JobSpec:
    part = {"type": "image", "sha256": image.sha256, "media_type": image.media_type}
    return make_spec(messages=[{"role": "user", "parts": [part, {"type": "text", "text": "?"}]}], **changes)


async def num_blobs(redis: Redis) -> int:
    return len([key async for key in redis.scan_iter(f"{PREFIX}blob:*")])


async def test_a_job_without_room_is_refused_with_nothing_stored_and_those_under_way_end(limited: Redis) -> None:
    # Given a job under way, and then a redis that is nearly full
    store = JobStore(limited, room=Room(limited))
    small, large = picture(MB), picture(2 * MB, b"q")
    job = await store.create(about(small), [small])
    epoch = await store.claim(job.id, "deep")
    assert epoch is not None
    limit = (await limited.config_get("maxmemory"))["maxmemory"]
    used = (await limited.info("memory"))["used_memory"]
    await limited.config_set("maxmemory", int(used / 0.85) + MB)
    full = JobStore(limited, room=Room(limited))
    # When another comes with more than there is room for, then it is refused and leaves nothing
    with pytest.raises(StorageFullError) as refusal:
        await full.create(about(large, id="resp_other"), [large])
    assert (refusal.value.status_code, refusal.value.code) == (503, "storage_full")
    assert refusal.value.retry_after_s
    assert await num_blobs(limited) == 1
    assert await full.get("resp_other") is None
    # Then what was accepted can end, and an answer that is there already is recorded without its picture
    assert await full.append(job.id, "deep", epoch, "text")
    await full.finish(job.id, "deep", epoch, UnitResult(text="text"))
    await full.put_finished(replace(job, spec=about(large, id="resp_third")), [large])
    assert await full.get("resp_third") is not None
    assert await num_blobs(limited) == 1
    await limited.config_set("maxmemory", limit)


async def test_what_was_let_in_since_the_last_look_counts(limited: Redis) -> None:
    # Given a clock that does not go on
    room = Room(limited, clock=lambda: 100.0)
    for _ in range(8):
        await room.check(2 * MB)
    with pytest.raises(StorageFullError):
        await room.check(5 * MB)


async def test_it_looks_again_after_a_second(limited: Redis) -> None:
    now = [100.0]
    room = Room(limited, clock=lambda: now[0])
    with pytest.raises(StorageFullError):
        await room.check(10**12)
    await limited.config_set("maxmemory", 0)
    with pytest.raises(StorageFullError):
        await room.check(10**12)
    now[0] += 1
    await room.check(10**12)


async def test_a_full_disk_refuses_what_is_new(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [MIN_FREE_DISK_BYTES - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free[0]))
    with pytest.raises(StorageFullError, match="Less than 512 MB are free on the disk") as refusal:
        await Room(redis, disk=tmp_path).check()
    assert (refusal.value.status_code, refusal.value.code) == (503, "storage_full")
    free[0] += 1
    await Room(redis, disk=tmp_path).check()
    await Room(redis).check()


async def test_a_folder_that_is_not_here_is_no_disk_of_redis(redis: Redis, tmp_path: Path) -> None:
    await Room(redis, disk=tmp_path / "none").check()


async def test_uploads_are_refused_too(limited: Redis) -> None:
    store = FileStore(limited, max_file_bytes=10**9, max_total_bytes=10**9, ttl_s=3600, room=Room(limited))
    upload = store.begin("local")
    with pytest.raises(StorageFullError):
        await upload.write(bytes(100 * CHUNK_BYTES))
    await upload.abort()
    assert not [key async for key in limited.scan_iter(f"{PREFIX}file_data:*")]


async def test_redis_at_its_limit_is_told_from_one_that_is_away(redis: Redis) -> None:
    # Given a redis that refuses every write, in a script and outside
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageFullError):
            await JobStore(redis).create(make_spec())
        with pytest.raises(StorageFullError):
            await JobStore(redis).put_images([picture(10)])
    finally:
        await redis.config_set("maxmemory", 0)
    # Then one that does not answer is something else
    away = Redis.from_url("redis://127.0.0.1:1/0")
    with pytest.raises(QueueUnavailableError) as refusal:
        await JobStore(away, room=Room(away)).create(make_spec())
    assert not isinstance(refusal.value, StorageFullError)
    await away.aclose()
