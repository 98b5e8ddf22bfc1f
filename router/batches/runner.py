"""The runner: takes up the batches that are due, each in a run of its own.

In: batches that are due. Out: runs. Runs in every api process; a lease lets one of them work on a batch at a time, and
another one goes on where it was lost.
"""

from __future__ import annotations

import asyncio
import contextlib

from router.batches.run import BatchContext, Run
from router.errors import QueueUnavailableError
from router.leftovers import end_tasks, to_the_end
from router.redis import repeat

# Most batches that one process runs at a time; the others wait for it or for another process.
_MAX_RUNS = 64


class BatchRunner:
    """Works on batches.

    Args:
        context: what its runs work with.
    """

    def __init__(self, context: BatchContext) -> None:
        self._context = context
        self._news = asyncio.Event()
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}

    def wake(self, batch_id: str) -> None:
        """Look at a batch now rather than in a second: it is new, or was cancelled."""
        self._news.set()
        if batch_id in self._runs:
            self._runs[batch_id][0].news.set()

    async def run_forever(self, *, interval_s: float = 1.0) -> None:
        """Take up what is due; ends only when cancelled, and then lets other processes go on."""
        try:
            await repeat("batch runner", self._take_up, lambda: self._wait(interval_s))
        finally:
            await to_the_end(self._let_go())

    async def _let_go(self) -> None:
        """End the runs, and give their batches back."""
        runs = list(self._runs.values())
        await end_tasks(*(task for _run, task in runs))
        with contextlib.suppress(QueueUnavailableError):
            await asyncio.gather(*(self._context.store.give_back(run.id, run.epoch) for run, _task in runs))

    async def _take_up(self) -> None:
        self._news.clear()
        for batch_id, epoch in await self._context.store.claim(_MAX_RUNS - len(self._runs)):
            self._begin(batch_id, epoch)

    async def _wait(self, interval_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), interval_s)

    def _begin(self, batch_id: str, epoch: int) -> None:
        if batch_id in self._runs:  # its lease was lost and won again here: the old run is ending
            self._runs.pop(batch_id)[1].cancel()
        run = Run(self._context, batch_id, epoch)
        task = asyncio.create_task(run.execute(), name=f"batch-{batch_id}")
        self._runs[batch_id] = (run, task)
        task.add_done_callback(lambda _task: self._end(batch_id, run))

    def _end(self, batch_id: str, run: Run) -> None:
        if batch_id in self._runs and self._runs[batch_id][0] is run:
            del self._runs[batch_id]
        self._news.set()
