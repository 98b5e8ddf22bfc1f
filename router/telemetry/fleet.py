"""What redis knows of all processes: jobs that have ended, and what waits.

In: one script in redis, at each look. Out: ends and tallies, which are counted here and nowhere else, and values of
gauges, which every api shows alike. The script takes what it tells, so the counters of several apis add up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

from redis.asyncio import Redis

from engines.origin import of_nobody
from router.errors import QueueUnavailableError
from router.lua import MetricsScript, Scripts
from router.redis import Clock
from router.telemetry import families
from router.telemetry.ended import from_entry
from router.telemetry.meters import CountingMeters

# The queues and the priorities, in the order in which the script tells them.
QUEUES: Final = ("glm", "owl2", "light")
PRIORITIES: Final = ("interactive", "normal", "batch")
# At one look; the rest comes with the next.
_MAX_TAKEN: Final = 5000
# Ends are kept for as long as somebody has asked within this time.
_KEPT_S: Final = 3600
# Prometheus gives a look 10 s; a redis that is away must not cost the other metrics.
_PATIENCE_S: Final = 1.0

log = logging.getLogger(__name__)

Found = dict[str, list[tuple[tuple[str, ...], float]]]


class Fleet:
    """Asks redis, and counts what it tells.

    Args:
        redis: an asyncio client that returns bytes.
        meters: count here.
        clock: unix seconds; None uses redis' own.
        patience_s: how long a look waits for redis.
    """

    def __init__(
        self,
        redis: Redis,
        meters: CountingMeters,
        clock: Clock | None = None,
        *,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._scripts = Scripts(redis, clock)
        self._meters = meters
        self._patience_s = patience_s
        self._asking: asyncio.Task[Found | None] | None = None

    async def look(self) -> Found | None:
        """Count what has ended, and return what waits; None if redis does not answer in time.

        An answer that comes late is counted all the same: what redis has told it tells nobody again.
        """
        asking = self.begin()
        await asyncio.wait({asking}, timeout=self._patience_s)
        return asking.result() if asking.done() and not asking.cancelled() else None

    def begin(self) -> asyncio.Task[Found | None]:
        """Ask, and do not wait: from then on ends are kept, for whoever looks within the hour."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="metrics", context=of_nobody())
        return self._asking

    async def aclose(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> Found | None:
        try:
            ends, tallies, waiting, numbers = await self._scripts.run(
                MetricsScript.TAKE, queues=",".join(QUEUES), max_taken=_MAX_TAKEN, kept_s=_KEPT_S
            )
        except QueueUnavailableError as error:
            log.debug("redis does not answer who asks for metrics: %s", error.__cause__)
            return None
        self._count(ends, tallies)
        return _to_values(waiting, numbers)

    def _count(self, ends: Iterable[bytes], tallies: list[bytes]) -> None:
        for entry in ends:
            try:
                self._meters.answered(from_entry(entry))
            except (ValueError, TypeError):  # of another release; one of them must not hide the others
                log.warning("an end that another release wrote is not counted")
                self._meters.add(families.UNCOUNTED)
        for name, number in zip(tallies[::2], tallies[1::2], strict=True):
            kind, *labels = name.decode().split(":")
            if (family := _TALLIES.get(kind)) is not None and len(labels) == len(family.labels):
                self._meters.add(family, *labels, by=int(number))


_TALLIES: Final = {
    "retry": families.RETRIES,
    "lease_lost": families.LEASES_LOST,
    "webhook": families.WEBHOOK_ATTEMPTS,
    "uncounted": families.UNCOUNTED,
}


def _to_values(waiting: list[list[bytes]], numbers: list[Any]) -> Found:
    found: Found = {family.name: [] for family in families.STORED}
    for queue, row in zip(QUEUES, waiting, strict=True):
        running, taken, *classes = row
        found[families.RUNNING.name].append(((queue,), float(running)))
        found[families.TAKEN.name].append(((queue,), float(taken)))
        for priority, depth, oldest in zip(PRIORITIES, classes[::2], classes[1::2], strict=True):
            found[families.WAITING.name].append(((queue, priority), float(depth)))
            found[families.OLDEST.name].append(((queue, priority), float(oldest or 0)))
    named = (
        families.DELAYED,
        families.SILENT,
        families.WEBHOOKS_DUE,
        families.WEBHOOKS_WAITING,
        families.REDIS_MEMORY,
        families.REDIS_MAX_MEMORY,
    )
    for family, number in zip(named, numbers, strict=False):
        found[family.name].append(((), float(number)))
    return found
