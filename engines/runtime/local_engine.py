"""The part of an engine that is the same whichever model it owns: what runs, what waits, and how it ends.

In: the batch that an engine makes of its model when it starts. Out: what a server may ask an engine beside answers, see
`engines.base` and `engines.meters`.
"""

from __future__ import annotations

import logging
from typing import Generic

from engines.base import CallerWait, EngineOptions
from engines.meters import EngineMeters, EngineState
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.picture_stage import PictureStage
from engines.runtime.runner import JobT, ModelRunner, RowT
from engines.runtime.scheduler import Scheduler
from engines.runtime.state import DeviceTimer, state_of

log = logging.getLogger(__name__)


class LocalEngine(Generic[JobT, RowT]):
    """An engine whose model runs in this process.

    Args:
        name: of the engine; names its threads.
        options: which checkpoint, where, and how many requests may wait.

    Attributes:
        meters: what it counts.
    """

    def __init__(self, name: str, options: EngineOptions) -> None:
        self._options = options
        self._scheduler: Scheduler[JobT, RowT] | None = None
        self._runner: ModelRunner[JobT, RowT] | None = None
        self.meters = EngineMeters()
        self._pictures = PictureStage(f"{name}-pictures", tell=self.meters.decoded)

    def _to_batch(self, runner: ModelRunner[JobT, RowT], limits: BatchLimits) -> ContinuousBatch[JobT, RowT]:
        """Let a runner answer from now on, and be timed."""
        self._runner = runner
        runner.timer = DeviceTimer(runner.device, self.meters.encoded)
        return ContinuousBatch(runner, limits, tell=self.meters.stepped)

    async def aclose(self) -> None:
        """Stop the running generations, refuse the waiting ones and let go of the batch."""
        if self._scheduler is not None:
            await self._scheduler.aclose()
        if self._runner is not None:
            log.info("%s", self._runner.cache.stats.describe())
        self._runner = self._scheduler = None
        self._pictures.close()

    async def ended(self) -> str:
        """See `engines.base.CanEnd`."""
        assert self._scheduler is not None  # it is asked once the engine has started
        return await self._scheduler.ended()

    def trouble(self) -> str:
        """See `engines.base.HasTrouble`."""
        return self._pictures.trouble()

    def waiting(self) -> tuple[CallerWait, ...]:
        """See `engines.base.HasWaiting`."""
        return () if self._scheduler is None else self._scheduler.waiting()

    def state(self) -> EngineState:
        """See `engines.meters.HasMeters`."""
        runner = self._runner
        return EngineState() if runner is None else state_of(self._scheduler, runner.cache.stats, runner.device)
