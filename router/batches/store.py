"""The batch record in Redis: what is to be done, how far it is, and who may go on with it.

In: batches that callers create, lines that a runner takes and ends. Out: frozen records. Every change is one atomic
script (`router.batches.scripts`), fenced by the epoch of the run that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import orjson
from redis.asyncio import Redis

from router.batches import scripts
from router.batches.records import MAX_OPEN, WINDOW_S, Admitted, Batch, BatchSpec, Json
from router.redis import PREFIX, Clock, guard

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
    ) -> None:
        self.redis = redis
        self._reads = reads or redis
        self.lease_s = lease_s
        self._ttl_s = ttl_s
        self._clock = clock
        names = ("CREATE", "CLAIM", "RENEW", "START", "FAIL", "ADMIT", "SKIP", "RETRY", "RECORD")
        self._scripts = {
            name: redis.register_script(getattr(scripts, name)) for name in (*names, "FINALIZE", "FINISH", "CANCEL")
        }

    # For callers

    async def create(self, spec: BatchSpec) -> bool:
        """Accept a batch; False if its owner has `MAX_OPEN` under way."""
        code = await self._run(
            "CREATE",
            self._now(),
            spec.id,
            spec.owner,
            spec.to_json(),
            WINDOW_S,
            spec.output_id,
            spec.error_id,
            spec.output_ttl_s,
            self._ttl_s,
            spec.webhook_url or "",
            MAX_OPEN,
        )
        return bool(code)

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
        code = await self._run("CANCEL", self._now(), batch_id, owner)
        return await self.get(batch_id) if code else None

    # For a runner

    async def claim(self, limit: int) -> list[tuple[str, int]]:
        """Take up batches that nobody runs; returns their ids with the epochs to write with."""
        found: list[Any] = await self._run("CLAIM", self._now(), self.lease_s, limit)
        return [(batch_id.decode(), int(epoch)) for batch_id, epoch in zip(found[::2], found[1::2], strict=True)]

    async def renew(self, batch_id: str, epoch: int) -> Ending | None:
        """Say that the batch is being run; returns why it must be closed before its last line, if it must."""
        found: Any = await self._run("RENEW", self._now(), batch_id, epoch, self.lease_s)
        if not found:
            raise LeaseLostError
        return cast("Ending", found[1].decode()) if found[1] else None

    async def give_back(self, batch_id: str, epoch: int) -> None:
        """Let another process go on at once."""
        await self._run("RENEW", self._now(), batch_id, epoch, 0)

    async def start(self, batch_id: str, epoch: int, total: int) -> bool:
        """Begin with the lines; False if the batch is not to be begun any more."""
        return bool(await self._run("START", self._now(), batch_id, epoch, total))

    async def fail(self, batch_id: str, epoch: int, errors: Sequence[Json]) -> None:
        """End a batch that cannot be run; what is in its files stays readable."""
        self._check(await self._run("FAIL", self._now(), batch_id, epoch, orjson.dumps(list(errors))))

    async def admit(self, batch_id: str, epoch: int, line: Admitted, end: int) -> Literal["ok", "closing", "duplicate"]:
        """Take a line from the input; from here on it is not lost."""
        code = await self._run("ADMIT", batch_id, epoch, line.number, end, line.custom_id, line.to_json())
        self._check(code)
        return "ok" if code == 1 else "closing" if code == -1 else "duplicate"

    async def skip(self, batch_id: str, epoch: int, number: int, end: int, entries: Sequence[bytes]) -> None:
        """Take lines from the input that are answered by an error at once.

        Args:
            batch_id: whose.
            epoch: of the run.
            number: of the last of them.
            end: where it ends in the input.
            entries: for the error file.
        """
        self._check(await self._run("SKIP", batch_id, epoch, number, end, len(entries), b"".join(entries)))

    async def admitted(self, batch_id: str) -> list[Admitted]:
        """Return the lines in flight, in their order."""
        raw: list[bytes] = await guard(cast("Any", self._reads.hvals(f"{PREFIX}batch_lines:{batch_id}")))
        return sorted((Admitted(**orjson.loads(entry)) for entry in raw), key=lambda line: line.number)

    async def retry(self, batch_id: str, epoch: int, line: Admitted) -> None:
        """Write down that a line is begun anew."""
        self._check(await self._run("RETRY", batch_id, epoch, line.number, line.to_json()))

    async def record(
        self, batch_id: str, epoch: int, number: int, entry: bytes, *, is_error: bool, usage: Mapping[str, int]
    ) -> None:
        """End a line: it goes into its file and is counted, once."""
        counts = [word for pair in usage.items() for word in pair]
        outcome = "failed" if is_error else "completed"
        self._check(await self._run("RECORD", batch_id, epoch, number, outcome, entry, *counts))

    async def finalize(self, batch_id: str, epoch: int) -> bool:
        """Say that every line has ended; False if it was cancelled just before."""
        code = await self._run("FINALIZE", self._now(), batch_id, epoch)
        self._check(code)
        return bool(code == 1)

    async def finish(self, batch_id: str, epoch: int) -> None:
        """End the batch: its files can be read from now on."""
        self._check(await self._run("FINISH", self._now(), batch_id, epoch))

    def _check(self, code: int) -> None:
        if code == 0:
            raise LeaseLostError

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    async def _run(self, name: str, *args: str | bytes | float) -> Any:
        return await guard(self._scripts[name](keys=[PREFIX], args=list(args)))


def _to_batch(raw: Mapping[bytes, bytes]) -> Batch:
    text = {key.decode(): value for key, value in raw.items()}

    def optional(name: str) -> str | None:
        return text[name].decode() if name in text else None

    return Batch(
        spec=BatchSpec(**orjson.loads(text["spec"])),
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
