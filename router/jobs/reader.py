"""What is only read of jobs: their records, events and lists, and how much waits in the queues.

In: ids and owners. Out: `Job` snapshots, events, pages. `router.jobs.store` has the keys.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final, cast

from router.jobs.backlog import Backlogs, to_backlog
from router.jobs.eta import Pace, Standing, estimate
from router.jobs.job import TERMINAL, Event, Job
from router.jobs.pictures import PictureStore
from router.jobs.rows import JobPage, list_name, seen_through, to_event, to_job, to_jobs
from router.jobs.schedule import QUEUES
from router.lua import JobScript
from router.redis import PREFIX, guard

_QUEUED: Final = Event("queued", state="queued", id="0-0")
# A page of a rare state ends after looking at this many jobs; the next page continues from there.
_MOST_LISTED: Final = 2000


class JobReader(PictureStore):
    """What a `router.jobs.store.JobStore` answers without changing anything.

    Args: as `PictureStore`.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
    """

    async def get(self, job_id: str) -> Job | None:
        """Read a record; None if there is none."""
        raw = await self._read(job_id)
        if "follows" in raw and raw["state"].decode() not in TERMINAL:
            leader = await self._read(raw["follows"].decode())
            # One that has ended has ended this one in the same step, or left it to itself.
            is_over = leader.get("state", b"failed").decode() in TERMINAL
            raw = await self._read(job_id) if is_over else seen_through(raw, leader)
        return to_job(raw) if "spec" in raw else None

    async def _read(self, job_id: str) -> dict[str, bytes]:
        raw = await guard(cast("Awaitable[dict[bytes, bytes]]", self._reads.hgetall(f"{PREFIX}job:{job_id}")))
        return {key.decode(): value for key, value in raw.items()}

    async def read_events(self, job_id: str, after: str = "") -> list[Event]:
        """Return a job's events, oldest first, after the entry with the given id."""
        entries = await guard(self._reads.xrange(f"{PREFIX}events:{job_id}", min=f"({after or _QUEUED.id}"))
        events = [to_event(entry_id, fields) for entry_id, fields in entries]
        if after:
            return events
        # The first event has no entry of its own (`router.lua`): every job of the queue began with it.
        if events or await guard(cast("Any", self._reads.hget(f"{PREFIX}job:{job_id}", "state"))) == b"queued":
            return [_QUEUED, *events]
        return []

    async def list_jobs(
        self, owner: str, *, batch_id: str = "", state: str = "", after: str = "", limit: int = 20
    ) -> JobPage | None:
        """Return an owner's jobs, newest first.

        Args:
            owner: whose.
            batch_id: the lines of this batch; empty for all that are no lines of a batch.
            state: only those in it; empty for all.
            after: the id to go on after; empty for the newest.
            limit: most to return.

        Returns:
            None if ``after`` is not in the list.
        """
        reply: list[Any] = await self._reading.run(
            JobScript.LIST,
            list=list_name(owner, batch_id),
            after=after,
            state=state,
            limit=limit,
            max_listed=_MOST_LISTED,
        )
        if not reply:
            return None
        pipeline = self._reads.pipeline(transaction=False)
        for job_id in reply[2:]:
            pipeline.hgetall(f"{PREFIX}job:{job_id.decode()}")
        found: list[dict[bytes, bytes]] = await guard(pipeline.execute()) if len(pipeline) else []
        return JobPage(list(to_jobs(found)), has_more=bool(reply[0]), last_id=reply[1].decode())

    async def locate(self, job: Job) -> Job:
        """Add to an unfinished job how far it is; one that has ended stays as it is."""
        found = None if job.is_terminal else await self._reading.run(JobScript.PLACE, id=job.follows or job.id)
        if not found:
            return job
        merge, *rows = (None if word == b"" else float(word) for word in found)
        standings = [
            Standing(
                None if ahead is None else int(ahead), elapsed or 0.0, Pace(service, parallel or 1.0, int(now or 0))
            )
            for ahead, elapsed, service, parallel, now in zip(*[iter(rows)] * 5, strict=True)
        ]
        return replace(job, place=estimate(standings, Pace(merge)))

    async def depths(self) -> dict[str, int]:
        """Return how many units wait in each queue that is not empty."""
        found = await guard(cast("Any", self._reads.hgetall(f"{PREFIX}queues")))
        depths: dict[str, int] = {}
        for name, value in found.items():
            kind, _, rest = name.decode().partition(":")
            if kind == "depth" and int(value) > 0:
                queue = rest.partition(":")[0]
                depths[queue] = depths.get(queue, 0) + int(value)
        return depths

    async def backlogs(self) -> Backlogs:
        """Return what waits in every queue, and its pace."""
        found = await self._reading.run(JobScript.BACKLOG, queues=",".join(QUEUES))
        return Backlogs({queue: to_backlog(row) for queue, row in zip(QUEUES, found, strict=True)})
