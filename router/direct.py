"""A direct answer: GLM's, sent to the client that waits for it, and recorded at its end.

In: GLM's stream, begun. Out: the same events as a job's, and the same record that a job ends with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from engines.base import Delta, EngineError, EngineUnavailableError
from router import texts
from router.answers.merge import as_it_is
from router.cache.answers import is_worth_keeping
from router.cache.store import AnswerCache, KeptAs
from router.call import Call
from router.costs import tokens_of_cut
from router.errors import QueueUnavailableError
from router.health import EngineMonitor
from router.jobs.facts import of_answer
from router.jobs.job import Event, Job, JobSpec, Unit, end_state
from router.jobs.results import ErrorRecord, UnitResult, to_failure_record
from router.jobs.store import JobStore
from router.leftovers import Leftovers, end_tasks
from router.loop.capture import Capture
from router.redis import while_heard
from router.redis_watch import RedisWatch
from router.telemetry.meters import UNMETERED, Meters
from router.work.transcript import Piece, Transcript

log = logging.getLogger(__name__)

FAST_UNIT: Final = "fast"
# Timeout for redis to come back where a direct answer must be stored; an idempotency key is held for longer.
_KEEP_PATIENCE_S = 5.0
_REDIS_RETRY_S = 0.2
_MAX_BEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class DirectStream:
    """GLM's answer, begun.

    Attributes:
        transcript: of what it has said.
        said: pieces of it that were not told yet.
        deltas: what is still to come; closed at the end, or when the client disconnects.
    """

    transcript: Transcript
    said: Sequence[Piece]
    deltas: AsyncGenerator[Delta, None]


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where the answer is recorded.

    Attributes:
        store: the job records.
        epoch: of `JobStore.begin`, if it was recorded before it was begun; then a worker writes it should this process
            end.
        take_back: forgets what redis may have recorded although it did not say so.
        watch: of redis; None waits for redis as long as its client does.
    """

    store: JobStore
    epoch: int | None
    take_back: Callable[[JobSpec, QueueUnavailableError], None]
    watch: RedisWatch | None = None


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the answer is cached for equal requests.

    Attributes:
        cache: of answers.
        naming: finds out where it is kept; None if it can't be.
    """

    cache: AnswerCache
    naming: asyncio.Task[KeptAs | None]


class DirectAnswer:
    """One direct answer.

    Args:
        call: what was asked.
        job: the record as it is at the beginning.
        stream: the answer.
        keeping: where it is recorded; None if it is not.
        monitor: learns that GLM is gone.
        leftovers: keep on what must end although the client has hung up.
        sharing: how it is kept to be given again; None if it is not.
        meters: told of its end.

    Attributes:
        job: as given.
        finished: the record at the end, once it is there.
    """

    def __init__(
        self,
        call: Call,
        job: Job,
        stream: DirectStream,
        keeping: Keeping | None,
        monitor: EngineMonitor,
        leftovers: Leftovers,
        sharing: Sharing | None = None,
        meters: Meters = UNMETERED,
        capture: Capture | None = None,
    ) -> None:
        self.job = job
        self.finished: list[Job] = []
        self._call = call
        self._stream = stream
        self._keeping = keeping
        self._monitor = monitor
        self._leftovers = leftovers
        self._sharing = sharing
        self._meters = meters
        self._capture = capture
        self._elsewhere: Job | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events of the answer; to be closed when the client disconnects.

        Raises:
            QueueUnavailableError: if it has to be recorded, and redis does not answer.
        """
        keeping = self._keeping
        beat: asyncio.Task[None] | None = None
        if keeping is not None and keeping.epoch is not None:
            beat = asyncio.create_task(self._keep_lease(keeping.store, keeping.epoch))
        try:
            async with contextlib.aclosing(self._tell()) as told:
                async for event in told:
                    yield event
        finally:
            if beat is not None:
                self._leftovers.add(end_tasks(beat))
            if not self.finished and self._call.admission is not None:
                said = self._stream.transcript.text
                self._call.admission.use(tokens_of_cut(self._call.messages, said, self._monitor.info("glm")))
            if not self.finished:
                cut = _cut_off(self.job, self._to_result())
                self._meters.answered(of_answer(cut))
                if keeping is not None:
                    # The client that hung up may know the id: store the text written so far under it.
                    self._leftovers.add(self._keep(keeping, cut))

    async def _tell(self) -> AsyncGenerator[Event, None]:
        yield Event("started", FAST_UNIT, 1)
        error: ErrorRecord | None = None
        async with contextlib.aclosing(self._stream.deltas):
            try:
                async with contextlib.aclosing(self._pieces()) as pieces:
                    async for piece in pieces:
                        if piece.text:
                            yield Event("delta", FAST_UNIT, 1, text=piece.text, logprobs=piece.logprobs)
                        for call in piece.calls:
                            yield Event("delta", FAST_UNIT, 1, calls=(call,))
                if self._elsewhere is None:
                    self._stream.transcript.check_ended()
            except EngineError as failure:
                if isinstance(failure, EngineUnavailableError):
                    self._monitor.mark_down("glm")
                error = to_failure_record(failure)
        if self._elsewhere is not None:
            self.finished.append(self._elsewhere)
            yield Event("finished", FAST_UNIT, 1, state="cancelled")
        else:
            result = self._to_result(error)
            self.finished.append(_finish_fast(self.job, result))
            self._meters.answered(of_answer(self.finished[0]))
            if self._capture is not None:
                self._capture.add(self.finished[0], self._call.images)
            if self._call.admission is not None and self.job.spec.cache != "joined":
                self._call.admission.use(result.usage.prompt_tokens + result.usage.completion_tokens)
            yield Event("finished", FAST_UNIT, 1, state=self.finished[0].units[FAST_UNIT].state)
            await self._share()
            await self._keep_end()
        yield Event("end", state=self.finished[0].state)

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        for piece in self._stream.said:
            if self._elsewhere is None:
                yield piece
        async for delta in self._stream.deltas:
            if self._elsewhere is not None:
                return
            if (more := self._stream.transcript.take(delta)) is not None:
                yield more

    async def _share(self) -> None:
        """Keep the answer to be given again: before it is recorded, as who deletes the record has it forgotten too."""
        if self._sharing is None or not is_worth_keeping(self.finished[0]):
            return
        where = await asyncio.shield(self._sharing.naming)
        if where is not None and await self._sharing.cache.put(self.finished[0], where):
            self.finished[0] = replace(self.finished[0], kept_as=str(where))

    async def _keep_end(self) -> None:
        if self._keeping is None:
            return
        try:
            # Finish storing even if the client disconnects: it already has the id.
            await asyncio.shield(self._leftovers.add(self._keep(self._keeping, self.finished[0])))
        except QueueUnavailableError as unavailable:
            is_on_record = self._keeping.epoch is not None
            if not is_on_record:  # the client is told "not stored", so it must not be found later
                self._keeping.take_back(self.job.spec, unavailable)
            if self._call.keep_s > 0 or (self._call.webhook_url is not None and not is_on_record):
                raise  # it would be answered a second time under its key, or its webhook never be sent
            # The answer is there and GLM needed no redis for it.
            log.warning("%s could not be stored: %s", self.job.id, unavailable.message)
            self.finished[0] = not_stored(self.finished[0], is_on_record=is_on_record)

    def _to_result(self, error: ErrorRecord | None = None) -> UnitResult:
        return self._stream.transcript.to_result(error, has_cuts=self._keeping is not None)

    async def _keep_lease(self, store: JobStore, epoch: int) -> None:
        """Say that the answer is still being written here, until somebody else has ended it: that record is noted."""
        while True:
            await asyncio.sleep(min(store.lease_s / 3, _MAX_BEAT_S))
            with contextlib.suppress(QueueUnavailableError):
                if await store.renew(self.job.id, FAST_UNIT, epoch):
                    continue
                job = await store.get(self.job.id)
                if job is not None and job.is_terminal:
                    self._elsewhere = job
                return

    async def _keep(self, keeping: Keeping, job: Job) -> None:
        deadline = time.monotonic() + _KEEP_PATIENCE_S
        while True:
            try:
                async with while_heard(keeping.watch):
                    if not await keeping.store.put_finished(job, self._call.images, epoch=keeping.epoch):
                        log.info("%s was ended by somebody else", job.id)
                return
            except QueueUnavailableError:
                # A replay under an Idempotency-Key must return the same answer, and an announced id
                # must be found: wait as long as a restart of redis takes.
                call = self._call
                is_promised = call.keep_s > 0 or keeping.epoch is not None or call.webhook_url is not None
                if not is_promised or time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(_REDIS_RETRY_S)


