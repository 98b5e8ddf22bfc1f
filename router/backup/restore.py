"""Put what a backup holds into a redis: all of it, or nothing.

In: a backup that was checked, and a redis that nobody uses. Out: the same keys as when it was made.

Keys are written under another prefix, where nobody looks, and take their names in one transaction.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from policies.text import Text
from router.backup import texts
from router.backup.archive import ArchiveError, read_archive
from router.backup.values import Json, key_of, write_line
from router.redis import PREFIX, guard, queue_unavailable

# What people call a redis with something in it. Statistics and turns are there as soon as Glowl has run.
KINDS: Final = {
    "job": Text("jobs", "任务"),
    "batch": Text("batches", "批次"),
    "file": Text("files", "文件"),
    "webhook_endpoint": Text("webhook endpoints", "webhook 端点"),
    "delivery": Text("webhook deliveries", "webhook 投递"),
    "auth": Text("owners or keys", "所有者或密钥"),
}
_AUTH: Final = (b"glowl:auth:owners", b"glowl:auth:keys")
_STAGED: Final = b"glowl-restoring:"
# Channels that each api and each worker listens on for as long as it runs.
_CHANNELS: Final = (f"{PREFIX}auth", f"{PREFIX}ended")
_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 8 * 1024**2


async def restore(redis: Redis, path: Path, *, is_replacing: bool) -> dict[str, int]:
    """Write everything; returns how many records there are now, by kind.

    Args:
        redis: an asyncio client that returns bytes.
        path: of a backup that `check_archive` found good.
        is_replacing: delete what is there.

    Raises:
        ArchiveError: if redis is in use, or has something in it and that is not to be replaced; or if the file holds
            what no backup does. Redis is as it was before.
        QueueUnavailableError: when redis does not answer. Redis is as it was before, unless it broke off in its last
            moment: then everything is there.
        OSError: if the file cannot be read.
    """
    await _check_unused(redis)
    stored = count_kinds([key async for key in _keys(redis, PREFIX.encode())])
    if stored and not is_replacing:
        raise ArchiveError(texts.NOT_EMPTY.fill(stored=describe(stored)))
    await _unlink(redis, _STAGED)
    try:
        staged = await _stage(redis, path)
        await _put_in_place(redis, staged)
    finally:
        await _unlink(redis, _STAGED)
    return count_kinds(staged)


def count_kinds(keys: Any) -> dict[str, int]:
    """Count the records among keys, by kind; kinds without any are left out."""
    found: Counter[str] = Counter()
    for key in keys:
        kind = key.decode(errors="replace").removeprefix(PREFIX).partition(":")[0]
        if kind in KINDS and (kind != "auth" or key in _AUTH):
            found[kind] += 1
    return dict(found)


def describe(stored: dict[str, int]) -> Text:
    """Name what there is: ``3 jobs, 1 files, owners or keys``."""
    return Text.same(", ").join(
        KINDS[kind] if kind == "auth" else Text.same(f"{number} ") + KINDS[kind]
        for kind, number in sorted(stored.items(), key=lambda item: list(KINDS).index(item[0]))
    )


async def _check_unused(redis: Redis) -> None:
    counts = await guard(redis.pubsub_numsub(*_CHANNELS))
    number = sum(count for _, count in counts)
    if number:
        raise ArchiveError(texts.IN_USE.fill(number=number))


async def _stage(redis: Redis, path: Path) -> set[bytes]:
    """Write all keys under their other names; returns their own names."""
    staged: set[bytes] = set()
    pipeline: Any = redis.pipeline(transaction=False)
    num_bytes = 0
    for line in read_archive(path):
        key = _apply(pipeline, line)
        if line["type"] == "none" or _is_over(line):
            staged.discard(key)
        else:
            staged.add(key)
        num_bytes += len(str(line.get("value", "")))
        if len(pipeline) >= _AT_ONCE or num_bytes >= _BYTES_AT_ONCE:
            await guard(pipeline.execute())
            num_bytes = 0
    await guard(pipeline.execute())
    return staged


def _apply(pipeline: Any, line: Json) -> bytes:
    try:
        key = key_of(line)
        if not key.startswith(PREFIX.encode()):
            raise ValueError(key)
        pipeline.delete(_STAGED + key)
        if line["type"] != "none" and not _is_over(line):
            write_line(pipeline, _STAGED + key, line)
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(texts.CHANGED) from error
    return key


def _is_over(line: Json) -> bool:
    return line["expires_at_ms"] is not None and line["expires_at_ms"] <= time.time() * 1000


async def _put_in_place(redis: Redis, staged: set[bytes]) -> None:
    """Give all keys their names in one step, in the place of whatever has them."""
    # What has expired since it was written has no name to take.
    alive = {key.removeprefix(_STAGED) async for key in _keys(redis, _STAGED)} & staged
    pipeline: Any = redis.pipeline(transaction=True)
    async for key in _keys(redis, PREFIX.encode()):
        pipeline.unlink(key)
    for key in alive:
        pipeline.rename(_STAGED + key, key)
    for done in await guard(pipeline.execute(raise_on_error=False)):
        if isinstance(done, Exception) and "no such key" not in str(done):  # which has expired just now
            raise queue_unavailable() from done


async def _keys(redis: Redis, prefix: bytes) -> Any:
    cursor: int | None = None
    while cursor != 0:
        cursor, found = await guard(redis.scan(cursor or 0, match=prefix + b"*", count=1000))
        for key in found:
            yield key


async def _unlink(redis: Redis, prefix: bytes) -> None:
    found = [key async for key in _keys(redis, prefix)]
    for at in range(0, len(found), 1000):
        await guard(redis.unlink(*found[at : at + 1000]))
