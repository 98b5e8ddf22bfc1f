"""What is charged where: in redis, or in this process while redis is away.

In: the cost of a request and whom it counts against. Out: an `Outcome`; one round trip charges all subjects or none.

Keys, all under one prefix: ``meter:SUBJECT`` hash, ``open:SUBJECT`` sorted set and ``ledger:OWNER:MINUTE`` hash
(`router/lua/include/limits.lua`). Subjects are hashes of names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from engines.origin import of_nobody
from router.errors import QueueUnavailableError
from router.leftovers import Leftovers, end_tasks
from router.limits.meters import KINDS, Cost, Held, LocalMeters, Outcome, Standing, Subject
from router.lua import LimitScript, Scripts
from router.redis import Clock

log = logging.getLogger(__name__)

# An open request expires if its process is silent for this long.
LEASE_S: Final = 15.0
# Requests that end within this time are settled in one round trip.
_SETTLE_AFTER_S: Final = 0.02
# Most refusals remembered here: a refused client that goes on sending costs no read of its body and no command.
_MAX_REMEMBERED: Final = 10_000


class Charges:
    """What the requests of this process are charged.

    Args:
        redis: an asyncio client that returns bytes.
        clock: unix seconds; None uses the redis server's own clock, so that machines need not agree on the time.
    """

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self._scripts = Scripts(redis, clock)
        self._clock = clock or time.time
        self._local: LocalMeters | None = None
        # By limits too: an operator who raises one lets its owner in at once.
        self._refused_until: dict[Subject, float] = {}
        self._open: dict[str, list[str]] = {}
        self._beat: asyncio.Task[None] | None = None
        self._leftovers = Leftovers()
        self._due: list[str | int] = []
        self._settling: asyncio.Task[None] | None = None

    def refused_for_us(self, subject: Subject) -> int:
        """Return for how many microseconds a subject's bucket of requests cannot have room yet; 0 if it may have."""
        until = self._refused_until.get(subject)
        if until is None:
            return 0
        left_us = int((until - time.monotonic()) * 1_000_000)
        if left_us <= 0:
            del self._refused_until[subject]
        return max(left_us, 0)

    async def charge(
        self, id_: str, owner: str, cost: Cost, subjects: Sequence[Subject]
    ) -> tuple[Outcome, Held | None]:
        """Charge a request; while redis does not answer, to the meters of this process.

        Returns:
            What became of it, and what to settle if it was charged in this process.
        """
        try:
            outcome = await self._charge_in_redis(id_, owner, cost, subjects)
        except QueueUnavailableError as error:
            if self._local is None:
                log.warning("redis does not answer, so each api process counts limits for itself: %s", error.message)
                self._local = LocalMeters()
            return self._local.charge(cost, subjects, self._now_us())
        if self._local is not None:
            log.warning("redis answers again: limits are counted over all api processes")
            self._local = None
        if outcome.refused_by is None:
            self._hold(id_, subjects)
        elif outcome.kind == 0:
            self._remember(subjects[outcome.refused_by], outcome.wait_us)
        return outcome, None

    async def _charge_in_redis(self, id_: str, owner: str, cost: Cost, subjects: Sequence[Subject]) -> Outcome:
        words: list[str | int] = []
        for subject in subjects:
            words.append(subject.name)
            words += ["" if limit is None else limit for limit in (*subject.limits, subject.max_open)]
        requests, pictures, kilopixels, tokens = cost
        found: bytes = await self._scripts.run(
            LimitScript.CHARGE,
            *words,
            id=id_,
            owner=owner,
            lease_s=LEASE_S,
            requests=requests,
            pictures=pictures,
            kilopixels=kilopixels,
            tokens=tokens,
        )
        page, refused, kind, wait_us, *rest = found.decode().split(" ")
        numbers = [None if word == "-" else int(word) for word in rest]
        width = 2 * len(KINDS)
        standings = tuple(
            Standing(tuple(numbers[at : at + width : 2]), tuple(numbers[at + 1 : at + width : 2]))
            for at in range(0, len(numbers), width)
        )
        by = int(refused) - 1 if refused != "0" else None
        return Outcome(standings, page.strip("-"), by, int(kind) - 1, int(wait_us))

    async def settle(self, id_: str, reference: str, used: int | None, held: Held | None = None) -> None:
        """End a request: free its places, and charge what it used instead of what it reserved.

        Args:
            id_: of the request.
            reference: of its reservation; empty for none.
            used: tokens; None if somebody else settles it.
            held: what was charged in this process.
        """
        if held is not None:
            if self._local is not None:
                self._local.settle(held, used, self._now_us())
            return
        places = self._open.pop(id_, [])
        if not places and used is None:
            return
        self._due += [reference, "" if used is None else used, id_, " ".join(places)]
        if places:  # the client's next request must find them free; to its end although the client may be gone
            await asyncio.shield(self._leftovers.add(self.settle_due()))
        elif self._settling is None:
            self._settling = self._leftovers.add(self._settle_soon())

    async def _settle_soon(self) -> None:
        await asyncio.sleep(_SETTLE_AFTER_S)
        self._settling = None
        await self.settle_due()

    async def settle_due(self) -> None:
        """Settle what has ended by now."""
        due, self._due = self._due, []
        if due:
            with contextlib.suppress(QueueUnavailableError):  # then all of it ages out by itself
                await self._scripts.run(LimitScript.SETTLE, *due)

    async def aclose(self) -> None:
        """Finish what is under way."""
        if self._beat is not None:
            await end_tasks(self._beat)
        await self.settle_due()
        await self._leftovers.aclose()

    def _hold(self, id_: str, subjects: Sequence[Subject]) -> None:
        places = [subject.name for subject in subjects if subject.max_open is not None]
        if places:
            self._open[id_] = places
            if self._beat is None or self._beat.done():
                self._beat = asyncio.create_task(self._renew_forever(), name="limits-renewal", context=of_nobody())

    async def _renew_forever(self) -> None:
        while self._open:
            await asyncio.sleep(LEASE_S / 3)
            words = [word for id_, places in self._open.items() for place in places for word in (place, id_)]
            if words:
                with contextlib.suppress(QueueUnavailableError):
                    await self._scripts.run(LimitScript.RENEW, *words, lease_s=LEASE_S)

    def _remember(self, subject: Subject, wait_us: int) -> None:
        if len(self._refused_until) >= _MAX_REMEMBERED:
            now = time.monotonic()
            self._refused_until = {each: until for each, until in self._refused_until.items() if until > now}
        if len(self._refused_until) < _MAX_REMEMBERED:
            self._refused_until[subject] = time.monotonic() + wait_us / 1_000_000

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)
