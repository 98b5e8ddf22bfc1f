"""What is stored of an owner is counted and deleted, whole, and nothing of anybody else's."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from engines.base import ImagePart, SamplingParams
from router.auth.purge import Belongings
from router.batches.files import FileStore
from router.batches.records import BatchSpec, new_id
from router.batches.store import BatchStore
from router.jobs.job import BranchPlan, JobSpec, new_job_id
from router.jobs.store import JobStore
from router.lua import CacheScript, Scripts
from router.webhooks.store import WebhookStore

ALICE, BOB = "own_" + "a" * 24, "own_" + "b" * 24


def job(owner: str, picture: ImagePart | None = None, **more: object) -> JobSpec:
    parts: list[dict[str, str]] = [{"type": "text", "text": "你好"}]
    if picture is not None:
        parts.append({"type": "image", "sha256": picture.sha256, "media_type": "image/png", "param": ""})
    return JobSpec(
        id=new_job_id(),
        owner=owner,
        created_at=1.0,
        model="glowl",
        messages=[{"role": "user", "parts": parts}],
        sampling=SamplingParams(),
        decision={},
        language="en",
        branches=(BranchPlan("deep", "owl2"),),
        strategy="deep",
        **more,  # type: ignore[arg-type]
    )


async def fill(redis: Redis, owner: str, picture: ImagePart) -> None:
    """Store one of everything."""
    jobs, batches = JobStore(redis), BatchStore(redis)
    files = FileStore(redis, max_file_bytes=10**7, max_total_bytes=10**8, ttl_s=3600)
    webhooks = WebhookStore(redis)
    await jobs.create(job(owner, picture), [picture])
    await jobs.create(job(owner, is_stored=False))  # in no list
    running = await jobs.create(job(owner))
    await jobs.claim(running.id, "deep")
    await jobs.take_next("owl2")
    upload = files.begin(owner)
    await upload.write(b"x" * 600_000)
    stored = await upload.commit("a.jsonl", purpose="batch")
    await files.begin(owner).write(b"y" * 600_000)  # broken off
    spec = BatchSpec(new_id("batch_"), owner, "/v1/responses", stored.id, output_ttl_s=3600)
    await batches.create(spec)
    [(batch_id, epoch)] = await batches.claim(1)
    await batches.skip(batch_id, epoch, 1, 10, [b"{}\n"])
    await webhooks.create_endpoint(owner, name="hook", url="https://example.com/", event_types=["response.completed"])
    await webhooks.request_secrets(owner)
    await webhooks.emit(owner, "response.completed", {"id": "resp_1" + owner})
    answered = {"owner": owner, "question": "", "sent": "", "answer": b"cached", "ttl_s": 60, "max_bytes": 10**6}
    await Scripts(redis).run(CacheScript.PUT, name="0" * 32, **answered)
    ended = await jobs.create(job(owner))
    await jobs.cancel(ended.id)


@pytest.fixture
def picture() -> ImagePart:
    return ImagePart(b"\x89PNG shared by both", "image/png", "f" * 64)


async def dump(redis: Redis) -> dict[bytes, bytes | None]:
    return {key: await redis.dump(key) for key in await redis.keys("*")}


async def test_everything_of_an_owner_goes_and_nothing_of_another(redis: Redis, picture: ImagePart) -> None:
    await fill(redis, BOB, picture)
    before = await Belongings(redis, BOB).count()
    await fill(redis, ALICE, picture)
    expected = {"jobs": 4, "files": 1, "batches": 1, "webhook endpoints": 1, "webhook deliveries": 1}
    assert await Belongings(redis, ALICE).count() == before == expected

    deleted = await Belongings(redis, ALICE).delete()

    assert {kind: deleted[kind] for kind in expected if kind != "webhook deliveries"} == {
        kind: number for kind, number in expected.items() if kind != "webhook deliveries"
    }
    assert await Belongings(redis, ALICE).count() == {}
    left = await dump(redis)
    assert [key for key, value in left.items() if ALICE.encode() in key or ALICE.encode() in (value or b"")] == []
    assert await Belongings(redis, BOB).count() == before
    assert await redis.zcard("glowl:cache:used") == 1
    # The picture that both have sent is still Bob's.
    assert await redis.exists(f"glowl:blob:{picture.sha256}")

    await Belongings(redis, BOB).delete()
    assert not await redis.exists(f"glowl:blob:{picture.sha256}")
    data = [key for key in await redis.keys("*") if b"file_data" in key or b":job" in key or b"batch" in key]
    assert data == []


async def test_who_is_named_like_a_part_of_another_loses_nothing(redis: Redis) -> None:
    for key in ("glowl:files:local", "glowl:files:localhost", "glowl:jobs:my-local", "glowl:jobs:local|batch_1"):
        await redis.set(key, "x")
    await Belongings(redis, "local").delete()
    assert sorted(await redis.keys("*")) == [b"glowl:files:localhost", b"glowl:jobs:my-local"]
