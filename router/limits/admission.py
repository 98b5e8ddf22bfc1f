"""What one request is charged, from its beginning to its end.

In: its cost, later what it used. Out: nothing; or a refusal that says which limit is reached and when there is room.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from policies.text import Text
from router.errors import BadRequestError, RateLimitError
from router.limits import texts
from router.limits.headers import to_duration, to_headers
from router.limits.limits import UNLIMITED
from router.limits.meters import KINDS, OPEN, Charging, Cost, Held, Subject
from router.telemetry.meters import UNMETERED, Meters


class Admission:
    """What one request is charged, from its beginning to its end.

    Args:
        charges: where it is charged.
        owner: whose ledger says so.
        subjects: that it counts against.
        max_unfinished_jobs: of its owner; None if the owner has no number of its own.
        meters: told of a refusal.

    Attributes:
        headers: what the answer tells of the limits.
        max_unfinished_jobs: as given.
    """

    def __init__(
        self,
        charges: Charging,
        owner: str,
        subjects: Sequence[Subject],
        max_unfinished_jobs: int | None = None,
        meters: Meters = UNMETERED,
    ) -> None:
        self._meters = meters
        self._charges = charges
        self._owner = owner
        self._subjects = subjects
        self._id = secrets.token_hex(8)
        self._reference = ""
        self._held: Held | None = None
        self._used: int | None = 0
        self._is_charged = False
        self.headers: list[tuple[bytes, bytes]] = []
        # Lifted is as good as not said: one number bounds what redis has to keep of an owner's in any case.
        self.max_unfinished_jobs = None if max_unfinished_jobs == UNLIMITED else max_unfinished_jobs

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens are limited: otherwise they need not be estimated."""
        return any(subject.limits[-1] is not None for subject in self._subjects)

    @property
    def is_charged(self) -> bool:
        """Whether it was charged, and has not ended."""
        return self._is_charged

    def check(self) -> None:
        """Refuse early what cannot be accepted yet.

        Raises:
            RateLimitError: if the bucket of requests of one of its subjects cannot have room yet.
        """
        for subject in self._subjects:
            if left_us := self._charges.refused_for_us(subject):
                raise self._refusal(subject, 0, left_us)

    async def charge(self, cost: Cost) -> None:
        """Charge the request, to all its subjects or to none; a second time changes nothing.

        Raises:
            RateLimitError: if a limit is reached.
            BadRequestError: if the request is larger than a whole limit.
        """
        if self._is_charged or not self._subjects:
            return
        if not self.counts_tokens:
            cost = cost._replace(tokens=0)
        self._check_could_fit(cost)
        outcome, self._held = await self._charges.charge(self._id, self._owner, cost, self._subjects)
        self.headers = to_headers(self._subjects, outcome.standings)
        if outcome.refused_by is not None:
            raise self._refusal(self._subjects[outcome.refused_by], outcome.kind, outcome.wait_us)
        self._is_charged = True
        self._reference = f"{outcome.page}:{self._id}"

    def use(self, num_tokens: int) -> None:
        """Say how many tokens were used; without this none were."""
        self._used = num_tokens

    @property
    def reservation(self) -> str:
        """What the record of a job keeps, so that its end settles; empty if there is nothing to settle."""
        if not self._is_charged or self._held is not None or not self.counts_tokens:
            return ""
        return self._reference

    def hand_over(self) -> None:
        """Note that a job is on record: its end settles."""
        self._used = None

    async def close(self) -> None:
        """End the request: free its places, and charge what it used instead of what it reserved."""
        if not self._is_charged:
            return
        self._is_charged = False
        used = self._used if self.counts_tokens else None
        await self._charges.settle(self._id, self._reference, used, self._held)

    def _check_could_fit(self, cost: Cost) -> None:
        for subject in self._subjects:
            for kind, (units, limit) in enumerate(zip(cost, subject.limits, strict=True)):
                if limit is not None and units > limit:
                    raise BadRequestError(
                        texts.NEVER_FITS.fill(
                            whose=texts.WHOSE[subject.kind],
                            what=_what(subject, kind),
                            cost=texts.COST[KINDS[kind]].fill(cost=_shown(kind, units)),
                        ),
                        code="exceeds_rate_limit",
                    )

    def _refusal(self, subject: Subject, kind: int, wait_us: int) -> RateLimitError:
        self._meters.limited(subject.kind, "concurrent" if kind == OPEN else KINDS[kind])
        wait_ms = max(-(-wait_us // 1000), 1)
        return RateLimitError(
            texts.REACHED.fill(
                whose=texts.WHOSE[subject.kind], what=_what(subject, kind), wait=to_duration(wait_ms * 1000)
            ),
            retry_after_ms=wait_ms,
        )


def _what(subject: Subject, kind: int) -> Text:
    if kind == OPEN:
        return texts.WHAT["concurrent"].fill(limit=subject.max_open)
    return texts.WHAT[KINDS[kind]].fill(limit=_shown(kind, subject.limits[kind] or 0))


def _shown(kind: int, units: int) -> str:
    return f"{units / 1000:g}" if KINDS[kind] == "megapixels" else str(units)
