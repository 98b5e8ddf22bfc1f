"""Wait for the answer of a chat: the final one within the wait, else the draft.

In: a running answer. Out: its record at that time, and the chat completion of it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import Request, Response

from router.api import texts
from router.api.errors import json_response
from router.api.failures import to_failure
from router.api.hangups import PING_S, hold, with_pings
from router.api.intake import services_of
from router.api.objects import to_completion, to_route_headers
from router.api.stream import DRAFT
from router.dispatch import Running
from router.errors import EngineFailedError, NotFoundError
from router.jobs.job import Event, FinalAnswer, Job, UnitResult
from router.services import Services

# Returns fields to add to a completion.
Extra = Callable[[dict[str, Any]], dict[str, Any]]
# Past the wait, a draft that is being written may be finished; one that pauses for longer is not being written.
_DRAFT_S = 60.0
_PAUSE_S = 3.0
# A wait of 0 asks for the draft: how long that may take to be begun.
_BEGIN_S = 15.0


async def answer(request: Request, running: Running, wait_s: float, extra: Extra | None = None) -> Response:
    """Wait for an answer and send it whole.

    Args:
        request: whose connection is watched.
        running: the job.
        wait_s: how long a job may take before its draft is sent instead.
        extra: called with the completion, returns fields to add to it.
    """
    services = services_of(request)
    job = await hold(request, running, _settle(services, running, wait_s))
    said = shown(job)
    if said is None:
        raise to_failure(job)
    if not job.is_terminal:
        job = await services.store.locate(await announce(services, job))
    completion = to_completion(job, said)
    if extra is not None:
        completion.update(extra(completion))
    return json_response(completion, headers=to_route_headers(job))


async def _settle(services: Services, running: Running, wait_s: float) -> Job:
    """Return the job at its end; or, past the wait, as soon as it has at least a draft.

    Raises:
        EngineFailedError: if it has none, and is not about to.
    """
    if not running.is_queued:
        async with contextlib.aclosing(running.events) as all_there:
            async for _ in all_there:
                pass
        return running.finished() or await load(services, running)
    wait = Wait(wait_s, running.began_at)
    async with contextlib.aclosing(with_pings(running.events, PING_S, wait.until)) as events:
        async for event in events:
            if event is not None and event.kind == "end":
                break
            if wait.wants_look(event):
                job = await load(services, running)
                if job.draft is not None or job.is_terminal:
                    return job
                if wait.is_in_vain(job):
                    raise await timed_out(services, job, wait)
    return running.finished() or await load(services, running)


class Wait:
    """How long a job may take.

    Args:
        wait_s: most seconds; 0 asks for the draft, however long that takes within reason.
        began_at: since when, as of `time.monotonic`.

    Attributes:
        until: likewise, when it is over.
    """

    def __init__(self, wait_s: float, began_at: float) -> None:
        self.until = began_at + wait_s
        self._began_at = began_at
        self._wait_s = wait_s
        self._looked_at = -math.inf
        self._heard_at = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether a draft would do as the answer now."""
        return time.monotonic() >= self.until

    @property
    def waited_s(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began_at

    def wants_look(self, event: Event | None) -> bool:
        """Note an event of the job, or None for a silence; whether the wait is over, and a look at the job is due."""
        now = time.monotonic()
        if event is not None and event.unit == DRAFT:
            self._heard_at = now if event.kind == "delta" else -math.inf
        if now < self.until:
            return False
        is_due = event is None or event.kind == "finished" or now - self._looked_at >= PING_S
        if is_due:
            self._looked_at = now
        return is_due

    def is_in_vain(self, job: Job) -> bool:
        """Whether to give up on a job that has no draft past the wait: none is being written, or for too long."""
        now = time.monotonic()
        draft = job.units.get(DRAFT)
        is_running = draft is not None and draft.state == "in_progress"
        # A run is in progress too while its engine has said nothing, or has stopped: worth waiting for only without a
        # number to keep to.
        is_written = is_running and (self._wait_s == 0 or now - self._heard_at < _PAUSE_S)
        return now >= (self.until + _DRAFT_S if is_written else self._began_at + (self._wait_s or _BEGIN_S))


async def timed_out(services: Services, job: Job, wait: Wait) -> EngineFailedError:
    """Make the error of a wait without an answer; from now on the answer can be read under the job's id."""
    await announce(services, job)
    waited_s = wait.waited_s
    return EngineFailedError(
        texts.NO_ANSWER_YET.fill(waited_s=waited_s, id=job.id),
        status=504,
        code="answer_timeout",
        param="hybrid.max_wait_s",
    )


def shown(job: Job) -> FinalAnswer | UnitResult | None:
    """Return the final answer, or the draft while that is still to come: without one, a draft would pass for it."""
    return job.final or (None if job.is_terminal else job.draft)


async def announce(services: Services, job: Job) -> Job:
    """Let a job be read under its id by a caller who gets the draft, and not yet the answer."""
    if job.is_announced:
        return job
    return replace(job, is_told=await services.store.tell(job.id))


async def load(services: Services, running: Running) -> Job:
    """Read a running answer's record.

    Raises:
        NotFoundError: if it was deleted meanwhile.
    """
    job = await services.hub.load(running.job.id)
    if job is None:
        raise NotFoundError(texts.RESPONSE_GONE.fill(id=running.job.id), code="response_not_found")
    running.seen = job
    return job
