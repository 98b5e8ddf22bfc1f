"""Fixtures shared by all tests: a redis of our own, one per run, emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.servers import RedisProcess


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess()
    yield process
    process.stop()


@pytest.fixture
def redis_url(redis_process: RedisProcess) -> str:
    """A database of its own: on the first one, servers that other tests keep running heal what they find."""
    url = redis_process.url.replace("db=0", "db=1")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
