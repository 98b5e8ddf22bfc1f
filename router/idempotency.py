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
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis

from router.errors import ConflictError, IdempotencyReuseError, NotFoundError, QueueUnavailableError
from router.jobs.job import Event, Job, new_job_id
from router.leftovers import Leftovers, end_tasks
from router.redis import PREFIX, Clock, guard

# How long a key is known, and at least how long what was done under it can be read.
KEEP_S: Final = 24 * 3600
# A holder that has not been heard of for so long has died before it accepted anything: the next one takes over.
HOLD_S: Final = 10.0

_CLOCK: Final = """
local key, job, given = KEYS[1], KEYS[2] .. 'job:', ARGV[1]
local now = tonumber(given)
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
"""
# clock, body digest, new response id, new token, hold seconds, keep seconds
# -> {'new' | 'known' | 'busy' | 'other' | 'gone', response id}
_CLAIM: Final = (
    _CLOCK
    + """
local found = redis.call('HMGET', key, 'body', 'id', 'until', 'accepted')
local id = found[2]
local is_accepted = found[4]
if id and not is_accepted then
  -- A direct answer that failed or broke off is made again, also if its maker could not let go of the key. Only what
  -- went through the queue has a time at which it was accepted.
  -- One that is being written leads nowhere while its maker lives: it may still fail, and be no record at all.
  local of = redis.call('HMGET', job .. id, 'state', 'accepted_at', 'is_begun')
  is_accepted = of[1] and (of[2] or of[1] == 'completed' or of[1] == 'incomplete')
  if of[3] and of[1] == 'in_progress' and tonumber(found[3]) > now then is_accepted = false end
end
if id and (is_accepted or tonumber(found[3]) > now) then
  if found[1] ~= ARGV[2] then return {'other', id} end
  if not is_accepted then return {'busy', id} end
  redis.call('HSET', key, 'accepted', '1')
  return {redis.call('EXISTS', job .. id) == 1 and 'known' or 'gone', id}
end
redis.call('DEL', key)
redis.call('HSET', key, 'body', ARGV[2], 'id', ARGV[3], 'token', ARGV[4],
  'until', string.format('%.6f', now + tonumber(ARGV[5])))
redis.call('EXPIRE', key, ARGV[6])
return {'new', ARGV[3]}
"""
)
# clock, token, hold seconds
_RENEW: Final = (
    _CLOCK
    + """
if redis.call('HGET', key, 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'until', string.format('%.6f', now + tonumber(ARGV[3])))
return 1
"""
)
# clock, token, whether to let go even of what was recorded
_SETTLE: Final = (
    _CLOCK
    + """
local found = redis.call('HMGET', key, 'token', 'id')
if found[1] ~= ARGV[2] then return 0 end
local of = redis.call('HMGET', job .. found[2], 'state', 'is_begun')
if ARGV[3] == '0' and of[1] and not (of[2] and of[1] == 'in_progress') then
  redis.call('HSET', key, 'accepted', '1')
else
  redis.call('DEL', key)
end
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A key in somebody's hands.

    Attributes:
        response_id: of what is, or was, done under it.
        is_new: nobody has done it yet: it is for the holder to do.
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

    Raises:
        QueueUnavailableError: by `claim`, when Redis does not answer: without it nobody knows what was done.
    """

    def __init__(self, redis: Redis, *, hold_s: float = HOLD_S, clock: Clock | None = None) -> None:
        self._hold_s = hold_s
        self._clock = clock
        self._claim, self._renew, self._settle = (redis.register_script(each) for each in (_CLAIM, _RENEW, _SETTLE))
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
        reply = await self._run(self._claim, where, digest, new_job_id(), token, self._hold_s, KEEP_S)
        state = cast("Literal['new', 'known', 'busy', 'other', 'gone']", reply[0].decode())
        response_id: str = reply[1].decode()
        if state == "other":
            raise IdempotencyReuseError(
                "This Idempotency-Key was sent before with another body; send a new key with a new request.",
                code="idempotency_key_reuse",
                message_zh="该 Idempotency-Key 已用于另一个请求体；新的请求请使用新的键。",
            )
        if state == "busy":
            raise ConflictError(
                "The request with this Idempotency-Key is still being worked on; send it again shortly.",
                code="idempotency_key_in_use",
                message_zh="使用该 Idempotency-Key 的请求仍在处理中，请稍后重试。",
                retry_after_s=1,
            )
        if state == "gone":
            raise NotFoundError(
                f"The response '{response_id}' of this Idempotency-Key was deleted.",
                code="response_not_found",
                message_zh=f"该 Idempotency-Key 对应的响应 '{response_id}' 已被删除。",
            )
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
            # The request may be cancelled by now, and with it whatever is awaited here.
            await asyncio.shield(self._leftovers.add(self._let_go(claim)))
            raise
        finally:
            self._leftovers.add(end_tasks(beat))

    async def accepted(self, claim: Claim) -> None:
        """Note that the job exists, so that its deletion is not taken for never having been."""
        with contextlib.suppress(QueueUnavailableError):  # the job itself says so
            await self._run(self._settle, claim.key, claim.token, "0")

    async def follow(
        self, claim: Claim, events: AsyncGenerator[Event, None], finished: Callable[[], Job | None]
    ) -> AsyncGenerator[Event, None]:
        """Pass on the events of an answer that is made in this process, and keep its key meanwhile.

        An answer that failed, or that nobody waited for, lets go of the key: repeated, it is made again.

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
        with contextlib.suppress(QueueUnavailableError):  # then it is free when its time is over
            await self._run(self._settle, claim.key, claim.token, "1" if even_if_recorded else "0")

    async def _keep(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._hold_s / 3)
            with contextlib.suppress(QueueUnavailableError):
                await self._run(self._renew, claim.key, claim.token, self._hold_s)

    async def _run(self, script: Any, key: str, *args: str | float) -> Any:
        now = "" if self._clock is None else repr(self._clock())
        return await guard(script(keys=[key, PREFIX], args=[now, *args]))
