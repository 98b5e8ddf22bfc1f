"""The job record in Redis: the one truth about every accepted job.

In: specs of new jobs, and what workers and callers want to change. Out: what became of it. Every change is one
atomic script (`router.lua`), fenced by the epoch of the run that makes it. What only reads is in `router.jobs.reader`.

Keys, all under one prefix: ``job:ID`` hash and ``events:ID`` stream; ``turns:QUEUE:CLASS`` sorted set of owners by turn
and ``line:QUEUE:CLASS:OWNER`` sorted set of ``ID|UNIT`` by age, from which workers take what is next;
``turned:QUEUE:CLASS`` hash of when an owner had its last turn; ``delayed`` and ``leases`` sorted sets of ``ID|UNIT`` by
when they may run again, or are taken for lost; ``agenda`` sorted set of ids by when a job is over its time, or its
record is to go; ``queues`` and ``unfinished`` hashes of counts and paces;
``blob:SHA256`` picture bytes and ``holders:SHA256`` the jobs that need them; ``pictures:OWNER`` hash of what an owner
holds, in bytes, and ``ended_pictures:OWNER`` sorted set of its ended jobs that still hold some; ``activity`` stream of
job ids with news;
``jobs:OWNER`` and ``jobs:OWNER|BATCH`` sorted sets of ids (`lua/include/listing.lua`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import orjson
from redis.asyncio import Redis

from engines.base import ImagePart, TokenLogprob
from engines.json_forms import to_logprobs
from engines.origin import ORIGIN
from router.call import stored_image_hashes
from router.errors import QueueUnavailableError, StorageFullError
from router.jobs.facts import of_spec
from router.jobs.given_up import LOST_MERGE, NOT_AWAITED, lost_result, pictures_full, queue_full
from router.jobs.job import Claim, Job, JobSpec, Terms, Unit, Why
from router.jobs.reader import JobReader
from router.jobs.results import ErrorRecord, FinalAnswer, UnitResult
from router.jobs.rows import (
    Cause,
    Reaped,
    list_of,
    sizes_of,
    to_ending,
    to_fields,
    to_patience,
)
from router.jobs.schedule import queue_of, to_class
from router.lua import JobScript
from router.redis import PREFIX, Clock, RedisState, guard, state_of
from router.room import Room

_REAP_BATCH = 200
# A client that asked for no storage may have received a draft only, and polls for the final answer.
UNSTORED_TTL_S = 600

# A recovered engine gets at most this many units at once; the rest follow when their delays end.
MOST_WOKEN: Final = 200
_MOST_LOOKED_AT = 2000
# GLM's draft usually ends before Owl2's answer. Wait a moment for a late one, since `agreement` needs it.
GRACE_S: Final = 2.0


class JobStore(JobReader):
    """Reads and changes job records.

    Args:
        redis: an asyncio client that returns bytes.
        reads: another, for what only reads, which may be given up sooner; None for the same.
        lease_s: how long a claimed unit may be silent.
        max_attempts: runs of a unit that may fail before it is given up (`GLOWL_MAX_ATTEMPTS`).
        job_ttl_s: how long a finished job can be read; `UNSTORED_TTL_S` if it is not to be stored.
        blob_ttl_s: how long a picture is kept after its last job has ended, if that job can be read for so long.
        expires_s: a job that has not ended so long after it was accepted is ended with what there is.
        max_unfinished: how many unfinished jobs an owner may have; as many again of the lowest priority.
        grace_s: once the answer is there, how long a merge waits for a branch that it can do without.
        merge_patience_s: likewise, for a branch whose word is part of the answer; `grace_s` if its engine is down.
        engine_patience_s: how long a unit waits for an engine that is loading or away; that is no failure of it.
        clock: unix seconds; None uses the Redis server's own clock, so that machines need not agree on the time.
        max_picture_bytes: most bytes in the pictures that an owner's jobs hold together; those of ended jobs go first.
        room: says whether anything new may be stored; None lets in whatever redis takes.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        reads: Redis | None = None,
        lease_s: float = 5.0,
        max_attempts: int = 3,
        job_ttl_s: int = 7 * 24 * 3600,
        blob_ttl_s: int = 24 * 3600,
        expires_s: int = 24 * 3600,
        max_unfinished: int = 1000,
        grace_s: float = GRACE_S,
        merge_patience_s: float = 30.0,
        engine_patience_s: float = 300.0,
        clock: Clock | None = None,
        max_picture_bytes: int = 2**30,
        room: Room | None = None,
    ) -> None:
        super().__init__(redis, reads=reads, clock=clock, room=room)
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self._job_ttl_s = job_ttl_s
        self._blob_ttl_s = blob_ttl_s
        self._expires_s = expires_s
        self._max_unfinished = max_unfinished
        self._max_picture_bytes = max_picture_bytes
        self.merge_patience_s = merge_patience_s
        self.patience_s = to_patience(grace_s, merge_patience_s)
        self._engine_patience_s = engine_patience_s

    async def probe(self) -> RedisState:
        """Say whether Redis would take a job now, without writing anything."""
        try:
            # A write as far as Redis' checks of memory and disk go; of nothing, at the end of a key that is not there.
            await guard(cast("Awaitable[Any]", self._reads.setrange(f"{PREFIX}probe", 0, "")))
            await self._check_room(())
        except StorageFullError:
            return "full"
        except QueueUnavailableError as error:
            return "away" if error.__cause__ is None else state_of(error.__cause__)
        return "up"

    async def create(
        self,
        spec: JobSpec,
        images: Iterable[ImagePart] = (),
        terms: Terms = Terms(),
        *,
        kept_as: str = "",
        flight: str = "",
    ) -> Job:
        """Accept a job: when this returns it is recorded, every branch is queued, and it cannot be lost.

        Args:
            spec: what is accepted; an id that is recorded already changes nothing.
            images: the pictures its messages name by hash. Without them, those that are still there are held.
            terms: what its owner may have, and was charged.
            kept_as: where its answer is to be kept to be given again; empty if it is not, or not known yet.
            flight: the same for jobs that ask the same: if one of them is under way, this one waits for its end, and
                runs only if that is none to share. Empty for a run of its own.

        Raises:
            QueueFullError: if its owner has too many unfinished jobs, or too many bytes in their pictures. Then nothing
                of it is stored.
            StorageFullError: if redis has no room for it.
        """
        images = tuple(images)
        await self._check_room(images)
        outcome, *rest = await self._hold(
            images,
            lambda is_strict: self._accept(JobScript.CREATE, spec, images, is_strict, terms, kept_as, flight),
        )
        if outcome == b"too many jobs":
            raise queue_full(terms.max_unfinished or self._max_unfinished)
        if outcome == b"too many bytes":
            raise pictures_full(self._max_picture_bytes)
        units = {branch.name: Unit(branch.name, "queued") for branch in spec.branches}
        if outcome == b"joined":
            return Job(replace(spec, cache="joined"), "queued", units, follows=rest[0].decode())
        return Job(spec, "queued", units)

    async def begin(self, spec: JobSpec, images: Iterable[ImagePart] = (), terms: Terms = Terms()) -> int | None:
        """Record an answer that this process is about to write itself, under a lease.

        If it is never heard of again, workers do it, like any job whose worker was lost.

        Args:
            spec: of one branch.
            images: as `put_finished` has them.
            terms: as `create` has them; settled at its end only if workers do it.

        Returns:
            The epoch to write with; None if the id is recorded already.
        """
        images = tuple(images)
        try:
            await self._check_room(images)
        except StorageFullError:
            images = ()
        outcome, *rest = await self._hold(
            images, lambda is_strict: self._accept(JobScript.BEGIN, spec, images, is_strict, terms)
        )
        return int(rest[0]) if outcome == b"begun" else None

    async def put_finished(
        self, job: Job, images: Iterable[ImagePart] = (), *, epoch: int | None = None, is_direct: bool = True
    ) -> bool:
        """Record a job that was answered without the queue, so that it can be read by its id.

        The URL that it names for its webhook is told in the same step.

        Args:
            job: ended.
            images: as `create` has them. Without room for them the answer is recorded alone.
            epoch: of `begin`, if it was called.
            is_direct: it would not have been a job in any case, so the owner's endpoints are not told.

        Returns:
            False if the answer is no longer the caller's to write.
        """
        images = tuple(images)
        try:
            await self._check_room(images)
        except StorageFullError:
            images = ()
        words = [word for pair in to_fields(job).items() for word in pair]
        ttl_s, hashes = self._ttl_s(job.spec), " ".join(dict.fromkeys(stored_image_hashes(job.spec.messages)))
        outcome, *_ = await self._hold(
            images,
            lambda is_strict: self._run(
                JobScript.PUT_FINISHED,
                *words,
                id=job.id,
                owner=job.spec.owner,
                created_at=job.spec.created_at,
                ttl_s=ttl_s,
                blob_ttl_s=self._blob_ttl_s,
                blobs=hashes,
                sizes=sizes_of(hashes, images),
                max_picture_bytes=self._max_picture_bytes,
                is_strict=int(is_strict),
                list=list_of(job.spec),
                webhook_url=job.spec.webhook_url or "",
                epoch=epoch or "",
                unit=next(iter(job.units)) if epoch else "",
                is_direct=int(is_direct),
            ),
        )
        return bool(outcome == b"stored")

    async def take_next(self, queue: str) -> Claim | None:
        """Take the unit whose turn it is in a queue; None if none waits."""
        found = await self._run(JobScript.NEXT, queue=queue, lease_s=self.lease_s)
        return Claim(found[0].decode(), found[1].decode(), int(found[2])) if found else None

    async def claim(self, job_id: str, unit: str) -> int | None:
        """Take a queued unit out of turn; returns the epoch to write with, or None if there is nothing to do."""
        epoch = await self._run(JobScript.CLAIM, id=job_id, unit=unit, lease_s=self.lease_s)
        return int(epoch) or None

    async def renew(self, job_id: str, unit: str, epoch: int) -> bool:
        """Say that the unit is still being worked on; False if it is no longer the caller's."""
        return bool(await self._run(JobScript.RENEW, id=job_id, unit=unit, epoch=epoch, lease_s=self.lease_s))

    async def append(
        self,
        job_id: str,
        unit: str,
        epoch: int,
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        piece: int | None = None,
    ) -> bool:
        """Add text to the event stream; False if the unit is no longer the caller's.

        Args:
            job_id: whose.
            unit: which of its units writes.
            epoch: its run.
            text: what to add.
            logprobs: of the text's tokens.
            piece: counts the pieces of a run: one that is sent a second time, because redis went away before it
                answered, is added once.
        """
        encoded = orjson.dumps(to_logprobs(logprobs)) if logprobs else b""
        number = "" if piece is None else piece
        return bool(
            await self._run(
                JobScript.APPEND, id=job_id, unit=unit, epoch=epoch, text=text, logprobs=encoded, piece=number
            )
        )

    async def finish(self, job_id: str, unit: str, epoch: int, result: UnitResult) -> bool:
        """Record how a branch ended; True if that was the last branch and the merge is due."""
        state = "failed" if result.error else "completed"
        encoded = orjson.dumps(result.to_dict())
        not_awaited = orjson.dumps(NOT_AWAITED.to_dict())
        outcome: bytes = await self._run(
            JobScript.FINISH,
            id=job_id,
            unit=unit,
            epoch=epoch,
            state=state,
            result=encoded,
            not_awaited=not_awaited,
        )
        return outcome == b"merge due"

    async def release(
        self, job_id: str, unit: str, epoch: int, why: Why, *, delay_s: float = 0.0, max_delay_s: float | None = None
    ) -> bool:
        """Give a unit back to be run again after a while; False if it has no runs left and must be finished.

        Without a delay it is queued at once, and the caller sends the ticket. Only failures count as runs;
        an engine may be away for `engine_patience_s` in all.

        Args:
            job_id: whose.
            unit: which of its units.
            epoch: its run.
            why: it did not end.
            delay_s: before the next run; twice that after the second time, and so on.
            max_delay_s: the longest delay; None for ``delay_s``.
        """
        outcome: bytes = await self._run(
            JobScript.RELEASE,
            id=job_id,
            unit=unit,
            epoch=epoch,
            why=why,
            delay_s=delay_s,
            max_delay_s=delay_s if max_delay_s is None else max_delay_s,
            max_attempts=self.max_attempts,
            engine_patience_s=self._engine_patience_s,
        )
        return outcome != b"given up"

    async def wake(self, queue: str) -> int:
        """Queue the units that waited for their engine to come back; returns how many tickets are to be sent."""
        return int(await self._run(JobScript.WAKE, queue=queue, max_woken=MOST_WOKEN, max_looked_at=_MOST_LOOKED_AT))

    async def complete(
        self,
        job_id: str,
        epoch: int,
        *,
        final: FinalAnswer | None = None,
        error: ErrorRecord | None = None,
        job: Job | None = None,
    ) -> bool:
        """End a job with its final answer, or with the error that left none; True if webhook deliveries are due.

        Args:
            job_id: which.
            epoch: of its merge.
            final: the answer.
            error: why there is none.
            job: as it was read before, for metrics; None if they are to know no more than that it has ended.
        """
        outcome: bytes = await self._run(JobScript.COMPLETE, id=job_id, epoch=epoch, **to_ending(final, error, job))
        return outcome == b"deliveries due"

    async def end(self, job: Job, *, final: FinalAnswer | None = None, error: ErrorRecord | None = None) -> bool:
        """End a job that is over its time with what it had when it was read.

        Returns:
            False if any of its units has moved on since, or it has ended: it is to be looked at again.
        """
        states = ",".join(f"{unit.name}={unit.state}" for unit in job.units.values())
        return bool(await self._run(JobScript.END, id=job.id, read_states=states, **to_ending(final, error, job)))

    async def cancel(self, job_id: str, *, left_by: str = "") -> Job | None:
        """End a job now unless it has ended already; returns what it is then.

        Args:
            job_id: which.
            left_by: only if the reader with this name in `tell` was the last to leave.
        """
        await self._run(JobScript.CANCEL, id=job_id, left_by=left_by)
        return await self.get(job_id)

    async def tell(self, job_id: str, *, left_by: str = "") -> bool:
        """Let a job that is not stored be read under its id: its caller was given that, and less than the answer.

        Args:
            job_id: which.
            left_by: a name for the reader of its stream who has gone, for `cancel`; empty if none has.

        Returns:
            False if there is no such job.
        """
        return bool(await self._run(JobScript.TELL, id=job_id, left_by=left_by))

    async def keep_as(self, job_id: str, where: str) -> bool:
        """Say where the answer of a job under way is to be kept; False if there is no such job."""
        return bool(await self._run(JobScript.KEEP_AS, id=job_id, kept_as=where))

    async def rejoin(self, job_id: str) -> None:
        """Note that somebody reads a job's stream again, so that it is not ended for want of a reader."""
        await guard(cast("Awaitable[Any]", self.redis.hdel(f"{PREFIX}job:{job_id}", "left")))

    async def describe(self, job_id: str, metadata: Mapping[str, str]) -> bool:
        """Replace the caller's own pairs of a job; False if there is none."""
        return bool(await self._run(JobScript.DESCRIBE, id=job_id, metadata=orjson.dumps(dict(metadata))))

    async def delete(self, job_id: str) -> bool:
        """Forget a job, its events, pictures that were only its own, and whatever was still to be done for it."""
        return bool(await self._run(JobScript.DELETE, id=job_id))

    async def retry(self, job: Job, terms: Terms = Terms()) -> str:
        """Begin a failed job again, every branch of it, with its failures forgotten and its time begun anew.

        Args:
            job: the record as it was read; what never changes is read from it.
            terms: as `create` has them.

        Returns:
            The state the job was in: ``failed`` if it is queued now, any other if it was left alone, empty if there is
            none.

        Raises:
            QueueFullError: if its owner has too many unfinished jobs.
        """
        spec = replace(job.spec, origin=ORIGIN.get())
        state = await self._accept(JobScript.RETRY, spec, (), is_strict=False, terms=terms)
        if state == b"too many jobs":
            raise queue_full(terms.max_unfinished or self._max_unfinished)
        return bytes(state).decode()

    async def reap(self, down: frozenset[str] = frozenset()) -> Reaped:
        """Queue again what lost its worker, give up what failed too often, forget what is over its time.

        Branches that a job with an answer need not wait for any longer are ended, so that it can be merged.

        Args:
            down: queues whose engine is known to be down, or does not say how it is.
        """
        tickets, overdue = await self._run(
            JobScript.REAP,
            max_attempts=self.max_attempts,
            max_reaped=_REAP_BATCH,
            lost_branch=orjson.dumps(lost_result(self.max_attempts).to_dict()),
            lost_merge=orjson.dumps(LOST_MERGE),
            not_awaited=orjson.dumps(NOT_AWAITED.to_dict()),
            down_queues=",".join(sorted(down)),
        )
        words = [word.decode() for word in overdue]
        return Reaped(
            {queue.decode(): int(number) for queue, number in zip(tickets[::2], tickets[1::2], strict=True)},
            [(job_id, cast("Cause", cause)) for job_id, cause in zip(words[::2], words[1::2], strict=True)],
        )

    async def _accept(
        self,
        script: JobScript,
        spec: JobSpec,
        images: tuple[ImagePart, ...],
        is_strict: bool,
        terms: Terms = Terms(),
        kept_as: str = "",
        flight: str = "",
    ) -> Any:
        """Run one of the scripts that put a job at its beginning."""
        hashes = " ".join(dict.fromkeys(stored_image_hashes(spec.messages)))
        branches = [
            word
            for branch in spec.branches
            for word in (branch.name, queue_of(branch.engine), self.patience_s[spec.awaits(branch)])
        ]
        return await self._run(
            script,
            *branches,
            id=spec.id,
            spec=orjson.dumps(spec.to_dict()),
            owner=spec.owner,
            ttl_s=self._ttl_s(spec),
            blob_ttl_s=self._blob_ttl_s,
            webhook_url=spec.webhook_url or "",
            expires_s=self._expires_s,
            deadline_ms=spec.deadline_ms or "",
            max_unfinished=terms.max_unfinished or self._max_unfinished,
            blobs=hashes,
            sizes=sizes_of(hashes, images),
            max_picture_bytes=self._max_picture_bytes,
            is_strict=int(is_strict),
            list=list_of(spec),
            grace_s=self.patience_s["a moment"],
            merge_queue=spec.merge_queue,
            needs_both=int(spec.composes_both),
            kept_as=kept_as,
            flight=flight,
            facts=of_spec(spec),
            origin=spec.origin.to_text(),
            is_captured=int(spec.is_captured),
            lease_s=self.lease_s,
            reservation=terms.reservation,
            **{"class": to_class(spec.priority)},
        )

    def _ttl_s(self, spec: JobSpec) -> int:
        ttl_s = max(self._job_ttl_s if spec.is_stored else min(UNSTORED_TTL_S, self._job_ttl_s), spec.keep_s)
        return ttl_s if spec.retention_s is None else min(ttl_s, spec.retention_s)
