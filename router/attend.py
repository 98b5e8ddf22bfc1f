"""Waiting for an engine's answer without believing in it for ever.

In: the deltas of an engine and a way to ask whether it is well. Out: the same deltas; or, once nothing comes and the
engine is not well either, the error of an engine that is away, long before the longest silence that is allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

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
        is_well: asks the engine, or whoever asks it all the time.
        silence_s: the longest silence; None leaves that to the engine's client.
        calm_s: the silence after which the engine is asked whether it is well.
        look_s: time between two such looks.
        unheard_s: an engine that answers no look in this time is not well; None waits for the answer.

    Raises:
        EngineUnavailableError: if the engine is silent and not well.
        EngineTimeoutError: if it is silent for ``silence_s``.
        EngineError: as the engine raised it.
    """
    loop = asyncio.get_running_loop()
    # Since when the reader waits for the next delta, and the timeout of that wait, which `watch` sets off.
    waiting: tuple[float, asyncio.Timeout] | None = None
    failure: EngineError | None = None

    async def watch() -> None:
        nonlocal failure
        num_bad = 0
        while True:
            await asyncio.sleep(look_s)
            # The reader's own time does not count as the engine's silence.
            silent_s = -1.0 if waiting is None else loop.time() - waiting[0]
            if silence_s is not None and silent_s >= silence_s:
                failure = EngineTimeoutError(f"The engine said nothing for {silence_s:g} s.")
            elif silent_s < calm_s:
                num_bad = 0
                continue
            else:
                num_bad = 0 if await _asked(is_well, unheard_s) else num_bad + 1
                # A delta that came meanwhile ends the silence.
                if num_bad < _LOOKS or waiting is None or loop.time() - waiting[0] < calm_s:
                    continue
                failure = EngineUnavailableError("The engine has stopped answering.")
            if waiting is not None:
                waiting[1].reschedule(loop.time())
            return

    watcher = asyncio.create_task(watch(), name="engine-attention")
    try:
        async with contextlib.aclosing(deltas):
            while True:
                try:
                    async with asyncio.timeout(None) as limit:
                        waiting = (loop.time(), limit)
                        delta = await anext(deltas, None)
                except TimeoutError:
                    if failure is None or not limit.expired():
                        raise
                    raise failure from None
                finally:
                    waiting = None
                if delta is None:
                    return
                yield delta
    finally:
        await end_tasks(watcher)


async def _asked(is_well: Callable[[], Awaitable[bool]], unheard_s: float | None) -> bool:
    try:
        async with asyncio.timeout(unheard_s):
            return await is_well()
    except (EngineError, TimeoutError):
        return False
