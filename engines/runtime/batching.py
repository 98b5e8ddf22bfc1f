"""The running batch: requests that share a model join between decode steps and leave when they are done.

In: prepared requests, and the `BatchRunner` that knows the model. Out: deltas, into each request's sink. Nothing here
knows of tensors or threads.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engines.base import (
    CallerWait,
    Delta,
    EngineError,
    EngineOverloadedError,
    GenerationFailedError,
    hash_caller,
)
from engines.runtime.fair_budget import FairQueue

Job = TypeVar("Job")
Row = TypeVar("Row")
JobIn = TypeVar("JobIn", contravariant=True)

# After this many chunks in a row a long prompt yields to those behind it. Not after each: a prompt that is read to its
# end leaves its prefix to the next one, which often begins with the same picture.
_CHUNKS_PER_TURN = 4

log = logging.getLogger(__name__)


class BatchRunner(Protocol[JobIn, Row]):
    """The model's side of a continuous batch; every method is called on the model thread.

    A row is one admitted request with everything that belongs to it. Its prompt is read in chunks, then it takes part
    in the decode steps. A method that raises must leave the rows as they were, so that it can be called again.

    A lack of memory is raised as `MemoryError`, whatever the library calls it.
    """

    def cost(self, jobs: Sequence[JobIn]) -> int:
        """Tokens of cache these requests would take side by side when their answers are as long as they may be."""
        ...

    def begin(self, job: JobIn) -> Row:
        """Make a request's row; cheap."""
        ...

    def prefill(self, row: Row, max_tokens: int) -> tuple[int, bool]:
        """Read about ``max_tokens`` more of the prompt; at its end choose the first token of the answer.

        Returns:
            How many tokens' worth of work that was, at least 1, and whether the row is ready for decode steps.
        """
        ...

    def decode(self, rows: Sequence[Row]) -> Sequence[BaseException | None]:
        """Choose the next token of every row, in one forward.

        Args:
            rows: at least one, each ready and at most once.

        Returns:
            What went wrong with each row alone; None if nothing did.
        """
        ...

    def advance(self, row: Row) -> tuple[Sequence[Delta], bool]:
        """Turn the token chosen last into what the caller sees.

        Returns:
            Deltas, and whether the answer is complete; the last delta then says why and has the usage.
        """
        ...

    def drop(self, row: Row, *, is_complete: bool) -> None:
        """Free the row's place; what it computed may be kept for requests that begin alike."""
        ...

    def relieve(self) -> None:
        """Free memory that can be done without, before a step that found too little is tried again."""
        ...

    def is_lost(self) -> bool:
        """Whether nothing can be computed any more in this process; asked after an unforeseen error."""
        ...


