"""Fixtures shared by all tests: a redis of our own, one per run, emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import RedisProcess


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess()
    yield process
    process.stop()


@pytest.fixture
def redis_url(redis_process: RedisProcess) -> str:
    redis_process.flush()
    return redis_process.url
