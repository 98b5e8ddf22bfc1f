"""One thread owns the model; asyncio callers wait in a bounded queue for it and share it between decode steps.

In: prepared requests, and a continuous batch made on the model thread. Out: an async stream of deltas per request.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from engines.base import (
    CallerWait,
    Delta,
    EngineEndedError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
)
from engines.runtime.batching import BatchLimits, ContinuousBatch, Job, Row, to_engine_error

T = TypeVar("T")

LOST: Final = "the GPU takes no more work from this process; the log says why, above"


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
        except RuntimeError:  # the caller's event loop is closed
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
    """A continuous batch on a thread of its own, and the bounded queue in front of it.

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
        self._lost = threading.Event()
        self._tell_lost: Callable[[], object] = lambda: None
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
        """Prepare a request, wait for its turn, and yield its deltas; closing the generator cancels it at any point.

        Args:
            prepare: makes what the runner takes. It is only called if the queue has room: a refused request costs
                nothing.
            caller: callers take turns at rows.

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

    async def ended(self) -> str:
        """Wait until the model can compute nothing any more, and say why; only after `start`."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        self._tell_lost = lambda: loop.call_soon_threadsafe(told.set)
        if not self._lost.is_set():
            await told.wait()
        return LOST

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
        """Requests that are being prepared or wait for a row; those whose caller has left are not counted."""
        return max(0, self._num_wanted - self.num_running)

    @property
    def kv_usage(self) -> float:
        """Part of the room for keys and values that is promised to requests, 0 to 1."""
        return 0.0 if self._batch is None else self._batch.kv_usage

    def waiting(self) -> tuple[CallerWait, ...]:
        """Say who waits for a row; requests that are being prepared do not wait yet."""
        return () if self._batch is None else self._batch.waiting()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise _shutting_down()
        if self._lost.is_set():
            raise EngineEndedError(LOST)

    def _run(self) -> None:
        while self._take():
            if self._batch is None or self._batch.is_idle or self._closing.is_set():
                continue
            try:
                self._batch.step()
            except BaseException as error:  # a bug of the scheduler itself must not hang the streams
                self._batch.close(to_engine_error(error))
            if self._batch.is_lost:
                self._lost.set()
                self._batch.close(EngineEndedError(LOST))
                with contextlib.suppress(RuntimeError):  # the loop that waited for it is closed
                    self._tell_lost()
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
            if self._closing.is_set() or self._lost.is_set():
                item.channel.put(_shutting_down() if self._closing.is_set() else EngineEndedError(LOST))
                item.channel.put(None)
            elif isinstance(item, _Call):
                if not item.channel.is_cancelled:
                    item.function()
                item.channel.put(None)
            else:
                assert self._batch is not None
                self._batch.submit(item.job, item.channel, item.caller)
