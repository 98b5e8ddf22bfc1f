"""A backup on a real redis: what it holds, that it holds one moment of it, and that what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from router.backup.archive import ArchiveError, check_archive
from router.backup.restore import count_kinds, restore
from router.backup.snapshot import is_kept, snapshot
from router.backup.values import key_of
from router.errors import StorageFullError
from tests.support.archives import new_archive
from tests.support.redis_rights import documented_rights

BINARY = bytes(range(256))


async def write(redis: Redis, path: Path) -> dict[bytes, dict[str, Any]]:
    """Make a backup; returns what counts of each key."""
    last: dict[bytes, dict[str, Any]] = {}
    with new_archive(path) as writer:
        async with contextlib.aclosing(snapshot(redis)) as lines:
            async for line in lines:
                writer.add(line)
                last[key_of(line)] = line
    return {key: line for key, line in last.items() if line["type"] != "none"}


async def everything(redis: Redis) -> dict[bytes, Any]:
    """Everything that redis holds for Glowl, as it sees it itself."""
    found: dict[bytes, Any] = {}
    for key in await redis.keys("glowl*"):
        kind = (await redis.type(key)).decode()
        if kind == "stream":
            info = await redis.xinfo_stream(key)
            found[key] = (await redis.xrange(key), info["last-generated-id"])
        else:
            reads: dict[str, Callable[[], Any]] = {
                "string": lambda key=key: redis.get(key),
                "hash": lambda key=key: redis.hgetall(key),
                "list": lambda key=key: redis.lrange(key, 0, -1),
                "set": lambda key=key: redis.smembers(key),
                "zset": lambda key=key: redis.zrange(key, 0, -1, withscores=True),
            }
            found[key] = await reads[kind]()
    return found


async def fill(redis: Redis) -> None:
    """One key of each kind, with what is hard to write."""
    await redis.set("glowl:blob:1", BINARY)
    await redis.set("glowl:webhook_secret:o", "whsec_x", px=3_600_000)
    await redis.hset(
        "glowl:job:job_1", mapping={"state": "queued", b"\xff": BINARY, "empty": "", "zh": "猫头鹰 \u2028"}
    )
    await redis.rpush("glowl:batch_lines:b", "b", "a", BINARY)
    await redis.sadd("glowl:followers:f", "x", BINARY)
    await redis.zadd("glowl:leases", {"job_1": 1.5, "job_2": float("inf"), "job_3": 1764408000.123456})
    await redis.xadd("glowl:events:job_1", {"type": "text", "data": BINARY}, id="5-1")
    await redis.xadd("glowl:events:job_1", {"type": "end"}, id="5-2")
    await redis.xadd("glowl:activity", {"a": "b"}, id="9-9")
    await redis.xtrim("glowl:activity", maxlen=0, approximate=False)
    await redis.set("glowl:cache:answer:1", "not kept")
    await redis.set("other:key", "of somebody else")


async def test_everything_comes_back_as_it_was(redis: Redis, tmp_path: Path) -> None:
    await fill(redis)
    before = {key: value for key, value in (await everything(redis)).items() if is_kept(key)}
    await write(redis, tmp_path / "b.gz")
    await redis.flushdb()
    await redis.set("other:key", "of somebody else")

    header, num_keys = check_archive(tmp_path / "b.gz")
    found = await restore(redis, tmp_path / "b.gz", is_replacing=False)

    assert (header["format"], num_keys, found) == ("glowl-backup", 8, {"job": 1})
    assert await everything(redis) == before
    assert 3_500_000 < await redis.pttl("glowl:webhook_secret:o") <= 3_600_000
    assert await redis.get("other:key") == b"of somebody else"
    assert (tmp_path / "b.gz").stat().st_mode & 0o777 == 0o600


async def test_a_backup_holds_one_moment_of_what_changes(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    # Given pairs of keys that only ever change together, some of which come and go
    for number in range(400):
        await redis.mset({f"glowl:job:a{number}": 0, f"glowl:jobs:b{number}": 0})
    is_done, num_changes = asyncio.Event(), 0

    async def change() -> None:
        nonlocal num_changes
        async with Redis.from_url(redis_url) as mine:
            while not is_done.is_set():
                number = num_changes % 397
                pipeline = mine.pipeline(transaction=True)
                if num_changes % 5 == 4:
                    pipeline.delete(f"glowl:job:a{number}", f"glowl:jobs:b{number}")
                else:
                    pipeline.incr(f"glowl:job:a{number}")
                    pipeline.incr(f"glowl:jobs:b{number}")
                await pipeline.execute()
                num_changes += 1

    changing = asyncio.create_task(change())
    # When backups are made meanwhile
    for attempt in range(3):
        begun_at = num_changes
        found = await write(redis, tmp_path / f"{attempt}.gz")
        assert num_changes > begun_at
        # Then in each both of a pair are of the same moment
        values = {key.decode().rpartition(":")[2]: line["value"] for key, line in found.items()}
        pairs = {name[1:] for name in values}
        assert len(pairs) > 300
        assert {name: (values.get(f"a{name}"), values.get(f"b{name}")) for name in pairs} == {
            name: (values[f"a{name}"], values[f"a{name}"]) for name in pairs
        }
    is_done.set()
    await changing


async def test_writes_go_on_after_a_backup(redis: Redis, tmp_path: Path) -> None:
    await fill(redis)
    await write(redis, tmp_path / "b.gz")
    await redis.set("glowl:job:x", "1")
    assert await redis.client_list(_type="pubsub") == []


async def test_a_redis_that_is_emptied_meanwhile_gives_no_backup(redis: Redis) -> None:
    async def read_and_empty() -> None:
        async with contextlib.aclosing(snapshot(redis)) as lines:
            async for _ in lines:
                await redis.flushdb()

    await fill(redis)
    with pytest.raises(ArchiveError, match="emptied"):
        await read_and_empty()


async def test_a_user_without_the_right_is_told(redis: Redis, redis_url: str) -> None:
    await fill(redis)
    await redis.acl_setuser("weak", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"])
    await redis.execute_command("ACL", "SETUSER", "weak", "-client|pause")
    try:
        async with Redis.from_url(redis_url, username="weak", password="x") as weak:
            with pytest.raises(ArchiveError, match="lacks a right that a backup needs"):
                [line async for line in snapshot(weak)]
    finally:
        await redis.acl_deluser("weak")


async def test_the_user_of_the_docs_makes_a_backup_and_restores_it(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    await fill(redis)
    before = await everything(redis)
    await redis.execute_command("ACL", "SETUSER", "own", "reset", "on", "nopass", *documented_rights())
    try:
        async with Redis.from_url(redis_url, username="own", password="x") as own:
            await write(own, tmp_path / "b.gz")
            await restore(own, tmp_path / "b.gz", is_replacing=True)
    finally:
        await redis.acl_deluser("own")
    del before[b"glowl:cache:answer:1"]
    assert await everything(redis) == before


async def test_a_redis_with_something_in_it_is_replaced_only_when_told(redis: Redis, tmp_path: Path) -> None:
    await fill(redis)
    await write(redis, tmp_path / "b.gz")
    await redis.hset("glowl:job:job_2", "state", "queued")
    await redis.hset("glowl:auth:owners", "own_1", "{}")
    before = await everything(redis)

    with pytest.raises(ArchiveError, match="already has 2 jobs, owners or keys; nothing was changed"):
        await restore(redis, tmp_path / "b.gz", is_replacing=False)
    assert await everything(redis) == before

    assert await restore(redis, tmp_path / "b.gz", is_replacing=True) == {"job": 1}
    assert count_kinds(await everything(redis)) == {"job": 1}
    assert not await redis.exists("glowl:cache:answer:1")  # of what was stored since


async def test_a_redis_in_use_is_left_alone(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    await write(redis, tmp_path / "b.gz")
    async with Redis.from_url(redis_url) as api, api.pubsub() as channel:
        await channel.subscribe("glowl:auth")
        await channel.get_message(timeout=5)
        with pytest.raises(ArchiveError, match="1 processes of Glowl use this redis"):
            await restore(redis, tmp_path / "b.gz", is_replacing=True)


async def test_what_fails_halfway_changes_nothing(redis: Redis, tmp_path: Path) -> None:
    # Given a file whose sum is right and whose last line is none that can be written
    with new_archive(tmp_path / "b.gz") as writer:
        writer.add({"key": "glowl:job:1", "type": "string", "expires_at_ms": None, "value": "new"})
        writer.add({"key": "glowl:job:2", "type": "tree", "expires_at_ms": None, "value": "new"})
    await redis.set("glowl:job:1", "old")

    with pytest.raises(ArchiveError, match="damaged"):
        await restore(redis, tmp_path / "b.gz", is_replacing=True)

    assert await redis.keys("*") == [b"glowl:job:1"]
    assert await redis.get("glowl:job:1") == b"old"


async def test_what_expired_since_does_not_come_back(redis: Redis, tmp_path: Path) -> None:
    with new_archive(tmp_path / "b.gz") as writer:
        writer.add({"key": "glowl:blob:1", "type": "string", "expires_at_ms": 1, "value": "old"})
        writer.add({"key": "glowl:blob:2", "type": "string", "expires_at_ms": None, "value": "kept"})
        writer.add({"key": "glowl:blob:3", "type": "string", "expires_at_ms": None, "value": "gone later"})
        writer.add({"key": "glowl:blob:3", "type": "none"})
    await restore(redis, tmp_path / "b.gz", is_replacing=False)
    assert await redis.keys("*") == [b"glowl:blob:2"]


async def test_a_full_redis_says_so_and_keeps_what_it_has(redis: Redis, tmp_path: Path) -> None:
    with new_archive(tmp_path / "b.gz") as writer:
        for number in range(20):
            writer.add(
                {"key": f"glowl:blob:{number}", "type": "string", "expires_at_ms": None, "value": "x" * 1_000_000}
            )
    used = (await redis.info("memory"))["used_memory"]
    limit = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", used + 4_000_000)
    try:
        with pytest.raises(StorageFullError):
            await restore(redis, tmp_path / "b.gz", is_replacing=False)
    finally:
        with contextlib.suppress(ResponseError):
            await redis.config_set("maxmemory", limit)
    assert await redis.keys("*") == []
