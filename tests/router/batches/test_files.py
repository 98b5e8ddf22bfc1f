"""Files on their way in: counted as they come, dropped when they break off; against a real redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from router.batches.files import FileStore, Upload
from router.errors import BadRequestError
from router.lua.constants import CHUNK_BYTES
from router.redis import PREFIX
from tests.support.clock import Clock

PIECE = bytes(CHUNK_BYTES)


@pytest.fixture
def files(redis: Redis, clock: Clock) -> FileStore:
    """Room for four chunks an owner."""
    return FileStore(redis, max_file_bytes=100 * CHUNK_BYTES, max_total_bytes=4 * CHUNK_BYTES, ttl_s=3600, clock=clock)


async def begun(files: FileStore, owner: str, num_chunks: int) -> Upload:
    upload = files.begin(owner)
    for _ in range(num_chunks):
        await upload.write(PIECE)
    return upload


async def num_stored(files: FileStore) -> int:
    return len([key async for key in files.redis.scan_iter(f"{PREFIX}file_data:*")])


async def test_uploads_under_way_count_against_their_owner(files: FileStore) -> None:
    # Given a file of one chunk and an upload of two that has not ended
    await (await begun(files, "me", 1)).commit("a", purpose="batch")
    endless = await begun(files, "me", 2)
    # When another comes, then one more chunk fits, and no second one
    other = await begun(files, "me", 1)
    with pytest.raises(BadRequestError) as refusal:
        await other.write(PIECE)
    assert refusal.value.code == "storage_full"
    # Then what was refused leaves nothing, and somebody else is not concerned
    await other.abort()
    assert await num_stored(files) == 3
    assert await begun(files, "you", 4)
    # When the endless one is given up, its room is free
    await endless.abort()
    await (await begun(files, "me", 3)).commit("b", purpose="batch")


async def test_an_upload_that_broke_off_is_dropped_when_its_owner_needs_the_room(
    files: FileStore, clock: Clock
) -> None:
    # Given uploads of a process that was killed, and one that is slow
    await begun(files, "me", 2)
    slow = await begun(files, "me", 1)
    clock.now += 100
    await slow.write(PIECE)
    clock.now += 100
    # When its owner uploads again, then only the dead one made room, to the byte
    fresh = await begun(files, "me", 2)
    assert await num_stored(files) == 4
    with pytest.raises(BadRequestError):
        await slow.write(PIECE)
    assert (await fresh.commit("b", purpose="batch")).num_bytes == 2 * CHUNK_BYTES


async def test_chunks_of_an_upload_live_as_long_as_it_goes_on(files: FileStore) -> None:
    upload = await begun(files, "me", 2)
    # Given a first chunk that is about to be forgotten
    first = f"{PREFIX}file_data:{upload.id}:0"
    await files.redis.expire(first, 5)
    # When the upload goes on, then it stays; and all of it is forgotten some minutes after it has broken off
    await upload.write(PIECE)
    for number in range(3):
        assert 100 < await files.redis.ttl(f"{PREFIX}file_data:{upload.id}:{number}") <= 300
    assert 100 < await files.redis.ttl(f"{PREFIX}uploads:me") <= 300
    # When it becomes a file, then it has a file's lifetime and counts once
    file = await upload.commit("a", purpose="batch")
    assert await files.redis.ttl(first) > 3000
    assert await files.redis.hlen(f"{PREFIX}uploads:me") == 0
    assert await files.read(file.id, 0, file.num_bytes) == PIECE * 3
    await begun(files, "me", 1)
