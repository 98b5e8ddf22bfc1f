"""One run of a batch: turns its lines into jobs and their ends into lines of the output.

In: a batch that was claimed. Out: jobs through the dispatcher, a bounded number at a time, and records, fenced by the
epoch of the claim. Every line in flight is in the record, and its job's id follows from the batch and the line: a later
run goes on where this one was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from engines.json_text import dump_line
from engines.origin import ORIGIN, Origin
from engines.traces import conventions
from router.batches import texts
from router.batches.files import FileGoneError, FileStore
from router.batches.line_api import Answer, LineApi
from router.batches.lines import (
    HEAD_BYTES,
    Line,
    LineLimits,
    Parsed,
    Problem,
    duplicate,
    find_file_problem,
    parse_line,
    read_lines,
)
from router.batches.records import MAX_LINES, Admitted, Batch, BatchSpec, Json, line_id, line_job_id
from router.batches.store import BatchStore, Ending, LeaseLostError
from router.dispatch import Dispatcher
from router.errors import QueueUnavailableError, RouterError, StorageFullError
from router.jobs.events import EventHub
from router.jobs.job import Job
from router.jobs.results import ErrorRecord
from router.jobs.store import JobStore
from router.leftovers import end_tasks, to_the_end

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

log = logging.getLogger(__name__)

# Lines being read, validated, or having pictures fetched: this bounds the memory of the process.
_MAX_OPENING = 8
# Retries of a line's job that failed because an engine was full or away, and the delay before each.
MAX_ATTEMPTS: Final = 8
# The same where the line itself may silence the engine or crash the worker: one retry later.
MAX_DOUBTFUL_ATTEMPTS: Final = 2
_FIRST_WAIT_S = 2.0
_MAX_WAIT_S = 60.0
# Shortest time between the starts of two lines; longer while the event loop is late, since other clients wait too.
_TURN_S = 0.005
_LATE_FACTOR = 4.0
_MAX_TURN_S = 0.25
# Lines that ended without a job are written in groups of this many.
_SKIP_LINES = 200
_SKIP_BYTES = 256 * 1024


Note = Callable[[BatchSpec, str, int, Job | None], None]


class BatchContext:
    """What the runs of one process work with, and share.

    Args:
        store: the batch records.
        files: their input.
        jobs: where the jobs of lines are read, cancelled and forgotten.
        hub: tells when a job has ended.
        dispatcher: begins jobs.
        api: the wire shapes.
        lines_in_flight: the most jobs of batches under way at a time, of all batches that this process works on; each
            batch gets the same share.
        line_limits: larger lines are refused.
        first_wait_s: before the first new attempt at a line.
        note: is called with a batch, a line's own name, the status of its answer and its job, once the line has ended.
        traces: of this process; None keeps none.
    """

    def __init__(
        self,
        *,
        store: BatchStore,
        files: FileStore,
        jobs: JobStore,
        hub: EventHub,
        dispatcher: Dispatcher,
        api: LineApi,
        lines_in_flight: int,
        line_limits: LineLimits,
        first_wait_s: float = _FIRST_WAIT_S,
        note: Note | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.traces = traces
        self.store = store
        self.files = files
        self.jobs = jobs
        self.hub = hub
        self.dispatcher = dispatcher
        self.api = api
        self.line_limits = line_limits
        self.first_wait_s = first_wait_s
        self.note = note
        # First come, first served: batches take turns, large or small.
        self.slots = asyncio.Semaphore(lines_in_flight)
        self.opening = asyncio.Semaphore(_MAX_OPENING)
        self._turns = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until another line may be begun.

        A loop that wakes late has other callers waiting, or shares its cores with whatever the lines keep busy. Engines
        that take seconds for an answer never get here: their lines wait for a slot.
        """
        async with self._turns:
            begun = time.monotonic()
            await asyncio.sleep(_TURN_S)
            late_s = time.monotonic() - begun - _TURN_S
            if late_s > _TURN_S:
                await asyncio.sleep(min(_LATE_FACTOR * late_s, _MAX_TURN_S))


