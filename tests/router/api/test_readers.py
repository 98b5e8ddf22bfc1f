"""Many readers of one stream: it is folded and encoded once, and their number has a limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from redis.asyncio import Redis

from router.api import readers as readers_module
from router.api.readers import Frame, Readers, Told
from router.errors import NotFoundError, TooManyInFlightError
from router.jobs.events import EventHub
from router.jobs.job import Job
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from tests.support.jobs import make_spec
from tests.support.servers import AppServer


@pytest.fixture
async def hub(redis_url: str) -> AsyncIterator[tuple[EventHub, JobStore]]:
    async with Redis.from_url(redis_url) as redis, Redis.from_url(redis_url) as blocking:
        store = JobStore(redis)
        hub = EventHub(blocking, store)
        await hub.start()
        yield hub, store
        await hub.aclose()


async def read_all(readers: Readers, job: Job, started: asyncio.Event) -> list[Frame]:
    frames: list[Frame] = []
    async with contextlib.aclosing(readers.read(job, lambda _: None)) as source:
        async for batch in source:
            frames += batch or []
            started.set()
    return frames


async def test_a_stream_is_encoded_once_for_all_its_readers(
    hub: tuple[EventHub, JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job and fifty readers of its stream, who come one after the other
    follows, (events, store) = [], hub
    readers = Readers(events)
    follow = events.follow
    monkeypatch.setattr(events, "follow", lambda job_id, leader: follows.append(job_id) or follow(job_id, leader))
    job = await store.create(make_spec())
    epoch = await store.claim(job.id, "deep") or 0
    started = [asyncio.Event() for _ in range(50)]
    tasks = [asyncio.create_task(read_all(readers, job, started[0]))]
    await started[0].wait()

    # When it goes on while they come
    for number, event in enumerate(started[1:]):
        tasks.append(asyncio.create_task(read_all(readers, job, event)))
        await event.wait()
        await store.append(job.id, "deep", epoch, f"word{number} ")
    text = "".join(f"word{number} " for number in range(49))
    await store.finish(job.id, "deep", epoch, UnitResult(text=text, model="m"))
    await store.cancel(job.id)
    told = await asyncio.gather(*tasks)

    # Then all have the same bytes, made once
    assert follows == [job.id]
    assert {tuple(map(id, frames)) for frames in told} == {tuple(map(id, told[0]))}
    assert [frame.number for frame in told[0]] == list(range(len(told[0])))
    assert told[0][-1].event["response"]["status"] == "cancelled"
    # And nothing is kept
    assert readers._streams == {}
    assert readers._by_owner.total() == 0


async def test_many_readers_get_more_at_a_time(hub: tuple[EventHub, JobStore], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given more readers than a few, for whom a pause is longer than the whole stream takes
    monkeypatch.setattr(readers_module, "_FEW", 1)
    monkeypatch.setattr(readers_module, "_PAUSE_S", 3600.0)
    events, store = hub
    readers = Readers(events)
    job = await store.create(make_spec())
    epoch = await store.claim(job.id, "deep") or 0
    sources = [readers.read(job, lambda _: None) for _ in range(2)]
    batches = [[await anext(source) or []] for source in sources]

    async def rest(source: Any, into: list[list[Frame]]) -> None:
        async for batch in source:
            into.append(batch)

    tasks = [asyncio.create_task(rest(*each)) for each in zip(sources, batches, strict=True)]

    # When a hundred words come, and the end
    for number in range(100):
        await store.append(job.id, "deep", epoch, f"word{number} ")
    text = "".join(f"word{number} " for number in range(100))
    await store.finish(job.id, "deep", epoch, UnitResult(text=text, model="m"))
    await store.cancel(job.id)
    await asyncio.gather(*tasks)

    # Then each reader was woken a few times, and not for every word; the end waits for no pause
    for told in batches:
        numbers = [frame.number for batch in told for frame in batch]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 100
        assert len(told) < 10


async def test_a_reader_who_is_behind_gets_pieces_of_a_bounded_size(
    hub: tuple[EventHub, JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "_BATCH_BYTES", 1)
    events, store = hub
    job = await store.create(make_spec())
    await store.cancel(job.id)
    async with contextlib.aclosing(Readers(events).read(job, lambda _: None)) as source:
        batches = [batch async for batch in source]
    assert len(batches) > 1
    assert {len(batch or ()) for batch in batches} == {1}


async def test_a_quiet_stream_pings_and_loses_nothing(hub: tuple[EventHub, JobStore]) -> None:
    events, store = hub
    job = await store.create(make_spec())
    epoch = await store.claim(job.id, "deep") or 0
    readers, told = Readers(events), []
    async with contextlib.aclosing(readers.read(job, lambda _: None, 0.01)) as source:
        num_pings = 0
        async for batch in source:
            told += batch or []
            if batch is None and (num_pings := num_pings + 1) == 2:
                await store.append(job.id, "deep", epoch, "an owl")
                await store.cancel(job.id)
            # Who was woken by no news waits no more in the place where it was put
            shared = readers._streams[job.id]
            assert len(shared.waiting) == 0
    assert num_pings >= 2
    assert [frame.number for frame in told] == list(range(len(told)))
    assert told[-1].event["response"]["status"] == "cancelled"


async def test_readers_beyond_the_limit_are_refused_and_others_are_not(
    hub: tuple[EventHub, JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "MAX_OF_JOB", 3)
    monkeypatch.setattr(readers_module, "MAX_OF_OWNER", 5)
    events, store = hub
    readers = Readers(events)
    one, two, other = [await store.create(make_spec(owner=owner)) for owner in ("a", "a", "b")]
    open_ones: list[Any] = []

    async def join(job: Job) -> None:
        readers.check(job)
        source = readers.read(job, lambda _: None)
        await anext(source)
        open_ones.append(source)

    for job in (one, one, one, two, two):
        await join(job)
    for job in (one, two):  # too many of the stream, and of the key
        with pytest.raises(TooManyInFlightError) as caught:
            await join(job)
        assert (caught.value.status_code, caught.value.code) == (429, "too_many_readers")
    await join(other)

    # And who leaves makes room
    await open_ones[0].aclose()
    await join(two)
    for source in open_ones:
        await source.aclose()
    assert readers._streams == {}


async def test_what_goes_wrong_is_told_to_each_reader_and_the_next_one_begins_anew(
    hub: tuple[EventHub, JobStore],
) -> None:
    events, store = hub
    readers = Readers(events)
    job = await store.create(make_spec())
    await store.delete(job.id)

    for _ in range(2):
        with pytest.raises(NotFoundError):
            await read_all(readers, job, asyncio.Event())


async def test_who_knows_of_a_summary_or_a_second_run(hub: tuple[EventHub, JobStore]) -> None:
    events, store = hub
    spec = make_spec()
    await store.create(spec)
    for _ in range(2):
        epoch = await store.claim(spec.id, "deep") or 0
        await store.append(spec.id, "deep", epoch, "an owl")
        if epoch == 1:
            await store.release(spec.id, "deep", epoch, cast("Any", "failed"))
    job = await store.cancel(spec.id)
    known: list[Told] = []
    assert job is not None

    source = Readers(events).read(job, known.append)
    _ = [frame async for frame in source]

    assert known == [Told(is_summary=False, is_rewritten=True)]


def test_the_refusal_is_a_429_of_the_endpoint(
    api: AppServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "MAX_OF_JOB", 1)
    body = {"model": "glowl", "input": "Why?", "background": True, "hybrid": {"route": "deep"}}
    job_id = http.post("/v1/responses", json=body).json()["id"]
    with http.stream("GET", f"/v1/responses/{job_id}", params={"stream": True}) as first:
        lines = first.iter_lines()
        next(lines)

        refused = http.get(f"/v1/responses/{job_id}", params={"stream": True})

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_readers")
    assert int(refused.headers["retry-after"]) >= 1
    assert http.get(f"/v1/responses/{job_id}").status_code == 200
    http.post(f"/v1/responses/{job_id}/cancel")
