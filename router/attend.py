"""Waiting for an engine's answer without believing in it for ever.

In: the deltas of an engine and a way to ask whether it is well. Out: the same deltas; or, once nothing comes and the
engine is not well either, the error of an engine that is away, long before the longest silence that is allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from engines.base import (
    Delta,
    Engine,
    EngineError,
    EngineInfo,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationRequest,
)
from router.leftovers import end_tasks

# Long prompts and queues silence a healthy engine too: give up only one that is silent and fails its health check.
_CALM_S = 5.0
_LOOK_S = 1.0
# A single health check may fail by chance.
_LOOKS = 2


class AttendedEngine:
    """An engine whose answers are `attended`.

    Args:
        engine: the one that answers.
        is_well: as `attended` has it.
        on_silence: told when a call's whole allowed time of silence is over, in which no other call has heard of the
            engine either: whatever it says of itself, it answers nobody.
    """

    def __init__(
        self, engine: Engine, is_well: Callable[[], Awaitable[bool]], on_silence: Callable[[], None] | None = None
    ) -> None:
        self._engine = engine
        self._is_well = is_well
        self._on_silence = on_silence
        self._heard_at = 0.0

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: if it cannot be reached.
        """
        return await self._engine.info()

    async def start(self) -> None:
        """Wait until the engine is ready.

        Raises:
            EngineUnavailableError: if it will not be.
        """
        await self._engine.start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer.

        Raises:
            EngineError: as the engine raised it; `EngineUnavailableError` if it is silent and not well.
        """
        heard_at = time.monotonic()
        try:
            async with contextlib.aclosing(attended(self._engine.stream(request), self._is_well)) as deltas:
                async for delta in deltas:
                    self._heard_at = heard_at = time.monotonic()
                    yield delta
        except EngineTimeoutError:
            if self._on_silence is not None and self._heard_at <= heard_at:
                self._on_silence()
            raise

    async def aclose(self) -> None:
        """Release the engine."""
        await self._engine.aclose()


async def attended(
    deltas: AsyncGenerator[Delta, None],
    is_well: Callable[[], Awaitable[bool]],
    *,
    silence_s: float | None = None,
    calm_s: float = _CALM_S,
    look_s: float = _LOOK_S,
    unheard_s: float | None = None,
) -> AsyncGenerator[Delta, None]:
    """Yield what an engine says for as long as there is hope.

    Args:
        deltas: of the engine; closed with this.
        is_well: asks the engine, or the monitor that asks it every second.
        silence_s: the longest silence; None leaves that to the engine's client.
        calm_s: the silence after which the engine is asked whether it is well.
        look_s: time between two such looks.
        unheard_s: an engine that answers no look in this time is not well; None waits for the answer.

    Raises:
        EngineUnavailableError: if the engine is silent and not well.
        EngineTimeoutError: if it is silent for ``silence_s``.
        EngineError: as the engine raised it.
    """
    async with contextlib.aclosing(deltas):
        attention = _Attention(is_well, silence_s=silence_s, calm_s=calm_s, look_s=look_s, unheard_s=unheard_s)
        try:
            while (delta := await attention.next(deltas)) is not None:
                yield delta
        finally:
            await attention.aclose()


class _Attention:
    """Looks after one answer from time to time; a task is only there while an engine is silent.

    Args: as `attended` has them.
    """

    def __init__(
        self,
        is_well: Callable[[], Awaitable[bool]],
        *,
        silence_s: float | None,
        calm_s: float,
        look_s: float,
        unheard_s: float | None,
    ) -> None:
        self._is_well = is_well
        self._silence_s = silence_s
        self._calm_s = calm_s
        self._look_s = look_s
        self._unheard_s = unheard_s
        self._loop = asyncio.get_running_loop()
        # Who waits for the next delta, and since when; the reader's own time does not count as the engine's silence.
        self._reader: asyncio.Task[Any] | None = None
        self._since = 0.0
        self._failure: EngineError | None = None
        self._num_bad = 0
        self._asking: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(look_s, self._look)

    async def next(self, deltas: AsyncGenerator[Delta, None]) -> Delta | None:
        """Return the next delta, None at the end.

        Raises:
            EngineError: if there is no hope for one.
        """
        reader = asyncio.current_task(self._loop)
        assert reader is not None
        num_cancels = reader.cancelling()
        self._since, self._reader = self._loop.time(), reader
        try:
            return await anext(deltas, None)
        except asyncio.CancelledError:
            # As `asyncio.Timeout` does it: a cancellation by somebody else goes on.
            if self._failure is None or reader.uncancel() > num_cancels:
                raise
            raise self._failure from None
        finally:
            self._reader = None

    async def aclose(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._asking is not None:
            await end_tasks(self._asking)

    def _silent_s(self) -> float:
        return -1.0 if self._reader is None else self._loop.time() - self._since

    def _look(self) -> None:
        silent_s = self._silent_s()
        if self._silence_s is not None and silent_s >= self._silence_s:
            self._give_up(EngineTimeoutError(f"The engine said nothing for {self._silence_s:g} s."))
        elif silent_s >= self._calm_s:
            self._asking = self._loop.create_task(self._ask(), name="engine-attention")
        else:
            self._num_bad = 0
            self._timer = self._loop.call_later(self._look_s, self._look)

    async def _ask(self) -> None:
        self._num_bad = 0 if await _asked(self._is_well, self._unheard_s) else self._num_bad + 1
        # A delta that came meanwhile ends the silence.
        if self._num_bad < _LOOKS or self._silent_s() < self._calm_s:
            self._timer = self._loop.call_later(self._look_s, self._look)
        else:
            self._give_up(EngineUnavailableError("The engine has stopped answering."))

    def _give_up(self, failure: EngineError) -> None:
        assert self._reader is not None
        self._failure = failure
        self._reader.cancel()


async def _asked(is_well: Callable[[], Awaitable[bool]], unheard_s: float | None) -> bool:
    try:
        async with asyncio.timeout(unheard_s):
            return await is_well()
    except (EngineError, TimeoutError):
        return False
