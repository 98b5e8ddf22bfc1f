"""Waiting for news of jobs: one Redis reader per process wakes every waiter.

In: the ``activity`` stream, which names each job something happened to. Out: per job, an async stream of its events
from any point on, which ends after the job's ``end`` event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from redis.asyncio import Redis

from engines.tools import ToolCallDelta
from router.errors import QueueUnavailableError
from router.jobs.given_up import no_response
from router.jobs.job import Event, Job, Unit
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from router.leftovers import end_tasks
from router.redis import PREFIX, guard

log = logging.getLogger(__name__)

_BLOCK_MS = 2000
# The reader wakes waiters within a millisecond or two; this bound only matters if it missed something.
_RECHECK_S = 5.0
_RETRY_S = 0.5
# Before the first entry of a stream, and behind the event that has none.
_AFTER_QUEUED = "0-0"


class EventHub:
    """Follows jobs without a polling loop per waiter.

    Args:
        redis: a client of its own, since the reader blocks its connection.
        store: where the events are read from.
    """

    def __init__(self, redis: Redis, store: JobStore) -> None:
        self._redis = redis
        self._store = store
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._end_waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._reader = asyncio.create_task(self._read(), name="job-activity")

    async def aclose(self) -> None:
        """Stop listening; waiters fall back to their own slow check."""
        if self._reader:
            await end_tasks(self._reader)

    async def follow(self, job_id: str, follows: str = "") -> AsyncGenerator[Event, None]:
        """Yield a job's events from its first, then as they come; ends after ``end``.

        Args:
            job_id: whose.
            follows: the job that runs for it too, as its record says.

        Raises:
            NotFoundError: if there is no such job, or it is deleted meanwhile.
        """
        news = asyncio.Event()
        # Of a job that waits for another, the events are those of the other.
        source, last = job_id, ""
        watched = {job_id}
        self._waiters[job_id].add(news)
        try:
            while True:
                news.clear()
                try:
                    events, job = await self._read_on(job_id, source, last)
                except QueueUnavailableError:
                    # The record outlives a restart of redis, so a waiter only has to be patient.
                    await asyncio.sleep(_RETRY_S)
                    continue
                for event in events:
                    last = event.id
                    yield event
                    if event.kind == "end":
                        return
                if not events and job is None:
                    raise no_response(job_id)
                wanted = follows if job is None and source == job_id else source
                if job is not None:
                    wanted = job.follows
                if (wanted or job_id) != source:
                    source, last, follows = wanted or job_id, _AFTER_QUEUED, ""
                    watched.add(source)
                    self._waiters[source].add(news)
                    continue
                # Not read again to see that there is no more: whatever came since the last read has set this.
                if not news.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), _RECHECK_S)
        finally:
            for name in watched:
                self._waiters[name].discard(news)
                if not self._waiters[name]:
                    del self._waiters[name]

    async def _read_on(self, job_id: str, source: str, last: str) -> tuple[list[Event], Job | None]:
        """Read a job's further events; and the job, if there are none, or they are another's that has ended."""

        async def read() -> list[Event]:
            return [
                event for event in await self._store.read_events(source, last) if source == job_id or _is_run(event)
            ]

        events = await self._store.read_events(source, last)
        is_over = source != job_id and any(event.kind == "end" for event in events)
        if source != job_id:
            events = [event for event in events if _is_run(event)]
        if events and not is_over:
            return events, None
        job = await self._store.get(job_id)
        if job is None or not job.is_terminal:
            return events, job
        # It may have ended between the two reads; told again from its record, it would be told twice.
        events = await read()
        if source == job_id and events:
            return events, job
        if source == job_id and (not last or (job.follows and last == _AFTER_QUEUED)):
            return [event for event in replay(job) if not last or event.kind != "queued"], job
        return [*events, Event("end", state=job.state)], job

    async def ended(self, job_id: str) -> Job | None:
        """Wait for a job's end and return its record; None if there is no such job, or it is deleted meanwhile.

        What happens before the end is not read, which is most of what following a job costs.
        """
        news = asyncio.Event()
        self._end_waiters[job_id].add(news)
        try:
            while True:
                news.clear()
                job = await self.load(job_id)
                if job is None or job.is_terminal:
                    return job
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _RECHECK_S)
        finally:
            self._end_waiters[job_id].discard(news)
            if not self._end_waiters[job_id]:
                del self._end_waiters[job_id]

    async def load(self, job_id: str) -> Job | None:
        """Read a record for somebody who has waited for it already: while redis is away, go on waiting."""
        while True:
            try:
                return await self._store.get(job_id)
            except QueueUnavailableError:
                await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        last: bytes | None = None
        while True:
            try:
                if last is None:
                    # Not "$": it would mean "from this very call on" and miss what happens between two calls.
                    last = await self._newest()
                    # Events before the newest, written while redis was away, have not been read by this hub.
                    self._wake_all()
                reply: Any = await guard(self._redis.xread({f"{PREFIX}activity": last}, block=_BLOCK_MS, count=1000))
            except QueueUnavailableError as error:
                log.warning("redis does not answer the event reader: %s", error.__cause__)
                last = None
                await asyncio.sleep(_RETRY_S)
                continue
            for _stream, entries in reply or []:
                for entry_id, fields in entries:
                    last = entry_id
                    job_id = fields[b"j"].decode()
                    for news in self._waiters.get(job_id, ()):
                        news.set()
                    # A process of an older version writes no kind: then it may be the end.
                    if fields.get(b"k", b"end") == b"end":
                        for news in self._end_waiters.get(job_id, ()):
                            news.set()

    async def _newest(self) -> bytes:
        entries: Any = await guard(self._redis.xrevrange(f"{PREFIX}activity", count=1))
        return bytes(entries[0][0]) if entries else b"0-0"

    def _wake_all(self) -> None:
        for waiters in (*self._waiters.values(), *self._end_waiters.values()):
            for news in waiters:
                news.set()


def _is_run(event: Event) -> bool:
    """Whether an event of another job is one of this job's too: what its units say, not how it began and ended."""
    return event.kind not in ("queued", "end")


