"""What tests of several parts of the router begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the test's own redis, closed afterwards."""
    redis = Redis.from_url(redis_url)
    yield redis
    await redis.aclose()
