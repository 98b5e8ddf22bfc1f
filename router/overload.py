"""Whether an engine has more to do than it can: what the queues and the engines themselves say of it, once a second.

In: what waits in redis and at the engines, and the preset's limits. Out: a `policies.decision.Health` for one call, as
plain numbers that are at hand: a decision asks nobody. What is not known, or was read too long ago, is no overload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from policies.decide import RECOVERED_SHARE
from policies.decision import EngineHealth, EngineName, Health
from policies.rules import QueueLimits
from router.call import Call, Priority
from router.health import EngineMonitor
from router.jobs.backlog import Backlog, Backlogs
from router.jobs.schedule import queue_of
from router.leftovers import end_tasks
from router.redis import repeat

_ENGINES: Final[tuple[EngineName, ...]] = ("glm", "owl2")
_LOOK_EVERY_S: Final = 1.0
# A redis that misses a look or two is busy; numbers older than this are not known any more.
_FRESH_S: Final = 5.0
# Stands for every owner that has nothing waiting.
_ANYBODY: Final = ""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a call reaches an engine: GLM answers most calls directly, without the queue in redis."""

    engine: EngineName
    is_queued: bool


_WAYS: Final = (_Way("glm", False), _Way("glm", True), _Way("owl2", True))


class OverloadWatch:
    """Knows how old the queues are, and which of them were over their limit.

    Every process reads the same numbers and draws the same conclusions from them. Only one that has just begun may
    differ, for a queue that was over its limit before and is not down to half of it.

    Args:
        monitor: knows which engines are up, and what waits at them.
        read: reads the queues.
        limits: returns the preset's limits; they may change between calls.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        monitor: EngineMonitor,
        read: Callable[[], Awaitable[Backlogs]],
        limits: Callable[[], QueueLimits],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monitor = monitor
        self._read = read
        self._limits = limits
        self._clock = clock
        self._backlogs = Backlogs()
        self._read_at = -_FRESH_S
        self._over: frozenset[tuple[_Way, str]] = frozenset()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._looking = asyncio.create_task(
            repeat("look at the queues", self.look, lambda: asyncio.sleep(_LOOK_EVERY_S)), name="overload-watch"
        )

    async def aclose(self) -> None:
        """Look no more."""
        if self._looking is not None:
            await end_tasks(self._looking)

    async def look(self) -> None:
        """Read the queues once.

        Raises:
            QueueUnavailableError: if redis does not answer; what was known becomes old.
        """
        try:
            self._backlogs = await self._read()
            self._read_at = self._clock()
        finally:
            self._over = frozenset(self._found_over())

    def health(self, call: Call) -> Health:
        """What is known of the engines, for one call.

        Lines of batches and ``flex`` requests may wait, so for them no queue is old. Only GLM answers by a JSON Schema,
        and an engine that does not take so many pictures is of no use.
        """
        known = self._monitor.health()
        engines: dict[str, EngineHealth] = {name: self._engine_health(name, known.of(name), call) for name in _ENGINES}
        return Health(engines, self._known().deep_ms(call.owner, call.priority))

    def status(self) -> dict[str, dict[str, Any]]:
        """What is known of each engine's queue, for people; empty while nothing is."""
        found: dict[str, dict[str, Any]] = {}
        for engine in _ENGINES:
            backlog = self._known().of.get(queue_of(engine))
            if backlog is not None:
                found[engine] = {
                    "num_waiting": backlog.depth,
                    "num_waiting_at_engine": self._monitor.num_waiting(engine),
                    "queue_age_s": round(backlog.oldest_s, 1),
                    "overloaded": any(way.engine == engine for way, _ in self._over),
                }
        return found

    def _known(self) -> Backlogs:
        return self._backlogs if self._clock() - self._read_at < _FRESH_S else Backlogs()

    def _engine_health(self, engine: EngineName, known: EngineHealth, call: Call) -> EngineHealth:
        way = _Way(engine, is_queued=engine != "glm" or call.is_background)
        info = self._monitor.info(engine)
        has_schema = call.sampling.json_schema is not None
        # Owl2 looks at many pictures in groups.
        is_too_much = engine == "glm" and info is not None and len(call.images) > info.max_images
        can_take_over = not is_too_much and not (engine == "owl2" and has_schema)
        if call.priority == "batch":
            return EngineHealth(known.is_up, can_take_over=can_take_over)
        return EngineHealth(
            known.is_up,
            round(self._age_s(way, call.owner, call.priority), 1),
            was_overloaded=(way, call.owner) in self._over or (way, _ANYBODY) in self._over,
            can_take_over=can_take_over,
        )

    def _age_s(self, way: _Way, owner: str, priority: Priority = "normal") -> float:
        """How long the wait is that an owner's next request would join: in the queue, and then at the engine."""
        age_s = self._monitor.waiting_s(way.engine, owner)
        if way.is_queued:
            age_s += self._known().of.get(queue_of(way.engine), Backlog()).age_for(owner, priority)
        return age_s

    def _found_over(self) -> list[tuple[_Way, str]]:
        limits, found = self._limits(), []
        owners = {
            _ANYBODY,
            *(line.owner for backlog in self._known().of.values() for lines in backlog.lines for line in lines),
        }
        for way in _WAYS:
            limit_s = limits.of(way.engine)
            if limit_s is None:
                continue
            for owner in owners:
                back_s = limit_s * RECOVERED_SHARE if (way, owner) in self._over else limit_s
                if self._age_s(way, owner) > back_s:
                    found.append((way, owner))
        return found
