"""The generic cell rate algorithm as ITU-T I.371 writes it down: by the theoretical arrival time, in exact fractions.

In: charges at chosen times. Out: the decisions that the meters, in redis and in a process, have to come to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

from router.limits.meters import Cost, Subject

MINUTE = Fraction(60)


@dataclass
class Reservation:
    subjects: Sequence[Subject]
    tokens: int
    ends_at: list[Fraction]


@dataclass
class Reference:
    """Times are fractions of seconds."""

    arrivals: dict[tuple[str, int], Fraction] = field(default_factory=dict)

    def charge(self, cost: Cost, subjects: Sequence[Subject], now: Fraction) -> Reservation | int:
        """Return the reservation; or after how many microseconds there is room."""
        after: dict[tuple[str, int], Fraction] = {}
        for subject in subjects:
            for kind, limit in enumerate(subject.limits):
                if limit is not None:
                    arrival = max(self.arrivals.get((subject.name, kind), now), now)
                    after[subject.name, kind] = arrival + cost[kind] * MINUTE / limit
        waits = [at - MINUTE - now for (_, kind), at in after.items() if cost[kind]]
        if any(wait > 0 for wait in waits):
            return ceil(max(waits) * 1_000_000)
        self.arrivals |= after
        return Reservation(subjects, cost.tokens, [after.get((subject.name, 3), now) for subject in subjects])

    def settle(self, held: Reservation, used: int, now: Fraction) -> None:
        for subject, ends_at in zip(held.subjects, held.ends_at, strict=True):
            if (limit := subject.limits[3]) is None:
                continue
            owed = max(self.arrivals[subject.name, 3] - now, Fraction(0))
            change = (used - held.tokens) * MINUTE / limit
            if change < 0:
                change = -min(-change, owed, max(ends_at - now, Fraction(0)))
            self.arrivals[subject.name, 3] = now + owed + change

    def remaining(self, subject: Subject, kind: int, now: Fraction) -> int | None:
        limit = subject.limits[kind]
        return None if limit is None else max(floor((MINUTE - self._owed_s(subject, kind, now)) * limit / MINUTE), 0)

    def reset_us(self, subject: Subject, kind: int, now: Fraction) -> int | None:
        return None if subject.limits[kind] is None else ceil(self._owed_s(subject, kind, now) * 1_000_000)

    def _owed_s(self, subject: Subject, kind: int, now: Fraction) -> Fraction:
        return max(self.arrivals.get((subject.name, kind), now) - now, Fraction(0))
