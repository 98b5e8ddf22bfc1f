"""What a job was charged is settled by the step that ends it, once, whichever step that is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from engines.base import Usage
from router.errors import QueueFullError
from router.jobs.job import BranchPlan, Terms
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.limits.charges import Charges
from router.limits.limits import Limits
from router.limits.meters import Cost, to_subject
from router.lua.constants import MINUTE_US
from tests.support.jobs import make_spec

NOW = 1_800_000_000.0
ID = "resp_1"
OWNER = to_subject("owner", "somebody", Limits(tokens_per_minute=10_000))
DRAFT, DEEP = UnitResult(text="d", usage=Usage(100, 20)), UnitResult(text="D", usage=Usage(200, 30))
FINAL = FinalAnswer("words", "m", "glm", "compose", usage=Usage(700, 90))


@pytest.fixture
def clock() -> list[float]:
    return [NOW]


@pytest.fixture
def store(redis: Redis, clock: list[float]) -> JobStore:
    return JobStore(redis, clock=lambda: clock[0], lease_s=5, max_attempts=1, expires_s=30)


@pytest.fixture
async def reserved(redis: Redis, store: JobStore, clock: list[float]) -> str:
    """A job of two branches whose 5000 tokens are reserved."""
    outcome, _ = await Charges(redis, lambda: clock[0]).charge("a", "somebody", Cost(tokens=5000), [OWNER])
    spec = make_spec(id=ID, branches=(BranchPlan("draft", "glm"), BranchPlan("deep", "owl2")), strategy="compose")
    await store.create(spec, terms=Terms(f"{outcome.page}:a"))
    return outcome.page


async def ledger(redis: Redis, page: str) -> tuple[bytes, int]:
    state, *words = (await redis.hget(f"glowl:ledger:{page}", "a") or b"").split()
    owed = int(await redis.hget(f"glowl:meter:{OWNER.name}", "tokens") or 0)
    assert owed == int(words[3]) * MINUTE_US
    return state, int(words[3])


async def run(store: JobStore, unit: str, result: UnitResult) -> None:
    await store.finish(ID, unit, await store.claim(ID, unit) or 0, result)


async def complete(store: JobStore, clock: list[float]) -> None:
    await run(store, "draft", DRAFT)
    await run(store, "deep", DEEP)
    await store.complete(ID, await store.claim(ID, "merge") or 0, final=FINAL)
    assert not await store.complete(ID, 1, final=FINAL)


async def fail(store: JobStore, clock: list[float]) -> None:
    await run(store, "draft", DRAFT)
    await run(store, "deep", UnitResult(error={"code": "x"}))
    await store.complete(ID, await store.claim(ID, "merge") or 0, error={"code": "x", "message": "x"})


async def lose_the_merge(store: JobStore, clock: list[float]) -> None:
    await run(store, "draft", DRAFT)
    await run(store, "deep", DEEP)
    await store.claim(ID, "merge")
    clock[0] += 6  # 1000 tokens
    await store.reap()


async def end_overdue(store: JobStore, clock: list[float]) -> None:
    await run(store, "draft", DRAFT)
    job = await store.get(ID)
    assert job is not None
    assert await store.end(job, final=FinalAnswer("d", "m", "glm", "single", usage=DRAFT.usage))


async def cancel_unbegun(store: JobStore, clock: list[float]) -> None:
    await store.cancel(ID)
    await store.cancel(ID)


async def cancel_between_runs(store: JobStore, clock: list[float]) -> None:
    await run(store, "draft", DRAFT)
    await store.cancel(ID)


@pytest.mark.parametrize(
    ("end", "used"),
    [(complete, 790), (fail, 120), (end_overdue, 120), (cancel_unbegun, 0), (cancel_between_runs, 120)],
)
async def test_what_was_reserved_and_not_used_is_given_back(
    redis: Redis,
    store: JobStore,
    clock: list[float],
    reserved: str,
    end: Callable[[JobStore, list[float]], Awaitable[None]],
    used: int,
) -> None:
    assert await ledger(redis, reserved) == (b"held", 5000)

    await end(store, clock)

    assert await ledger(redis, reserved) == (b"settled", used)


async def test_a_merge_that_was_lost_too_often_is_settled(
    redis: Redis, store: JobStore, clock: list[float], reserved: str
) -> None:
    await lose_the_merge(store, clock)

    assert (await redis.hget(f"glowl:ledger:{reserved}", "a") or b"").split()[:5] == [
        b"settled", b"1", b"0", b"0", b"350",
    ]  # fmt: skip


async def test_a_job_that_is_cut_while_it_runs_keeps_its_reservation(
    redis: Redis, store: JobStore, reserved: str
) -> None:
    # Its words were read by then, and what they cost is not known: cancelling late must not make them free.
    await store.claim(ID, "deep")
    await store.cancel(ID)

    assert await ledger(redis, reserved) == (b"held", 5000)


async def test_an_answer_that_a_worker_had_to_finish_is_settled(
    redis: Redis, store: JobStore, clock: list[float]
) -> None:
    # Given an answer whose process died
    outcome, _ = await Charges(redis, lambda: clock[0]).charge("a", "somebody", Cost(tokens=5000), [OWNER])
    spec = make_spec(id=ID, branches=(BranchPlan("fast", "glm"),))
    epoch = await store.begin(spec, terms=Terms(f"{outcome.page}:a"))
    assert epoch

    assert await store.release(ID, "fast", epoch, "handed back")
    await run(store, "fast", DRAFT)
    await store.complete(
        ID, await store.claim(ID, "merge") or 0, final=FinalAnswer("d", "m", "glm", "single", usage=DRAFT.usage)
    )

    assert await ledger(redis, outcome.page) == (b"settled", 120)


async def test_a_job_that_ends_when_its_ledger_is_closed_ends_all_the_same(
    redis: Redis, store: JobStore, clock: list[float], reserved: str
) -> None:
    await redis.delete(f"glowl:ledger:{reserved}")
    await complete(store, clock)
    job = await store.get(ID)
    assert job is not None
    assert job.state == "completed"


async def test_an_owner_s_own_number_of_jobs_counts(redis: Redis, store: JobStore) -> None:
    terms = Terms(max_unfinished=1)
    await store.create(make_spec(id="resp_1"), terms=terms)
    with pytest.raises(QueueFullError, match=r"\b1\b"):
        await store.create(make_spec(id="resp_2"), terms=terms)
    await store.create(make_spec(id="resp_3"))