def to_tell(said: Sequence[Piece | None], call: Call) -> list[Piece]:
    """Return the pieces to send; one piece for a client that gets the answer whole."""
    pieces = [piece for piece in said if piece is not None]
    if call.is_streamed or len(pieces) < 2:
        return pieces
    return [
        Piece(
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.logprobs),
            tuple(call for piece in pieces for call in piece.calls),
        )
    ]


def as_accepted(job: Job) -> Job:
    """Return a record as it was when its answer began: what a stream that is read again begins with."""
    spec = job.spec
    if spec.branches[0].name == FAST_UNIT and not spec.is_background:
        units = {FAST_UNIT: Unit(FAST_UNIT, "in_progress", epoch=1)}
        return Job(spec, "in_progress", units, started_at=spec.created_at)
    return Job(spec, "queued", {branch.name: Unit(branch.name, "queued") for branch in spec.branches})


def _finish_fast(job: Job, result: UnitResult) -> Job:
    """Turn GLM's direct answer into the same record that a job ends with."""
    now = time.time()
    if result.error:
        unit = Unit(FAST_UNIT, "failed", epoch=1, result=result)
        return replace(job, state="failed", units={FAST_UNIT: unit}, error=result.error, completed_at=now)
    final = as_it_is(job, result, "glm", "single", result.usage)
    return replace(
        job,
        state=end_state(final),
        units={FAST_UNIT: Unit(FAST_UNIT, "completed", epoch=1, result=result)},
        final=final,
        completed_at=now,
    )


def not_stored(job: Job, *, is_on_record: bool = False) -> Job:
    """Say of an ended answer that redis could not keep it; or, if it is on record since it began, not its end."""
    note = texts.NOT_ENDED if is_on_record else texts.NOT_STORED
    final = None if job.final is None else job.final.noted(note)
    return replace(job, spec=replace(job.spec, is_stored=is_on_record and job.spec.is_stored), final=final)


def _cut_off(job: Job, result: UnitResult) -> Job:
    """Turn a direct answer whose caller hung up into a record of what it said until then."""
    units = {FAST_UNIT: Unit(FAST_UNIT, "cancelled", epoch=1, result=result)}
    return replace(job, state="cancelled", units=units, completed_at=time.time())
