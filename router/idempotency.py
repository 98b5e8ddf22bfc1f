"""``Idempotency-Key``: a request that is sent again, because its answer was lost, is not done again.

In: an owner, a path, the caller's key and the body's bytes. Out: the id under which the request is, or was, done. What
was accepted is the job record itself, found by that id: no second copy that could disagree with it.

Keys: ``idempotency:SHA256`` hash with the digest of the body, the response id, and who holds it until when.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Literal, cast

from redis.asyncio import Redis

from router import texts
from router.errors import ConflictError, IdempotencyReuseError, NotFoundError, QueueUnavailableError
from router.jobs.job import Event, Job, new_job_id
from router.leftovers import Leftovers, end_tasks
from router.lua import KeyScript, Scripts
from router.redis import PREFIX, Clock, while_heard
from router.redis_watch import RedisWatch

# How long a key is known; its response can be read at least as long.
KEEP_S: Final = 24 * 3600
# A holder silent for this long died before it accepted anything: the next request takes over.
HOLD_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A key in somebody's hands.

    Attributes:
        response_id: of what is, or was, done under it.
        is_new: it was not done yet: the holder is to do it.
        key: in redis.
        token: says who holds it.
    """

    response_id: str
    is_new: bool
    key: str
    token: str


class Idempotency:
    """The keys of all owners.

    Args:
        redis: an asyncio client that returns bytes.
        hold_s: how long a holder may be silent.
        clock: unix seconds; None uses the Redis server's own.
        watch: of redis; None waits for redis as long as its client does.

    Raises:
        QueueUnavailableError: by `claim`, when Redis does not answer: only it knows what was done.
    """

    def __init__(
        self, redis: Redis, *, hold_s: float = HOLD_S, clock: Clock | None = None, watch: RedisWatch | None = None
    ) -> None:
        self._hold_s = hold_s
        self._watch = watch
        self._scripts = Scripts(redis, clock)
        self._leftovers = Leftovers()

    async def claim(self, owner: str, path: str, key: str, body: bytes | bytearray) -> Claim:
        """Take a key, or learn what was done under it.

        Raises:
            IdempotencyReuseError: if it came with another body.
            ConflictError: if the request it came with first is still being accepted, or answered without a job.
            NotFoundError: if what was done under it was deleted since.
        """
        name = hashlib.sha256("\0".join((owner, path, key)).encode()).hexdigest()
        where, token = f"{PREFIX}idempotency:{name}", secrets.token_hex(8)
        digest = hashlib.sha256(body).hexdigest()
        async with while_heard(self._watch):  # taken all the same, it is free again when its time is over
            reply = await self._scripts.run(
                KeyScript.CLAIM,
                key=where,
                digest=digest,
                response_id=new_job_id(),
                token=token,
                hold_s=self._hold_s,
                keep_s=KEEP_S,
            )
        state = cast("Literal['new', 'known', 'busy', 'other', 'gone']", reply[0].decode())
        response_id: str = reply[1].decode()
        if state == "other":
            raise IdempotencyReuseError(texts.KEY_REUSED, code="idempotency_key_reuse")
        if state == "busy":
            raise ConflictError(texts.STILL_RUNNING, code="idempotency_key_in_use", retry_after_s=1)
        if state == "gone":
            raise NotFoundError(texts.KEYED_RESPONSE_DELETED.fill(response_id=response_id), code="response_not_found")
        return Claim(response_id, state == "new", where, token)

    @contextlib.asynccontextmanager
    async def holding(self, claim: Claim) -> AsyncIterator[None]:
        """Keep a key while its request is being accepted; let go of it if that fails, unless it was accepted after all.

        Redis may have gone away between the two: then the key finds the job all the same.
        """
        beat = asyncio.create_task(self._keep(claim))
        try:
            yield
        except BaseException:
            # The request may be cancelled by now, which would cancel an await here too.
            await asyncio.shield(self._leftovers.add(self._let_go(claim)))
            raise
        finally:
            self._leftovers.add(end_tasks(beat))

    async def accepted(self, claim: Claim) -> None:
        """Note that the job exists, so that its deletion is not taken for never having been."""
        with contextlib.suppress(QueueUnavailableError):  # the job itself says so
            await self._scripts.run(KeyScript.SETTLE, key=claim.key, token=claim.token, is_forced=0)

    async def follow(
        self, claim: Claim, events: AsyncGenerator[Event, None], finished: Callable[[], Job | None]
    ) -> AsyncGenerator[Event, None]:
        """Pass on the events of an answer that is made in this process, and keep its key meanwhile.

        An answer that failed, or whose client disconnected, frees the key: a retry makes it again.

        Args:
            claim: the key.
            events: of the answer.
            finished: returns the record once it has ended.
        """
        beat = asyncio.create_task(self._keep(claim))
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event
        finally:
            self._leftovers.add(end_tasks(beat))
            job = finished()
            is_good = job is not None and job.state in ("completed", "incomplete")
            work = self.accepted(claim) if is_good else self._let_go(claim, even_if_recorded=True)
            await asyncio.shield(self._leftovers.add(work))

    async def aclose(self) -> None:
        """Finish what is under way."""
        await self._leftovers.aclose()

    async def _let_go(self, claim: Claim, *, even_if_recorded: bool = False) -> None:
        with contextlib.suppress(QueueUnavailableError):  # then the key expires by itself
            await self._scripts.run(KeyScript.SETTLE, key=claim.key, token=claim.token, is_forced=int(even_if_recorded))

    async def _keep(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._hold_s / 3)
            with contextlib.suppress(QueueUnavailableError):
                await self._scripts.run(KeyScript.RENEW, key=claim.key, token=claim.token, hold_s=self._hold_s)
