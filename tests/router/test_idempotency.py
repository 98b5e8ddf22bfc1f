"""Who gets an Idempotency-Key: against a real redis and a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from router.errors import ConflictError, IdempotencyReuseError, NotFoundError
from router.idempotency import HOLD_S, KEEP_S, Idempotency
from router.jobs.job import BranchPlan, Event, Job, JobState
from router.jobs.store import JobStore
from router.lua import KeyScript, Scripts
from tests.support.clock import Clock
from tests.support.jobs import make_spec

WHO = ("alice", "/v1/responses", "key-1")


@pytest.fixture
async def keys(redis: Redis, clock: Clock) -> AsyncIterator[Idempotency]:
    keys = Idempotency(redis, clock=clock)
    yield keys
    await keys.aclose()


async def test_of_many_at_once_one_gets_the_key_and_the_others_are_told_to_come_back(keys: Idempotency) -> None:
    outcomes = await asyncio.gather(*(keys.claim(*WHO, b"body") for _ in range(20)), return_exceptions=True)

    refusals = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(refusals) == 19
    assert all(isinstance(each, ConflictError) and each.retry_after_s == 1 for each in refusals)


async def test_a_key_belongs_to_one_owner_and_one_path(keys: Idempotency) -> None:
    claims = [
        await keys.claim(owner, path, "key-1", b"body")
        for owner in ("alice", "bob")
        for path in ("/v1/responses", "/v1/chat/completions")
    ]

    assert all(claim.is_new for claim in claims)
    assert len({claim.response_id for claim in claims}) == 4


async def test_once_the_job_exists_the_key_leads_to_it_even_if_its_holder_died(
    keys: Idempotency, redis: Redis, clock: Clock
) -> None:
    # Given a process that was killed right after it had created the job
    first = await keys.claim(*WHO, b"body")
    await JobStore(redis).create(make_spec(id=first.response_id))

    at_once = await keys.claim(*WHO, b"body")
    clock.now += KEEP_S - 1
    late = await keys.claim(*WHO, b"body")

    assert [(claim.is_new, claim.response_id) for claim in (at_once, late)] == [(False, first.response_id)] * 2
    with pytest.raises(IdempotencyReuseError):
        await keys.claim(*WHO, b"another body")


@pytest.mark.parametrize("state", ["failed", "cancelled", "completed", "incomplete"])
async def test_a_direct_answer_that_is_none_lets_go_of_its_key_even_if_its_maker_could_not(
    keys: Idempotency, redis: Redis, clock: Clock, state: JobState
) -> None:
    # Given a process that recorded how its answer ended, and could say nothing more
    claim = await keys.claim(*WHO, b"body")
    await JobStore(redis).put_finished(Job(make_spec(id=claim.response_id), state, {}))
    clock.now += HOLD_S + 1

    again = await keys.claim(*WHO, b"body")

    # Then the key leads to an answer, or is free; else whoever repeats the request would be refused all day long
    assert again.is_new == (state in ("failed", "cancelled"))
    assert (again.response_id == claim.response_id) == (state in ("completed", "incomplete"))


async def test_a_job_that_failed_keeps_its_key(keys: Idempotency, redis: Redis, clock: Clock) -> None:
    claim = await keys.claim(*WHO, b"body")
    store = JobStore(redis)
    await store.create(make_spec(id=claim.response_id))
    await store.cancel(claim.response_id)
    clock.now += HOLD_S + 1

    assert (await keys.claim(*WHO, b"body")).response_id == claim.response_id


async def test_a_holder_that_died_before_it_accepted_anything_is_taken_over(keys: Idempotency, clock: Clock) -> None:
    await keys.claim(*WHO, b"body")
    clock.now += HOLD_S - 0.1
    with pytest.raises(ConflictError):
        await keys.claim(*WHO, b"body")

    clock.now += 0.2

    assert (await keys.claim(*WHO, b"another body")).is_new


async def test_a_refused_request_lets_go_and_an_accepted_one_does_not(keys: Idempotency, redis: Redis) -> None:
    claim = await keys.claim(*WHO, b"body")
    with pytest.raises(ValueError, match="wrong"):
        async with keys.holding(claim):
            raise ValueError("wrong")
    again = await keys.claim(*WHO, b"body")
    assert again.is_new

    # Redis answered no more after it had created the job: the caller got a 503
    async def accept() -> None:
        async with keys.holding(again):
            await JobStore(redis).create(make_spec(id=again.response_id))
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await accept()

    assert (await keys.claim(*WHO, b"body")).response_id == again.response_id


async def test_one_who_lost_the_key_cannot_let_go_of_it(keys: Idempotency, clock: Clock) -> None:
    slow = await keys.claim(*WHO, b"body")
    clock.now += HOLD_S + 1
    quick = await keys.claim(*WHO, b"body")

    with pytest.raises(ValueError, match="wrong"):
        async with keys.holding(slow):
            raise ValueError("wrong")

    assert quick.is_new
    with pytest.raises(ConflictError):
        await keys.claim(*WHO, b"body")


async def test_what_was_deleted_is_not_done_again(keys: Idempotency, redis: Redis) -> None:
    store = JobStore(redis)
    claim = await keys.claim(*WHO, b"body")
    await store.create(make_spec(id=claim.response_id))
    await keys.accepted(claim)

    await store.delete(claim.response_id)

    with pytest.raises(NotFoundError):
        await keys.claim(*WHO, b"body")


async def test_what_was_deleted_after_its_key_was_sent_again_is_not_done_again(
    keys: Idempotency, redis: Redis, clock: Clock
) -> None:
    # Given a process that died before it could note that the job exists; a second request found it
    store = JobStore(redis)
    claim = await keys.claim(*WHO, b"body")
    await store.create(make_spec(id=claim.response_id))
    assert not (await keys.claim(*WHO, b"body")).is_new
    await store.delete(claim.response_id)
    clock.now += HOLD_S + 1

    with pytest.raises(NotFoundError):
        await keys.claim(*WHO, b"body")


@pytest.mark.parametrize("state", ["completed", "incomplete", "failed", "cancelled", None])
async def test_a_direct_answer_keeps_its_key_if_it_is_one(
    keys: Idempotency, redis: Redis, state: JobState | None
) -> None:
    claim = await keys.claim(*WHO, b"body")
    job = None if state is None else Job(make_spec(id=claim.response_id), state, {})

    async def answer() -> AsyncGenerator[Event, None]:
        yield Event("started")
        if job is not None:
            await JobStore(redis).put_finished(job)

    events = [event.kind async for event in keys.follow(claim, answer(), lambda: job)]

    again = await keys.claim(*WHO, b"body")
    assert events == ["started"]
    assert again.is_new == (state not in ("completed", "incomplete"))


async def test_a_key_is_forgotten_after_a_day(keys: Idempotency, redis: Redis) -> None:
    claim = await keys.claim(*WHO, b"body")

    assert KEEP_S - 5 <= await redis.ttl(claim.key) <= KEEP_S


async def test_a_holder_at_work_keeps_the_key(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a holder that takes longer than a dead one is waited for
    renewed = asyncio.Event()

    class Watched(Scripts):
        async def run(self, script: Any, *more: Any, **arguments: Any) -> Any:
            answer = await super().run(script, *more, **arguments)
            if script is KeyScript.RENEW:
                renewed.set()
            return answer

    monkeypatch.setattr("router.idempotency.Scripts", Watched)
    keys = Idempotency(redis, hold_s=0.15)
    claim = await keys.claim(*WHO, b"body")
    before = await redis.hget(claim.key, "until")  # type: ignore[misc]

    async with keys.holding(claim):
        await asyncio.wait_for(renewed.wait(), 60)

    assert await redis.hget(claim.key, "until") > before  # type: ignore[misc]


async def test_an_answer_that_is_being_written_is_not_led_to_while_its_maker_lives(
    keys: Idempotency, redis: Redis, clock: Clock
) -> None:
    # Given a direct answer that is on record before its first word
    store = JobStore(redis)
    claim = await keys.claim(*WHO, b"body")
    await store.begin(make_spec(id=claim.response_id, branches=(BranchPlan("fast", "glm"),), strategy="single"))

    # Then a second copy of its request comes back later, and is first once the answer has failed
    with pytest.raises(ConflictError):
        await keys.claim(*WHO, b"body")
    with pytest.raises(ValueError, match="failed"):
        async with keys.holding(claim):
            raise ValueError("failed")
    await store.delete(claim.response_id)
    again = await keys.claim(*WHO, b"body")
    assert again.is_new

    # And if its maker dies instead, the record leads to what a worker makes of it
    await store.begin(make_spec(id=again.response_id, branches=(BranchPlan("fast", "glm"),), strategy="single"))
    clock.now += HOLD_S + 1
    found = await keys.claim(*WHO, b"body")
    assert (found.is_new, found.response_id) == (False, again.response_id)
