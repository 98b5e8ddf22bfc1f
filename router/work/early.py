"""A stream that is asked for now and read later: GLM begins a draft while the job it belongs to is being recorded.

In: an engine and a request. Out: the same deltas, the first of which is fetched meanwhile; and who reads them, once the
record says that the unit is this process's to run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Protocol

from engines.base import Delta
from router.jobs.job import Job


class EarlyStream:
    """An engine's answer, begun. To be read or closed.

    Args:
        deltas: of the engine; asked for its first delta at once.
        model: the name that the answer will show.

    Attributes:
        started_at: `time.monotonic` when the engine was asked.
    """

    def __init__(self, deltas: AsyncGenerator[Delta, None], model: str) -> None:
        self.model = model
        self.started_at = time.monotonic()
        self._deltas = deltas
        self._first = asyncio.create_task(self._fetch())

    async def read(self) -> AsyncGenerator[Delta, None]:
        """Yield the deltas; closing this closes the stream.

        Raises:
            EngineError: as the engine raised it.
        """
        try:
            first = await self._first
            if first is not None:
                yield first
            async for delta in self._deltas:
                yield delta
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Free the engine."""
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self._deltas.aclose()

    async def _fetch(self) -> Delta | None:
        return await anext(self._deltas, None)


class UnitRunner(Protocol):
    """Runs units in this process; `router.work.tasks.LocalRuns` does."""

    def run(self, job: Job, unit: str, epoch: int, stream: EarlyStream) -> None:
        """Go on with a unit that was claimed and begun, as a worker would; returns at once."""
        ...

    @property
    def num_running(self) -> int:
        """How many there are now."""
        ...

    async def aclose(self) -> None:
        """Give back what has not ended, so that a worker starts it at once."""
        ...
