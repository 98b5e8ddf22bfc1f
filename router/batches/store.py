"""The batch record in Redis: what is to be done, how far it is, and who may go on with it.

In: batches that callers create, lines that a runner takes and ends. Out: frozen records. Every change is one atomic
script (`router.lua`), fenced by the epoch of the run that makes it.

Keys: ``batch:ID`` hash, ``batch_lines:ID`` hash of the lines in flight, ``batch_custom_ids:ID`` hash of the names given
to lines so far, ``batches:OWNER`` sorted set of ids, ``batches_open:OWNER`` set, ``batches_due`` sorted set of ids by
when somebody must take them up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import orjson
from redis.asyncio import Redis

from router.batches.records import MAX_OPEN, WINDOW_S, Admitted, Batch, BatchSpec, Json
from router.lua import BatchScript, Scripts, to_fields
from router.redis import PREFIX, Clock, guard
from router.schema import known_fields

Ending = Literal["cancelled", "expired"]


class LeaseLostError(Exception):
    """The batch belongs to another run now, or has ended: stop and write nothing more."""


class BatchStore:
    """Reads and changes batch records.

    Args:
        redis: an asyncio client that returns bytes.
        lease_s: how long a run may be silent before another one takes the batch up.
        ttl_s: how long the record of an ended batch can be read.
        clock: unix seconds; None uses the Redis server's own clock.
        reads: a client for what only reads; None for the same.
        retention_of: how long anything of an owner is kept at most; None for no such bound.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
        LeaseLostError: by every method that takes an epoch, if it is not the latest one.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_s: float = 5.0,
        ttl_s: int = 7 * 24 * 3600,
        clock: Clock | None = None,
        reads: Redis | None = None,
        retention_of: Callable[[str], int | None] = lambda _owner: None,
    ) -> None:
        self.redis = redis
        self._reads = reads or redis
        self.lease_s = lease_s
        self._ttl_s = ttl_s
        self._retention_of = retention_of
        self._scripts = Scripts(redis, clock)

    # For callers

    async def create(self, spec: BatchSpec) -> Batch | None:
        """Accept a batch and return its record; None if its owner has `MAX_OPEN` under way."""
        words: list[bytes] = await self._scripts.run(
            BatchScript.CREATE,
            id=spec.id,
            owner=spec.owner,
            spec=spec.to_json(),
            window_s=WINDOW_S,
            output_id=spec.output_id,
            error_id=spec.error_id,
            output_ttl_s=spec.output_ttl_s,
            ttl_s=min(self._ttl_s, self._retention_of(spec.owner) or self._ttl_s),
            webhook_url=spec.webhook_url or "",
            max_open=MAX_OPEN,
        )
        return _to_batch(to_fields(words)) if words else None

    async def get(self, batch_id: str) -> Batch | None:
        """Read a record; None if there is none."""
        raw = await guard(cast("Any", self._reads.hgetall(f"{PREFIX}batch:{batch_id}")))
        return _to_batch(raw) if raw else None

    async def list_batches(self, owner: str, *, after: str = "", limit: int = 20) -> tuple[list[Batch], bool]:
        """Return batches, newest first, after the given id, which may be gone; and whether there are more."""
        key = f"{PREFIX}batches:{owner}"
        found: list[Batch] = []
        while len(found) <= limit:
            ids: list[bytes] = await guard(
                self._reads.zrevrangebylex(key, f"({after}" if after else "+", "-", 0, limit + 1)
            )
            pipeline = self._reads.pipeline(transaction=False)
            for each in ids:
                pipeline.hgetall(f"{PREFIX}batch:{each.decode()}")
            rows = await guard(pipeline.execute()) if ids else []
            expired = [each for each, raw in zip(ids, rows, strict=True) if not raw]
            if expired:
                await guard(self.redis.zrem(key, *expired))
            found += [_to_batch(raw) for raw in rows if raw]
            if len(ids) <= limit:
                break
            after = ids[-1].decode()
        return found[:limit], len(found) > limit

    async def cancel(self, owner: str, batch_id: str) -> Batch | None:
        """Take no more lines and end those under way; one that has ended stays as it is. None if there is none."""
        code = await self._scripts.run(BatchScript.CANCEL, id=batch_id, owner=owner)
        return await self.get(batch_id) if code else None

    # For a runner

    async def claim(self, limit: int) -> list[tuple[str, int]]:
        """Take up batches without a runner; returns their ids with the epochs to write with."""
        found: list[Any] = await self._scripts.run(BatchScript.CLAIM, lease_s=self.lease_s, max_claimed=limit)
        return [(batch_id.decode(), int(epoch)) for batch_id, epoch in zip(found[::2], found[1::2], strict=True)]

    async def renew(self, batch_id: str, epoch: int) -> Ending | None:
        """Say that the batch is being run; returns why it must be closed before its last line, if it must."""
        found: Any = await self._scripts.run(BatchScript.RENEW, id=batch_id, epoch=epoch, lease_s=self.lease_s)
        if not found:
            raise LeaseLostError
        return cast("Ending", found[1].decode()) if found[1] else None

    async def give_back(self, batch_id: str, epoch: int) -> None:
        """Let another process go on at once."""
        await self._scripts.run(BatchScript.RENEW, id=batch_id, epoch=epoch, lease_s=0)

    async def start(self, batch_id: str, epoch: int, total: int) -> bool:
        """Begin with the lines; False if the batch is not to be begun any more."""
        return bool(await self._scripts.run(BatchScript.START, id=batch_id, epoch=epoch, total=total))

    async def fail(self, batch_id: str, epoch: int, errors: Sequence[Json]) -> None:
        """End a batch that cannot be run; what is in its files stays readable."""
        encoded = orjson.dumps(list(errors))
        _check(await self._scripts.run(BatchScript.FAIL, id=batch_id, epoch=epoch, errors=encoded))

    async def admit(self, batch_id: str, epoch: int, line: Admitted, end: int) -> Literal["ok", "closing", "duplicate"]:
        """Take a line from the input; from here on it is not lost."""
        outcome: bytes = await self._scripts.run(
            BatchScript.ADMIT,
            id=batch_id,
            epoch=epoch,
            line=line.number,
            end_offset=end,
            custom_id=line.custom_id,
            entry=line.to_json(),
        )
        _check(outcome)
        return cast("Literal['ok', 'closing', 'duplicate']", outcome.decode())

    async def skip(self, batch_id: str, epoch: int, number: int, end: int, entries: Sequence[bytes]) -> None:
        """Take lines from the input that are answered by an error at once.

        Args:
            batch_id: whose.
            epoch: of the run.
            number: of the last of them.
            end: where it ends in the input.
            entries: for the error file.
        """
        _check(
            await self._scripts.run(
                BatchScript.SKIP,
                id=batch_id,
                epoch=epoch,
                line=number,
                end_offset=end,
                num_lines=len(entries),
                entries=b"".join(entries),
            )
        )

    async def admitted(self, batch_id: str) -> list[Admitted]:
        """Return the lines in flight, in their order."""
        raw: list[bytes] = await guard(cast("Any", self._reads.hvals(f"{PREFIX}batch_lines:{batch_id}")))
        return sorted(
            (Admitted(**known_fields(Admitted, orjson.loads(entry))) for entry in raw), key=lambda line: line.number
        )

    async def retry(self, batch_id: str, epoch: int, line: Admitted) -> None:
        """Write down that a line is begun anew."""
        entry = line.to_json()
        _check(await self._scripts.run(BatchScript.RETRY, id=batch_id, epoch=epoch, line=line.number, entry=entry))

    async def record(
        self, batch_id: str, epoch: int, number: int, entry: bytes, *, is_error: bool, usage: Mapping[str, int]
    ) -> None:
        """End a line: it goes into its file and is counted, once."""
        counts = [word for pair in usage.items() for word in pair]
        outcome = "failed" if is_error else "completed"
        _check(
            await self._scripts.run(
                BatchScript.RECORD, *counts, id=batch_id, epoch=epoch, line=number, outcome=outcome, entry=entry
            )
        )

    async def finalize(self, batch_id: str, epoch: int) -> bool:
        """Say that every line has ended; False if it was cancelled just before."""
        outcome: bytes = await self._scripts.run(BatchScript.FINALIZE, id=batch_id, epoch=epoch)
        _check(outcome)
        return outcome == b"ok"

    async def finish(self, batch_id: str, epoch: int) -> None:
        """End the batch: its files can be read from now on."""
        _check(await self._scripts.run(BatchScript.FINISH, id=batch_id, epoch=epoch))


def _check(outcome: int | bytes) -> None:
    if outcome in (0, b"not yours"):
        raise LeaseLostError


def _to_batch(raw: Mapping[bytes, bytes]) -> Batch:
    text = {key.decode(): value for key, value in raw.items()}

    def optional(name: str) -> str | None:
        return text[name].decode() if name in text else None

    return Batch(
        spec=BatchSpec(**known_fields(BatchSpec, orjson.loads(text["spec"]))),
        status=cast("Any", text["status"].decode()),
        times={name.removesuffix("_at"): float(value) for name, value in text.items() if name.endswith("_at")},
        total=int(text["total"]),
        completed=int(text["completed"]),
        failed=int(text["failed"]),
        line=int(text["line"]),
        offset=int(text["offset"]),
        output_file_id=optional("output_file_id"),
        error_file_id=optional("error_file_id"),
        errors=tuple(orjson.loads(text.get("errors", b"[]"))),
        usage={name.removeprefix("usage."): int(value) for name, value in text.items() if name.startswith("usage.")},
    )
