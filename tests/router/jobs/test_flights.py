"""Jobs that ask the same: one runs, the others wait for its end, and none of them is lost with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from redis.asyncio import Redis

from engines.base import GenerationFailedError, InvalidRequestError, Usage
from router.jobs.events import EventHub
from router.jobs.job import Job, JobSpec
from router.jobs.results import FinalAnswer, UnitResult, to_failure_record
from router.jobs.store import JobStore
from router.lua.constants import MAX_FOLLOWERS
from router.redis import PREFIX
from router.work.reaper import end_overdue
from tests.support.clock import Clock
from tests.support.jobs import make_spec as make_any_spec

ANSWER = FinalAnswer("an owl", "mplug-owl2", "owl2", "deep", usage=Usage(9, 3))
FLIGHT = "f" * 64


@pytest.fixture
def store(redis: Redis, clock: Clock) -> JobStore:
    return JobStore(redis, lease_s=5, max_attempts=3, clock=clock)


def make_spec(**changes: Any) -> JobSpec:
    return make_any_spec(**{"owner": "alice", "is_background": True, **changes})


async def accept(store: JobStore, clock: Clock, **changes: Any) -> Job:
    clock.now += 0.001  # so that who came first is known
    return await store.create(make_spec(**changes), flight=FLIGHT)


async def get(store: JobStore, job: Job) -> Job:
    found = await store.get(job.id)
    assert found is not None
    return found


async def begin(store: JobStore, job: Job) -> dict[str, int]:
    """Take both branches as workers do; they are this job's."""
    epochs = {}
    for queue in ("glm", "owl2"):
        claim = await store.take_next(queue)
        assert claim is not None
        assert claim.job_id == job.id
        epochs[claim.unit] = claim.epoch
    return epochs


async def finish(store: JobStore, job: Job, **ending: Any) -> bool:
    for unit, epoch in (await begin(store, job)).items():
        await store.finish(job.id, unit, epoch, UnitResult(f"{unit} text", usage=Usage(4, 2)))
    epoch = await store.claim(job.id, "merge")
    assert epoch is not None
    return await store.complete(job.id, epoch, **(ending or {"final": ANSWER}))


async def queued(store: JobStore) -> list[str]:
    """Whose units the queues hold."""
    found = []
    for queue in ("glm", "owl2"):
        while (claim := await store.take_next(queue)) is not None:
            found.append(claim.job_id)
    return found


async def test_one_runs_and_all_end_with_its_answer(store: JobStore, clock: Clock, redis: Redis) -> None:
    leader, *others = [await accept(store, clock, metadata={"n": str(number)}) for number in range(4)]
    assert [job.follows for job in others] == [leader.id] * 3
    assert [job.spec.cache for job in (leader, *others)] == ["", *["joined"] * 3]

    await finish(store, leader)

    assert await queued(store) == []
    first = await get(store, leader)
    for number, job in enumerate(others, 1):
        ended = await get(store, job)
        assert (ended.state, ended.final) == ("completed", ANSWER)
        assert {name: unit.result for name, unit in ended.units.items()} == {
            name: unit.result for name, unit in first.units.items()
        }
        assert ended.spec.metadata == {"n": str(number)}
        assert ended.spec.cache == "joined"
    assert await redis.hgetall(f"{PREFIX}unfinished") == {}
    assert await redis.keys(f"{PREFIX}f*:*") == []  # neither flight nor followers


async def test_each_tells_its_own_receiver(store: JobStore, clock: Clock, redis: Redis) -> None:
    leader = await accept(store, clock)
    await accept(store, clock, webhook_url="https://one.example")
    await accept(store, clock, webhook_url="https://two.example")

    assert await finish(store, leader)  # deliveries are due, though the leader has none
    urls = [await redis.hget(key, "url") for key in await redis.keys(f"{PREFIX}delivery:*")]
    assert sorted(urls) == [b"https://one.example", b"https://two.example"]


async def test_who_waits_is_seen_as_far_as_the_one_that_runs(store: JobStore, clock: Clock) -> None:
    leader, other = await accept(store, clock), await accept(store, clock)
    epochs = await begin(store, leader)
    await store.finish(leader.id, "draft", epochs["draft"], UnitResult("a draft"))

    seen = await get(store, other)
    assert (seen.id, seen.state) == (other.id, "in_progress")
    assert seen.draft is not None
    assert seen.draft.text == "a draft"
    assert seen.units["deep"].state == "in_progress"
    place = (await store.locate(seen)).place
    assert place == (await store.locate(await get(store, leader))).place


async def test_a_leader_that_failed_is_replaced_by_one_of_those_who_waited(store: JobStore, clock: Clock) -> None:
    leader, second, third = [await accept(store, clock) for _ in range(3)]
    await finish(store, leader, error=to_failure_record(GenerationFailedError("no")))

    assert (await get(store, leader)).state == "failed"
    assert (await get(store, third)).follows == second.id
    assert (await get(store, second)).follows == ""
    reaped = await store.reap()
    assert reaped.lined_up == {"glm": 1, "owl2": 1}
    assert await begin(store, second) == {"draft": 2, "deep": 2}  # readers have seen the first
    late = await accept(store, clock)
    assert late.follows == second.id


async def test_a_refusal_of_the_request_is_everybodys(store: JobStore, clock: Clock) -> None:
    leader, other = await accept(store, clock), await accept(store, clock)
    await finish(store, leader, error=to_failure_record(InvalidRequestError("no such thing", code="bad")))

    ended = await get(store, other)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "bad"
    assert await store.retry(ended) == "failed"  # begun again, it is on its own
    assert set(await queued(store)) == {other.id}


