"""Workers hear at once of jobs that were ended from outside while they ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from router.jobs.cancels import CancelWatch
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.support.clock import Clock
from tests.support.jobs import make_spec


@pytest.fixture
async def watch(redis_url: str) -> AsyncIterator[CancelWatch]:
    client = Redis.from_url(redis_url)
    watch = CancelWatch(client)
    yield watch
    await watch.aclose()
    await client.aclose()


async def subscribed(redis: Redis, news: asyncio.Event) -> None:
    """Wait until the watch listens; what it tells everybody then is no news of any job."""
    async with asyncio.timeout(300):
        await news.wait()
        while (await redis.pubsub_numsub(f"{PREFIX}ended"))[0][1] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    news.clear()


async def test_a_cancelled_job_is_news_for_its_run_and_no_other(redis: Redis, watch: CancelWatch) -> None:
    store = JobStore(redis)
    specs = [make_spec() for _ in range(3)]
    for spec in specs:
        await store.create(spec)
    running, other, waiting = specs
    for spec in (running, other):
        assert await store.claim(spec.id, "deep")

    with watch.watch(running.id) as news, watch.watch(other.id) as others, watch.watch(waiting.id) as unheard:
        await subscribed(redis, news)
        others.clear()
        unheard.clear()
        await store.cancel(waiting.id)  # nobody runs it, so nobody needs to hear
        await store.cancel(running.id)
        async with asyncio.timeout(300):
            await news.wait()

        assert not others.is_set()
        assert not unheard.is_set()


async def test_a_draft_that_is_no_longer_waited_for_is_news_for_its_run(
    redis: Redis, watch: CancelWatch, clock: Clock
) -> None:
    store, spec = JobStore(redis, clock=clock), make_spec()
    await store.create(spec)
    assert await store.claim(spec.id, "draft")
    epoch = await store.claim(spec.id, "deep")
    assert epoch
    await store.finish(spec.id, "deep", epoch, UnitResult(text="t"))

    with watch.watch(spec.id) as news:
        await subscribed(redis, news)
        clock.now += 3
        await store.reap()
        async with asyncio.timeout(300):
            await news.wait()