class Sink(Protocol):
    """Where one request's deltas go."""

    @property
    def is_cancelled(self) -> bool:
        """The caller has left."""
        ...

    def put(self, item: Delta | EngineError | None) -> None:
        """Take a delta, or the error that ends the stream; None ends it in any case."""
        ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a batch may hold.

    Attributes:
        max_rows: requests that are read or answered at the same time.
        max_tokens: bound of `BatchRunner.cost` over them; a request that is over it alone runs alone.
        prefill_tokens: how much prompt is read between two decode steps. Running streams wait for it.
    """

    max_rows: int
    max_tokens: int
    prefill_tokens: int = 256


@dataclass(eq=False, slots=True)
class _Entry(Generic[Job, Row]):
    job: Job
    sink: Sink
    caller: str
    since: float
    row: Row | None = None
    num_chunks: int = 0


class ContinuousBatch(Generic[Job, Row]):
    """Requests that share a model: they join between decode steps and leave when they are done.

    Belongs to one thread. Nothing waits in here: `step` does one round of work and returns.

    Args:
        runner: does the work.
        limits: how many requests at a time.
        clock: seconds that never go back.
        tell: takes the number of rows of each decode step.

    Attributes:
        limits: as given.
        kv_usage: part of ``limits.max_tokens`` that is promised to rows; may be read from any thread.
        is_lost: the runner can compute nothing any more, so nothing may be submitted.
    """

    def __init__(
        self,
        runner: BatchRunner[Job, Row],
        limits: BatchLimits,
        clock: Callable[[], float] = time.monotonic,
        *,
        tell: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.limits = limits
        self.kv_usage = 0.0
        self.is_lost = False
        self._tell = tell
        self._clock = clock
        self._turned_at: dict[str, float] = {}
        # By caller: how many wait, since when the oldest does, since when for this turn. Replaced as a whole, so that
        # other threads may read it.
        self._waits: dict[str, tuple[int, float, float]] = {}
        self._runner = runner
        self._queue: FairQueue[_Entry[Job, Row]] = FairQueue()
        self._reading: deque[_Entry[Job, Row]] = deque()
        self._answering: list[_Entry[Job, Row]] = []

    @property
    def num_waiting(self) -> int:
        """Requests that were not admitted yet."""
        return len(self._queue)

    @property
    def num_rows(self) -> int:
        """Requests that are being read or answered; may be asked for from any thread."""
        return len(self._reading) + len(self._answering)

    @property
    def is_idle(self) -> bool:
        """There is nothing to do."""
        return not (self._reading or self._answering or self._queue)

    def submit(self, job: Job, sink: Sink, caller: str = "") -> None:
        """Queue a request."""
        self._queue.push(_Entry(job, sink, caller, self._clock()))
        self._note_waits()

    def waiting(self) -> tuple[CallerWait, ...]:
        """Say who waits; may be asked for from any thread."""
        now = self._clock()
        return tuple(
            CallerWait(hash_caller(caller), number, now - oldest_at, now - turn_at)
            for caller, (number, oldest_at, turn_at) in self._waits.items()
        )

    def step(self) -> None:
        """Forget who left, admit who fits, read some prompt, and choose one token for every row that is ready."""
        self._forget_cancelled()
        self._admit()
        self._note_waits()
        self._prefill()
        self._forget_cancelled()  # a chunk takes a while; clients that left meanwhile get no decode step
        self._decode()

    def close(self, error: EngineError) -> None:
        """End every request with an error."""
        for entry in [*self._queue, *self._reading, *self._answering]:
            self._end(entry, error)

    def _forget_cancelled(self) -> None:
        for entry in [*self._queue, *self._reading, *self._answering]:
            if entry.sink.is_cancelled:
                self._end(entry)

    def _admit(self) -> None:
        while self.num_rows < self.limits.max_rows and (entry := self._queue.peek()) is not None:
            jobs = [other.job for other in (*self._reading, *self._answering)]
            # Strictly in order: else small requests could keep a large one out for ever.
            if jobs and self._runner.cost([*jobs, entry.job]) > self.limits.max_tokens:
                return
            try:
                row = self._runner.begin(entry.job)
            except BaseException as error:  # one request's error must not fail the others
                self._end(entry, error)
                continue
            self._queue.pop()
            self._turned_at[entry.caller] = self._clock()
            entry.row = row
            self._reading.append(entry)
            self._note_use()

    def _note_use(self) -> None:
        jobs = [entry.job for entry in (*self._reading, *self._answering)]
        self.kv_usage = self._runner.cost(jobs) / max(self.limits.max_tokens, 1) if jobs else 0.0

    def _note_waits(self) -> None:
        if not self._queue and not self._waits:
            return
        waits: dict[str, tuple[int, float, float]] = {}
        for entry in self._queue:
            turn_at = max(entry.since, self._turned_at.get(entry.caller, 0.0))
            number, oldest_at, turn_at = waits.get(entry.caller, (0, entry.since, turn_at))
            waits[entry.caller] = (number + 1, oldest_at, turn_at)
        # A caller with an empty queue starts over.
        self._turned_at = {caller: at for caller, at in self._turned_at.items() if caller in waits}
        self._waits = waits

    def _prefill(self) -> None:
        num_left = self.limits.prefill_tokens
        while num_left > 0 and self._reading:
            entry = self._reading[0]
            assert entry.row is not None
            try:
                num_read, is_ready = self._read_chunk(entry.row, num_left)
            except BaseException as error:
                self._end(entry, error)
                continue
            num_left -= num_read
            entry.num_chunks += 1
            if is_ready:
                self._reading.popleft()
                self._answering.append(entry)
                self._advance(entry)
            elif entry.num_chunks % _CHUNKS_PER_TURN == 0:
                self._reading.rotate(-1)

    def _read_chunk(self, row: Row, max_tokens: int) -> tuple[int, bool]:
        try:
            return self._runner.prefill(row, max_tokens)
        except MemoryError:
            log.warning("out of memory in a prefill; trying it once more")
        # Not while the error is handled: its frames hold the tensors of what failed.
        self._runner.relieve()
        return self._runner.prefill(row, max_tokens)

    def _decode(self) -> None:
        entries = list(self._answering)
        if not entries:
            return
        self._tell(len(entries))
        for entry, error in zip(entries, self._decode_rows(entries), strict=True):
            if error is None:
                self._advance(entry)
            else:
                self._end(entry, error)

    def _decode_rows(self, entries: list[_Entry[Job, Row]]) -> list[BaseException | None]:
        """Run a decode step; if that fails, try its rows again in smaller parts, once."""
        try:
            return list(self._runner.decode(_rows(entries)))
        except MemoryError as error:
            log.warning("out of memory in a decode step of %d rows; trying it once more in halves", len(entries))
            middle = (len(entries) + 1) // 2
            parts = [part for part in (entries[:middle], entries[middle:]) if part]
            first: BaseException = error
        except BaseException as error:  # retry each row alone to find the one that fails
            if len(entries) == 1:
                return [error]
            log.warning("a decode step of %d rows failed; trying each alone", len(entries), exc_info=True)
            parts = [[entry] for entry in entries]
            first = error
        _forget_frames(first)
        if isinstance(first, MemoryError):
            self._runner.relieve()
        outcomes: list[BaseException | None] = []
        for part in parts:
            try:
                outcomes += self._runner.decode(_rows(part))
            except BaseException as error:
                if error is not first:
                    error.__cause__ = error.__cause__ or first
                outcomes += [error] * len(part)
        return outcomes

    def _advance(self, entry: _Entry[Job, Row]) -> None:
        assert entry.row is not None
        try:
            deltas, is_complete = self._runner.advance(entry.row)
            for delta in deltas:
                entry.sink.put(delta)
        except BaseException as error:
            self._end(entry, error)
        else:
            if is_complete:
                self._end(entry, is_complete=True)

    def _end(self, entry: _Entry[Job, Row], error: BaseException | None = None, *, is_complete: bool = False) -> None:
        """Take a request out, wherever it is, and end its stream."""
        if entry.row is None:
            self._queue.remove(entry)
        else:
            if entry in self._reading:
                self._reading.remove(entry)
            else:
                self._answering.remove(entry)
            self._note_use()
            try:
                self._runner.drop(entry.row, is_complete=is_complete)
            except BaseException:  # the answer is sent or failed already; only its cache entry is lost
                log.exception("a row could not be dropped properly")
        if error is not None:
            entry.sink.put(to_engine_error(error))
            _forget_frames(error)
            if not isinstance(error, EngineError | MemoryError):
                self.is_lost = self.is_lost or self._runner.is_lost()
        entry.sink.put(None)


def _rows(entries: Sequence[_Entry[Job, Row]]) -> list[Row]:
    return [entry.row for entry in entries if entry.row is not None]


def _forget_frames(error: BaseException | None) -> None:
    """Let go of where an error came from: its frames hold the tensors of what failed, and often the error itself."""
    seen: set[int] = set()  # a cause may lead back to where it began
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def to_engine_error(error: BaseException) -> EngineError:
    """Turn whatever went wrong on the model thread into what a caller may see; anything unforeseen is logged."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, MemoryError):
        return EngineOverloadedError(
            "the engine ran out of memory on this request; try again when it has less to do", code="out_of_memory"
        )
    log.error("generation failed", exc_info=error)
    return GenerationFailedError(f"the model failed while generating: {type(error).__name__}")
