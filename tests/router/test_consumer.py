"""A worker and a redis that answers, but refuses writes: `min-replicas-to-write` without a replica."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.servers import RedisProcess, start_worker, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def lone() -> Iterator[RedisProcess]:
    """A redis that nobody else is connected to."""
    process = RedisProcess()
    yield process
    process.stop()


def test_a_worker_waits_for_a_redis_that_wants_a_replica_and_leaves_no_connections(
    lone: RedisProcess, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"

    def count(words: str) -> int:
        return log.read_text(encoding="utf-8").count(words)

    with redis.Redis.from_url(lone.url) as client:
        # Given a redis that refuses writes from the start
        client.config_set("min-replicas-to-write", 1)
        worker = start_worker({"REDIS_URL": lone.url}, log)
        try:
            # Then the worker tries again and again, and hangs up each time: each attempt had two connections
            wait_until(lambda: count("NOREPLICAS") >= 4, "four attempts")
            assert len(client.client_list()) <= 3
            assert worker.child.poll() is None

            # And when it takes writes, the worker begins
            client.config_set("min-replicas-to-write", 0)
            wait_until(lambda: count(" ready."), "the worker")
            assert count("CRITICAL") == count("Traceback") == 0
        finally:
            worker.stop()
        assert worker.child.poll() == 0