class _Permit:
    """One place of a semaphore; only the first release counts."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._is_held = False

    async def acquire(self) -> _Permit:
        await self._semaphore.acquire()
        self._is_held = True
        return self

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._semaphore.release()


class Run:
    """One process' time with one batch, fenced by its epoch."""

    def __init__(self, context: BatchContext, batch_id: str, epoch: int) -> None:
        self.id = batch_id
        self.epoch = epoch
        self.news = asyncio.Event()
        self._context = context
        self._store = context.store
        self._jobs = context.jobs
        self._api = context.api
        self._group = asyncio.TaskGroup()
        self._spec: BatchSpec
        self._num_bytes = 0
        self._is_file_gone = False
        # Why the batch takes no more lines and ends the running ones; None while it runs.
        self._ending: Ending | None = None
        self._closing = asyncio.Event()
        self._feed: asyncio.Task[None] | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._in_flight: dict[int, str] = {}

    async def execute(self) -> None:
        """Work until the batch has ended or belongs to another run."""
        try:
            async with self._group:
                heart = self._group.create_task(self._beat())
                try:
                    await self._work()
                finally:
                    # The group cancels each task once, and redis-py can swallow that: this would then never end.
                    await to_the_end(self._end_tasks(heart))
        except* LeaseLostError:
            log.info("batch %s is no longer ours", self.id)
        except* QueueUnavailableError:
            log.info("batch %s stops until redis answers", self.id)
        except* Exception:  # the edge of a batch: a batch with a bug must not be retried for ever
            log.exception("batch %s failed", self.id)
            await self._give_up()

    async def _end_tasks(self, heart: asyncio.Task[None]) -> None:
        await end_tasks(heart, *([self._feed] if self._feed else []))
        await end_tasks(*self._lines)  # the feed has begun its last one

    async def _beat(self) -> None:
        interval_s = min(self._store.lease_s / 3, 1.0)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), interval_s)
            self.news.clear()
            try:
                await self._look()
            except QueueUnavailableError:
                continue  # redis may be restarting; the record decides once it is back
            if self._ending is not None:
                for job_id in list(self._in_flight.values()):
                    await self._jobs.cancel(job_id)

    async def _look(self) -> None:
        """Renew the lease; see whether the batch was cancelled or its time is over."""
        self._ending = await self._store.renew(self.id, self.epoch)
        if self._ending is not None and not self._closing.is_set():
            self._closing.set()
            if self._feed is not None:
                self._feed.cancel()

    async def _work(self) -> None:
        await self._look()
        batch = await self._store.get(self.id)
        if batch is None:
            return
        self._spec = batch.spec
        file = await self._context.files.get(batch.spec.owner, batch.spec.input_file_id)
        self._is_file_gone = file is None
        self._num_bytes = file.num_bytes if file else 0
        if batch.status == "validating" and not self._is_file_gone:
            problem = await self._validate()
            if problem is not None:
                await self._fail(problem)
                return
        if self._ending is None and not self._is_file_gone:
            self._feed = self._group.create_task(self._take_lines(batch))
            await asyncio.wait({self._feed})
        while self._lines:
            await asyncio.wait(self._lines)
        if self._ending is None and self._is_file_gone:
            await self._fail(
                Problem(
                    "input_file_gone",
                    texts.INPUT_EXPIRED,
                    "input_file_id",
                )
            )
            return
        if not await self._store.finalize(self.id, self.epoch):
            await self._look()
            await self._close_early()
        if self.epoch > 1:
            await self._forget_rest()
        await self._store.finish(self.id, self.epoch)

    async def _forget_rest(self) -> None:
        """Forget the jobs whose answers an earlier run took, and then died before it had forgotten them."""
        after, rest = "", []
        while (
            page := await self._jobs.list_jobs(self._spec.owner, batch_id=self.id, after=after, limit=100)
        ) is not None:
            rest += [job.id for job in page.jobs if not job.spec.is_stored]
            after = page.last_id
            if not page.has_more:
                break
        for job_id in rest:
            await self._jobs.delete(job_id)

    async def _validate(self) -> Problem | None:
        """Count the lines and begin; returns what is wrong with the file as a whole."""
        total = 0
        try:
            head = await self._context.files.read(self._spec.input_file_id, 0, min(self._num_bytes, HEAD_BYTES))
            if (problem := find_file_problem(head)) is not None:
                return problem
            async with contextlib.aclosing(self._read(0, 0)) as lines:
                async for _line in lines:
                    total += 1
                    if total > MAX_LINES:
                        return Problem(
                            "too_many_lines",
                            texts.TOO_MANY_LINES.fill(max_lines=MAX_LINES),
                            "input_file_id",
                        )
        except FileGoneError:
            self._is_file_gone = True
            return None
        if total == 0:
            return Problem("empty_file", texts.EMPTY_FILE, "input_file_id")
        if not await self._store.start(self.id, self.epoch, total):
            await self._look()
        return None

    async def _take_lines(self, batch: Batch) -> None:
        """Begin what was in flight when the last run ended, then line after line as there is room."""
        for admitted in await self._store.admitted(self.id):
            slot = await _Permit(self._context.slots).acquire()
            self._spawn(admitted, None, slot, _Permit(self._context.opening))
        try:
            async with contextlib.aclosing(self._read(batch.offset, batch.line)) as lines:
                while True:
                    slot = await _Permit(self._context.slots).acquire()
                    opening = _Permit(self._context.opening)
                    is_taken = False
                    try:
                        # Held from before a line is read until its pictures are stored, which bounds the memory.
                        await opening.acquire()
                        line = await anext(lines, None)
                        if line is None:
                            return
                        request = await self._admit(line)
                        if request is not None:
                            await self._context.turn()
                            self._spawn(*request, slot, opening)
                            is_taken = True
                    finally:
                        if not is_taken:
                            slot.release()
                            opening.release()
        except FileGoneError:
            self._is_file_gone = True
        except _ClosingError:
            self.news.set()

    async def _admit(self, line: Line) -> tuple[Admitted, Any] | None:
        """Take a line; None if it is answered by an error already."""
        parsed = parse_line(line.data, self._spec.endpoint, self._context.line_limits)
        if parsed.problem is not None or parsed.body is None or parsed.custom_id is None:
            await self._skip(line, parsed)
            return None
        refusal: Answer | Problem | None = None
        try:
            request = self._api.read(self._spec.endpoint, parsed.body)
        except RouterError as error:
            refusal = self._api.to_refusal(self._spec, error)
        except Exception:  # a bug that this line triggers must not end the other lines
            refusal = self._bug(line.number)
        if refusal is not None:
            entry = self._to_entry(line.number, parsed.custom_id, refusal)
            await self._store.skip(self.id, self.epoch, line.number, line.end, [entry])
            return None
        admitted = Admitted(
            number=line.number,
            offset=line.offset,
            num_bytes=line.num_bytes,
            custom_id=parsed.custom_id,
        )
        match await self._store.admit(self.id, self.epoch, admitted, line.end):
            case "ok":
                return admitted, request
            case "closing":
                raise _ClosingError
            case "duplicate":
                await self._skip(line, duplicate(parsed.custom_id))
        return None

    def _spawn(self, line: Admitted, request: Any, slot: _Permit, opening: _Permit) -> None:
        task = self._group.create_task(self._run_line(line, request, opening))
        self._lines.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._lines.discard(task)
            opening.release()
            slot.release()

        task.add_done_callback(done)

    async def _run_line(self, line: Admitted, request: Any, opening: _Permit) -> None:
        origin = Origin(self._request_id(line.number))
        if (traces := self._context.traces) is None:
            ORIGIN.set(origin)
            await self._run_one(line, request, opening)
            return
        about = {conventions.BATCH_ID: self.id, conventions.REQUEST_ID: origin.request_id}
        with traces.span("batch line", "internal", origin, about) as span:
            ORIGIN.set(span.origin)
            await self._run_one(line, request, opening)

    async def _run_one(self, line: Admitted, request: Any, opening: _Permit) -> None:
        try:
            answer, job = await self._answer(line, request, opening)
        except (LeaseLostError, QueueUnavailableError):
            raise
        except Exception:  # a bug that this line triggers must not end the other lines
            answer, job = self._bug(line.number), await self._jobs.cancel(line_job_id(self.id, line))
        await self._record(line, answer, job)

    async def _answer(self, line: Admitted, request: Any, opening: _Permit) -> tuple[Answer | Problem, Job | None]:
        """Get a line its answer, with as many jobs as that takes; returns the last one too."""
        wait_s = self._context.first_wait_s
        while True:
            job_id = line_job_id(self.id, line)
            # A line just read has no job yet, unless an earlier run of this batch started one.
            job = await self._jobs.get(job_id) if request is None else None
            if job is None:
                if self._ending is not None:
                    return self._stopped(), None
                refusal = await self._submit(line, request, job_id, opening)
                if isinstance(refusal, Answer) and refusal.status in (429, 503):
                    # The service is full or an engine is away: a batch can wait.
                    request = None
                    wait_s = await self._pause(wait_s)
                    continue
                if refusal is not None:
                    return refusal, None
            request = None
            job = await self._wait(line.number, job_id)
            if job is None:
                return Problem("response_deleted", texts.RESPONSE_DELETED), None
            if job.state == "cancelled" and self._ending is not None:
                return self._stopped(), job
            if self._ending is not None or line.attempt + 1 >= _max_attempts(job):
                return self._api.to_answer(self._spec, job), job
            line = replace(line, attempt=line.attempt + 1)
            await self._store.retry(self.id, self.epoch, line)
            await self._jobs.delete(job_id)
            wait_s = await self._pause(wait_s)

    async def _submit(self, line: Admitted, request: Any, job_id: str, opening: _Permit) -> Answer | Problem | None:
        """Begin a line's job; returns the refusal if it is refused."""
        try:
            if request is None:
                await opening.acquire()
                data = await self._context.files.read(self._spec.input_file_id, line.offset, line.num_bytes)
                body = parse_line(data.strip(), self._spec.endpoint, self._context.line_limits).body
                request = self._api.read(self._spec.endpoint, body or {})
            call = await self._api.to_call(request, self._spec, job_id)
            running = await self._context.dispatcher.start(call)
            await running.events.aclose()
        except StorageFullError as error:  # running lines can end and make room
            return self._api.to_refusal(self._spec, error)
        except QueueUnavailableError:
            raise  # no record can be written now; the next run starts this line again
        except RouterError as error:
            return self._api.to_refusal(self._spec, error)
        except FileGoneError:
            return Problem("input_file_gone", texts.INPUT_GONE)
        finally:
            opening.release()
        return None

    async def _wait(self, number: int, job_id: str) -> Job | None:
        self._in_flight[number] = job_id
        try:
            if self._ending is not None:
                await self._jobs.cancel(job_id)
            return await self._context.hub.ended(job_id)
        finally:
            del self._in_flight[number]

    async def _pause(self, wait_s: float) -> float:
        """Wait before another attempt, unless the batch is closed; returns how long to wait next time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), wait_s)
        return min(2 * wait_s, _MAX_WAIT_S)

    async def _close_early(self) -> None:
        """Give every line that has no answer yet an entry in the error file."""
        for line in await self._store.admitted(self.id):
            job = await self._jobs.cancel(line_job_id(self.id, line))
            is_stopped = job is None or job.state == "cancelled"
            answer: Answer | Problem = self._stopped()
            if job is not None and not is_stopped:
                try:
                    answer = self._api.to_answer(self._spec, job)
                except Exception:  # a bug that this line triggers must not end the other lines
                    answer = self._bug(line.number)
            await self._record(line, answer, job)
        batch = await self._store.get(self.id)
        if batch is None or batch.total == 0 or self._is_file_gone:
            return
        entries: list[bytes] = []
        last: Line | None = None
        with contextlib.suppress(FileGoneError):
            async with contextlib.aclosing(self._read(batch.offset, batch.line)) as lines:
                async for last in lines:
                    parsed = parse_line(last.data, self._spec.endpoint, self._context.line_limits)
                    problem = parsed.problem or self._stopped()
                    entries.append(self._to_entry(last.number, parsed.custom_id, problem))
                    if len(entries) >= _SKIP_LINES or sum(map(len, entries)) >= _SKIP_BYTES:
                        await self._store.skip(self.id, self.epoch, last.number, last.end, entries)
                        entries = []
        if entries and last is not None:
            await self._store.skip(self.id, self.epoch, last.number, last.end, entries)

    async def _record(self, line: Admitted, answer: Answer | Problem, job: Job | None) -> None:
        is_error = isinstance(answer, Problem) or answer.status >= 400
        entry = self._to_entry(line.number, line.custom_id, answer)
        usage = {} if isinstance(answer, Problem) else answer.usage
        await self._store.record(self.id, self.epoch, line.number, entry, is_error=is_error, usage=usage)
        if self._context.note is not None:
            status = 500 if isinstance(answer, Problem) else answer.status
            self._context.note(self._spec, line.custom_id, status, job)
        if job is not None and not job.spec.is_stored:
            await self._jobs.delete(job.id)  # its answer is in the file

    async def _skip(self, line: Line, parsed: Parsed) -> None:
        assert parsed.problem is not None
        entry = self._to_entry(line.number, parsed.custom_id, parsed.problem)
        await self._store.skip(self.id, self.epoch, line.number, line.end, [entry])

    async def _fail(self, problem: Problem) -> None:
        error = {"code": problem.code, "message": self._say(problem), "param": problem.param, "line": None}
        await self._store.fail(self.id, self.epoch, [error])

    async def _give_up(self) -> None:
        with contextlib.suppress(LeaseLostError, QueueUnavailableError):
            for line in await self._store.admitted(self.id):
                await self._jobs.cancel(line_job_id(self.id, line))
            problem = Problem("server_error", texts.BATCH_FAILED)
            error = {"code": problem.code, "message": problem.text.en, "param": None, "line": None}
            await self._store.fail(self.id, self.epoch, [error])

    def _read(self, offset: int, number: int) -> AsyncGenerator[Line, None]:
        return read_lines(
            self._context.files,
            self._spec.input_file_id,
            self._num_bytes,
            offset=offset,
            number=number,
            max_line_bytes=self._context.line_limits.max_bytes,
        )

    def _bug(self, number: int) -> Problem:
        log.exception("line %d of batch %s showed a bug", number, self.id)
        return Problem(
            "server_error",
            texts.LINE_FAILED,
        )

    def _stopped(self) -> Problem:
        if self._ending == "expired":
            return Problem(
                "batch_expired",
                texts.LINE_EXPIRED,
            )
        return Problem(
            "batch_cancelled",
            texts.LINE_CANCELLED,
        )

    def _say(self, problem: Problem) -> str:
        return problem.text.of(self._spec.language)

    def _to_entry(self, number: int, custom_id: str | None, answer: Answer | Problem) -> bytes:
        """Write a line of the output or the error file."""
        entry: Json = {"id": line_id(self.id, number), "custom_id": custom_id, "response": None, "error": None}
        if isinstance(answer, Problem):
            entry["error"] = {
                "code": answer.code,
                "message": self._say(answer),
                "param": answer.param,
                "line": number,
            }
        else:
            request_id = self._request_id(number)
            entry["response"] = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
        return dump_line(entry) + b"\n"

    def _request_id(self, number: int) -> str:
        return line_id(self.id, number).replace("batch_req_", "req_")


def _max_attempts(job: Job) -> int:
    """How many jobs a line may take, given how the last one ended: only what waiting mends is worth more than one.

    A bug and a refusal would be the same again, and each job has had its runs; so what is not known counts as one.
    """
    error: ErrorRecord = job.error or {}
    if job.state != "failed" or not error.get("retryable"):
        return 1
    if error.get("status") in (429, 503):
        return MAX_ATTEMPTS
    return MAX_DOUBTFUL_ATTEMPTS if error.get("status") == 504 or error.get("code") == "worker_lost" else 1


class _ClosingError(Exception):
    """No more lines are taken from this batch."""
