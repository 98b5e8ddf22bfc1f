"""One thread owns the model; asyncio callers wait in a bounded line for it and share it between decode steps.

In: prepared requests, and the `BatchRunner` that knows the model. Out: an async stream of deltas per request. Nothing
here knows of tensors.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engines.base import (
    CallerWait,
    Delta,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    hash_caller,
)

T = TypeVar("T")
Job = TypeVar("Job")
Row = TypeVar("Row")
JobIn = TypeVar("JobIn", contravariant=True)

# After so many chunks in a row a long prompt gives way to those behind it. Not after each: a prompt that is read to its
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


class Sink(Protocol):
    """Where one request's deltas go."""

    @property
    def is_cancelled(self) -> bool:
        """Nobody wants the rest."""
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


class _HasCaller(Protocol):
    @property
    def caller(self) -> str: ...


Waiting = TypeVar("Waiting", bound=_HasCaller)


class _FairLine(Generic[Waiting]):
    """Who waits: in order of arrival within a caller, one after another over callers."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[Waiting]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    def __iter__(self) -> Iterator[Waiting]:
        for entries in self._callers.values():
            yield from entries

    def push(self, entry: Waiting) -> None:
        self._callers.setdefault(entry.caller, deque()).append(entry)

    def peek(self) -> Waiting | None:
        return next(iter(self._callers.values()))[0] if self._callers else None

    def pop(self) -> None:
        """Take the first one out; its caller's others go behind everybody else's."""
        caller, entries = next(iter(self._callers.items()))
        entries.popleft()
        self._callers.move_to_end(caller)
        if not entries:
            del self._callers[caller]

    def remove(self, entry: Waiting) -> None:
        entries = self._callers[entry.caller]
        entries.remove(entry)
        if not entries:
            del self._callers[entry.caller]


class ContinuousBatch(Generic[Job, Row]):
    """Requests that share a model: they join between decode steps and leave when they are done.

    Belongs to one thread. Nothing waits in here: `step` does one round of work and returns.

    Args:
        runner: does the work.
        limits: how many requests at a time.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        runner: BatchRunner[Job, Row],
        limits: BatchLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._turned_at: dict[str, float] = {}
        # By caller: how many wait, since when the oldest does, since when for this turn. Replaced as a whole, so that
        # other threads may read it.
        self._waits: dict[str, tuple[int, float, float]] = {}
        self._runner = runner
        self._line: _FairLine[_Entry[Job, Row]] = _FairLine()
        self._reading: deque[_Entry[Job, Row]] = deque()
        self._answering: list[_Entry[Job, Row]] = []

    @property
    def num_waiting(self) -> int:
        """Requests that were not admitted yet."""
        return len(self._line)

    @property
    def num_rows(self) -> int:
        """Requests that are being read or answered; may be asked for from any thread."""
        return len(self._reading) + len(self._answering)

    @property
    def is_idle(self) -> bool:
        """There is nothing to do."""
        return not (self._reading or self._answering or self._line)

    def submit(self, job: Job, sink: Sink, caller: str = "") -> None:
        """Put a request in line."""
        self._line.push(_Entry(job, sink, caller, self._clock()))
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
        self._forget_cancelled()  # a chunk takes a while; no decode step is spent on who left meanwhile
        self._decode()

    def close(self, error: EngineError) -> None:
        """End every request with an error."""
        for entry in [*self._line, *self._reading, *self._answering]:
            self._end(entry, error)

    def _forget_cancelled(self) -> None:
        for entry in [*self._line, *self._reading, *self._answering]:
            if entry.sink.is_cancelled:
                self._end(entry)

    def _admit(self) -> None:
        while self.num_rows < self.limits.max_rows and (entry := self._line.peek()) is not None:
            jobs = [other.job for other in (*self._reading, *self._answering)]
            # Nobody overtakes: else small requests could keep a large one out for ever.
            if jobs and self._runner.cost([*jobs, entry.job]) > self.limits.max_tokens:
                return
            try:
                row = self._runner.begin(entry.job)
            except BaseException as error:  # one request's trouble is not the others'
                self._end(entry, error)
                continue
            self._line.pop()
            self._turned_at[entry.caller] = self._clock()
            entry.row = row
            self._reading.append(entry)

    def _note_waits(self) -> None:
        if not self._line and not self._waits:
            return
        waits: dict[str, tuple[int, float, float]] = {}
        for entry in self._line:
            turn_at = max(entry.since, self._turned_at.get(entry.caller, 0.0))
            number, oldest_at, turn_at = waits.get(entry.caller, (0, entry.since, turn_at))
            waits[entry.caller] = (number + 1, oldest_at, turn_at)
        # Whoever has nothing waiting begins anew.
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
            self._runner.relieve()
            return self._runner.prefill(row, max_tokens)

    def _decode(self) -> None:
        entries = list(self._answering)
        if not entries:
            return
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
            self._runner.relieve()
            middle = (len(entries) + 1) // 2
            parts = [part for part in (entries[:middle], entries[middle:]) if part]
            first: BaseException = error
        except BaseException as error:  # whose fault it is shows when each row is tried alone
            if len(entries) == 1:
                return [error]
            log.warning("a decode step of %d rows failed; trying each alone", len(entries), exc_info=True)
            parts = [[entry] for entry in entries]
            first = error
        outcomes: list[BaseException | None] = []
        for part in parts:
            try:
                outcomes += self._runner.decode(_rows(part))
            except BaseException as error:
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
            self._line.remove(entry)
        else:
            if entry in self._reading:
                self._reading.remove(entry)
            else:
                self._answering.remove(entry)
            try:
                self._runner.drop(entry.row, is_complete=is_complete)
            except BaseException:  # the answer is out, or failed already; only what was to be kept of it is lost
                log.exception("a row could not be dropped properly")
        if error is not None:
            entry.sink.put(to_engine_error(error))
        entry.sink.put(None)


