"""The job record in Redis: the one truth about every accepted job.

In: specs of new jobs, and what workers and callers want to change. Out: `Job` snapshots, events, picture bytes. Every
change is one atomic script (`router.jobs.scripts`), fenced by the epoch of the run that makes it.

Keys, all under one prefix: ``job:ID`` hash, ``events:ID`` stream, ``leases`` and ``queued`` sorted sets of ``ID|UNIT``
by the time at which something must happen, ``activity`` stream of job ids with news, ``blob:SHA256`` picture bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from engines.base import ImagePart, TokenLogprob
from engines.wire import from_logprobs, to_logprobs
from router.errors import QueueUnavailableError
from router.jobs import scripts
from router.jobs.job import MERGE, WEBHOOK, Event, FinalAnswer, Job, JobSpec, Unit, UnitResult

PREFIX = "glowl:"
_REAP_BATCH = 200
# Whoever asked for nothing to be kept may still have been given a draft, and comes back for the final answer.
UNSTORED_TTL_S = 600

Clock = Callable[[], float]


class JobStore:
    """Reads and changes job records.

    Args:
        redis: an asyncio client that returns bytes.
        lease_s: how long a claimed unit may be silent.
        resend_after_s: how long a queued unit may wait before its message is sent again.
        max_failures: runs of a unit that may fail before it is given up.
        job_ttl_s: how long a finished job can be read; `UNSTORED_TTL_S` if it is not to be stored.
        blob_ttl_s: how long a picture is kept.
        clock: unix seconds; None uses the Redis server's own clock, so that machines need not agree on the time.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_s: float = 5.0,
        resend_after_s: float = 15.0,
        max_failures: int = 3,
        job_ttl_s: int = 7 * 24 * 3600,
        blob_ttl_s: int = 24 * 3600,
        clock: Clock | None = None,
    ) -> None:
        self.redis = redis
        self.lease_s = lease_s
        self.max_failures = max_failures
        self._resend_after_s = resend_after_s
        self._job_ttl_s = job_ttl_s
        self._blob_ttl_s = blob_ttl_s
        self._clock = clock
        names = ("CREATE", "CLAIM", "RENEW", "APPEND", "FINISH", "RELEASE", "COMPLETE", "CANCEL", "DELETE", "REAP")
        self._scripts = {name: redis.register_script(getattr(scripts, name)) for name in names}

    async def ping(self) -> None:
        """Return if Redis answers."""
        await guard(cast("Awaitable[Any]", self.redis.ping()))

    async def put_images(self, images: Iterable[ImagePart]) -> None:
        """Keep pictures under their hash; a picture that is there already lives longer."""
        pipeline = self.redis.pipeline(transaction=False)
        for image in {image.sha256: image for image in images}.values():
            pipeline.set(f"{PREFIX}blob:{image.sha256}", image.data, ex=self._blob_ttl_s)
        if len(pipeline):
            await guard(pipeline.execute())

    async def get_images(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the pictures that are still there, by hash."""
        wanted = list(dict.fromkeys(hashes))
        if not wanted:
            return {}
        found = await guard(self.redis.mget([f"{PREFIX}blob:{sha256}" for sha256 in wanted]))
        return {sha256: data for sha256, data in zip(wanted, found, strict=True) if data is not None}

    async def create(self, spec: JobSpec) -> Job:
        """Accept a job: when this returns it is recorded, every branch queued, and cannot be lost."""
        units = ",".join(branch.name for branch in spec.branches)
        await self._run(
            "CREATE",
            spec.id,
            self._now(),
            orjson.dumps(spec.to_dict()),
            units,
            self._job_ttl_s if spec.is_stored else min(UNSTORED_TTL_S, self._job_ttl_s),
            "1" if spec.webhook_url else "0",
            self._resend_after_s,
        )
        return Job(
            spec=spec, state="queued", units={branch.name: Unit(branch.name, "queued") for branch in spec.branches}
        )

    async def put_finished(self, job: Job) -> None:
        """Record a job that was answered without the queue, so that it can be read by its id."""
        key = f"{PREFIX}job:{job.id}"
        fields: dict[bytes | bytearray | memoryview[int] | str | int | float, Any] = {
            "spec": orjson.dumps(job.spec.to_dict()),
            "state": job.state,
            "units": ",".join(job.units),
            "completed_at": job.completed_at or job.spec.created_at,
            "started_at": job.started_at or job.spec.created_at,
        }
        for unit in job.units.values():
            fields[f"{unit.name}.state"] = unit.state
            fields[f"{unit.name}.epoch"] = unit.epoch
            if unit.result:
                fields[f"{unit.name}.result"] = orjson.dumps(unit.result.to_dict())
        if job.final:
            fields["final"] = orjson.dumps(job.final.to_dict())
        if job.error:
            fields["error"] = orjson.dumps(job.error)
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.hset(key, mapping=fields)
        pipeline.expire(key, self._job_ttl_s)
        await guard(pipeline.execute())

    async def get(self, job_id: str) -> Job | None:
        """Read a record; None if there is none."""
        raw = await guard(cast("Awaitable[dict[bytes, bytes]]", self.redis.hgetall(f"{PREFIX}job:{job_id}")))
        return _to_job({key.decode(): value for key, value in raw.items()}) if b"spec" in raw else None

    async def claim(self, job_id: str, unit: str) -> int | None:
        """Take a queued unit; returns the epoch to write with, or None if there is nothing to do."""
        epoch = await self._run("CLAIM", job_id, self._now(), unit, self.lease_s)
        return int(epoch) or None

    async def renew(self, job_id: str, unit: str, epoch: int) -> bool:
        """Say that the unit is still being worked on; False if it is no longer the caller's."""
        return bool(await self._run("RENEW", job_id, self._now(), unit, epoch, self.lease_s))

    async def append(
        self, job_id: str, unit: str, epoch: int, text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> bool:
        """Add text to the event stream; False if the unit is no longer the caller's."""
        encoded = orjson.dumps(to_logprobs(logprobs)) if logprobs else b""
        return bool(await self._run("APPEND", job_id, unit, epoch, text, encoded))

    async def finish(self, job_id: str, unit: str, epoch: int, result: UnitResult) -> bool:
        """Record how a branch or webhook ended; True if that was the last branch and the merge is due."""
        state = "failed" if result.error else "completed"
        code = await self._run(
            "FINISH",
            job_id,
            self._now(),
            unit,
            epoch,
            state,
            orjson.dumps(result.to_dict()),
            self._resend_after_s,
        )
        return int(code) == 2

    async def release(self, job_id: str, unit: str, epoch: int, *, delay_s: float, is_failure: bool) -> bool:
        """Give a unit back to be run again after a while; False if it has no runs left and must be finished."""
        code = await self._run(
            "RELEASE",
            job_id,
            self._now(),
            unit,
            epoch,
            delay_s,
            "1" if is_failure else "0",
            self.max_failures,
        )
        return int(code) != -1

    async def complete(
        self, job_id: str, epoch: int, *, final: FinalAnswer | None = None, error: dict[str, Any] | None = None
    ) -> bool:
        """End a job with its final answer, or with the error that left none; True if a webhook is due."""
        state = "failed" if final is None else "incomplete" if final.finish_reason == "length" else "completed"
        code = await self._run(
            "COMPLETE",
            job_id,
            self._now(),
            epoch,
            state,
            orjson.dumps(final.to_dict()) if final else "",
            orjson.dumps(error) if error else "",
        )
        return int(code) == 2

    async def cancel(self, job_id: str) -> Job | None:
        """End a job now unless it has ended already; returns what it is then."""
        await self._run("CANCEL", job_id, self._now())
        return await self.get(job_id)

    async def delete(self, job_id: str) -> bool:
        """Forget a job, its events and whatever was still to be done for it."""
        return bool(await self._run("DELETE", job_id))

    async def reap(self) -> list[tuple[str, str]]:
        """Queue again what lost its worker, give up what failed too often; returns (job id, unit) to send now."""
        lost = UnitResult(
            error={
                "code": "worker_lost",
                "message": f"the worker was lost {self.max_failures} times while this branch ran",
                "param": None,
                "status": 500,
                "retryable": True,
            }
        )
        error = {"code": "server_error", "message": "the merge could not be finished"}
        due: list[bytes] = await self._run(
            "REAP",
            self._now(),
            self.max_failures,
            self._resend_after_s,
            _REAP_BATCH,
            orjson.dumps(lost.to_dict()),
            orjson.dumps(error),
        )
        return [cast("tuple[str, str]", tuple(member.decode().split("|", 1))) for member in due]

    async def read_events(self, job_id: str, after: str = "") -> list[Event]:
        """Return a job's events, oldest first, after the entry with the given id."""
        start = f"({after}" if after else "-"
        entries = await guard(self.redis.xrange(f"{PREFIX}events:{job_id}", min=start))
        return [_to_event(entry_id, fields) for entry_id, fields in entries]

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    async def _run(self, name: str, *args: str | bytes | float) -> Any:
        return await guard(self._scripts[name](keys=[PREFIX], args=list(args)))


async def guard(awaitable: Awaitable[Any]) -> Any:
    """Await a Redis call.

    Raises:
        QueueUnavailableError: if Redis cannot be reached or refuses to work.
    """
    try:
        return await awaitable
    except (RedisError, OSError) as error:
        raise QueueUnavailableError(
            "The job queue (redis) does not answer; try again shortly.",
            message_zh="任务队列（redis）暂时没有响应，请稍后再试。",
            retry_after_s=2,
        ) from error


def _to_event(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event(
        kind=cast("Any", fields[b"k"].decode()),
        unit=fields[b"u"].decode(),
        epoch=int(fields[b"n"]),
        text=fields[b"x"].decode(),
        state=fields[b"s"].decode(),
        id=entry_id.decode(),
        logprobs=from_logprobs(orjson.loads(logprobs)) if (logprobs := fields.get(b"l")) else (),
    )


def _to_job(raw: dict[str, bytes]) -> Job:
    def number(name: str) -> float | None:
        return float(raw[name]) if name in raw else None

    units: dict[str, Unit] = {}
    for name in [*raw["units"].decode().split(","), MERGE, WEBHOOK]:
        if f"{name}.state" not in raw:
            continue
        result = raw.get(f"{name}.result")
        units[name] = Unit(
            name=name,
            state=cast("Any", raw[f"{name}.state"].decode()),
            epoch=int(raw.get(f"{name}.epoch", 0)),
            failures=int(raw.get(f"{name}.failures", 0)),
            result=UnitResult.from_dict(orjson.loads(result)) if result else None,
        )
    return Job(
        spec=JobSpec.from_dict(orjson.loads(raw["spec"])),
        state=cast("Any", raw["state"].decode()),
        units=units,
        started_at=number("started_at"),
        completed_at=number("completed_at"),
        final=FinalAnswer.from_dict(orjson.loads(raw["final"])) if "final" in raw else None,
        error=orjson.loads(raw["error"]) if "error" in raw else None,
    )
