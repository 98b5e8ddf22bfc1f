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

from engines.base import hash_caller
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
# Redis may miss a read or two while busy; numbers older than this are dropped.
_FRESH_S: Final = 5.0
# Batch lines may wait, so their age does not count.
_PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "normal")
# The key for callers without waiting jobs.
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
        # What `Backlogs.deep_ms` of them said, by owner and priority.
        self._deep: dict[tuple[str, Priority], int | None] = {}
        self._read_at = -_FRESH_S
        # By caller, as a hash, since engines name them so.
        self._ages: dict[tuple[_Way, Priority], dict[str, float]] = {}
        self._judged_at = -_FRESH_S
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
            self._deep.clear()
            self._read_at = self._clock()
        finally:
            self._judge()

    def health(self, call: Call) -> Health:
        """What is known of the engines, for one call.

        Lines of batches and ``flex`` requests may wait, so for them no queue is old. Only GLM answers by a JSON Schema,
        and an engine that does not take so many pictures is of no use.
        """
        known = self._monitor.health()
        engines: dict[str, EngineHealth] = {name: self._engine_health(name, known.of(name), call) for name in _ENGINES}
        return Health(engines, self._deep_ms(call.owner, call.priority))

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

    def _deep_ms(self, owner: str, priority: Priority) -> int | None:
        if not self._is_fresh():
            return Backlogs().deep_ms(owner, priority)
        if (owner, priority) not in self._deep:
            self._deep[owner, priority] = self._backlogs.deep_ms(owner, priority)
        return self._deep[owner, priority]

    def _is_fresh(self) -> bool:
        return self._clock() - self._read_at < _FRESH_S

    def _known(self) -> Backlogs:
        return self._backlogs if self._is_fresh() else Backlogs()

    def _engine_health(self, engine: EngineName, known: EngineHealth, call: Call) -> EngineHealth:
        way = _Way(engine, is_queued=engine != "glm" or call.is_background)
        info = self._monitor.info(engine)
        has_schema = call.sampling.json_schema is not None
        # Owl2 looks at many pictures in groups.
        is_too_much = engine == "glm" and info is not None and len(call.images) > info.max_images
        can_take_over = not is_too_much and not (engine == "owl2" and has_schema)
        if call.priority == "batch":
            return EngineHealth(known.is_up, can_take_over=can_take_over)
        caller = hash_caller(call.owner)
        ages = self._ages.get((way, call.priority), {}) if self._clock() - self._judged_at < _FRESH_S else {}
        return EngineHealth(
            known.is_up,
            round(ages.get(caller, ages.get(_ANYBODY, 0.0)), 1),
            was_overloaded=not self._over.isdisjoint({(way, caller), (way, _ANYBODY)}),
            can_take_over=can_take_over,
        )

    def _judge(self) -> None:
        """Say anew how old each queue is, for whom, and who finds it over its limit."""
        limits, over = self._limits(), set[tuple[_Way, str]]()
        for way in _WAYS:
            for priority in _PRIORITIES:
                self._ages[way, priority] = self._measure(way, priority)
            limit_s = limits.of(way.engine)
            if limit_s is None:
                continue
            for caller, age_s in self._ages[way, "normal"].items():
                if age_s > (limit_s * RECOVERED_SHARE if (way, caller) in self._over else limit_s):
                    over.add((way, caller))
        self._over = frozenset(over)
        self._judged_at = self._clock()

    def _measure(self, way: _Way, priority: Priority) -> dict[str, float]:
        """How long the wait is that a new request would join, by caller: in the queue, and then at the engine."""
        anybody_s, at_engine = self._monitor.waits(way.engine)
        queue_s, in_queue = 0.0, dict[str, float]()
        if way.is_queued:
            queue_s, by_owner = self._known().of.get(queue_of(way.engine), Backlog()).ages(priority)
            in_queue = {hash_caller(owner): age_s for owner, age_s in by_owner.items()}
        return {_ANYBODY: queue_s + anybody_s} | {
            caller: in_queue.get(caller, queue_s) + at_engine.get(caller, anybody_s)
            for caller in in_queue.keys() | at_engine.keys()
        }
