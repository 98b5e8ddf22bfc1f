"""Units that run in a process that is no worker: the api asks GLM for a draft at once, for clients who wait.

In: an answer that was begun while its job was being recorded, and the claim of its unit. Out: as of a worker's run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from engines.base import (
    Delta,
)
from router.jobs.job import MERGE, Job
from router.leftovers import Leftovers
from router.work.branch import run_under_lease
from router.work.context import Context
from router.work.lease import send_on
from router.work.transcript import Tape, record


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


class LocalRuns:
    """Runs units in a process that is no worker: the api, for callers who wait for the first word.

    Args:
        context: what to work with.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runs = Leftovers()

    @property
    def num_running(self) -> int:
        """How many there are now."""
        return len(self._runs)

    def run(self, job: Job, unit: str, epoch: int, stream: EarlyStream) -> None:
        """Go on with a branch that was claimed and begun, under the rules of every run, also without its client."""
        self._runs.add(run_begun(self._context, job, unit, epoch, stream))

    async def aclose(self) -> None:
        """Give back what has not ended, so that a worker starts it at once."""
        self._context.hand_back()
        await self._runs.aclose()
        if self._context.cancels is not None:
            await self._context.cancels.aclose()


async def run_begun(context: Context, job: Job, unit: str, epoch: int, stream: EarlyStream) -> None:
    """Do as `run_branch` with an answer that the engine has begun already.

    Args:
        context: what to work with.
        job: whose.
        unit: which of its branches.
        epoch: of the claim.
        stream: read to its end, or closed.
    """
    tape = Tape(context.store, job.id, unit, epoch)
    async with contextlib.aclosing(stream):
        read = stream.read
        if await run_under_lease(
            context, job, unit, epoch, lambda: record(tape, read(), stream.model, stream.started_at)
        ):
            await send_on(context, job.id, MERGE)
