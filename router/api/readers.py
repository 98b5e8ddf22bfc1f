"""Who reads the streams of jobs in this process: each stream is folded and encoded once, for all of its readers.

In: job records. Out: encoded events, the same bytes for everyone, from the first on and then as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from router.api import texts
from router.api.stream import sse, to_response_events
from router.api.turns import Turns, Waiter
from router.errors import TooManyInFlightError
from router.jobs.events import EventHub
from router.jobs.job import Event, Job
from router.leftovers import Leftovers, end_tasks

# More than a page, its proxies and a few people that look on need; each costs a write per event.
MAX_OF_JOB: Final = 64
MAX_OF_OWNER: Final = 256
# Passing news on costs this process a write for each reader, 0.1 to 0.2 ms. With more readers than a few they are woken
# less often and given more at a time: 64 of them every 56 ms, 256 every 248 ms.
_FEW: Final = 8
_PAUSE_S: Final = 0.001
# A question takes some dozens of turns of the event loop, so a turn in which 256 readers write would cost it seconds.
_AT_A_TIME: Final = 4
# Of a stream that is behind: as much as is joined for one write.
_BATCH_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded event.

    Attributes:
        number: its ``sequence_number``.
        data: its bytes on the wire.
        event: what they say.
    """

    number: int
    data: bytes
    event: dict[str, Any]


@dataclass
class Told:
    """What is known of a stream while, and after, it is read.

    Attributes:
        is_summary: some of its text came in fewer pieces than when it was written.
        is_rewritten: a unit has run more than once.
    """

    is_summary: bool = False
    is_rewritten: bool = False


@dataclass
class _Shared:
    """One job's stream, as far as it was read.

    Attributes:
        frames: from the first.
        waiting: readers that have all frames, to be woken with the next and at the end.
        task: folds it.
        woken_at: loop time at which readers were last woken.
        waking: wakes them with the newest, later.
    """

    told: Told = field(default_factory=Told)
    frames: list[Frame] = field(default_factory=list)
    waiting: dict[Waiter, None] = field(default_factory=dict)
    num_readers: int = 0
    is_ended: bool = False
    failure: Exception | None = None
    task: asyncio.Task[None] | None = None
    woken_at: float = -math.inf
    waking: asyncio.TimerHandle | None = None


async def to_frames(
    job: Job, events: AsyncGenerator[Event, None], load: Callable[[], Awaitable[Job | None]], told: Told
) -> AsyncGenerator[list[Frame], None]:
    """Fold and encode a job's events, one at a time; closes them.

    Args:
        job: the record.
        events: of the job, from its first.
        load: reads the record at the end.
        told: is kept up to date.
    """

    async def noted() -> AsyncIterator[Event]:
        async for event in events:
            told.is_summary = told.is_summary or event.is_summary
            told.is_rewritten = told.is_rewritten or event.epoch > 1
            yield event

    async with contextlib.aclosing(events), contextlib.aclosing(to_response_events(job, noted(), load)) as folded:
        async for event in folded:
            yield [Frame(event["sequence_number"], sse(event, name=event["type"]), event)]


class Readers:
    """The streams that are read now.

    Args:
        hub: follows jobs.
    """

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._streams: dict[str, _Shared] = {}
        self._by_owner: Counter[str] = Counter()
        self._ending = Leftovers()
        self._turns = Turns(_AT_A_TIME)

    def check(self, job: Job) -> None:
        """Refuse a reader too many, while that can still be a status.

        Raises:
            TooManyInFlightError: if the job, or its owner, has as many as one may have.
        """
        shared = self._streams.get(job.id)
        if (shared is not None and shared.num_readers >= MAX_OF_JOB) or self._by_owner[job.spec.owner] >= MAX_OF_OWNER:
            raise TooManyInFlightError(
                texts.TOO_MANY_READERS.fill(max_of_job=MAX_OF_JOB, max_of_owner=MAX_OF_OWNER),
                code="too_many_readers",
                retry_after_s=5,
            )

    async def read(
        self, job: Job, told: Callable[[Told], None], ping_s: float | None = None
    ) -> AsyncGenerator[list[Frame] | None, None]:
        """Yield the stream of a job from its first event, then as it comes: each time what there is by then.

        Args:
            job: its record.
            told: given what is known of the stream, before its first event.
            ping_s: yield None after this long without an event; None for never.

        Raises:
            NotFoundError: if the job is deleted meanwhile.
        """
        shared = self._streams.get(job.id)
        # One that has ended is of no use to who comes after the job was begun again.
        if shared is None or shared.failure is not None or (shared.is_ended and not job.is_terminal):
            shared = self._streams[job.id] = _Shared()
            shared.task = asyncio.create_task(self._fold(job, shared), name=f"stream-{job.id}")
        told(shared.told)
        shared.num_readers += 1
        self._by_owner[job.spec.owner] += 1
        try:
            index, has_turn = 0, False
            while True:
                if index < len(shared.frames):
                    if not has_turn:
                        await self._turns.next()
                    has_turn = False
                    batch = _batch(shared.frames, index)
                    index += len(batch)
                    yield batch
                elif shared.failure is not None:
                    raise shared.failure
                elif shared.is_ended:
                    return
                else:
                    has_turn = await _news(shared, ping_s)
                    if not has_turn:
                        await self._turns.next()
                        yield None
        finally:
            self._by_owner[job.spec.owner] -= 1
            shared.num_readers -= 1
            if not shared.num_readers:
                if self._streams.get(job.id) is shared:
                    del self._streams[job.id]
                if shared.task is not None:
                    self._ending.add(end_tasks(shared.task))

    async def _fold(self, job: Job, shared: _Shared) -> None:
        frames = to_frames(job, self._hub.follow(job.id, job.follows), lambda: self._hub.load(job.id), shared.told)
        try:
            async with contextlib.aclosing(frames):
                async for batch in frames:
                    shared.frames += batch
                    self._wake_after(shared, _PAUSE_S * max(self._by_owner.total() - _FEW, 0))
        except Exception as error:  # told to every reader, each of whom says it in its own language
            shared.failure = error
        finally:
            shared.is_ended = True
            self._wake(shared)

    def _wake_after(self, shared: _Shared, pause_s: float) -> None:
        """Wake readers now if that was not done for so long, else then."""
        loop = asyncio.get_running_loop()
        if loop.time() >= shared.woken_at + pause_s:
            self._wake(shared)
        elif shared.waking is None:
            shared.waking = loop.call_at(shared.woken_at + pause_s, self._wake, shared)

    def _wake(self, shared: _Shared) -> None:
        if shared.waking is not None:
            shared.waking.cancel()
            shared.waking = None
        shared.woken_at = asyncio.get_running_loop().time()
        waiting, shared.waiting = shared.waiting, {}
        self._turns.wake(waiting)


def _batch(frames: list[Frame], index: int) -> list[Frame]:
    """Take the frames from one on, as many as go into one write."""
    batch, num_bytes = [], 0
    while index < len(frames) and num_bytes < _BATCH_BYTES:
        batch.append(frames[index])
        num_bytes += len(batch[-1].data)
        index += 1
    return batch


async def _news(shared: _Shared, ping_s: float | None) -> bool:
    """Wait for more, or the end; False after the timeout."""
    waiter: Waiter = asyncio.get_running_loop().create_future()
    shared.waiting[waiter] = None
    try:
        async with asyncio.timeout(ping_s):
            await waiter
    except TimeoutError:
        return not waiter.cancelled()  # it may have been woken just then
    finally:
        shared.waiting.pop(waiter, None)
    return True