def _rows(entries: Sequence[_Entry[Job, Row]]) -> list[Row]:
    return [entry.row for entry in entries if entry.row is not None]


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


class _Channel:
    """Deltas on their way from the model thread to one caller, and whether the caller is still there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cancelled = threading.Event()
        self._items: asyncio.Queue[Delta | EngineError | None] = asyncio.Queue()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def put(self, item: Delta | EngineError | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the caller's loop is closed: nobody is left to tell
            self._cancelled.set()

    async def receive(self) -> AsyncGenerator[Delta, None]:
        try:
            while (item := await self._items.get()) is not None:
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            self._cancelled.set()


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A function to run on the model thread, whose end the channel tells."""

    function: Callable[[], None]
    channel: _Channel


@dataclass(frozen=True, slots=True, eq=False)
class _Submission(Generic[Job]):
    """A request on its way into the batch."""

    job: Job
    channel: _Channel
    caller: str


def _shutting_down() -> EngineUnavailableError:
    return EngineUnavailableError("the engine is shutting down")


class Scheduler(Generic[Job, Row]):
    """A continuous batch on a thread of its own, and the bounded line in front of it.

    torch keeps per-thread state and models keep per-request state on themselves, so exactly one thread may touch one.

    Args:
        name: thread name, for logs and debuggers.
        max_queue: requests that may wait when every row is taken; one more is refused.
    """

    def __init__(self, name: str, max_queue: int) -> None:
        self._max_queue = max_queue
        self._batch: ContinuousBatch[Job, Row] | None = None
        self._num_wanted = 0  # streams whose caller is still there
        self._inbox: queue.SimpleQueue[_Call | _Submission[Job] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def start(self, make_batch: Callable[[], ContinuousBatch[Job, Row]]) -> None:
        """Load the model and make its batch, on the model thread.

        Raises:
            BaseException: what the function raised.
        """

        def make() -> None:
            self._batch = make_batch()

        await self.call(make)

    async def stream(self, prepare: Callable[[], Awaitable[Job]], caller: str = "") -> AsyncGenerator[Delta, None]:
        """Prepare a request, wait in line, and yield its deltas; closing the generator cancels it at any point.

        Args:
            prepare: makes what the runner takes. It is only called if there is room in line, so that a request that is
                refused costs nothing.
            caller: rows go round over callers.

        Raises:
            EngineOverloadedError: if every row is taken and ``max_queue`` requests are waiting, or memory ran out.
            EngineUnavailableError: before `start` or while shutting down.
            EngineError: what the runner raised for this request; anything else comes as `GenerationFailedError`.
        """
        self._check_open()
        if self._batch is None:
            raise EngineUnavailableError("the engine is not started")
        if self._num_wanted >= self._batch.limits.max_rows + self._max_queue:
            raise EngineOverloadedError(f"{self._max_queue} requests are waiting for this engine already")
        self._num_wanted += 1
        try:
            job = await prepare()
            self._check_open()
            channel = _Channel(asyncio.get_running_loop())
            self._inbox.put(_Submission(job, channel, caller))
            async with aclosing(channel.receive()) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._num_wanted -= 1

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the model thread between two steps, and return its result.

        Raises:
            EngineUnavailableError: if the thread is shutting down, or does so before the function's turn.
            BaseException: what the function raised.
        """
        self._check_open()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(function())
            except BaseException as error:  # handed to the caller as it is
                errors.append(error)

        call = _Call(run, _Channel(asyncio.get_running_loop()))
        self._inbox.put(call)
        async with aclosing(call.channel.receive()) as deltas:
            async for _ in deltas:
                raise AssertionError("a call emits nothing")
        if errors:
            raise errors[0]
        return results[0]

    async def aclose(self) -> None:
        """End what runs, refuse what waits, and wait for the thread to end."""
        self._closing.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def limits(self) -> BatchLimits:
        """The batch's; only after `start`."""
        assert self._batch is not None
        return self._batch.limits

    @property
    def num_running(self) -> int:
        """Requests that are being read or answered."""
        return 0 if self._batch is None else self._batch.num_rows

    @property
    def num_waiting(self) -> int:
        """Requests that are being prepared or wait in line; those whose caller has left are not counted."""
        return max(0, self._num_wanted - self.num_running)

    def waiting(self) -> tuple[CallerWait, ...]:
        """Say who waits for a row; requests that are being prepared do not wait yet."""
        return () if self._batch is None else self._batch.waiting()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise _shutting_down()

    def _run(self) -> None:
        while self._take():
            if self._batch is None or self._batch.is_idle or self._closing.is_set():
                continue
            try:
                self._batch.step()
            except BaseException as error:  # a bug of the scheduler itself: no stream may hang on it
                self._batch.close(to_engine_error(error))
        if self._batch is not None:
            self._batch.close(_shutting_down())

    def _take(self) -> bool:
        """Take in what has arrived, and wait for it if there is nothing else to do; False when closing."""
        wants_wait = self._batch is None or self._batch.is_idle
        while True:
            try:
                item = self._inbox.get(block=wants_wait)
            except queue.Empty:
                return True
            wants_wait = False
            if item is None:
                return False
            if self._closing.is_set():
                item.channel.put(_shutting_down())
                item.channel.put(None)
            elif isinstance(item, _Call):
                if not item.channel.is_cancelled:
                    item.function()
                item.channel.put(None)
            else:
                assert self._batch is not None
                self._batch.submit(item.job, item.channel, item.caller)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    amount: int
    caller: str
    turn: asyncio.Future[None]


class FairBudget:
    """An amount of something, such as memory, that requests hold parts of; belongs to one event loop.

    Args:
        total: of it; whoever wants more than that holds it alone.
    """

    def __init__(self, total: int) -> None:
        self.num_held = 0
        self._total = total
        self._line: _FairLine[_Waiter] = _FairLine()

    @asynccontextmanager
    async def hold(self, amount: int, caller: str = "") -> AsyncIterator[None]:
        """Wait for a part and hold it; callers take turns, and nobody overtakes."""
        waiter = _Waiter(amount, caller, asyncio.get_running_loop().create_future())
        self._line.push(waiter)
        self._give_out()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if not waiter.turn.cancelled():  # its turn came in the same moment
                self.num_held -= amount
            self._give_out()
            raise
        try:
            yield
        finally:
            self.num_held -= amount
            self._give_out()

    def _give_out(self) -> None:
        while (waiter := self._line.peek()) is not None:
            if not waiter.turn.cancelled():
                if self.num_held and self.num_held + waiter.amount > self._total:
                    return
                self.num_held += waiter.amount
                waiter.turn.set_result(None)
            self._line.pop()
