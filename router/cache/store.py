"""The answers that are kept in redis, for all processes, within a number of bytes.

In: calls, and jobs that ended well. Out: a `KeptAnswer`, or None: a cache that cannot be read is an empty one, never an
error. The scripts are in ``router/lua/cache``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from policies.rules import Rules
from router.cache.answers import KeptAnswer, from_bytes, is_worth_keeping, to_bytes
from router.cache.keys import CacheKey, RulesRevision, to_key
from router.cache.pixels import PixelHashes
from router.call import Call
from router.errors import QueueUnavailableError
from router.jobs.job import Job
from router.lua import CacheScript, Scripts
from router.redis import Clock, guard
from router.room import Room
from router.telemetry.meters import UNMETERED, Meters

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptAs:
    """Where an answer is to be kept.

    Attributes:
        name: see `CacheKey.name`.
        question: of the key; empty without pictures.
        sent: of the key.
    """

    name: str
    question: str = ""
    sent: str = ""

    def __str__(self) -> str:
        return ":".join((self.name, self.question, self.sent)) if self.sent else self.name

    @classmethod
    def parse(cls, text: str) -> KeptAs:
        """Read what `str` wrote."""
        return cls(*text.split(":"))


class AnswerCache:
    """Keeps answers, and finds them.

    Args:
        redis: an asyncio client that returns bytes.
        max_bytes: for all answers of all owners.
        ttl_s: how long an answer is kept, unless its owner wants everything to go sooner.
        revisions: says by engine what is known of its model.
        rules: returns the policy's rules.
        room: says whether redis takes anything new; None: it does.
        clock: unix seconds; None uses redis' own.
        meters: told of each call that is looked up.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        max_bytes: int,
        ttl_s: int,
        revisions: Callable[[], Mapping[str, str]] = dict,
        rules: Callable[[], Rules] | None = None,
        room: Room | None = None,
        clock: Clock | None = None,
        meters: Meters = UNMETERED,
    ) -> None:
        self._scripts = Scripts(redis, clock)
        self._meters = meters
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._revisions = revisions
        self._rules = rules
        self._rules_revision = RulesRevision()
        self._room = room
        self.pixels = PixelHashes()

    def to_key(self, call: Call) -> CacheKey | None:
        """Return what a call is looked up by; None if it may have another answer each time."""
        rules = "" if self._rules is None else self._rules_revision.of(self._rules())
        return to_key(call, self._revisions(), rules)

    async def find(self, key: CacheKey, *, max_age_s: int | None = None) -> KeptAnswer | None:
        """Return the answer to a call; None if there is none, or redis does not answer.

        Pictures are decoded only where the same was asked about others of the same sizes.

        Args:
            key: of the call.
            max_age_s: an older one is none; None for any age.
        """
        known = self.pixels.known(key.images)
        try:
            found = await self._look(key, "" if known is None else key.name(known))
            if found[0] == b"compare":
                pixels = await self.pixels.of(key.images)
                found = [b"none"] if pixels is None else await self._look(key, key.name(pixels))
        except QueueUnavailableError as error:
            log.debug("the cache cannot be read: %s", error.__cause__)
            return None
        kept = from_bytes(found[1], found[2].decode()) if found[0] == b"answer" else None
        is_too_old = kept is not None and max_age_s is not None and time.time() - kept.made_at > max_age_s
        self._meters.looked_up(is_hit=kept is not None and not is_too_old)
        return None if is_too_old else kept

    async def name(self, key: CacheKey) -> KeptAs | None:
        """Say where the answer to a call is to be kept; decodes its pictures. None if they cannot be told apart."""
        await self.pixels.of(key.images)
        return self.name_now(key)

    def name_now(self, key: CacheKey) -> KeptAs | None:
        """Do as `name`, if nothing has to be decoded for it; else None."""
        if not key.images:
            return KeptAs(key.name(()))
        pixels = self.pixels.known(key.images)
        return None if pixels is None else KeptAs(key.name(pixels), key.question, key.sent)

    async def put(self, job: Job, where: KeptAs) -> bool:
        """Keep the answer of a job that has ended; False if it is not worth it, or redis does not take it."""
        if not is_worth_keeping(job):
            return False
        answer = await asyncio.to_thread(to_bytes, job) if job.spec.sampling.top_logprobs else to_bytes(job)
        try:
            if self._room is not None:
                await guard(self._room.check(len(answer)))
            return bool(
                await self._scripts.run(
                    CacheScript.PUT,
                    owner=job.spec.owner,
                    name=where.name,
                    question=where.question,
                    sent=where.sent,
                    answer=answer,
                    ttl_s=min(self._ttl_s, job.spec.retention_s or self._ttl_s),
                    max_bytes=self._max_bytes,
                )
            )
        except QueueUnavailableError as error:
            log.debug("an answer is not kept: %s", error.__cause__)
            return False

    async def forget(self, job: Job) -> bool:
        """Forget the answer that a job was made of, or that is kept of it; False if there is none.

        Raises:
            QueueUnavailableError: if redis does not answer.
        """
        if not job.kept_as:
            return False
        name = KeptAs.parse(job.kept_as).name
        return bool(await self._scripts.run(CacheScript.FORGET, owner=job.spec.owner, name=name))

    async def _look(self, key: CacheKey, name: str) -> list[bytes]:
        name = name if key.images else key.name(())
        found: list[bytes] = await self._scripts.run(
            CacheScript.FIND, owner=key.owner, name=name, question=key.question, sent=key.sent
        )
        return found


def age_s(job: Job) -> int | None:
    """Return how old the answer of a job was when it was given; None if it was made for this job."""
    if job.spec.cached_at is None:
        return None
    return max(int((job.completed_at or time.time()) - job.spec.cached_at), 0)
