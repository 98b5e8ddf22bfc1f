"""Waiting for a job's end without reading what happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from router.jobs.events import EventHub
from router.jobs.job import BranchPlan, Event
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from tests.support.jobs import make_spec

GUARD_S = 30.0


class CountingStore(JobStore):
    """Counts reads."""

    num_reads = 0
    num_event_reads = 0

    async def get(self, job_id: str):  # type: ignore[no-untyped-def]
        self.num_reads += 1
        return await super().get(job_id)

    async def read_events(self, job_id: str, after: str = "") -> list[Event]:
        self.num_event_reads += 1
        return await super().read_events(job_id, after)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[CountingStore]:
    redis = Redis.from_url(redis_url)
    yield CountingStore(redis)
    await redis.aclose()


@pytest.fixture
async def hub(redis_url: str, store: JobStore) -> AsyncIterator[EventHub]:
    reader = Redis.from_url(redis_url)
    hub = EventHub(reader, store)
    await hub.start()
    yield hub
    await hub.aclose()
    await reader.aclose()


async def begin(store: JobStore, job_id: str) -> int:
    await store.create(make_spec(id=job_id, branches=(BranchPlan("fast", "glm"),)))
    return await store.claim(job_id, "fast") or 0


async def end(store: JobStore, job_id: str, epoch: int) -> None:
    await store.finish(job_id, "fast", epoch, UnitResult(text="words"))
    merge = await store.claim(job_id, "merge") or 0
    await store.complete(job_id, merge, final=FinalAnswer("words", "m", "glm", "single"))


async def test_the_end_of_a_job_is_told_and_nothing_on_the_way_is_read(
    hub: EventHub, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given somebody who waits for the end of a job, with no second look of its own
    monkeypatch.setattr("router.jobs.events._RECHECK_S", 3600.0)
    epoch = await begin(store, "resp_1")
    waiting = asyncio.create_task(hub.ended("resp_1"))
    while not store.num_reads:  # noqa: ASYNC110 - a count sets no event
        await asyncio.sleep(0)
    # When it says a hundred words and ends
    for number in range(100):
        await store.append("resp_1", "fast", epoch, f"{number} ")
    await end(store, "resp_1", epoch)
    # Then the record is read at the end, and before it once
    async with asyncio.timeout(GUARD_S):
        job = await waiting
    assert job is not None
    assert job.state == "completed"
    assert (store.num_reads, store.num_event_reads) == (2, 0)
    assert not hub._end_waiters


async def test_a_job_that_has_ended_or_is_not_there_is_told_at_once(hub: EventHub, store: CountingStore) -> None:
    epoch = await begin(store, "resp_2")
    await end(store, "resp_2", epoch)
    async with asyncio.timeout(GUARD_S):
        job = await hub.ended("resp_2")
        assert job is not None
        assert job.is_terminal
        assert await hub.ended("resp_none") is None


async def test_a_cancelled_job_has_ended_and_a_lost_message_is_made_up_for(
    hub: EventHub, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for recheck_s, reader_runs in ((3600.0, True), (0.01, False)):
        monkeypatch.setattr("router.jobs.events._RECHECK_S", recheck_s)
        job_id = f"resp_{reader_runs}"
        await begin(store, job_id)
        if not reader_runs:
            await hub.aclose()
        waiting = asyncio.create_task(hub.ended(job_id))
        await store.cancel(job_id)
        async with asyncio.timeout(GUARD_S):
            job = await waiting
        assert job is not None
        assert job.state == "cancelled"