def replay(job: Job) -> list[Event]:
    """Make the events of a finished job that has no event stream (any more) from its record."""
    events = [Event("queued")] if job.spec.is_background or len(job.spec.branches) > 1 else []
    for unit in job.units.values():
        if unit.result is None:
            continue
        events.append(Event("started", unit.name, unit.epoch))
        events.extend(_deltas(unit, unit.result))
        if unit.state != "cancelled":
            events.append(Event("finished", unit.name, unit.epoch, state=unit.state))
    events.append(Event("end", state=job.state))
    return events


def _deltas(unit: Unit, result: UnitResult) -> Iterator[Event]:
    if result.text and not result.cuts:
        text, logprobs = result.text, result.logprobs
        yield Event("delta", unit.name, unit.epoch, text=text, logprobs=logprobs, is_summary=True)
    char, token = 0, 0
    for chars, tokens in result.cuts:
        text, logprobs = result.text[char : char + chars], result.logprobs[token : token + tokens]
        yield Event("delta", unit.name, unit.epoch, text=text, logprobs=logprobs)
        char, token = char + chars, token + tokens
    yield from _call_deltas(unit, result)


def _call_deltas(unit: Unit, result: UnitResult) -> Iterator[Event]:
    """Make the events of an answer's calls; none where its stream told none."""
    told = [0] * len(result.tool_calls)
    begun = set[int]()
    for index, chars in result.call_cuts:
        call = result.tool_calls[index]
        head = ("", "") if index in begun else (call.id, call.name)
        begun.add(index)
        piece = ToolCallDelta(index, *head, call.arguments[told[index] : told[index] + chars])
        told[index] += chars
        yield Event("delta", unit.name, unit.epoch, calls=(piece,))
