"""An engine whose every answer is a span of its client's: wrapped around one only where traces are kept.

In: an engine. Out: the same engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from engines.adapter_names import model_with
from engines.base import Delta, Engine, EngineInfo, GenerationRequest
from engines.traces.sdk import Traces


class TracedEngine:
    """Asks an engine, in a span each.

    Args:
        engine: which is asked.
        traces: of this process.
        name: of the engine; stands for its model until that is known.
        known: says what is known of it without asking; None: what it has last said of itself through this.
    """

    def __init__(
        self, engine: Engine, traces: Traces, name: str, known: Callable[[], EngineInfo | None] | None = None
    ) -> None:
        self._engine = engine
        self._traces = traces
        self._name = name
        self._info: EngineInfo | None = None
        self._known = known or (lambda: self._info)

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: if it cannot be reached.
        """
        self._info = await self._engine.info()
        return self._info

    async def start(self) -> None:
        """Wait until the engine is ready.

        Raises:
            EngineUnavailableError: if it will not be.
        """
        await self._engine.start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer.

        Raises:
            EngineError: as the engine raised it.
        """
        info = self._known()
        model = model_with(info.model_id if info is not None else self._name, request.adapter)
        async with aclosing(self._traces.follow(self._engine.stream, request, model, "client")) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        """Release the engine."""
        await self._engine.aclose()
