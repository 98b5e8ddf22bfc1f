"""What the api shows to who asks for its metrics.

In: what was counted, redis, and what is known of the engines. Out: the text of ``/metrics``.
"""

from __future__ import annotations

from collections.abc import Callable

from router.telemetry import families
from router.telemetry.fleet import Fleet, Found
from router.telemetry.meters import CountingMeters


class Scrape:
    """Answers who asks for metrics.

    Args:
        meters: what was counted.
        fleet: asks redis.
        engines: values of `families.ENGINE_UP` and its neighbours.
    """

    def __init__(self, meters: CountingMeters, fleet: Fleet, engines: Callable[[], Found]) -> None:
        self._meters = meters
        self._fleet = fleet
        self._engines = engines

    async def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text, and its content type."""
        found = await self._fleet.look()
        up = {families.REDIS_UP.name: [((), 0.0 if found is None else 1.0)]}
        self._meters.looked.values = {**(found or {}), **up, **self._engines()}
        return self._meters.registry.expose(accept)

    def begin(self) -> None:
        """Count from now on: else what ends before somebody asks for the first time would be missing."""
        self._fleet.begin()

    async def aclose(self) -> None:
        """Ask redis no more."""
        await self._fleet.aclose()
