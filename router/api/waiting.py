"""Wait for the answer of a chat: the final one within the wait, else the draft.

In: a running answer. Out: its record at that time, and the chat completion of it.
"""

from __future__ import annotations

import asyncio
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
from router.errors import EngineFailedError, QueueUnavailableError
from router.jobs.given_up import no_response
from router.jobs.job import Event, Job
from router.jobs.results import FinalAnswer, UnitResult
from router.services import Services

# Returns fields to add to a completion.
Extra = Callable[[dict[str, Any]], dict[str, Any]]
ToBody = Callable[[Job, FinalAnswer | UnitResult], dict[str, Any]]
# Past the wait, a draft that is being written may be finished; one that pauses for longer is not being written.
_DRAFT_S = 60.0
_PAUSE_S = 3.0
# A wait of 0 asks for the draft: how long that may take to be begun.
_BEGIN_S = 15.0
# Timeout for reading a finished answer after the wait is over.
_READ_S = 2.0
# A wait without a number outlives a restart and a fail-over of redis; not one that hangs, nor one that stays away.
REDIS_PATIENCE_S = 15.0
_LOOK_EVERY_S = 1.0
_RETRY_S = 0.5


async def answer(
    request: Request, running: Running, wait_s: float, extra: Extra | None = None, to_body: ToBody = to_completion
) -> Response:
    """Wait for an answer and send it whole.

    Args:
        request: whose connection is watched.
        running: the job.
        wait_s: how long a job may take before its draft is sent instead.
        extra: called with the completion, returns fields to add to it.
        to_body: makes what is sent of a record and its answer; it has the ``hybrid`` extension.
    """
    services = services_of(request)
    job = await hold(request, running, _settle(services, running, wait_s))
    said = shown(job)
    if said is None:
        raise to_failure(job)
    if not job.is_terminal:
        job = await announce(services, job)
        with contextlib.suppress(QueueUnavailableError):  # the draft is worth more than its place in the queue
            job = await services.store.locate(job)
    completion = to_body(job, said)
    if extra is not None:
        completion.update(extra(completion))
    return json_response(completion, headers=to_route_headers(job, completion["hybrid"]["timings"]))


async def _settle(services: Services, running: Running, wait_s: float) -> Job:
    """Return the job at its end; or, past the wait, as soon as it has at least a draft.

    Raises:
        EngineFailedError: if it has none, and is not about to.
        QueueUnavailableError: if redis does not answer then, and the draft was not read before.
    """
    wait = Wait(wait_s, running.began_at)
    if not running.is_queued:
        async with contextlib.aclosing(running.events) as all_there:
            async for _ in all_there:
                pass
        return await ended(services, running, wait, None)
    known: Job | None = None
    async with contextlib.aclosing(with_pings(running.events, PING_S, wait.until)) as events:
        async for event in events:
            if event is not None and event.kind == "end":
                break
            is_due = wait.wants_look(event)
            if is_due or is_draft_ended(running, event):
                known, is_settled = await look(services, running, wait, known)
                if is_settled and is_due and known is not None:
                    return known
    return await ended(services, running, wait, known)


async def until_end(services: Services, running: Running) -> Job:
    """Wait for the end of an answer, however long that takes, as long as redis answers; returns the record.

    Raises:
        QueueUnavailableError: if redis has not answered for `REDIS_PATIENCE_S`. It names the job, which goes on.
        NotFoundError: if the job was deleted meanwhile.
    """
    if not running.is_queued:
        async with contextlib.aclosing(running.events) as all_there:
            async for _ in all_there:
                pass
    else:
        async with contextlib.aclosing(with_pings(running.events, _LOOK_EVERY_S)) as events:
            async for event in events:
                if event is None:
                    _check_heard(services, running)
    job = running.finished()
    while job is None:
        try:
            job = _existing(await services.store.get(running.job.id), running)
        except QueueUnavailableError:
            _check_heard(services, running)
            await asyncio.sleep(_RETRY_S)
    running.seen = job
    return job


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


def is_draft_ended(running: Running, event: Event | None) -> bool:
    """Whether a job has a draft from now on: it is read at once, since redis may hang when the wait is over."""
    return running.is_queued and event is not None and event.kind == "finished" and event.unit == DRAFT


async def look(services: Services, running: Running, wait: Wait, known: Job | None) -> tuple[Job | None, bool]:
    """Read a running job's record; returns the newest that is known, and whether it does as the answer past the wait.

    Raises:
        EngineFailedError: if the wait is over, and in vain.
        QueueUnavailableError: likewise, because redis does not answer.
        NotFoundError: if the job was deleted meanwhile.
    """
    try:
        job = _existing(await services.store.get(running.job.id), running)
    except QueueUnavailableError as error:
        if known is not None and known.draft is not None:
            return known, True
        if wait.is_over and wait.is_in_vain(running.job):
            raise _unreadable(services, running, wait.waited_s) from error
        return known, False
    if job.draft is not None or job.is_terminal:
        return job, True
    if wait.is_over and wait.is_in_vain(job):
        raise await _timed_out(services, job, wait)
    return job, False


async def ended(services: Services, running: Running, wait: Wait, known: Job | None) -> Job:
    """Read the record of a running answer that has ended; if redis hangs just then, the draft will do past the wait.

    Raises:
        QueueUnavailableError: if there is none.
        NotFoundError: if the job was deleted meanwhile.
    """
    job = running.finished()
    if job is not None:
        return job
    try:
        async with asyncio.timeout(max(wait.until - time.monotonic(), _READ_S)):
            return _existing(await services.hub.load(running.job.id), running)
    except TimeoutError as error:
        if known is not None and known.draft is not None:
            return known
        raise _unreadable(services, running, wait.waited_s) from error


async def _timed_out(services: Services, job: Job, wait: Wait) -> EngineFailedError:
    """Make the error of a wait without an answer; from now on the answer can be read under the job's id."""
    await announce(services, job)
    waited_s = wait.waited_s
    return EngineFailedError(
        texts.NO_ANSWER_YET.fill(waited_s=waited_s, id=job.id),
        status=504,
        code="answer_timeout",
        param="hybrid.max_wait_s",
    )


def _check_heard(services: Services, running: Running) -> None:
    now = time.monotonic()
    # A job that was accepted is a sign of life too.
    if now - max(services.redis_watch.heard_at, running.began_at) >= REDIS_PATIENCE_S:
        raise _unreadable(services, running, now - running.began_at)


def _unreadable(services: Services, running: Running, waited_s: float) -> QueueUnavailableError:
    """Make the error of a wait at whose end redis does not answer; the job's id leads to the answer when it does."""
    job = running.job
    if not job.is_announced:
        services.dispatcher.do_later(lambda: services.store.tell(job.id))
    return QueueUnavailableError(texts.REDIS_SILENT.fill(waited_s=waited_s, id=job.id), retry_after_s=2)


def shown(job: Job) -> FinalAnswer | UnitResult | None:
    """Return the final answer, or the draft while that is still to come: without one, a draft would pass for it."""
    return job.final or (None if job.is_terminal else job.draft)


async def announce(services: Services, job: Job) -> Job:
    """Let a job be read under its id by a caller who gets the draft, and not yet the answer."""
    if job.is_announced:
        return job
    try:
        return replace(job, is_told=await services.store.tell(job.id))
    except QueueUnavailableError:
        services.dispatcher.do_later(lambda: services.store.tell(job.id))
        return replace(job, is_told=True)


def _existing(job: Job | None, running: Running) -> Job:
    if job is None:
        raise no_response(running.job.id, param=None)
    running.seen = job
    return job
