"""What routing knows of the queues: how old they are for whom, and how long a new job would take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from router.call import Priority
from router.jobs.backlog import Backlog, Backlogs, Line
from router.jobs.eta import Pace
from router.jobs.job import BranchPlan
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.support.clock import Clock
from tests.support.jobs import make_spec

DEEP = (BranchPlan("deep", "owl2"),)


@pytest.fixture
async def store(redis_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    redis = Redis.from_url(redis_url)
    yield JobStore(redis, clock=clock, lease_s=1e6)
    await redis.aclose()


async def add(store: JobStore, owner: str = "ann", priority: Priority = "normal") -> str:
    spec = make_spec(owner=owner, priority=priority, branches=DEEP)
    await store.create(spec)
    return spec.id


async def owl2_of(store: JobStore) -> Backlog:
    return (await store.backlogs()).of["owl2"]


async def run_next(store: JobStore, clock: Clock, seconds: float) -> None:
    claim = await store.take_next("owl2")
    assert claim is not None
    clock.now += seconds
    await store.finish(claim.job_id, claim.unit, claim.epoch, UnitResult(text="an owl"))


async def test_an_empty_queue_has_no_age_and_nothing_is_known_of_its_pace(store: JobStore) -> None:
    backlogs = await store.backlogs()

    assert set(backlogs.of) == {"glm", "owl2", "light"}
    assert backlogs.of["owl2"] == Backlog()
    assert backlogs.of["owl2"].age_for("ann", "normal") == 0.0
    assert backlogs.deep_ms("ann", "normal") is None


async def test_the_oldest_of_an_owners_own_line_is_its_age(store: JobStore, clock: Clock) -> None:
    await add(store)
    clock.now += 40
    await add(store)
    clock.now += 2

    owl2 = await owl2_of(store)

    assert owl2.lines[1] == (Line("ann", 2, 42.0, 42.0),)
    assert (owl2.depth, owl2.oldest_s) == (2, 42.0)
    assert owl2.age_for("ann", "normal") == 42.0


async def test_a_long_line_of_one_owner_that_moves_on_is_old_for_nobody_else(store: JobStore, clock: Clock) -> None:
    for _ in range(4):
        await add(store, "ann")
    clock.now += 400
    await run_next(store, clock, 1)

    owl2 = await owl2_of(store)

    assert owl2.age_for("ann", "normal") == 401.0
    assert owl2.age_for("bob", "normal") == 1.0
    # Where no turn comes any more, it is old for everybody.
    clock.now += 300
    assert (await owl2_of(store)).age_for("bob", "normal") == 301.0


async def test_what_may_wait_for_hours_makes_no_queue_old(store: JobStore, clock: Clock) -> None:
    await add(store, priority="batch")
    clock.now += 5000

    owl2 = await owl2_of(store)

    assert owl2.depth == 1
    assert owl2.oldest_s == 0.0
    assert owl2.age_for("ann", "normal") == 0.0
    assert owl2.age_for("ann", "batch") == 5000.0


async def test_what_is_urgent_counts_for_those_behind_it(store: JobStore, clock: Clock) -> None:
    await add(store, "ann", "interactive")
    clock.now += 10

    owl2 = await owl2_of(store)

    assert owl2.age_for("bob", "normal") == owl2.age_for("bob", "interactive") == 10.0


async def test_a_record_that_redis_has_forgotten_makes_no_queue_old(store: JobStore, clock: Clock) -> None:
    job_id = await add(store)
    clock.now += 900
    await store.redis.delete(f"{PREFIX}job:{job_id}")

    assert (await owl2_of(store)).age_for("ann", "normal") == 0.0


async def test_an_owner_without_waiting_units_leaves_nothing_behind(store: JobStore, clock: Clock) -> None:
    for _ in range(3):
        await add(store)
    for _ in range(3):
        await run_next(store, clock, 1)

    assert not [key async for key in store.redis.scan_iter(f"{PREFIX}turn*:owl2:*")]


@pytest.mark.parametrize("priority", ["interactive", "normal", "batch"])
@pytest.mark.parametrize("owner", ["ann", "bob", "cem", "dan"])
async def test_a_new_job_is_told_the_place_that_it_then_has(
    store: JobStore, clock: Clock, owner: str, priority: Priority
) -> None:
    waiting: list[tuple[str, Priority]] = [
        *[("ann", "normal")] * 3, *[("bob", "normal")] * 2, ("cem", "interactive"), ("bob", "batch"), ("ann", "normal")
    ]  # fmt: skip
    for each in waiting:
        await add(store, *each)
        clock.now += 1
    await store.take_next("owl2")  # cem's
    await store.take_next("owl2")  # ann's: it is bob's turn

    ahead = (await owl2_of(store)).ahead_of(owner, priority)

    spec = make_spec(owner=owner, priority=priority, branches=DEEP, created_at=clock.now)
    await store.create(spec)
    job = await store.get(spec.id)
    assert job is not None
    place = (await store.locate(job)).place
    assert place is not None
    assert place.position == ahead + 1


async def test_a_job_is_expected_to_take_what_the_last_ones_took_and_its_wait(store: JobStore, clock: Clock) -> None:
    await add(store)
    await run_next(store, clock, 8)
    assert (await store.backlogs()).deep_ms("ann", "normal") == 8_000

    await add(store)
    await add(store)

    backlogs = await store.backlogs()
    assert backlogs.deep_ms("ann", "normal") == 24_000
    assert backlogs.deep_ms("bob", "normal") == 16_000


async def test_a_pace_of_long_ago_is_not_known_any_more(store: JobStore, clock: Clock) -> None:
    await add(store)
    await run_next(store, clock, 500)
    clock.now += 3600
    assert (await store.backlogs()).deep_ms("ann", "normal") == 500_000

    clock.now += 1

    assert (await store.backlogs()).deep_ms("ann", "normal") is None


def test_the_time_of_a_merge_comes_on_top() -> None:
    learned = Backlog(Pace(10.0, 1.0, 0), learned_s_ago=1.0)

    assert Backlogs({"owl2": learned}).deep_ms("ann", "normal") == 10_000
    assert Backlogs({"owl2": learned, "light": replace(learned, pace=Pace(0.5))}).deep_ms("ann", "normal") == 10_500
