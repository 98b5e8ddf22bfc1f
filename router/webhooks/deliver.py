"""One webhook attempt: an unsigned POST that says which response has ended and how.

In: a finished job with a ``webhook_url``. Out: None, or a sentence that says why the attempt failed. The event id is
the same on every attempt, so that receivers can drop repeats.
"""

from __future__ import annotations

import hashlib
import time

import orjson

from router.fetch import FetchError, SafeFetcher
from router.jobs.job import Job


class Deliverer:
    """Posts events.

    Args:
        fetcher: refuses private and loopback addresses unless the settings allow them.
    """

    def __init__(self, fetcher: SafeFetcher) -> None:
        self._fetcher = fetcher

    async def deliver(self, job: Job) -> str | None:
        """Make one attempt; returns what went wrong, if anything."""
        assert job.spec.webhook_url is not None
        event_id = event_id_of(job)
        body = orjson.dumps(
            {
                "id": event_id,
                "object": "event",
                "created_at": int(job.completed_at or time.time()),
                "type": f"response.{job.state}",
                "data": {"id": job.id},
            }
        )
        headers = {"content-type": "application/json", "webhook-id": event_id}
        try:
            status = await self._fetcher.post_json(job.spec.webhook_url, body, headers)
        except FetchError as error:
            return str(error)
        return None if 200 <= status < 300 else f"the receiver answered {status}"


def event_id_of(job: Job) -> str:
    """Return the id of the one event that says how this job ended."""
    return "evt_" + hashlib.sha256(f"{job.id}:{job.state}".encode()).hexdigest()[:32]
