"""The parts as they are put together for real."""

from __future__ import annotations

import asyncio

import pytest

from router.bootstrap import make_redis, make_store
from router.settings import Settings

pytestmark = pytest.mark.e2e


async def test_a_crowd_that_asks_redis_at_once_waits_its_turn_and_is_not_refused(redis_url: str) -> None:
    settings = Settings(REDIS_URL=redis_url)
    redis = make_redis(settings)
    store = make_store(settings, redis)

    found = await asyncio.gather(*(store.get(f"resp_{number}") for number in range(400)))

    assert found == [None] * 400
    await redis.aclose()
