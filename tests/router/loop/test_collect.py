"""Ended jobs are taken off redis' list when what is kept of them is on the disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from router.jobs.job import Job
from router.jobs.store import JobStore
from router.loop import capture as module
from router.loop.capture import Capture
from router.loop.collect import ENDED, collect
from router.loop.records import Terms
from router.loop.store import LoopStore
from tests.router.loop.test_capture import ended_job


class _Jobs:
    """The part of a job store that is read: one ended job."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def get(self, name: str) -> Job | None:
        return ended_job() if name == "resp_1" else None

    async def get_images(self, hashes: list[str]) -> dict[str, bytes]:
        return {}


class _Impatient(Capture):
    async def flush(self, timeout_s: float = 0.2) -> bool:
        return await super().flush(timeout_s)


async def test_an_ended_job_stays_on_the_list_until_the_disk_has_it(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job that has ended, one whose record is gone, and a full disk
    def fails(store: LoopStore, *_: Any) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    capture = _Impatient(tmp_path / "loop", lambda _owner: Terms("text", 100.0))
    jobs = cast("JobStore", _Jobs(redis))
    await cast("Any", redis.rpush(ENDED, "resp_gone", "resp_1"))
    with monkeypatch.context() as patch:
        patch.setattr(LoopStore, "put", fails)

        # When it is collected twice, then it stays on the list
        assert await collect(capture, jobs) == 1
        assert await collect(capture, jobs) == 0
        assert await cast("Any", redis.lrange(ENDED, 0, -1)) == [b"resp_1"]

    # When the disk has room again, then it is written, once, and off the list
    assert await Capture.flush(capture, 300)
    assert await collect(capture, jobs) == 1
    capture.close()
    assert await cast("Any", redis.llen(ENDED)) == 0
    with LoopStore(tmp_path / "loop") as store:
        assert [each.id for each in store.select()] == ["resp_1"]
