"""Which engines are up: asked every second, and learned from every failure on the way.

In: engine clients. Out: a `policies.decision.Health` that the next decision uses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from engines.base import EngineError, EngineInfo
from engines.http.balancer import BackendStatus, BalancedClient, RemoteEngine
from engines.origin import of_nobody
from policies.decision import EngineHealth, Health
from router.leftovers import Leftovers, end_tasks
from router.telemetry import families

log = logging.getLogger(__name__)

_SILENT_S: Final = 30.0
# A healthy server answers a health check in milliseconds, and within 5 s when it is very busy.
UNHEARD_S: Final = 2.0


class EngineMonitor:
    """Keeps an opinion on every engine.

    Args:
        engines: by name.
        interval_s: time between two looks.
        on_up: told the name of an engine that is up and was not, or was not known to be; what it raises is logged.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        engines: Mapping[str, RemoteEngine],
        *,
        interval_s: float = 1.0,
        on_up: Callable[[str], Coroutine[Any, Any, None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._interval_s = interval_s
        self._on_up = on_up
        self._clock = clock
        self._telling = Leftovers()
        self._silent_until: dict[str, float] = {}
        self._is_up: dict[str, bool] = {}
        self._asked_at: dict[str, float] = {}
        self._infos: dict[str, EngineInfo] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._watches: list[asyncio.Task[None]] = []

    @property
    def engines(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._engines)

    async def start(self) -> None:
        """Look once, then keep looking in the background."""
        await asyncio.gather(*(self._look_at(name, engine) for name, engine in self._engines.items()))
        # Concurrently: checking a machine that is gone takes seconds, and others may recover meanwhile.
        self._watches = [
            asyncio.create_task(self._look_forever(name, engine), name=f"engine-monitor-{name}")
            for name, engine in self._engines.items()
        ]

    async def aclose(self) -> None:
        """Stop looking."""
        looks = list(self._looks.values())
        self._looks.clear()  # else a monitor that is started again would end those of a loop that is gone
        await end_tasks(*self._watches, *looks)
        await self._telling.aclose()

    def health(self) -> Health:
        """What is known right now; an engine that was not checked yet counts as up."""
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

    def waits(self, name: str) -> tuple[float, dict[str, float]]:
        """How long the wait is that a new request would join at an engine, seconds.

        Of several servers, at the one with the shortest: the balancer finds it. A server that does not say counts as
        one at which nobody waits.

        Returns:
            For anybody, and for those callers, as `hash_caller` names them, who wait there already.
        """
        engine = self._engines.get(name)
        servers = () if engine is None else engine.waiting()
        turns = [max((each.turn_s for each in waiting), default=0.0) for waiting in servers]
        own: list[dict[str, float]] = [{each.caller: each.oldest_s for each in waiting} for waiting in servers]
        callers = {caller for found in own for caller in found}
        return min(turns, default=0.0), {
            caller: min(max(turn_s, found.get(caller, 0.0)) for turn_s, found in zip(turns, own, strict=True))
            for caller in callers
        }

    def num_waiting(self, name: str) -> int:
        """How many requests wait at an engine, as far as its servers say."""
        engine = self._engines.get(name)
        return 0 if engine is None else sum(each.num_waiting for waiting in engine.waiting() for each in waiting)

    def backends(self) -> dict[str, tuple[BackendStatus, ...]]:
        """What is known of each server of those engines that have several."""
        return {name: engine.status() for name, engine in self._engines.items() if isinstance(engine, BalancedClient)}

    def servers_up(self, name: str) -> int:
        """How many servers of an engine answered the last time."""
        servers = self.backends().get(name)
        return int(self.is_up(name)) if servers is None else sum(server.is_up for server in servers)

    def down(self) -> frozenset[str]:
        """The engines that did not answer the last time."""
        return frozenset(name for name, is_up in self._is_up.items() if not is_up)

    def unheard(self) -> frozenset[str]:
        """The engines that are down, or have not answered a look for a while: too early to route by, not to wait by."""
        long_ago = self._clock() - UNHEARD_S
        return self.down() | {name for name, asked_at in self._asked_at.items() if asked_at <= long_ago}

    def is_up(self, name: str) -> bool:
        """Whether the engine answered the last time."""
        return self._is_up.get(name, True)

    def mark_down(self, name: str) -> None:
        """Learn from a failed request, without waiting for the next look.

        Of several servers, the one that failed is left out already; the engine is down when none is left.
        """
        if not any(server.is_up for server in self.backends().get(name, ())):
            self._set(name, False)

    async def look_again(self, name: str) -> None:
        """Look now at an engine that was down: it may be up since, and a call has no other. Calls share one look."""
        engine = self._engines.get(name)
        if engine is None or self.is_up(name):
            return
        # Waits no longer than this for a machine that is gone; the look goes on.
        await asyncio.wait([self._start_to_look_at(name, engine)], timeout=UNHEARD_S)

    def mark_silent(self, name: str) -> None:
        """Learn that an engine answers nobody, though it may say that it is ready: it is down for `_SILENT_S`.

        Then the next call shows whether it has come to itself.
        """
        if not any(server.is_up for server in self.backends().get(name, ())):
            log.warning("engine %s is ready, as it says, and answers nobody", name)
            self._silent_until[name] = self._clock() + _SILENT_S
            self._set(name, False)

    async def _look_forever(self, name: str, engine: RemoteEngine) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await asyncio.wait([self._start_to_look_at(name, engine)])

    def _start_to_look_at(self, name: str, engine: RemoteEngine) -> asyncio.Task[None]:
        """Begin a look, or join the one under way."""
        look = self._looks.get(name)
        if look is None or look.done():
            look = asyncio.create_task(self._try_to_look_at(name, engine), name=f"look-{name}", context=of_nobody())
            self._looks[name] = look
        return look

    async def _try_to_look_at(self, name: str, engine: RemoteEngine) -> None:
        try:
            await self._look_at(name, engine)
        except Exception:  # one failed check must not end the loop, or the state would never change again
            log.exception("a look at engine %s failed", name)

    async def _look_at(self, name: str, engine: RemoteEngine) -> None:
        was_up = self._is_up.get(name, False)
        self._asked_at[name] = self._clock()
        try:
            is_up = await engine.is_ready() and self._clock() >= self._silent_until.get(name, 0.0)
            if is_up and (not was_up or name not in self._infos):
                self._infos[name] = await engine.info()
        except EngineError:
            is_up = False
        finally:
            del self._asked_at[name]
        self._set(name, is_up)

    def _set(self, name: str, is_up: bool) -> None:
        if self._is_up.get(name) != is_up:
            log.info("engine %s is %s", name, "up" if is_up else "down")
            if is_up and self._on_up is not None:
                self._telling.add(self._on_up(name))
        self._is_up[name] = is_up


def values_of(monitor: EngineMonitor) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """Return what metrics show of the engines."""
    names = monitor.engines
    return {
        families.ENGINE_UP.name: [((name,), float(monitor.is_up(name))) for name in names],
        families.ENGINE_SERVERS.name: [((name,), float(monitor.servers_up(name))) for name in names],
        families.ENGINE_WAITING.name: [((name,), float(monitor.num_waiting(name))) for name in names],
    }
