"""Stored files: bytes in chunks in redis, with a lifetime.

In: uploads, piece by piece. Out: `StoredFile` and the bytes again, piece by piece or a range of them. Nothing here ever
holds a whole file.

Keys: ``file:ID`` hash, ``file_data:ID:N`` chunk N, ``files:OWNER`` sorted set of ids, ``uploads:OWNER`` hash of what is
on its way in, ``BYTES|UNTIL`` by id.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, cast

from redis.asyncio import Redis

from router.batches import texts
from router.batches.records import MAX_FILES, StoredFile, new_id
from router.errors import BadRequestError, BodyTooLargeError
from router.lua import FileScript, Scripts, to_fields
from router.lua.constants import CHUNK_BYTES
from router.redis import PREFIX, Clock, guard
from router.room import Room

# An upload silent for this long is abandoned: it stops counting and its chunks are deleted.
_UPLOAD_TTL_S = 120


class FileGoneError(Exception):
    """The file was deleted, or its time was over, while it was read."""


class FileStore:
    """Keeps, lists and reads files.

    Args:
        redis: an asyncio client that returns bytes.
        max_file_bytes: the largest single upload.
        max_total_bytes: the most that one owner's files may have together, uploads under way included; outputs count,
            but are always kept.
        ttl_s: how long an upload is kept if its owner names no time.
        clock: unix seconds; None uses the Redis server's own clock.
        room: says whether anything new may be stored; None lets in whatever redis takes.
        reads: a client for what only reads; None for the same.
        retention_of: how long anything of an owner is kept at most; None for no such bound.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        max_file_bytes: int,
        max_total_bytes: int,
        ttl_s: int,
        clock: Clock | None = None,
        room: Room | None = None,
        reads: Redis | None = None,
        retention_of: Callable[[str], int | None] = lambda _owner: None,
    ) -> None:
        self.redis = redis
        self._reads = reads or redis
        self._room = room
        self.max_file_bytes = max_file_bytes
        self._ttl_s = ttl_s
        self._retention_of = retention_of
        self._max_total_bytes = max_total_bytes
        self._scripts = Scripts(redis, clock)

    def begin(self, owner: str) -> Upload:
        """Begin to store a file."""
        return Upload(self, owner)

    async def get(self, owner: str, file_id: str) -> StoredFile | None:
        """Describe a file of the owner's; None if there is none."""
        raw = await guard(cast("Any", self._reads.hgetall(f"{PREFIX}file:{file_id}")))
        found = _to_file(file_id, raw) if raw else None
        return found if found is not None and found.owner == owner else None

    async def list_files(
        self, owner: str, *, after: str = "", limit: int = 20, purpose: str = "", is_newest_first: bool = True
    ) -> tuple[list[StoredFile], bool]:
        """Return files after the given id, which may be gone; and whether there are more."""
        key = f"{PREFIX}files:{owner}"
        found: list[StoredFile] = []
        while len(found) <= limit:
            if is_newest_first:
                query = self._reads.zrevrangebylex(key, f"({after}" if after else "+", "-", 0, limit + 1)
            else:
                query = self._reads.zrangebylex(key, f"({after}" if after else "-", "+", 0, limit + 1)
            ids: list[bytes] = await guard(query)
            for each in await self._read_all([entry.decode() for entry in ids]):
                if not purpose or each.purpose == purpose:
                    found.append(each)
            if len(ids) <= limit:
                break
            after = ids[-1].decode()
        return found[:limit], len(found) > limit

    async def delete(self, owner: str, file_id: str) -> bool:
        """Forget a file and its bytes; False if the owner has no such file."""
        return bool(await self._scripts.run(FileScript.DELETE_FILE, id=file_id, owner=owner))

    async def read(self, file_id: str, offset: int, num_bytes: int) -> bytes:
        """Return a part of a file.

        Raises:
            FileGoneError: if that part is not there.
        """
        first, last = offset // CHUNK_BYTES, (offset + num_bytes - 1) // CHUNK_BYTES
        pipeline = self._reads.pipeline(transaction=False)
        for number in range(first, last + 1):
            begin = max(offset - number * CHUNK_BYTES, 0)
            end = min(offset + num_bytes - number * CHUNK_BYTES, CHUNK_BYTES) - 1
            pipeline.getrange(_data_key(file_id, number), begin, end)
        data = b"".join(await guard(pipeline.execute())) if num_bytes else b""
        if len(data) != num_bytes:
            raise FileGoneError(file_id)
        return data

    async def stream(self, file_id: str, num_bytes: int, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield a file's bytes from an offset on, a chunk at a time.

        Raises:
            FileGoneError: if it is deleted meanwhile.
        """
        while offset < num_bytes:
            size = min(CHUNK_BYTES - offset % CHUNK_BYTES, num_bytes - offset)
            yield await self.read(file_id, offset, size)
            offset += size

    async def add_chunk(self, upload: Upload, number: int, piece: bytes, size: int) -> None:
        """Store a piece of an upload; see `Upload.write`."""
        if self._room is not None:
            await guard(self._room.check(len(piece)))
        outcome: bytes = await self._scripts.run(
            FileScript.ADD_CHUNK,
            id=upload.id,
            owner=upload.owner,
            number=number,
            data=piece,
            num_bytes=size,
            keep_s=_UPLOAD_TTL_S,
            max_total_bytes=self._max_total_bytes,
        )
        if outcome == b"too many bytes":
            raise self._too_many_bytes()

    async def abort(self, upload: Upload) -> None:
        """Drop an upload; see `Upload.abort`."""
        await self._scripts.run(FileScript.ABORT_UPLOAD, id=upload.id, owner=upload.owner)

    def lifetime_s(self, owner: str, wanted_s: int | None = None) -> int:
        """Return how long a file of an owner is kept.

        Args:
            owner: whose.
            wanted_s: as the request says; None if it does not.
        """
        ttl_s = self._ttl_s if wanted_s is None else wanted_s
        return min(ttl_s, self._retention_of(owner) or ttl_s)

    async def commit(self, upload: Upload, filename: str, purpose: str, ttl_s: int | None) -> StoredFile:
        """Make an upload a file; see `Upload.commit`."""
        outcome: bytes | list[bytes] = await self._scripts.run(
            FileScript.COMMIT_FILE,
            id=upload.id,
            owner=upload.owner,
            filename=filename,
            purpose=purpose,
            num_bytes=upload.size,
            ttl_s=self.lifetime_s(upload.owner, ttl_s),
            max_files=MAX_FILES,
            max_total_bytes=self._max_total_bytes,
        )
        if outcome == b"too many files":
            raise BadRequestError(texts.TOO_MANY_FILES.fill(max_files=MAX_FILES), code="too_many_files", param="file")
        if not isinstance(outcome, list):
            raise self._too_many_bytes()
        return _to_file(upload.id, to_fields(outcome))

    def _too_many_bytes(self) -> BadRequestError:
        return BadRequestError(
            texts.FILES_TOO_LARGE.fill(max_total_bytes=self._max_total_bytes), code="storage_full", param="file"
        )

    async def _read_all(self, ids: Sequence[str]) -> list[StoredFile]:
        pipeline = self._reads.pipeline(transaction=False)
        for each in ids:
            pipeline.hgetall(f"{PREFIX}file:{each}")
        found: list[dict[bytes, bytes]] = await guard(pipeline.execute()) if ids else []
        return [_to_file(each, raw) for each, raw in zip(ids, found, strict=True) if raw]


class Upload:
    """A file on its way in: written piece by piece, there for its owner only once it is committed.

    Attributes:
        id: that it will have.
        owner: whose it will be.
        size: bytes so far.
    """

    def __init__(self, files: FileStore, owner: str) -> None:
        self._files = files
        self.owner = owner
        self.id = new_id("file-")
        self.size = 0
        self._num_chunks = 0
        self._num_stored = 0
        self._pending = bytearray()

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            BodyTooLargeError: if the file is over the limit.
            BadRequestError: if its owner's files and uploads are, together.
            StorageFullError: if redis has no room for it.
        """
        limit = self._files.max_file_bytes
        self.size += len(data)
        if self.size > limit:
            raise BodyTooLargeError(texts.FILE_TOO_LARGE.fill(limit=limit), param="file")
        self._pending += data
        while len(self._pending) >= CHUNK_BYTES:
            await self._flush()

    async def commit(self, filename: str, *, purpose: str, ttl_s: int | None = None) -> StoredFile:
        """Make it a file of the owner's.

        Raises:
            BadRequestError: if the owner has too many files, or too large ones.
        """
        if self._pending:
            await self._flush()
        return await self._files.commit(self, filename, purpose, ttl_s)

    async def read(self) -> bytes:
        """Return what was written so far; for what has to be looked at before it becomes a file."""
        stored = await self._files.read(self.id, 0, self._num_stored)
        return stored + bytes(self._pending)

    async def abort(self) -> None:
        """Drop what was written."""
        if self._num_chunks:
            await self._files.abort(self)

    async def take_back(self) -> None:
        """Drop what was written, and the file if it became one without our knowing."""
        await self._files.delete(self.owner, self.id)
        await self._files.abort(self)

    async def _flush(self) -> None:
        piece = bytes(self._pending[:CHUNK_BYTES])
        del self._pending[:CHUNK_BYTES]
        number, self._num_chunks = self._num_chunks, self._num_chunks + 1
        self._num_stored += len(piece)
        await self._files.add_chunk(self, number, piece, self._num_stored)


def _data_key(file_id: str, number: int) -> str:
    return f"{PREFIX}file_data:{file_id}:{number}"


def _to_file(file_id: str, raw: Mapping[bytes, bytes]) -> StoredFile:
    text = {key.decode(): value.decode() for key, value in raw.items()}
    return StoredFile(
        id=file_id,
        owner=text["owner"],
        filename=text["filename"],
        purpose=text["purpose"],
        num_bytes=int(text["bytes"]),
        created_at=float(text["created_at"]),
        expires_at=float(text["expires_at"]),
    )