async def test_a_cancel_is_ones_own_until_the_last(store: JobStore, clock: Clock) -> None:
    leader, second, third = [await accept(store, clock) for _ in range(3)]
    await store.cancel(second.id)
    assert (await get(store, leader)).state == "queued"
    await begin(store, leader)
    await store.cancel(leader.id)

    assert [(await get(store, job)).state for job in (leader, second, third)] == ["cancelled", "cancelled", "queued"]
    assert (await store.reap()).lined_up == {"glm": 1, "owl2": 1}
    await store.cancel(third.id)
    assert await queued(store) == []
    assert (await accept(store, clock)).follows == ""


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_deleted_leader_is_replaced(store: JobStore, clock: Clock, is_running: bool) -> None:
    leader, other = await accept(store, clock), await accept(store, clock)
    if is_running:
        await begin(store, leader)
    await store.delete(leader.id)

    await store.reap()
    await finish(store, other)
    assert (await get(store, other)).final == ANSWER


async def test_a_lost_worker_is_the_leaders_matter(store: JobStore, clock: Clock) -> None:
    leader, other = await accept(store, clock), await accept(store, clock)
    await begin(store, leader)
    clock.now += 6

    assert (await store.reap()).lined_up == {"glm": 1, "owl2": 1}
    await finish(store, leader)
    assert (await get(store, other)).final == ANSWER


async def test_nobody_waits_behind_less_urgent_work(store: JobStore, clock: Clock) -> None:
    line = await accept(store, clock, priority="batch")
    urgent = await accept(store, clock, priority="interactive")
    assert urgent.follows == ""
    assert (await accept(store, clock)).follows == urgent.id
    assert (await accept(store, clock, priority="batch")).follows == urgent.id
    assert set(await queued(store)) == {line.id, urgent.id}


async def test_a_flight_has_so_many_places(store: JobStore, clock: Clock, redis: Redis) -> None:
    leader = await accept(store, clock)
    await redis.zadd(f"{PREFIX}followers:{leader.id}", {f"resp_{number}": number for number in range(MAX_FOLLOWERS)})

    assert (await accept(store, clock)).follows == ""


async def test_an_own_deadline_ends_with_what_there_is(store: JobStore, clock: Clock) -> None:
    leader = await accept(store, clock)
    other = await accept(store, clock, deadline_ms=1000)
    epochs = await begin(store, leader)
    await store.finish(leader.id, "draft", epochs["draft"], UnitResult("a draft"))
    clock.now += 2
    ((overdue, cause),) = (await store.reap()).overdue
    await end_overdue(store, overdue, cause)

    ended = await get(store, other)
    assert ended.final is not None
    assert ended.final.text == "a draft"
    assert (await get(store, leader)).state == "in_progress"


async def test_a_leader_whose_time_is_over_leaves_the_work_to_the_others(store: JobStore, clock: Clock) -> None:
    leader = await accept(store, clock, deadline_ms=1000)
    other = await accept(store, clock)
    clock.now += 2
    ((overdue, cause),) = (await store.reap()).overdue
    await end_overdue(store, overdue, cause)

    assert (await get(store, leader)).is_terminal
    await store.reap()
    await finish(store, other)


async def read(hub: EventHub, job: Job, has_begun: asyncio.Event | None = None) -> list[str]:
    said = []
    async with contextlib.aclosing(hub.follow(job.id, job.follows)) as events:
        async for event in events:
            said.append(f"{event.kind} {event.unit}{event.text}{event.state}".strip())
            if has_begun is not None:
                has_begun.set()
    return said


async def test_who_waits_reads_what_the_one_that_runs_says(store: JobStore, clock: Clock, redis: Redis) -> None:
    hub = EventHub(redis, store)
    await hub.start()
    leader, other = await accept(store, clock), await accept(store, clock)
    has_begun = asyncio.Event()
    reader = asyncio.create_task(read(hub, other, has_begun))
    await has_begun.wait()
    epochs = await begin(store, leader)
    await store.append(leader.id, "draft", epochs["draft"], "an")
    for unit, epoch in epochs.items():
        await store.finish(leader.id, unit, epoch, UnitResult(unit))
    epoch = await store.claim(leader.id, "merge")
    assert epoch is not None
    await store.complete(leader.id, epoch, final=ANSWER)

    assert await reader == [
        "queued queued",
        "started draft",
        "started deep",
        "delta draftan",
        "finished draftcompleted",
        "finished deepcompleted",
        "started merge",
        "end completed",
    ]
    again = await read(hub, await get(store, other))  # from its own record
    assert again[-1] == "end completed"
    await hub.aclose()


async def test_who_takes_over_goes_on_in_the_same_stream(store: JobStore, clock: Clock, redis: Redis) -> None:
    hub = EventHub(redis, store)
    await hub.start()
    leader, other = await accept(store, clock), await accept(store, clock)
    heard: list[str] = []
    has_heard = asyncio.Event()

    async def listen() -> None:
        async with contextlib.aclosing(hub.follow(other.id, other.follows)) as events:
            async for event in events:
                heard.append(f"{event.kind} {event.unit}{event.epoch}")
                if event.kind == "delta":
                    has_heard.set()

    reader = asyncio.create_task(listen())
    epochs = await begin(store, leader)
    await store.append(leader.id, "draft", epochs["draft"], "an")
    await has_heard.wait()
    await store.cancel(leader.id)
    await store.reap()
    await finish(store, other)
    await reader

    assert heard[:4] == ["queued 0", "started draft1", "started deep1", "delta draft1"]
    assert heard[4:6] == ["started draft2", "started deep2"]
    assert heard[-1] == "end 0"
    await hub.aclose()
