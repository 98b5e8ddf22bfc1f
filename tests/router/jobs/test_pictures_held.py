"""How many bytes of pictures an owner's jobs may hold, and which go first; the state machine test has both stores."""

from __future__ import annotations

import hashlib

import pytest
from redis.asyncio import Redis

from engines.base import ImagePart
from router.errors import QueueFullError
from router.jobs.job import JobSpec
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.support.jobs import make_spec


def picture(name: str, num_bytes: int = 400) -> ImagePart:
    data = name.encode().ljust(num_bytes)
    return ImagePart(data, "image/png", hashlib.sha256(data).hexdigest())


A, B, C = picture("a"), picture("b"), picture("c")


def about(job_id: str, *images: ImagePart, owner: str = "me") -> JobSpec:
    parts = [{"type": "image", "sha256": each.sha256, "media_type": each.media_type} for each in images]
    parts.append({"type": "text", "text": "?"})
    return make_spec(id=job_id, owner=owner, messages=[{"role": "user", "parts": parts}])


@pytest.fixture
def store(redis: Redis) -> JobStore:
    """Room for two of the pictures an owner."""
    return JobStore(redis, max_picture_bytes=1000)


async def names_kept(store: JobStore) -> str:
    kept = await store.get_images([each.sha256 for each in (A, B, C)])
    return "".join(sorted(data.decode().strip() for data in kept.values()))


async def test_pictures_of_unfinished_jobs_are_bounded_and_a_refusal_stores_nothing(store: JobStore) -> None:
    # Given two jobs of one owner, and a third about a picture of theirs, which counts once
    await store.create(about("resp_1", A), [A])
    await store.create(about("resp_2", B), [B])
    await store.create(about("resp_3", A, B), [A, B])
    # When one more picture comes, then it is refused with nothing stored
    with pytest.raises(QueueFullError) as refusal:
        await store.create(about("resp_4", C), [C])
    assert (refusal.value.status_code, refusal.value.code) == (429, "too_many_picture_bytes")
    assert await names_kept(store) == "ab"
    # Then somebody else has their own room, and questions without pictures go on
    await store.create(about("resp_5", C, owner="you"), [C])
    await store.create(about("resp_6"))


async def test_a_job_that_is_refused_for_another_reason_leaves_no_picture(redis: Redis) -> None:
    store = JobStore(redis, max_unfinished=1)
    await store.create(about("resp_1"))
    with pytest.raises(QueueFullError):
        await store.create(about("resp_2", A), [A])
    assert await names_kept(store) == ""


async def test_pictures_of_ended_jobs_go_first_and_the_jobs_stay(store: JobStore) -> None:
    # Given two jobs that have ended, the older one about A
    for job_id, image in (("resp_1", A), ("resp_2", B)):
        await store.create(about(job_id, image), [image])
        await store.cancel(job_id)
    # When a third needs room
    await store.create(about("resp_3", C), [C])
    # Then the oldest picture went, and no job
    assert await names_kept(store) == "bc"
    assert await store.get("resp_1") is not None
    agenda = await store.redis.zscore(f"{PREFIX}agenda", "resp_1")
    assert agenda > await store.redis.zscore(f"{PREFIX}agenda", "resp_2")  # looked at when its record is to go


async def test_an_answer_that_is_there_is_recorded_without_a_picture_that_has_no_room(store: JobStore) -> None:
    huge = picture("huge", 2000)
    job = await store.create(about("resp_1"))
    await store.put_finished(job.__class__(about("resp_2", huge), "completed", {}), [huge])
    assert await store.get("resp_2") is not None
    assert await store.get_images([huge.sha256]) == {}


async def test_deleted_jobs_leave_no_bytes_and_no_counts(store: JobStore) -> None:
    # Given a job under way, one that ended, and a direct answer, with pictures in common
    await store.create(about("resp_1", A), [A])
    job = await store.create(about("resp_2", A, B), [A, B])
    await store.cancel("resp_2")
    await store.put_finished(job.__class__(about("resp_3", B), "completed", {}), [B])
    assert await store.redis.hget(f"{PREFIX}pictures:me", "bytes") == b"800"
    # When they are deleted, then each picture goes with its last job
    for job_id, left in (("resp_1", "ab"), ("resp_2", "b"), ("resp_3", "")):
        await store.delete(job_id)
        assert await names_kept(store) == left
    kept = [key.decode() async for key in store.redis.scan_iter(f"{PREFIX}*pictures:*")]
    assert kept == []
