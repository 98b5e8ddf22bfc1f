"""``/readyz``: what is missing is named, soon, whatever hangs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from router.redis import state_of
from tests.support.servers import RedisProcess, paused, wait_until

GUARD_S = 5.0  # half of what a command waits for redis


@contextlib.contextmanager
def no_room(client: redis.Redis) -> Iterator[None]:
    client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        client.config_set("maxmemory", "0")


def look(http: httpx.Client) -> tuple[int, Any]:
    answer = http.get("/readyz", timeout=GUARD_S)
    return answer.status_code, answer.json()


def test_a_redis_that_hangs_is_away_and_is_not_waited_for(http: httpx.Client, redis_process: RedisProcess) -> None:
    with paused(redis_process.child.pid):
        status, body = look(http)

    assert (status, body["status"], body["redis"], body["redis_state"]) == (200, "ready", False, "away")
    # On a busy machine the api has seen it silent twice by now, and asks it again before it believes in it.
    wait_until(lambda: look(http)[1]["redis_state"] == "up", "redis to be heard again")


def test_a_full_redis_is_told_from_one_that_is_away(http: httpx.Client, redis_client: redis.Redis) -> None:
    before = set(redis_client.keys())
    with no_room(redis_client):
        status, body = look(http)
    assert (status, body["redis"], body["redis_state"]) == (200, False, "full")
    # Asking writes nothing.
    assert look(http)[1] == {**body, "redis": True, "redis_state": "up"}
    assert set(redis_client.keys()) <= before | {b"glowl:activity"}


def test_a_redis_that_lacks_replicas_is_named_and_no_bug(
    http: httpx.Client, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    job = {"model": "glowl", "input": "What is this?", "background": True}
    redis_client.config_set("min-replicas-to-write", 1)
    try:
        status, body = look(http)
        refused = http.post("/v1/responses", json=job)
        refused_zh = http.post("/v1/responses", json=job, headers={"Accept-Language": "zh"})
    finally:
        redis_client.config_set("min-replicas-to-write", 0)

    assert (status, body["redis"], body["redis_state"]) == (200, False, "too few replicas")
    for answer in (refused, refused_zh):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert "min-replicas-to-write" in answer.json()["error"]["message"]
    assert "副本" in refused_zh.json()["error"]["message"]
    # An alert on errors would ring for each refused job.
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert look(http)[1]["redis_state"] == "up"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "full"),
        (redis.ResponseError("-OOM command not allowed when used memory > 'maxmemory'."), "full"),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's unable to"), "full"),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis.ReadOnlyError("You can't write against a read only replica."), "read only"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "too few replicas"),
        (redis.ResponseError("Command # 1 (SET a 1) of pipeline caused error: NOREPLICAS Not"), "too few replicas"),
        (redis.ConnectionError("refused"), "away"),
        (redis.TimeoutError("Timeout reading from socket"), "away"),
    ],
)
def test_each_way_of_not_taking_a_job_has_a_name(error: redis.RedisError, state: str) -> None:
    assert state_of(error) == state
