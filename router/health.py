"""Which engines are up: asked every second, and learned from every failure on the way.

In: engine clients. Out: a `policies.decision.Health` that the next decision uses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from engines.balancer import BackendStatus, BalancedClient, RemoteEngine
from engines.base import EngineError, EngineInfo
from policies.decision import EngineHealth, Health
from router.leftovers import end_tasks

log = logging.getLogger(__name__)


class EngineMonitor:
    """Keeps an opinion on every engine.

    Args:
        engines: by name.
        interval_s: time between two looks.
    """

    def __init__(self, engines: Mapping[str, RemoteEngine], *, interval_s: float = 1.0) -> None:
        self._engines = engines
        self._interval_s = interval_s
        self._is_up: dict[str, bool] = {}
        self._infos: dict[str, EngineInfo] = {}
        self._watches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Look once, then keep looking in the background."""
        await asyncio.gather(*(self._look_at(name, engine) for name, engine in self._engines.items()))
        # Each by itself: a look at a machine that is gone takes seconds, in which the others may come back.
        self._watches = [
            asyncio.create_task(self._look_forever(name, engine), name=f"engine-monitor-{name}")
            for name, engine in self._engines.items()
        ]

    async def aclose(self) -> None:
        """Stop looking."""
        await end_tasks(*self._watches)

    def health(self) -> Health:
        """What is known right now; an engine nobody has looked at counts as up."""
        return Health(engines={name: EngineHealth(is_up=self._is_up.get(name, True)) for name in self._engines})

    def info(self, name: str) -> EngineInfo | None:
        """What the engine said of itself when it was last up; None if it never was."""
        return self._infos.get(name)

    def name_of(self, model_id: str) -> str | None:
        """Return the engine that calls its model so; None if there is none.

        An engine's name is its place in the settings. What it says of its own name does not matter: a server of another
        make knows only its model.
        """
        known = model_id.strip().lower()
        return next((name for name, info in self._infos.items() if info.model_id.lower() == known), None)

    def backends(self) -> dict[str, tuple[BackendStatus, ...]]:
        """What is known of each server of those engines that have several."""
        return {name: engine.status() for name, engine in self._engines.items() if isinstance(engine, BalancedClient)}

    def is_up(self, name: str) -> bool:
        """Whether the engine answered the last time."""
        return self._is_up.get(name, True)

    def mark_down(self, name: str) -> None:
        """Learn from a failed request, without waiting for the next look.

        Of several servers, the one that failed is left out already; the engine is down when none is left.
        """
        if not any(server.is_up for server in self.backends().get(name, ())):
            self._set(name, False)

    async def _look_forever(self, name: str, engine: RemoteEngine) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._look_at(name, engine)
            except Exception:  # whatever one look ran into, without the next ones the opinion would stay as it is
                log.exception("a look at engine %s failed", name)

    async def _look_at(self, name: str, engine: RemoteEngine) -> None:
        was_up = self._is_up.get(name, False)
        try:
            is_up = await engine.is_ready()
            if is_up and (not was_up or name not in self._infos):
                self._infos[name] = await engine.info()
        except EngineError:
            is_up = False
        self._set(name, is_up)

    def _set(self, name: str, is_up: bool) -> None:
        if self._is_up.get(name) != is_up:
            log.info("engine %s is %s", name, "up" if is_up else "down")
        self._is_up[name] = is_up
