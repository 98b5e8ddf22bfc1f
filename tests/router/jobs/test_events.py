"""Following a job, whatever happens between two reads of its record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from router.errors import NotFoundError, QueueUnavailableError
from router.jobs import events as events_module
from router.jobs.events import EventHub
from router.jobs.job import BranchPlan, Event, Job, JobSpec
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.support.jobs import make_spec


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


async def test_a_crowd_that_waits_is_one_reader_and_costs_redis_nothing(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_RECHECK_S", 3600.0)  # on a busy machine its time comes within the test
    # Given fifty who follow a job, and a hub that has settled
    store = JobStore(redis)
    spec, epoch = await begin(store)
    hub = EventHub(Redis.from_url(redis_url), store)
    await hub.start()
    crowd = [asyncio.create_task(follow(hub, spec.id)) for _ in range(50)]

    start = _counts(await redis.info("commandstats"))["xrange"]

    async def settled(num_reads: int) -> dict[str, int]:
        before: dict[str, int] = {}
        while before != (now := _counts(await redis.info("commandstats"))) or now["xrange"] < start + num_reads:
            before = now
            await asyncio.sleep(0.05)
        return before

    before = await settled(50)

    # When something happens
    await store.append(spec.id, "deep", epoch, "owl")
    after = await settled(100)

    # Then one read of the activity woke them all, and each has read its events, once, and the record not at all
    assert after["xread"] - before["xread"] <= 2
    assert after["xrange"] - before["xrange"] <= 50
    assert after["hgetall"] == before["hgetall"]
    await end(store, spec, epoch)
    assert {told[-1] for told in await asyncio.gather(*crowd)} == {("end", "")}
    await hub.aclose()
    await hub._redis.aclose()


def _counts(stats: dict[str, Any]) -> dict[str, int]:
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xread", "xrange", "hgetall")}


async def test_the_one_reader_outlives_a_connection_that_breaks_in_any_way(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_RETRY_S", 0.0)
    breaks: list[Exception] = [
        RuntimeError("the handler is closed"),
        ConnectionResetError(),
        redis_errors.TimeoutError(),
    ]
    client = Redis.from_url(redis_url)
    xread = client.xread

    async def broken(*args: Any, **kwargs: Any) -> Any:
        if breaks:
            raise breaks.pop()
        return await xread(*args, **kwargs)

    monkeypatch.setattr(client, "xread", broken)
    store = JobStore(redis)
    hub = EventHub(client, store)
    await hub.start()
    spec, epoch = await begin(store)
    reading = asyncio.create_task(follow(hub, spec.id))

    async with asyncio.timeout(300):
        while breaks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        monkeypatch.setattr(events_module, "_RECHECK_S", 3600.0)  # whoever waits now must be woken
        await end(store, spec, epoch)
        assert (await reading)[-1] == ("end", "")
    await hub.aclose()
    await client.aclose()


async def test_a_job_that_is_deleted_meanwhile_is_not_waited_for(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_RECHECK_S", 0.001)
    store = JobStore(redis)
    spec, _ = await begin(store)
    events = EventHub(redis, store).follow(spec.id)
    seen = [(await anext(events)).kind for _ in range(3)]

    await store.delete(spec.id)

    assert seen == ["queued", "started", "delta"]
    with pytest.raises(NotFoundError) as gone:
        await anext(events)
    assert gone.value.text.zh == f"没有 id 为 '{spec.id}' 的响应。"


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
