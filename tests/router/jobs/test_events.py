"""Following a job, whatever happens between two reads of its record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from router.errors import NotFoundError, QueueUnavailableError
from router.jobs import events as events_module
from router.jobs.events import EventHub
from router.jobs.job import BranchPlan, Event, FinalAnswer, Job, JobSpec, UnitResult
from router.jobs.store import PREFIX, JobStore
from tests.router.jobs.test_store import make_spec


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(redis_url)
    yield redis
    await redis.aclose()


async def begin(store: JobStore) -> tuple[JobSpec, int]:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),), strategy="single")
    await store.create(spec)
    epoch = await store.claim(spec.id, "deep")
    assert epoch
    await store.append(spec.id, "deep", epoch, "an ")
    return spec, epoch


async def end(store: JobStore, spec: JobSpec, epoch: int) -> None:
    await store.append(spec.id, "deep", epoch, "owl")
    await store.finish(spec.id, "deep", epoch, UnitResult(text="an owl"))
    merge = await store.claim(spec.id, "merge")
    assert merge
    await store.complete(spec.id, merge, final=FinalAnswer("an owl", "m", "owl2", "single"))


async def follow(hub: EventHub, job_id: str) -> list[tuple[str, str]]:
    return [(event.kind, event.text) async for event in hub.follow(job_id) if event.kind in ("delta", "end")]


class EndsInBetween(JobStore):
    """The job ends after its events were read and before its record is."""

    running: tuple[JobSpec, int] | None = None

    async def get(self, job_id: str) -> Job | None:
        if self.running:
            (spec, epoch), self.running = self.running, None
            await end(self, spec, epoch)
        return await super().get(job_id)


async def test_a_job_that_ends_between_two_reads_is_told_once(redis: Redis) -> None:
    store = EndsInBetween(redis)
    store.running = await begin(store)

    told = await follow(EventHub(redis, store), store.running[0].id)

    assert told == [("delta", "an "), ("delta", "owl"), ("end", "")]


async def test_a_finished_job_whose_events_are_gone_is_told_from_its_record(redis: Redis) -> None:
    store = JobStore(redis)
    spec, epoch = await begin(store)
    await end(store, spec, epoch)
    await redis.delete(f"{PREFIX}events:{spec.id}")

    assert await follow(EventHub(redis, store), spec.id) == [("delta", "an owl"), ("end", "")]


async def test_a_job_that_is_deleted_meanwhile_is_not_waited_for(redis: Redis) -> None:
    store = JobStore(redis)
    spec, _ = await begin(store)
    events = EventHub(redis, store).follow(spec.id)
    seen = [(await anext(events)).kind for _ in range(3)]

    await store.delete(spec.id)

    assert seen == ["queued", "started", "delta"]
    with pytest.raises(NotFoundError):
        await anext(events)


async def test_what_happened_while_redis_was_away_reaches_who_waits_as_soon_as_it_is_back(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a follower that has read everything, and will not look again by itself
    monkeypatch.setattr(events_module, "_RECHECK_S", 3600.0)
    monkeypatch.setattr(events_module, "_RETRY_S", 0.001)
    store = JobStore(redis)
    spec, epoch = await begin(store)
    reader = Redis.from_url(redis_url)
    hub = EventHub(reader, store)
    events = hub.follow(spec.id)
    for _ in range(3):
        await anext(events)
    waiting = asyncio.ensure_future(_next(events))
    xread, calls = reader.xread, []

    async def breaks_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            await store.append(spec.id, "deep", epoch, "owl")
            raise ConnectionError("redis is away")
        return await xread(*args, **kwargs)

    monkeypatch.setattr(reader, "xread", breaks_once)

    # When its connection breaks just as something happens
    await hub.start()

    assert (await waiting).text == "owl"
    await hub.aclose()
    await events.aclose()
    await reader.aclose()


async def _next(events: AsyncGenerator[Event, None]) -> Event:
    return await anext(events)


async def test_a_record_is_waited_for_while_redis_is_away(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_RETRY_S", 0.001)
    store = JobStore(redis)
    spec, _ = await begin(store)
    get, calls = store.get, []

    async def away_twice(job_id: str) -> Job | None:
        calls.append(1)
        if len(calls) <= 2:
            raise QueueUnavailableError("redis is away")
        return await get(job_id)

    monkeypatch.setattr(store, "get", away_twice)

    job = await EventHub(redis, store).load(spec.id)

    assert job is not None
    assert job.id == spec.id
