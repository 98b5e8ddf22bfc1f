"""Who is limited, and how much.

In: a caller and an address. Out: the `Admission` of a request, which charges it; None if nothing limits it, so that
redis is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from redis.asyncio import Redis

from router.limits.addresses import to_limited
from router.limits.admission import Admission
from router.limits.charges import Charges
from router.limits.limits import NO_LIMITS, Limits
from router.limits.meters import Subject, to_subject
from router.redis import Clock
from router.telemetry.meters import UNMETERED, Meters


class Limiter:
    """What all requests of this process are charged with.

    Args:
        redis: an asyncio client that returns bytes.
        each_owner: limits of every owner, where its own say nothing.
        each_key: limits of every key.
        each_address: limits of every address.
        clock: unix seconds; None uses the redis server's own clock, so that machines need not agree on the time.
        meters: told of each refusal.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        each_owner: Limits = NO_LIMITS,
        each_key: Limits = NO_LIMITS,
        each_address: Limits = NO_LIMITS,
        clock: Clock | None = None,
        meters: Meters = UNMETERED,
    ) -> None:
        self._meters = meters
        self._charges = Charges(redis, clock)
        self._each_owner, self._each_key, self._each_address = each_owner, each_key, each_address

    def admission(self, owner: str, limits: Limits, *, key: str = "", address: str = "") -> Admission | None:
        """Return what a request is charged with; None if nothing limits it.

        Args:
            owner: whose request it is.
            limits: of this owner; what they do not say is as for every owner.
            key: its public name; empty without one.
            address: of the client; empty if it has none.
        """
        own = limits.over(self._each_owner)
        subjects = [to_subject("owner", owner, own)]
        if key and self._each_key != NO_LIMITS:
            subjects.append(to_subject("key", key, self._each_key))
        if self._each_address != NO_LIMITS and (where := to_limited(address)):
            subjects.append(to_subject("address", where, self._each_address))
        return self._of(subjects, own.max_unfinished_jobs)

    def batch_admission(self, owner: str, limits: Limits) -> Admission | None:
        """Return what a line of a batch is charged with: buckets of their own, as large as the owner's.

        Args:
            owner: whose batch it is.
            limits: as for `admission`.
        """
        own = limits.over(self._each_owner)
        lines = replace(own, requests_per_minute=None, max_requests=None)
        return self._of([to_subject("batch", owner, lines)], own.max_unfinished_jobs)

    def _of(self, subjects: Sequence[Subject], max_unfinished: int | None) -> Admission | None:
        limited = [subject for subject in subjects if subject.is_limited]
        if not limited and max_unfinished is None:
            return None
        return Admission(self._charges, subjects[0].name, limited, max_unfinished, self._meters)

    async def aclose(self) -> None:
        """Finish what is under way."""
        await self._charges.aclose()
