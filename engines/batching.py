"""One thread owns the model; asyncio callers wait in a bounded line for it.

In: a blocking function that generates with a model, called with ``emit`` and ``is_cancelled``. Out: an async stream
of what it emitted. Shared by both local engines. One request runs at a time, in order of arrival.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from engines.base import (
    Delta,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
)

T = TypeVar("T")
Emit = Callable[[Delta], None]
IsCancelled = Callable[[], bool]
Work = Callable[[Emit, IsCancelled], None]

log = logging.getLogger(__name__)


class _Ticket:
    """One request in line: the work, where its deltas go, and whether anybody still wants them."""

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.cancelled = threading.Event()
        self._loop = loop
        self.deltas: asyncio.Queue[Delta | EngineError | None] = asyncio.Queue()

    def put(self, item: Delta | EngineError | None) -> None:
        """Hand an item to the waiting caller, from the model thread."""
        try:
            self._loop.call_soon_threadsafe(self.deltas.put_nowait, item)
        except RuntimeError:  # the caller's loop is closed: nobody is left to tell
            self.cancelled.set()


class ModelThread:
    """Runs blocking model work on one thread of its own, one request after another.

    torch keeps per-thread state and GLM keeps per-request state on the model object, so exactly one thread may touch
    the model.

    Args:
        name: thread name, for logs and debuggers.
        max_queue: how many requests may wait; one more is refused.
    """

    def __init__(self, name: str, max_queue: int) -> None:
        self._queue: queue.Queue[_Ticket | None] = queue.Queue()
        self._wanted: set[_Ticket] = set()  # streams whose caller is still there: the running one and those in line
        self._max_queue = max_queue
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the model thread, behind whatever is in line, and return its result.

        Raises:
            EngineUnavailableError: if the thread is shutting down, or does so before the function's turn.
            BaseException: what the function raised.
        """
        if self._closing.is_set():
            raise EngineUnavailableError("the engine is shutting down")
        results: list[T] = []
        errors: list[BaseException] = []

        def work(_emit: Emit, _is_cancelled: IsCancelled) -> None:
            try:
                results.append(function())
            except BaseException as error:  # handed to the caller as it is
                errors.append(error)

        ticket = _Ticket(work, asyncio.get_running_loop())
        self._queue.put(ticket)
        async with aclosing(self._deltas(ticket)) as deltas:
            async for _ in deltas:
                raise AssertionError("a call emits nothing")
        if errors:
            raise errors[0]
        return results[0]

    async def stream(self, work: Work) -> AsyncGenerator[Delta, None]:
        """Wait in line, run ``work`` on the model thread, and yield what it emits.

        Closing the generator makes ``is_cancelled`` true; ``work`` is expected to look at it at every decode step.

        Raises:
            EngineOverloadedError: if ``max_queue`` requests are waiting already.
            EngineUnavailableError: if the thread is shutting down.
            EngineError: what ``work`` raised; anything else it raised comes as `GenerationFailedError`.
        """
        if self._closing.is_set():
            raise EngineUnavailableError("the engine is shutting down")
        if len(self._wanted) > self._max_queue:
            raise EngineOverloadedError(f"{self._max_queue} requests are waiting for this engine already")
        ticket = _Ticket(work, asyncio.get_running_loop())
        self._wanted.add(ticket)
        self._queue.put(ticket)
        async with aclosing(self._deltas(ticket)) as deltas:
            async for delta in deltas:
                yield delta

    async def _deltas(self, ticket: _Ticket) -> AsyncGenerator[Delta, None]:
        try:
            while (item := await ticket.deltas.get()) is not None:
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            ticket.cancelled.set()
            self._wanted.discard(ticket)

    @property
    def num_waiting(self) -> int:
        """Requests in line: neither the running one nor those whose caller has left is counted."""
        return max(0, len(self._wanted) - 1)

    async def aclose(self) -> None:
        """Cancel the running request, refuse the waiting ones, and wait for the thread to end."""
        self._closing.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (ticket := self._queue.get()) is not None:
            if self._closing.is_set():
                ticket.put(EngineUnavailableError("the engine is shutting down"))
                continue
            if ticket.cancelled.is_set():
                continue
            self._run_one(ticket)

    def _run_one(self, ticket: _Ticket) -> None:
        def is_cancelled() -> bool:
            return ticket.cancelled.is_set() or self._closing.is_set()

        try:
            ticket.work(ticket.put, is_cancelled)
        except EngineError as error:
            ticket.put(error)
        except BaseException as error:  # the thread must outlive any single request
            log.exception("generation failed")
            ticket.put(GenerationFailedError(f"the model failed while generating: {type(error).__name__}"))
        finally:
            ticket.put(None)
